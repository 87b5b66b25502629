/* The step h: a central difference in float32 or float64, its secant, and its error
   beside the two that it is made of, M h^2 / 6 and epsilon F / h. */

"use strict";

touch.figure("step", (board, values) => {
  const { show, up, power, clip, range, letter, number, path, mark, curve, dot } = touch;
  const same = (v) => v;
  // Each with its place x, slope, M = |f'''| and F = |f| + |x f'| / 2 there. Every
  // operation is rounded by r, as the number format does.
  const FUNCTIONS = {
    cube: { text: "x³", x: 1, slope: 3, M: 6, F: 2.5, f: (x, r) => r(r(x * x) * x) },
    inverse: { text: "1/x", x: 1, slope: -1, M: 6, F: 1.5, f: (x, r) => r(1 / x) },
    root: { text: "√x", x: 2, slope: Math.SQRT1_2 / 2, M: 0.375 * 2 ** -2.5,
      F: 1.25 * Math.SQRT2, f: (x, r) => r(Math.sqrt(x)) },
    relu: { text: "ReLU at 0", x: 0, slope: 0.5, f: (x) => Math.max(x, 0) },
  };
  const FORMATS = { float32: [Math.fround, 2 ** -23], float64: [same, 2 ** -52] };
  const state = { name: "cube", format: "float64", h: -1 }; // h as a power of 10
  const { draw, set, choice, slider } = board(state);

  function central(step) {
    const [{ x, f }, [r]] = [FUNCTIONS[state.name], FORMATS[state.format]];
    const size = r(step);
    const [above, below] = [f(r(x + size), r), f(r(x - size), r)];
    return { above, below, slope: r(r(above - below) / r(2 * size)), lost: r(x + size) === x };
  }

  /* --- The secant: f, its tangent, and the line through the two points --- */

  function secant({ above, below, slope }, step) {
    const { x, f, slope: truth, text } = FUNCTIONS[state.name];
    const reach = state.name === "inverse" ? 0.7 : 1;
    const [middle, tall] = [f(x, same), state.name === "cube" ? 3.2 : reach * 1.2];
    const at = (a, b) => [160 + (a - x) / reach * 150, 100 - (b - middle) / tall * 90];
    const grid = range(81).map((k) => x + (k / 40 - 1) * reach);
    const line = (m) => [x - reach, x + reach].map((a) => at(a, middle + m * (a - x)));
    return touch.plot("secant", `${text}, its tangent, and the secant with slope ${show(slope)}`, 200, [
      curve("f", "x", grid.map((a) => at(a, f(a, same)))),
      curve("tangent", "truth", line(truth)), curve("line", "g", line(slope)),
      dot("above", at(x + step, above), 5), dot("below", at(x - step, below), 5)]);
  }

  /* --- The error against h, both logarithmic --- */

  const [LEFT, RIGHT, TOP, BOTTOM] = [46, 300, 8, 168];
  const across = touch.scale(-12, 0, LEFT, RIGHT);
  const down = (error) => touch.scale(-13, 1, BOTTOM, TOP)(Math.log10(error));

  function errors(error) {
    const { slope, M, F } = FUNCTIONS[state.name];
    const epsilon = FORMATS[state.format][1];
    const measured = [...values.steps.data].map((step) =>
      [Math.log10(step), Math.abs(central(step).slope - slope)]).filter(([, e]) => e)
      .map(([e, gap]) => [across(e), down(gap)]);
    const point = (event) => {
      if (event.type === "pointermove" && !event.buttons) return;
      const e = touch.scale(LEFT, RIGHT, -12, 0)(320 * touch.place(event)[1]);
      set("h")(clip(Math.round(e * 10) / 10, -12, -0.5));
    };
    // From e0 to e1, on the plot, the error is f(e).
    const bound = (kind, e0, e1, f) => curve(kind, kind, [clip(e0, -12, 0), clip(e1, -12, 0)]
      .map((e) => [across(e), down(f(e))]));
    const least = Math.log10(epsilon * F);
    return touch.plot("errors", `The error against h; at this h it is ${power(error)}`, 200, [
      path("axes", `M${LEFT} ${TOP}V${BOTTOM}H${RIGHT}`),
      [-12, -9, -6, -3, 0].map((e) => [mark(across(e), 182, `10${up(e)}`, "middle"),
        mark(LEFT - 5, down(10 ** e) + 4, `10${up(e)}`)]),
      mark(RIGHT, 196.5, "step h"),
      M ? [bound("two", (-13 - Math.log10(M / 6)) / 2, 0, (e) => M / 6 * 10 ** (2 * e)),
        bound("one", least - 1, least + 13, (e) => epsilon * F / 10 ** e)] : null,
      curve("measured", "g thin", measured),
      dot("here", [across(state.h), down(error)], 6),
    ], { class: "touch-errors", on: { pointerdown: point, pointermove: point } });
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

  draw(() => {
    const { name, format } = state;
    const step = 10 ** state.h;
    const now = central(step);
    const error = Math.abs(now.slope - FUNCTIONS[name].slope);
    return {
      parts: touch.h("div.plots", {}, secant(now, step), errors(error)),
      sum: ["slope ", number("g", Number(now.slope.toPrecision(format === "float32" ? 8 : 16)), "slope"),
        ", error ", number("g", power(error), "error")],
      words: words(now, step),
      controls: [
        slider("h", letter("h"), { min: -12, max: -0.5, step: 0.1, text: power(step) }),
        choice("format", "numbers", Object.keys(FORMATS)),
        choice("name", "function", Object.entries(FUNCTIONS).map(([key, { text }]) => [key, text])),
      ],
    };
  });
});
