/* The step h: a central difference in float32 or float64, its secant, and its error
   beside the two that it is made of, M h^2 / 6 and epsilon F / h. */

"use strict";

touch.figure("step", (board, values) => {
  const { h, show, up, power, slider, choice } = touch;
  const same = (v) => v;
  // Each with its place x, slope, M = |f'''| and F = |f| + |x f'| / 2 there. Every
  // operation is rounded by r, as the number format does.
  const FUNCTIONS = {
    cube: { text: "x\u00b3", x: 1, slope: 3, M: 6, F: 2.5, f: (x, r) => r(r(x * x) * x) },
    inverse: { text: "1/x", x: 1, slope: -1, M: 6, F: 1.5, f: (x, r) => r(1 / x) },
    root: { text: "\u221ax", x: 2, slope: Math.SQRT1_2 / 2, M: 0.375 * 2 ** -2.5,
      F: 1.25 * Math.SQRT2, f: (x, r) => r(Math.sqrt(x)) },
    relu: { text: "ReLU at 0", x: 0, slope: 0.5, f: (x) => Math.max(x, 0) },
  };
  const FORMATS = { float32: [Math.fround, 2 ** -23], float64: [same, 2 ** -52] };
  const state = { name: "cube", format: "float64", exponent: -1 };

  function central(name, format, step) {
    const [{ x, f }, [r]] = [FUNCTIONS[name], FORMATS[format]];
    const size = r(step);
    const [above, below] = [f(r(x + size), r), f(r(x - size), r)];
    return { above, below, slope: r(r(above - below) / r(2 * size)), lost: r(x + size) === x };
  }

  /* --- The secant: f, its tangent, and the line through the two points ---------- */

  function secant({ above, below, slope }, step) {
    const { x, f, slope: truth, text } = FUNCTIONS[state.name];
    const reach = state.name === "inverse" ? 0.7 : 1;
    const [middle, tall] = [f(x, same), state.name === "cube" ? 3.2 : reach * 1.2];
    const at = (a, b) => [160 + (a - x) / reach * 150, 100 - (b - middle) / tall * 90];
    const path = (points) => `M${points.map((p) => p.map((v) => v.toFixed(2)).join(" ")).join("L")}`;
    const grid = [...Array(81).keys()].map((k) => x + (k / 40 - 1) * reach);
    const line = (m) => path([x - reach, x + reach].map((a) => at(a, middle + m * (a - x))));
    const dot = (key, a, b) => {
      const [cx, cy] = at(a, b);
      return h("circle", { key, class: "touch-dot", cx, cy, r: 5 });
    };
    return h("svg", { key: "secant", class: "touch-plot", role: "img", viewBox: "0 0 320 200",
      "aria-label": `${text}, its tangent, and the secant with slope ${show(slope)}` },
    h("path", { key: "f", class: "touch-curve x", d: path(grid.map((a) => at(a, f(a, same)))) }),
    h("path", { key: "tangent", class: "touch-curve truth", d: line(truth) }),
    h("path", { key: "line", class: "touch-curve g", d: line(slope) }),
    dot("above", x + step, above), dot("below", x - step, below));
  }

  /* --- The error against h, both logarithmic ------------------------------------ */

  const [LEFT, RIGHT, TOP, BOTTOM] = [46, 300, 8, 168];
  const across = (e) => LEFT + (e + 12) / 12 * (RIGHT - LEFT);
  const down = (error) => TOP + Math.min(1, Math.max(0,
    (1 - Math.log10(Math.max(error, 1e-300))) / 14)) * (BOTTOM - TOP);

  function errors(error) {
    const { slope, M, F } = FUNCTIONS[state.name];
    const epsilon = FORMATS[state.format][1];
    const measured = [...values.steps.data].map((step) => [Math.log10(step),
      Math.abs(central(state.name, state.format, step).slope - slope)]).filter(([, e]) => e > 0);
    const path = (points) => (points.length ? `M${points.map(([e, v]) =>
      `${across(e).toFixed(1)} ${down(v).toFixed(1)}`).join("L")}` : "");
    const point = (event) => {
      if (event.type === "pointermove" && !event.buttons) return;
      const box = event.currentTarget.getBoundingClientRect();
      const e = (320 * (event.clientX - box.left) / box.width - LEFT) / (RIGHT - LEFT) * 12 - 12;
      setExponent(Math.max(-12, Math.min(-0.5, Math.round(e * 10) / 10)));
    };
    const bounds = M ? [
      // From where they leave the plot, at 1e-13, to where they enter it, at 10.
      h("path", { key: "two", class: "touch-curve two", d: path(
        [(-13 - Math.log10(M / 6)) / 2, 0].map((e) => [e, M / 6 * 10 ** (2 * e)])) }),
      h("path", { key: "one", class: "touch-curve one", d: path(
        [Math.max(-12, Math.log10(epsilon * F) - 1), Math.min(0, Math.log10(epsilon * F) + 13)]
          .map((e) => [e, epsilon * F / 10 ** e])) })] : null;
    return h("svg", { key: "errors", class: "touch-plot touch-errors", role: "img",
      viewBox: "0 0 320 200", on: { pointerdown: point, pointermove: point },
      "aria-label": `The error against h; at this h it is ${power(error)}` },
    h("path", { key: "axes", class: "touch-axes", d: `M${LEFT} ${TOP}V${BOTTOM}H${RIGHT}` }),
    [-12, -9, -6, -3, 0].map((e) => h("text", { key: `h${e}`, x: across(e), y: 182,
      class: "middle" }, `10${up(e)}`)),
    [-12, -9, -6, -3, 0].map((e) => h("text", { key: `e${e}`, x: LEFT - 5, y: down(10 ** e) + 4,
      class: "end" }, `10${up(e)}`)),
    h("text", { key: "h", x: RIGHT, y: 196.5, class: "end" }, "step h"),
    bounds,
    h("path", { key: "measured", class: "touch-curve g thin", d: path(measured) }),
    h("circle", { key: "here", class: "touch-dot", cx: across(state.exponent), cy: down(error), r: 6 }));
  }

  function words(now, step) {
    const { M, F } = FUNCTIONS[state.name];
    if (!M) return "At the kink one side has slope 1, the other 0. "
      + "The central difference says 1/2, at every h: no derivative.";
    if (now.lost) return `In ${state.format}, x + h is x: the step is lost.`;
    const best = Math.cbrt(3 * FORMATS[state.format][1] * F / M);
    const side = step > 1.5 * best ? "Truncation rules here: ten times smaller, a hundred times better. "
      : step < best / 1.5 ? "Rounding rules here: ten times smaller, about ten times worse. "
        : "Here the two are about equal. ";
    return `${side}The best step is near ${power(best)}.`;
  }

  const act = (name) => (value) => { state[name] = value; redraw(); };
  const setExponent = act("exponent");

  function picture(id) {
    const { name, format, exponent } = state;
    const step = 10 ** exponent;
    const now = central(name, format, step);
    const error = Math.abs(now.slope - FUNCTIONS[name].slope);
    const digits = format === "float32" ? 8 : 16;
    return {
      parts: [
        h("div", { key: "plots", class: "touch-plots" }, secant(now, step), errors(error)),
        h("p", { key: "sum", class: "touch-sum" }, "slope ",
          h("b", { key: "slope", class: "touch-g", "data-key": "slope" },
            show(Number(now.slope.toPrecision(digits)))),
          ", error ", h("b", { key: "error", class: "touch-g", "data-key": "error" }, power(error))),
      ],
      words: words(now, step),
      controls: [
        slider(`h-${id}`, h("i", {}, "h"), { value: exponent, min: -12, max: -0.5, step: 0.1,
          text: power(step), set: setExponent }),
        choice(`format-${id}`, "numbers", Object.keys(FORMATS), format, act("format")),
        choice(`name-${id}`, "function", Object.entries(FUNCTIONS).map(([key, { text }]) =>
          [key, text]), name, act("name")),
      ],
    };
  }

  const redraw = touch.draw(board, picture);
});
