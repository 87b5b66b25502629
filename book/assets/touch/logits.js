/* Ten logits: what softmax makes of them, the loss, and which way a step pushes each;
   computed safely or naively, in float32 or float64. */

"use strict";

touch.figure("logits", (board, values) => {
  const { h, show, choice } = touch;
  const given = [...values.z.data];
  const state = { z: [...given], label: values.label, way: "safe", format: "float32", last: 0 };
  const ROUND = { float32: Math.fround, float64: (v) => v };

  // Every operation is rounded as the number format does.
  function compute() {
    const r = ROUND[state.format];
    const z = state.z.map(r);
    const top = state.way === "safe" ? Math.max(...z) : 0;
    const powers = z.map((v) => r(Math.exp(r(v - top))));
    const sum = powers.reduce((total, e) => r(total + e), 0);
    const p = powers.map((e) => r(e / sum));
    const loss = state.way === "safe" ? r(r(Math.log(sum)) - r(z[state.label] - top))
      : r(-Math.log(p[state.label]));
    const push = p.map((v, k) => (k === state.label ? 1 : 0) - v);
    return { p, push, loss: loss === 0 ? 0 : loss }; // no −0
  }

  const digits = (value, places) => (Number.isNaN(value) ? "nan"
    : Math.abs(value) === Infinity ? show(value < 0 ? "-inf" : "inf")
      : show(value.toFixed(places).replace(/^-(0\.?0*)$/, "$1")));
  const short = (value) => digits(value, 2).replace(/0\./, "."); // .25
  const logit = (value) => digits(value, Math.abs(value) < 9.95 ? 1 : 0);
  const act = (change) => () => { change(); redraw(); };
  const spin = (k) => ({ name: `z${touch.sub(k)}`, value: state.z[k], text: logit(state.z[k]),
    min: -9999, max: 9999, step: 0.1, set: (value) => {
      state.z[k] = Math.round(value * 1e4) / 1e4;
      state.last = k;
      redraw();
    } });

  const share = (value) => (Number.isFinite(value) ? 100 * Math.abs(value) : 0);
  const bar = (key, kind, value, text, style) =>
    h("span", { key, class: `touch-bar ${kind}`, style },
      h("i", { class: value < 0 ? "down" : "", style: `height:${share(value).toFixed(1)}%` }),
      h("span", { key: `${key} text` }, text));

  function columns({ p, push }) {
    const at = (row, k) => `grid-row:${2 * row};grid-column:${k + 1}`;
    const names = ["true class", "logit z", "probability p", "push y \u2212 p"];
    const cells = names.map((text, row) => h("span", { key: text, class: "touch-name",
      style: `grid-row:${2 * row + 1};grid-column:1/-1` }, text));
    state.z.forEach((value, k) => {
      const truth = k === state.label;
      cells.push(
        h("span", { key: `class${k}`, group: "class", style: at(1, k),
          class: `touch-cell ${truth ? "truth" : "none"}`, "aria-pressed": String(truth),
          pick: act(() => { state.label = k; }) }, String(k)),
        h("span", { key: `z${k}`, group: "z", class: "touch-cell x", style: at(2, k),
          spin: spin(k), on: { focus: act(() => { state.last = k; }) } }, logit(value)),
        bar(`p${k}`, "y", p[k], short(p[k]), at(3, k)),
        bar(`push${k}`, "g", push[k], short(push[k]), at(4, k)));
    });
    return h("div", { key: "columns", class: "touch-grid touch-logits-grid",
      role: "group", "aria-label": "Class, logit, probability, push" }, cells);
  }

  function words({ p, push, loss }) {
    if (push.some(Number.isNaN) || !Number.isFinite(loss)) return "The naive way has overflowed "
      + "or divided by 0. The same logits, done safely, have a loss.";
    const [best, truth] = [p.indexOf(Math.max(...p)), state.label];
    const level = Math.max(...p) - Math.min(...p) < 1e-6;
    if (level) return "All are level: the loss is log 10, whatever the class.";
    return (best === truth ? `Class ${truth} leads, and is right. `
      : `Class ${best} leads, but ${truth} is true. `)
      + "The pushes add up to 0: what the true one gains, the others lose.";
  }

  const button = (key, text, change) =>
    h("button", { key, type: "button", pick: act(change) }, text);

  function picture(id) {
    const now = compute();
    const total = now.push.reduce((sum, v) => sum + v, 0);
    return {
      parts: [columns(now), h("p", { key: "sum", class: "touch-sum" },
        `loss = \u2212log p${touch.sub(state.label)} = `,
        h("b", { key: "loss", class: "touch-y", "data-key": "loss" }, digits(now.loss, 3)),
        ", sum of pushes ", h("b", { key: "total", class: "touch-g", "data-key": "total" },
          digits(Math.abs(total) < 1e-5 ? 0 : total, 2)))],
      words: words(now),
      controls: [
        touch.stepper(spin(state.last)),
        button("plus", "+1 to all", () => { state.z = state.z.map((v) => v + 1); }),
        button("times", "\u00d710", () => {
          state.z = state.z.map((v) => Math.max(-9999, Math.min(9999, v * 10)));
        }),
        button("level", "level", () => { state.z.fill(0); }),
        button("again", "as it was", () => { state.z = [...given]; state.label = values.label; }),
        choice(`way-${id}`, "softmax", ["safe", "naive"], state.way,
          (value) => { state.way = value; redraw(); }),
        choice(`format-${id}`, "in", Object.keys(ROUND), state.format,
          (value) => { state.format = value; redraw(); }),
      ],
    };
  }

  const redraw = touch.draw(board, picture);
});
