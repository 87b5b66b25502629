/* Draw a digit: a pad, and every array that this build's trained network makes of what
   is on it. Strokes are scaled and centred as the images of the data set were. A number
   of any array that is picked is taken apart: where it came from, and by what sum. */

"use strict";

touch.figure("digit", (board, values) => {
  const { h, show, sum, number, range, cells, clip, arrow, place, at } = touch;
  const [, , side] = values.images.shape;
  const { parameters, padding, pool, mean, std, names, labels, white } = values; // pool: size, stride
  const FINE = 8; // a pixel of an image is drawn as 8 x 8 of a fine one
  const [filters, , kernel] = parameters[0].shape;
  const shown = Math.min(8, filters); // as many of its maps
  const network = new cnn.Sequential(new cnn.Conv2d(1, filters, kernel, 1, padding),
    new cnn.ReLU(), new cnn.MaxPool2d(...pool), new cnn.Flatten(),
    new cnn.Linear(parameters[2].shape[1], names.length));
  network.parameters().forEach((held, k) => held.value.data.set(parameters[k].data));
  const state = { which: 0, strokes: [], shift: [0, 0], cell: null };
  const { draw, act, button } = board(state);
  const WHAT = ["convolution", "ReLU", "max pooling"];
  const shelf = labels.map((_, k) => values.images.data.subarray(k * side * side, (k + 1) * side * side));
  const inside = (row, column) => row >= 0 && row < side && column >= 0 && column < side;
  const lay = (which) => Object.assign(state, { which, strokes: [], shift: [0, 0] });

  /* --- From strokes to pixels --- */

  // The pen of a new canvas, so many pixels high and wide.
  const pen_of = (long) => Object.assign(document.createElement("canvas"), { width: long, height: long })
    .getContext("2d", { willReadFrequently: true });

  // Shares of ink, 0..1, of lines of one width whose points are in pixels.
  function ink(strokes) {
    const long = side * FINE;
    const pen = Object.assign(pen_of(long), { lineCap: "round", lineJoin: "round", lineWidth: values.pen * FINE });
    for (const points of strokes) {
      pen.beginPath();
      points.forEach(([x, y]) => pen.lineTo(x * FINE, y * FINE));
      pen.lineTo(points.at(-1)[0] * FINE + 0.01, points.at(-1)[1] * FINE);
      pen.stroke();
    }
    const { data } = pen.getImageData(0, 0, long, long);
    const shares = new Float64Array(side * side);
    for (let a = 0; a < long ** 2; a++)
      shares[Math.floor(a / long / FINE) * side + Math.floor(a % long / FINE)] += data[4 * a + 3] / 255 / FINE ** 2;
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
    const move = () => ink(strokes.map((points) => points.map((point) =>
      point.map((v, k) => v * scale + shift[k]))));
    const shares = move();
    if (!values.by_mass) return shares;
    const mass = shares.reduce((total, v) => total + v, 0);
    const middle = [0, 1].map((k) => shares.reduce((total, v, a) =>
      total + v * ((k ? Math.floor(a / side) : a % side) + 0.5), 0) / mass);
    shift = shift.map((v, k) => v + side / 2 - middle[k]);
    return move();
  }

  // What the network is given, 0..white: moved by whole pixels, with black from outside.
  function pixels() {
    const base = state.strokes.length ? fit(state.strokes).map((v) => Math.round(white * v))
      : shelf[state.which] ?? [];
    return Float64Array.from({ length: side * side }, (_, a) => {
      const [row, column] = [Math.floor(a / side) - state.shift[0], a % side - state.shift[1]];
      return (inside(row, column) && base[row * side + column]) || 0;
    });
  }

  function compute() {
    const seen = pixels();
    let x = cnn.array([1, 1, side, side], seen.map((v) => (v - mean) / std));
    const arrays = network.layers.map((layer) => { x = layer.forward(x); return x; });
    return { seen, arrays, logits: x.data, p: cnn.softmax(x).data };
  }

  /* --- Drawing --- */

  const map = (key, data, width, limit, label, over, more) => touch.pixels(key, data, width, limit, over,
    { role: "img", label, ...more });

  // One map of an array: its numbers.
  const one = ({ shape: [, , rows, columns], data }, c) =>
    data.subarray(c * rows * columns, (c + 1) * rows * columns);

  // The cells of a window that has its corner at [top, left].
  const window_of = (size, top, left) => cells(size, size).map(([r, q]) => [top + r, left + q]);

  /* What was picked, { layer, map, row, column }, and the cells that it was made of:
     [array, map, row, column, size], the image being array -1. */
  function trail({ arrays }) {
    if (!state.cell || state.cell.layer === 3) return [];
    let { layer, map: c, row, column } = state.cell;
    const marks = [[layer, c, row, column, 1]];
    if (layer === 2) {
      const [data, columns] = [one(arrays[1], c), arrays[1].shape[3]];
      const tile = window_of(pool[0], row * pool[1], column * pool[1]);
      marks.push([1, c, ...tile[0], pool[0]]);
      [row, column] = tile.reduce((best, [r, q]) =>
        (data[r * columns + q] > data[best[0] * columns + best[1]] ? [r, q] : best));
    }
    if (layer) marks.push([0, c, row, column, 1]);
    return [...marks, [-1, 0, row - padding, column - padding, kernel]];
  }

  // The marks that lie on one map of an array, as shares of its sides.
  const marked = (marks, layer, c, rows, columns) => marks.filter((m) => m[0] === layer && m[1] === c)
    .map(([, , row, column, size]) => {
      const [top, left] = [Math.max(0, row), Math.max(0, column)];
      const [bottom, right] = [Math.min(rows, row + size), Math.min(columns, column + size)];
      return h("i.mark", { style: `top:${100 * top / rows}%;left:${
        100 * left / columns}%;height:${100 * (bottom - top) / rows}%;width:${100 * (right - left) / columns}%` });
    });

  function maps(layer, array, marks) {
    const [, channels, rows, columns] = array.shape;
    const limit = array.data.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
    const pick = act((c, row, column) => {
      state.cell = { layer, map: c, row: clip(row, 0, rows - 1), column: clip(column, 0, columns - 1) };
    });
    const now = state.cell?.layer === layer ? state.cell : null;
    const keydown = (event) => {
      const by = arrow(event);
      if (!by) return;
      if (!now) return pick(0, 0, 0);
      const over = now.column + by[1]; // over the edge lies the next map
      const next = now.map + (over < 0 ? -1 : over >= columns ? 1 : 0);
      if (next === now.map || next < 0 || next >= shown) pick(now.map, now.row + by[0], over);
      else pick(next, now.row, over < 0 ? columns - 1 : 0);
    };
    return [h("p.step-name", {}, `${WHAT[layer]} → ${channels} × ${rows} × ${columns}`,
      channels > shown ? `, ${shown} of them` : ""),
    h("div.maps", { key: `maps${layer}`, role: "application", tabindex: 0,
      label: `${WHAT[layer]}: arrow keys pick a number`, on: { keydown } },
    range(shown).map((c) => h("div.map-box", {},
      map(`map${layer} ${c}`, one(array, c), columns, limit, `${WHAT[layer]}, map ${c}`, "--touch-g", { on: {
        pointerdown: (event) => {
          const [down, across] = place(event);
          pick(c, Math.floor(down * rows), Math.floor(across * columns));
        } } }),
      marked(marks, layer, c, rows, columns))))];
  }

  // The arithmetic of what was picked, in numbers of two places.
  const two = (kind, v) => number(kind, Number(v.toFixed(2)));
  const signed = (kind, v) => [v < 0 ? " \u2212 " : " + ", two(kind, Math.abs(v))];
  function made({ arrays, seen }) {
    if (!state.cell) return ["Pick a number of any array, or a bar: what was it made of?"];
    const { layer, map: c, row, column } = state.cell;
    const [weight, bias, full, ends] = network.parameters().map((held) => held.value.data);
    const end = (value) => number("y", value.toFixed(3), "made");
    if (layer === 3) { // a logit: what each map adds
      const size = full.length / names.length / filters;
      const parts = range(filters).map((m) => range(size).reduce((total, a) => total
        + full[(c * filters + m) * size + a] * arrays[3].data[m * size + a], 0));
      const order = range(filters).sort((a, b) => Math.abs(parts[b]) - Math.abs(parts[a])).slice(0, 3);
      const rest = parts.reduce((all, v, m) => all + (order.includes(m) ? 0 : v), 0);
      const told = filters <= shown ? parts.map((v, m) => [`map ${m}`, v])
        : [...order.map((m) => [`map ${m}`, parts[m]]), [`${filters - 3} others`, rest]];
      return [`logit of ${names[c]}: bias `, two("w", ends[c]), told.map(([text, v]) =>
        [signed("y", v), ` (${text})`]), " = ", end(arrays[4].data[c])];
    }
    const value = end(one(arrays[layer], c)[row * arrays[layer].shape[3] + column]);
    if (layer) { // the largest of a window, or of one number and 0
      const [before, columns] = [one(arrays[layer - 1], c), arrays[layer - 1].shape[3]];
      const [size, step] = layer === 1 ? [1, 1] : pool;
      const told = window_of(size, row * step, column * step).map(([r, q], k) =>
        [k ? ", " : "", two("y", before[r * columns + q])]);
      return ["max(", told, layer === 1 ? ", 0) = " : ") = ", value];
    }
    const products = window_of(kernel, row - padding, column - padding).map(([r, q], a) => {
      const pixel = inside(r, q) ? (seen[r * side + q] - mean) / std : 0;
      return ["w", Number(weight[c * kernel ** 2 + a].toFixed(2)), "x", Number(pixel.toFixed(2))];
    });
    return kernel > 3 ? [`${products.length} products, and the bias `, two("w", bias[c]), ": ", value]
      : [sum(products), signed("w", bias[c]), " = ", value];
  }

  // The images that can be put onto the pad.
  const images = () => h("div.shelf", { role: "group", label: "Images" },
    shelf.map((data, k) => touch.pixels(`image${k}`, data, side, white, "--book-ink", { group: "image",
      class: "touch-thumb", label: `image ${k + 1}, a ${names[labels[k]]}`,
      pressed: state.which === k, pick: act(() => lay(k)) })));

  function save() {
    const pen = pen_of(side);
    const image = pen.createImageData(side, side);
    pixels().forEach((v, a) => image.data.fill(Math.round(v * 255 / white), 4 * a, 4 * a + 3).fill(255, 4 * a + 3, 4 * a + 4));
    pen.putImageData(image, 0, 0);
    Object.assign(document.createElement("a"), { href: pen.canvas.toDataURL(), download: "digit.png" }).click();
  }

  const point = (event) => place(event).reverse().map((v) => v * side);
  let drawing = false;
  const lift = () => { drawing = false; };
  const drag = {
    pointerdown: (event) => {
      if (event.button) return;
      event.currentTarget.setPointerCapture(event.pointerId);
      drawing = true;
      act(() => Object.assign(state, { which: null, shift: [0, 0], strokes: [...state.strokes, [point(event)]] }))();
    },
    pointermove: (event) => { if (drawing) act(() => state.strokes.at(-1).push(point(event)))(); },
    pointerup: lift,
    pointercancel: lift,
    keydown: (event) => {
      const by = arrow(event);
      if (by) act(() => { state.shift = state.shift.map((v, k) => clip(v + by[k], -side, side)); })();
    },
  };

  const pad = (seen) => h("svg.pad", { key: "pad", role: "application",
    tabindex: 0, viewBox: `0 0 ${side} ${side}`, on: drag,
    label: "A pad to draw a digit on. Arrow keys move what is on it by a pixel." },
  state.strokes.length ? state.strokes.map((points) => h("polyline.stroke", { "stroke-width": values.pen * 1.2,
    points: [...points, points.at(-1).map((v) => v + 0.01)].map((p) => p.join()).join(" ") }))
    : [...seen].flatMap((v, a) => (v ? [h("rect.ink", { x: a % side, y: Math.floor(a / side),
      width: 1.02, height: 1.02, opacity: v / white })] : [])));

  function words({ p, seen }) {
    if (!seen.some((v) => v)) return "Nothing is on the pad, and yet the network names a class.";
    const best = p.indexOf(Math.max(...p));
    const said = `The network says ${names[best]}, with probability ${p[best].toFixed(2)}. `;
    if (state.strokes.length) return said;
    const right = best === labels[state.which];
    return said + (right ? "It is right." : `It is a ${names[labels[state.which]]}.`)
      + (state.shift.some((v) => v) ? ` Moved by ${state.shift.map(show).join(", ")}.` : "");
  }

  function bars({ p, logits }) {
    return h("div.grid.logits-grid", { role: "group", label: "Probabilities" },
      names.map((text, k) => {
        const [share, chosen] = [p[k].toFixed(2).replace(/^0/, ""), state.cell?.layer === 3 && state.cell.map === k];
        return [h("span.bar", { key: `p${k}`, class: `y ${chosen ? "seen" : ""}`, style: at(1, k + 1),
          group: "bar", label: `${text}: ${share}`, pressed: chosen,
          pick: act(() => { state.cell = { layer: 3, map: k }; }) },
        h("i", { style: `height:${(100 * p[k]).toFixed(1)}%` }), h("span", {}, share)),
        h("span.name", { key: `class${k}`, style: at(2, k + 1),
          title: `logit ${logits[k].toFixed(6)}` }, text)];
      }));
  }

  draw(() => {
    const now = compute();
    const marks = trail(now);
    return {
      parts: [
        images(),
        h("div.pads", {}, pad(now.seen),
          h("div", {}, h("div.map-box", { key: "seen box" },
            map("seen", now.seen, side, white, "What the network sees", "--book-ink"), marked(marks, -1, 0, side, side)),
          h("p.step-name", {}, `what it sees, ${side} × ${side}`))),
        WHAT.map((_, layer) => maps(layer, now.arrays[layer], marks)),
        bars(now),
      ],
      sum: made(now),
      words: words(now),
      controls: [button("clear", "clear", () => lay(null)), button("save", "save as PNG", save)],
    };
  });
});
