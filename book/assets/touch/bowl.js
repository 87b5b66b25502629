/* The bowl: a descent in two directions of different curvature, its factors and its
   cliff; with momentum, where that is given. */

"use strict";

touch.figure("bowl", (board, values) => {
  const { h, show, fixed, letter, number, field, path, dot } = touch;
  const heavy = values.momentum !== undefined;
  const state = { curvature: [...values.curvature.data], start: [...values.start],
    eta: values.eta, momentum: values.momentum ?? 0, steps: values.steps };
  const { draw, act, slider, button } = board(state);
  const [COLUMNS, ROWS] = [41, 21]; // places that the keys can start from
  const [wide, tall] = [2 * values.reach[0] / (COLUMNS - 1), 2 * values.reach[1] / (ROWS - 1)];

  // v <- mu v + lambda a, a <- a - eta v, in each direction by itself.
  function descend() {
    const walk = [state.start];
    let [a, v] = [state.start, [0, 0]];
    for (let t = 0; t < state.steps; t++) {
      v = v.map((old, k) => state.momentum * old + state.curvature[k] * a[k]);
      a = a.map((place, k) => place - state.eta * v[k]);
      walk.push(a);
    }
    return walk;
  }

  /* The size of a direction's factor: 1 - eta lambda, or of the larger root of
     r^2 - (1 + mu - eta lambda) r + mu = 0. */
  function factor(curvature) {
    if (!state.momentum) return 1 - state.eta * curvature;
    const b = 1 + state.momentum - state.eta * curvature;
    const under = b * b - 4 * state.momentum;
    return under < 0 ? Math.sqrt(state.momentum) : (Math.abs(b) + Math.sqrt(under)) / 2;
  }

  const far = (value) => touch.clip(value, -1e4, 1e4);
  const place = ([a, b]) => [far((a + values.reach[0]) / wide + 0.5),
    far((values.reach[1] - b) / tall + 0.5)];

  function picture_of(walk) {
    const [cx, cy] = place([0, 0]);
    const dots = walk.map(place);
    return field("bowl", {
      name: "The bowl from above. Arrow keys move the start.",
      rows: ROWS, columns: COLUMNS, view: [0, 0, ROWS, COLUMNS],
      at: place(state.start).map(Math.floor).reverse(),
      set: act((r, c) => {
        state.start = [c * wide - values.reach[0], values.reach[1] - r * tall]
          .map((v) => Math.round(v * 1e4) / 1e4);
      }),
    },
    [1, 5, 15, 35, 60].map((level) => h("ellipse.contour", { cx, cy,
      rx: Math.sqrt(2 * level / state.curvature[0]) / wide,
      ry: Math.sqrt(2 * level / state.curvature[1]) / tall })),
    path("axes", `M${cx - 0.4} ${cy}h.8M${cx} ${cy - 0.4}v.8`),
    h("polyline.walk", { key: "walk", points: dots.map((d) => d.join()).join(" ") }),
    dots.map((d, t) => dot(`dot${t}`, d, t === dots.length - 1 ? 0.6 : 0.32)));
  }

  const digits = (value) => (Math.abs(value) < 1e4 ? fixed(value, 2)
    : show(value.toExponential(1)));

  function words(walk) {
    const cliff = 2 * (1 + state.momentum) / Math.max(...state.curvature);
    const [first, last] = [walk[0], walk.at(-1)].map((a) => Math.hypot(...a));
    const side = state.eta < cliff - 1e-9 ? `Below the cliff at ${cliff.toFixed(3)}: the walk settles. `
      : state.eta > cliff + 1e-9 ? `Beyond the cliff at ${cliff.toFixed(3)}: the walk grows. `
        : "At the cliff: the walk goes on for ever. ";
    return `${side}After ${state.steps} steps ${digits(last)} from the minimum, of ${digits(first)}.`;
  }

  draw(() => {
    const walk = descend();
    const most = 2.2 / Math.max(...values.curvature.data) * (heavy ? 1.8 : 1);
    return {
      parts: h("div.fields", {}, picture_of(walk)),
      sum: [heavy ? "a step keeps " : "factors 1 \u2212 ηλ: ",
        state.curvature.map((curvature, k) => [k ? " and " : "",
          number("g", digits(factor(curvature)), `factor${k}`)])],
      words: words(walk),
      controls: [
        slider("eta", letter("η"), { min: 0, max: Math.ceil(most * 100) / 100,
          step: heavy ? 0.002 : 0.005 }),
        heavy ? slider("momentum", letter("μ"), { min: 0, max: 0.95, step: 0.05 }) : null,
        slider("lambda", letter("λ₂"), { value: state.curvature[1], min: 1,
          max: heavy ? 50 : 20, take: act((value) => { state.curvature[1] = value; }) }),
        button("again", "from the start", () => { state.steps = 0; }),
        button("next", "next step", () => { state.steps = Math.min(60, state.steps + 1); }),
      ],
    };
  });
});
