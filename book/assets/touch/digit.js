/* Draw a digit: a pad, and every array that this build's trained network makes of what
   is on it. Strokes are scaled and centred as the images of the data set were. */

"use strict";

touch.figure("digit", (board, values) => {
  const { h, show } = touch;
  const [count, , side] = values.images.shape;
  const { parameters, mean, std, names, labels, white } = values;
  const FINE = 8; // a pixel of an image is drawn as 8 x 8 of a fine one
  const float64 = ({ shape, data }) => cnn.array(shape, Float64Array.from(data));
  const filters = parameters[0].shape[0];
  const network = new cnn.Sequential(new cnn.Conv2d(1, filters, 3), new cnn.ReLU(),
    new cnn.MaxPool2d(2), new cnn.Flatten(), new cnn.Linear(parameters[2].shape[1], names.length));
  network.parameters().forEach((held, k) => { held.value = float64(parameters[k]); });
  const state = { which: 0, strokes: [], shift: [0, 0] };

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
  // One map of numbers, its zero transparent: below it blue, above it vermilion, or ink.
  const map = (key, data, width, limit, label, inked = false) => h("canvas", { key, width,
    height: data.length / width, class: "touch-map", role: "img", "aria-label": label,
    paint: (canvas) => {
      const pen = canvas.getContext("2d");
      const [under, over] = [colour("--touch-x"), colour(inked ? "--book-ink" : "--touch-g")];
      pen.clearRect(0, 0, width, canvas.height);
      data.forEach((value, a) => {
        pen.globalAlpha = Math.min(1, Math.abs(value) / (limit || 1));
        pen.fillStyle = value < 0 ? under : over;
        pen.fillRect(a % width, Math.floor(a / width), 1, 1);
      });
    } });

  function maps(key, { shape: [, channels, rows, columns], data }, what) {
    const limit = data.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
    return [h("p", { key: `name ${key}`, class: "touch-step-name" },
      `${what} \u2192 ${channels} \u00d7 ${rows} \u00d7 ${columns}`),
    h("div", { key, class: "touch-maps" }, [...Array(channels).keys()].map((c) =>
      map(`${key}${c}`, data.subarray(c * rows * columns, (c + 1) * rows * columns), columns,
        limit, `${what}, map ${c}`)))];
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

  const button = (key, text, change) => h("button", { key, type: "button",
    pick: () => { change(); redraw(); } }, text);

  function picture() {
    const now = compute();
    const at = (row, k) => `grid-row:${row};grid-column:${k + 1}`;
    return {
      parts: [
        h("div", { key: "pads", class: "touch-pads" }, pad(now.seen),
          h("div", { key: "seen" }, map("seen", now.seen, side, white, "What the network sees", true),
            h("p", { class: "touch-step-name" }, `what it sees, ${side} \u00d7 ${side}`))),
        maps("conv", now.arrays[0], "convolution"),
        maps("relu", now.arrays[1], "ReLU"),
        maps("pooled", now.arrays[2], "max pooling"),
        h("div", { key: "bars", class: "touch-grid touch-logits-grid" }, names.map((text, k) => [
          h("span", { key: `p${k}`, class: "touch-bar y", style: at(1, k) },
            h("i", { style: `height:${(100 * now.p[k]).toFixed(1)}%` }),
            h("span", { key: `p${k} text` }, now.p[k].toFixed(2).replace(/^0/, ""))),
          h("span", { key: `class${k}`, class: "touch-name", style: at(2, k),
            title: `logit ${now.logits[k].toFixed(6)}` }, text)])),
      ],
      words: words(now),
      controls: [
        button("clear", "clear", () => Object.assign(state, { which: null, strokes: [], shift: [0, 0] })),
        button("other", "another image", () => Object.assign(state, { strokes: [], shift: [0, 0],
          which: state.which === null ? 0 : (state.which + 1) % count })),
      ],
    };
  }

  const redraw = touch.draw(board, picture);
  // Canvases keep their colours when the page turns dark; so they are drawn again.
  new MutationObserver(redraw).observe(document.documentElement,
    { attributes: true, attributeFilter: ["data-theme"] });
});
