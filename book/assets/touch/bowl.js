/* The bowl: a descent in two directions of different curvature, its factors and its
   cliff; with momentum, where that is given. */

"use strict";

touch.figure("bowl", (board, values) => {
  const { h, show, field, slider } = touch;
  const heavy = values.momentum !== undefined;
  const state = { curvature: [...values.curvature.data], start: [...values.start],
    eta: values.eta, momentum: values.momentum ?? 0, steps: values.steps };
  const [COLUMNS, ROWS] = [41, 21]; // places that the keys can start from
  const [wide, tall] = [2 * values.reach[0] / (COLUMNS - 1), 2 * values.reach[1] / (ROWS - 1)];

  // v <- mu v + lambda a, a <- a - eta v, in each direction by itself.
  function descend() {
    const path = [state.start];
    let [a, v] = [state.start, [0, 0]];
    for (let t = 0; t < state.steps; t++) {
      v = v.map((old, k) => state.momentum * old + state.curvature[k] * a[k]);
      a = a.map((place, k) => place - state.eta * v[k]);
      path.push(a);
    }
    return path;
  }

  /* The size of a direction's factor: 1 - eta lambda, or of the larger root of
     r^2 - (1 + mu - eta lambda) r + mu = 0. */
  function factor(curvature) {
    if (!state.momentum) return 1 - state.eta * curvature;
    const b = 1 + state.momentum - state.eta * curvature;
    const under = b * b - 4 * state.momentum;
    return under < 0 ? Math.sqrt(state.momentum) : (Math.abs(b) + Math.sqrt(under)) / 2;
  }

  const far = (value) => Math.max(-1e4, Math.min(1e4, value));
  const place = ([a, b]) => [far((a + values.reach[0]) / wide + 0.5),
    far((values.reach[1] - b) / tall + 0.5)];

  function picture_of(path) {
    const [cx, cy] = place([0, 0]);
    const dots = path.map(place);
    const at = place(state.start).map(Math.floor).reverse();
    return field("bowl", {
      name: "The bowl from above. Arrow keys move the start.",
      rows: ROWS, columns: COLUMNS, view: [0, 0, ROWS, COLUMNS], at,
      set: (r, c) => {
        state.start = [c * wide - values.reach[0], values.reach[1] - r * tall]
          .map((v) => Math.round(v * 1e4) / 1e4);
        redraw();
      },
    },
    [1, 5, 15, 35, 60].map((level) => h("ellipse", { key: `level${level}`,
      class: "touch-contour", cx, cy, rx: Math.sqrt(2 * level / state.curvature[0]) / wide,
      ry: Math.sqrt(2 * level / state.curvature[1]) / tall })),
    h("path", { key: "middle", class: "touch-axes", d: `M${cx - 0.4} ${cy}h.8M${cx} ${cy - 0.4}v.8` }),
    h("polyline", { key: "walk", class: "touch-walk", points: dots.map((d) => d.join()).join(" ") }),
    dots.map(([x, y], t) => h("circle", { key: `dot${t}`, class: "touch-dot", cx: x, cy: y,
      r: t === dots.length - 1 ? 0.6 : 0.32 })));
  }

  const digits = (value) => (Math.abs(value) < 1e4 ? show(value.toFixed(2))
    : show(value.toExponential(1)));

  function words(path) {
    const most = Math.max(...state.curvature);
    const cliff = 2 * (1 + state.momentum) / most;
    const [first, last] = [path[0], path.at(-1)].map((a) => Math.hypot(...a));
    const side = state.eta < cliff - 1e-9 ? `Below the cliff at ${cliff.toFixed(3)}: the walk settles. `
      : state.eta > cliff + 1e-9 ? `Beyond the cliff at ${cliff.toFixed(3)}: the walk grows. `
        : "At the cliff: the walk goes on for ever. ";
    return `${side}After ${state.steps} steps ${digits(last)} from the minimum, of ${digits(first)}.`;
  }

  const act = (name) => (value) => { state[name] = value; redraw(); };
  const button = (key, text, change) =>
    h("button", { key, type: "button", pick: () => { change(); redraw(); } }, text);

  function picture(id) {
    const path = descend();
    const scale = (name, text, min, max, step) => slider(`${name}-${id}`, h("i", {}, text),
      { value: state[name], min, max, step, set: act(name) });
    const most = 2.2 / Math.max(...values.curvature.data) * (heavy ? 1.8 : 1);
    return {
      parts: [
        h("div", { key: "fields", class: "touch-fields" }, picture_of(path)),
        h("p", { key: "sum", class: "touch-sum" },
          heavy ? "a step keeps " : "factors 1 \u2212 \u03b7\u03bb: ",
          state.curvature.map((curvature, k) => [k ? " and " : "", h("b", { key: `factor${k}`,
            class: "touch-g", "data-key": `factor${k}` }, digits(factor(curvature)))])),
      ],
      words: words(path),
      controls: [
        scale("eta", "\u03b7", 0, Math.ceil(most * 100) / 100, heavy ? 0.002 : 0.005),
        heavy ? scale("momentum", "\u03bc", 0, 0.95, 0.05) : null,
        slider(`lambda-${id}`, h("i", {}, "\u03bb\u2082"), { value: state.curvature[1],
          min: 1, max: heavy ? 50 : 20, set: (value) => { state.curvature[1] = value; redraw(); } }),
        button("again", "from the start", () => { state.steps = 0; }),
        button("next", "next step", () => { state.steps = Math.min(60, state.steps + 1); }),
      ],
    };
  }

  const redraw = touch.draw(board, picture);
});
