/* Ten logits: what softmax makes of them, the loss, and which way a step pushes each;
   computed safely or naively, in float32 or float64. */

"use strict";

touch.figure("logits", (board, values) => {
  const { h, show, fixed, sub, number, at } = touch;
  const state = { z: [...values.z.data], label: values.label, way: "safe", format: "float32" };
  const { draw, act, choice, button, again, spin, last_used } = board(state);
  const ROUND = { float32: Math.fround, float64: (v) => v };
  const MOST = 9999;

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
    return { p, loss, push: p.map((v, k) => (k === state.label ? 1 : 0) - v) };
  }

  const digits = (value, places) => (Number.isNaN(value) ? "nan"
    : Math.abs(value) === Infinity ? show(value < 0 ? "-inf" : "inf") : fixed(value, places));
  const short = (value) => digits(value, 2).replace(/0\./, "."); // .25
  const logit = (value) => digits(value, Math.abs(value) < 9.95 ? 1 : 0);
  const dragged = (k) => spin({ name: `z${sub(k)}`, value: state.z[k], text: logit(state.z[k]),
    min: -MOST, max: MOST, step: 0.1, set: (value) => { state.z[k] = Math.round(value * 1e4) / 1e4; } });

  const share = (value) => (Number.isFinite(value) ? 100 * Math.abs(value) : 0);
  const bar = (key, kind, value, style) =>
    h("span.bar", { class: kind, style },
      h("i", { class: value < 0 ? "down" : "", style: `height:${share(value).toFixed(1)}%` }),
      h("span", { key: `${key} text` }, short(value)));

  function columns({ p, push }) {
    const names = ["true class", "logit z", "probability p", "push y \u2212 p"];
    return h("div.grid.logits-grid", { role: "group", label: "Class, logit, probability, push" },
    names.map((text, row) => h("span.name", { style: at(2 * row + 1, "1/-1") }, text)),
    state.z.map((value, k) => {
      const truth = k === state.label;
      return [
        h("span.cell", { key: `class${k}`, group: "class", style: at(2, k + 1),
          class: truth ? "truth" : "none", pressed: truth,
          pick: act(() => { state.label = k; }) }, k),
        h("span.cell", { key: `z${k}`, group: "z", class: "x", style: at(4, k + 1),
          spin: dragged(k) }, logit(value)),
        bar(`p${k}`, "y", p[k], at(6, k + 1)),
        bar(`push${k}`, "g", push[k], at(8, k + 1))];
    }));
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

  draw(() => {
    const now = compute();
    return {
      parts: columns(now),
      sum: [`loss = \u2212log p${sub(state.label)} = `, number("y", digits(now.loss, 3), "loss"),
        ", sum of pushes ", number("g", digits(now.push.reduce((sum, v) => sum + v), 2), "total")],
      words: words(now),
      controls: [
        last_used(),
        button("plus", "+1 to all", () => { state.z = state.z.map((v) => v + 1); }),
        button("times", "×10", () => {
          state.z = state.z.map((v) => touch.clip(v * 10, -MOST, MOST));
        }),
        button("level", "level", () => { state.z.fill(0); }),
        again(),
        choice("way", "softmax", ["safe", "naive"]),
        choice("format", "in", Object.keys(ROUND)),
      ],
    };
  });
});
