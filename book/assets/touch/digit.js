/* Draw a digit: a pad, and every array that this build's trained network makes of what
   is on it. Strokes are scaled and centred as the images of the data set were. A number
   of any array that is picked is taken apart: where it came from, and by what sum. */

"use strict";

touch.figure("digit", (board, values) => {
  const { h, show, sum, number } = touch;
  const [count, , side] = values.images.shape;
  const { parameters, mean, std, names, labels, white } = values;
  const FINE = 8; // a pixel of an image is drawn as 8 x 8 of a fine one
  const float64 = ({ shape, data }) => cnn.array(shape, Float64Array.from(data));
  const [filters, , kernel] = parameters[0].shape;
  const [padding, pool] = [values.padding ?? 0, values.pool ?? [2, 2]]; // pool: size, stride
  const MAPS = 8; // as many are shown
  const network = new cnn.Sequential(new cnn.Conv2d(1, filters, kernel, 1, padding),
    new cnn.ReLU(), new cnn.MaxPool2d(...pool), new cnn.Flatten(),
    new cnn.Linear(parameters[2].shape[1], names.length));
  network.parameters().forEach((held, k) => { held.value = float64(parameters[k]); });
  const state = { which: 0, strokes: [], shift: [0, 0], cell: null };
  const WHAT = ["convolution", "ReLU", "max pooling"];

  /* --- From strokes to pixels ---------------------------------------------------- */

  // Shares of ink, 0..1, of lines of one width whose points are in pixels.
  function ink(strokes) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = side * FINE;
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    Object.assign(pen, { lineCap: "round", lineJoin: "round", lineWidth: values.pen * FINE });
    for (const points of strokes) {
      pen.beginPath();
      points.forEach(([x, y]) => pen.lineTo(x * FINE, y * FINE));
      pen.lineTo(points.at(-1)[0] * FINE + 0.01, points.at(-1)[1] * FINE);
      pen.stroke();
    }
    const { data } = pen.getImageData(0, 0, side * FINE, side * FINE);
    const shares = new Float64Array(side * side);
    for (let a = 0; a < (side * FINE) ** 2; a++) {
      const [row, column] = [Math.floor(a / (side * FINE)), a % (side * FINE)];
      shares[Math.floor(row / FINE) * side + Math.floor(column / FINE)]
        += data[4 * a + 3] / 255 / FINE ** 2;
    }
    return shares;
  }

  // The longer side fills the box of the data set; then the middle goes to the middle:
  // of the mass for MNIST, of the box for the small digits.
  function fit(strokes) {
    const all = strokes.flat();
    const low = [0, 1].map((k) => Math.min(...all.map((point) => point[k])));
    const size = [0, 1].map((k) => Math.max(...all.map((point) => point[k])) - low[k]);
    const scale = (values.box - values.pen) / Math.max(...size, 1e-3);
    let shift = size.map((length, k) => side / 2 - (low[k] + length / 2) * scale);
    const move = () => strokes.map((points) => points.map((point) =>
      point.map((v, k) => v * scale + shift[k])));
    if (!values.by_mass) return ink(move());
    const shares = ink(move());
    const mass = shares.reduce((sum, v) => sum + v, 0);
    const middle = [0, 1].map((k) => shares.reduce((sum, v, a) =>
      sum + v * ((k ? Math.floor(a / side) : a % side) + 0.5), 0) / mass);
    shift = shift.map((v, k) => v + side / 2 - middle[k]);
    return ink(move());
  }

  // What the network is given, 0..white: moved by whole pixels, with black from outside.
  function pixels() {
    const base = state.strokes.length ? fit(state.strokes).map((v) => Math.round(white * v))
      : state.which === null ? new Float64Array(side * side)
        : values.images.data.slice(state.which * side * side, (state.which + 1) * side * side);
    return Float64Array.from(base, (_, a) => {
      const [row, column] = [Math.floor(a / side) - state.shift[0], a % side - state.shift[1]];
      return row >= 0 && row < side && column >= 0 && column < side ? base[row * side + column] : 0;
    });
  }

  function compute() {
    const seen = pixels();
    let x = cnn.array([1, 1, side, side], seen.map((v) => (v - mean) / std));
    const arrays = network.layers.map((layer) => { x = layer.forward(x); return x; });
    const logits = arrays.at(-1);
    return { seen, arrays, logits: logits.data, p: cnn.softmax(logits).data };
  }

  /* --- Drawing --------------------------------------------------------------------- */

  const colour = (name) => getComputedStyle(board).getPropertyValue(name).trim();
  // Numbers as pixels, zero transparent: below it blue, above it vermilion, or ink.
  function paint_onto(canvas, data, limit, over) {
    const pen = canvas.getContext("2d");
    const [under, width] = [colour("--touch-x"), canvas.width];
    pen.clearRect(0, 0, width, canvas.height);
    data.forEach((value, a) => {
      pen.globalAlpha = Math.min(1, Math.abs(value) / (limit || 1));
      pen.fillStyle = value < 0 ? under : over;
      pen.fillRect(a % width, Math.floor(a / width), 1, 1);
    });
  }
  const ink_onto = (canvas, data) => paint_onto(canvas, data, white, colour("--book-ink"));
  const map = (key, data, width, limit, label, inked = false, number_of = null) => h("canvas", { key, width,
    height: data.length / width, class: "touch-map", role: "img", "aria-label": label, "data-map": number_of,
    paint: (canvas) => paint_onto(canvas, data, limit, colour(inked ? "--book-ink" : "--touch-g")) });

  /* What was picked, { layer, map, row, column }, and the cells that it was made of:
     [array, map, row, column, rows, columns], the image being array -1. */
  function trail({ arrays }) {
    if (!state.cell || state.cell.layer === 3) return [];
    let { layer, map: c, row, column } = state.cell;
    const marks = [[layer, c, row, column, 1, 1]];
    if (layer === 2) {
      const { shape: [, , , columns], data } = cells(arrays[1], c);
      const [top, left] = [row * pool[1], column * pool[1]];
      marks.push([1, c, top, left, pool[0], pool[0]]);
      let best = -Infinity;
      for (let a = 0; a < pool[0] ** 2; a++) {
        const [r, q] = [top + Math.floor(a / pool[0]), left + a % pool[0]];
        if (data[r * columns + q] > best) [best, row, column] = [data[r * columns + q], r, q];
      }
    }
    if (layer) marks.push([0, c, row, column, 1, 1]);
    marks.push([-1, 0, row - padding, column - padding, kernel, kernel]);
    return marks;
  }

  function cells({ shape, data }, c) {
    const size = shape[2] * shape[3];
    return { shape: [1, 1, shape[2], shape[3]], data: data.subarray(c * size, (c + 1) * size) };
  }

  // The marks that lie on one map of an array, as shares of its sides.
  const marked = (marks, layer, c, rows, columns) => marks.filter((m) => m[0] === layer && m[1] === c)
    .map(([, , row, column, tall, wide], k) => {
      const [top, left] = [Math.max(0, row), Math.max(0, column)];
      const [bottom, right] = [Math.min(rows, row + tall), Math.min(columns, column + wide)];
      return h("i", { key: `mark${k}`, class: "touch-mark", style: `top:${100 * top / rows}%;left:${
        100 * left / columns}%;height:${100 * (bottom - top) / rows}%;width:${100 * (right - left) / columns}%` });
    });

  function maps(layer, array, marks) {
    const [, channels, rows, columns] = array.shape;
    const limit = array.data.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
    const count = Math.min(MAPS, channels);
    const pick = (map, row, column) => {
      const clip = (v, most) => Math.max(0, Math.min(most - 1, v));
      state.cell = { layer, map: clip(map, count), row: clip(row, rows), column: clip(column, columns) };
      redraw();
    };
    const at = state.cell?.layer === layer ? state.cell : null;
    return [h("p", { key: `name ${layer}`, class: "touch-step-name" },
      `${WHAT[layer]} \u2192 ${channels} \u00d7 ${rows} \u00d7 ${columns}`,
      channels > count ? `, ${count} of them` : ""),
    h("div", { key: `maps${layer}`, class: "touch-maps", role: "application", tabindex: 0,
      "aria-label": `${WHAT[layer]}: arrow keys pick a number`, on: {
        pointerdown: (event) => {
          const canvas = event.target.closest(".touch-map-box")?.firstChild;
          if (!canvas) return;
          const box = canvas.getBoundingClientRect();
          pick(Number(canvas.dataset.map), Math.floor((event.clientY - box.top) / box.height * rows),
            Math.floor((event.clientX - box.left) / box.width * columns));
        },
        keydown: (event) => {
          const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
          if (event.altKey || event.ctrlKey || event.metaKey || !by) return;
          event.preventDefault();
          if (!at) return pick(0, 0, 0);
          const over = at.column + by[1]; // over the edge lies the next map
          const next = at.map + (over < 0 ? -1 : over >= columns ? 1 : 0);
          if (next === at.map || next < 0 || next >= count) pick(at.map, at.row + by[0], over);
          else pick(next, at.row, over < 0 ? columns - 1 : 0);
        },
      } }, [...Array(count).keys()].map((c) => h("div", { key: `box${c}`, class: "touch-map-box" },
      map(`map${layer} ${c}`, cells(array, c).data, columns, limit, `${WHAT[layer]}, map ${c}`, false, c),
      marked(marks, layer, c, rows, columns))))];
  }

  // The arithmetic of what was picked, in numbers of two places.
  const two = (v) => Number(v.toFixed(2));
  function made({ arrays, seen }) {
    if (!state.cell) return ["Pick a number of any array, or a bar: what was it made of?"];
    const { layer, map: c, row, column } = state.cell;
    const [weight, bias, full, ends] = network.parameters().map((held) => held.value.data);
    if (layer === 3) { // a logit: what each map adds
      const size = full.length / names.length / filters;
      const parts = [...Array(filters).keys()].map((m) => {
        let total = 0;
        for (let a = m * size; a < (m + 1) * size; a++) total += full[c * size * filters + a] * arrays[3].data[a];
        return total;
      });
      const order = [...parts.keys()].sort((a, b) => Math.abs(parts[b]) - Math.abs(parts[a])).slice(0, 3);
      const rest = parts.reduce((all, v, m) => all + (order.includes(m) ? 0 : v), 0);
      const shown = filters <= MAPS ? parts.map((v, m) => [`map ${m}`, v])
        : [...order.map((m) => [`map ${m}`, parts[m]]), [`${filters - 3} others`, rest]];
      return [`logit of ${names[c]}: bias `, number("w", two(ends[c])), shown.map(([text, v]) =>
        [v < 0 ? " \u2212 " : " + ", number("y", two(Math.abs(v))), ` (${text})`]), " = ",
      h("b", { key: "made", class: "touch-y", "data-key": "made" }, show(arrays[4].data[c].toFixed(3)))];
    }
    const value = cells(arrays[layer], c).data[row * arrays[layer].shape[3] + column];
    const end = h("b", { key: "made", class: "touch-y", "data-key": "made" }, show(value.toFixed(3)));
    const before = layer && cells(arrays[layer - 1], c).data;
    if (layer === 1) return ["max(", number("y", two(before[row * arrays[0].shape[3] + column])), ", 0) = ", end];
    if (layer === 2) return ["max(", [...Array(pool[0] ** 2).keys()].map((a) => [a ? ", " : "", number("y",
      two(before[(row * pool[1] + Math.floor(a / pool[0])) * arrays[1].shape[3] + column * pool[1] + a % pool[0]]))]),
    ") = ", end];
    const terms = [...Array(kernel ** 2).keys()].map((a) => {
      const [r, q] = [row + Math.floor(a / kernel) - padding, column + a % kernel - padding];
      const inside = r >= 0 && r < side && q >= 0 && q < side;
      return ["w", two(weight[c * kernel ** 2 + a]), "x", inside ? two((seen[r * side + q] - mean) / std) : 0];
    });
    return [kernel > 3 ? [`${terms.length} products, and the bias `] : [sum(terms), bias[c] < 0 ? " \u2212 " : " + "],
      number("w", two(kernel > 3 ? bias[c] : Math.abs(bias[c]))), kernel > 3 ? ": " : " = ", end];
  }

  // The images that can be put onto the pad. Each is drawn once, for each theme.
  const shelf = () => h("div", { key: "shelf", class: "touch-shelf", role: "group", "aria-label": "Images" },
    labels.map((label, k) => h("canvas", { key: `image${k}`, group: "image", width: side, height: side,
      class: "touch-map touch-thumb", "aria-label": `image ${k + 1}, a ${names[label]}`,
      "aria-pressed": String(state.which === k),
      pick: () => { Object.assign(state, { strokes: [], shift: [0, 0], which: k }); redraw(); },
      paint: (canvas) => {
        const { theme } = document.documentElement.dataset;
        if (canvas.touchTheme === theme) return;
        canvas.touchTheme = theme;
        ink_onto(canvas, values.images.data.subarray(k * side * side, (k + 1) * side * side));
      } })));

  function save() {
    const canvas = Object.assign(document.createElement("canvas"), { width: side, height: side });
    const pen = canvas.getContext("2d");
    const image = pen.createImageData(side, side);
    pixels().forEach((v, a) => image.data.set([0, 1, 2].map(() => Math.round(v * 255 / white)).concat(255), 4 * a));
    pen.putImageData(image, 0, 0);
    Object.assign(document.createElement("a"), { href: canvas.toDataURL(), download: "digit.png" }).click();
  }

  const point = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width * side, (event.clientY - box.top) / box.height * side];
  };
  let drawing = false;
  const draw = {
    pointerdown: (event) => {
      if (event.button) return;
      event.currentTarget.setPointerCapture(event.pointerId);
      drawing = true;
      Object.assign(state, { which: null, shift: [0, 0] });
      state.strokes.push([point(event)]);
      redraw();
    },
    pointermove: (event) => {
      if (!drawing) return;
      state.strokes.at(-1).push(point(event));
      redraw();
    },
    pointerup: () => { drawing = false; },
    pointercancel: () => { drawing = false; },
    keydown: (event) => {
      const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1],
        ArrowRight: [0, 1] }[event.key];
      if (!by) return;
      event.preventDefault();
      state.shift = state.shift.map((v, k) => Math.max(-side, Math.min(side, v + by[k])));
      redraw();
    },
  };

  const pad = (seen) => h("svg", { key: "pad", class: "touch-pad", role: "application",
    tabindex: 0, viewBox: `0 0 ${side} ${side}`, on: draw,
    "aria-label": "A pad to draw a digit on. Arrow keys move what is on it by a pixel." },
  state.strokes.length ? state.strokes.map((points, k) => h("polyline", { key: `stroke${k}`,
    "stroke-width": values.pen * 1.2, class: "touch-stroke",
    points: [...points, points.at(-1).map((v) => v + 0.01)].map((p) => p.join()).join(" ") }))
    : [...seen].flatMap((v, a) => (v ? [h("rect", { key: `pixel${a}`, class: "touch-ink",
      x: a % side, y: Math.floor(a / side), width: 1.02, height: 1.02, opacity: v / white })] : [])));

  function words({ p, seen }) {
    if (!seen.some((v) => v)) return "Nothing is on the pad, and yet the network names a class.";
    const best = p.indexOf(Math.max(...p));
    const said = `The network says ${names[best]}, with probability ${p[best].toFixed(2)}. `;
    if (state.strokes.length) return said;
    const right = best === labels[state.which];
    return said + (right ? "It is right." : `It is a ${names[labels[state.which]]}.`)
      + (state.shift.some((v) => v) ? ` Moved by ${state.shift.map((v) => show(v)).join(", ")}.` : "");
  }

  function picture() {
    const now = compute();
    const marks = trail(now);
    const at = (row, k) => `grid-row:${row};grid-column:${k + 1}`;
    const chosen = (k) => state.cell?.layer === 3 && state.cell.map === k;
    return {
      parts: [
        shelf(),
        h("div", { key: "pads", class: "touch-pads" }, pad(now.seen),
          h("div", { key: "seen" }, h("div", { key: "seen box", class: "touch-map-box" },
            map("seen", now.seen, side, white, "What the network sees", true), marked(marks, -1, 0, side, side)),
          h("p", { class: "touch-step-name" }, `what it sees, ${side} \u00d7 ${side}`))),
        WHAT.map((_, layer) => maps(layer, now.arrays[layer], marks)),
        h("div", { key: "bars", class: "touch-grid touch-logits-grid", role: "group", "aria-label": "Probabilities" },
          names.map((text, k) => {
            const share = now.p[k].toFixed(2).replace(/^0/, "");
            return [h("span", { key: `p${k}`, class: `touch-bar y ${chosen(k) ? "seen" : ""}`, style: at(1, k),
              group: "bar", "aria-label": `${text}: ${share}`, "aria-pressed": String(chosen(k)),
              pick: () => { state.cell = { layer: 3, map: k }; redraw(); } },
            h("i", { style: `height:${(100 * now.p[k]).toFixed(1)}%` }), h("span", {}, share)),
            h("span", { key: `class${k}`, class: "touch-name", style: at(2, k),
              title: `logit ${now.logits[k].toFixed(6)}` }, text)];
          })),
        h("p", { key: "sum", class: "touch-sum" }, made(now)),
      ],
      words: words(now),
      controls: [
        h("button", { key: "clear", type: "button", pick: () => {
          Object.assign(state, { which: null, strokes: [], shift: [0, 0] });
          redraw();
        } }, "clear"),
        h("button", { key: "save", type: "button", pick: save }, "save as PNG"),
      ],
    };
  }

  const redraw = touch.draw(board, picture);
  // Canvases keep their colours when the page turns dark; so they are drawn again.
  new MutationObserver(redraw).observe(document.documentElement,
    { attributes: true, attributeFilter: ["data-theme"] });
});
