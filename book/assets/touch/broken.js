/* Which layer is broken? Some layers without a name, each with the loss of a network
   that trained with it. The reader picks the broken ones by their curves; then the
   errors of their gradients say which they were. */

"use strict";

touch.figure("broken", (board, values) => {
  const { h, power } = touch;
  const { errors, losses, names, kinds } = values;
  const [count, steps] = losses.shape;
  const layers = [...Array(count).keys()];
  const state = { picked: new Set(), checked: false, hasty: false };
  const WRONG = 1e-4; // above this error a gradient is wrong

  // Means over as many losses as the chapter's curves are: [step, loss].
  const curves = layers.map((k) => {
    const loss = losses.data.subarray(k * steps, (k + 1) * steps);
    const points = [];
    for (let t = values.over; t <= steps; t++)
      points.push([t, loss.subarray(t - values.over, t).reduce((sum, v) => sum + v, 0) / values.over]);
    return points;
  });
  const top = Math.max(...curves.map(([[, first]]) => first));
  const line = curves.map((points) => points.map(([t, v]) =>
    `${((t - values.over) / (steps - values.over) * 150).toFixed(1)},${(78 - v / top * 74).toFixed(1)}`).join(" "));
  const ends = curves.map((points) => points.at(-1)[1]);
  const error = (k) => [...errors.data.subarray(k * kinds.length, (k + 1) * kinds.length)];
  const broken = (k) => Math.max(...error(k)) > WRONG;

  const verdict = (k) => (state.picked.has(k) ? (broken(k) ? "found" : "accused, but right")
    : broken(k) ? "missed" : "right");

  function card(k) {
    const [picked, { checked }] = [state.picked.has(k), state];
    const kind = !checked ? (picked ? "picked" : "") : broken(k) ? "wrong" : "right";
    return h("div", { key: `layer${k}`, group: checked ? null : "layer",
      class: `touch-suspect ${kind}`, "aria-pressed": checked ? null : String(picked),
      pick: checked ? null : () => {
        if (!state.picked.delete(k)) state.picked.add(k);
        state.hasty = false;
        redraw();
      } },
    h("svg", { viewBox: "0 0 150 80", "aria-hidden": "true" },
      h("path", { class: "touch-axes", d: "M.5 2V78.5H150" }),
      layers.filter((other) => other !== k).map((other) =>
        h("polyline", { class: "touch-curve thin pale", points: line[other] })),
      h("polyline", { key: "own", class: `touch-curve own ${kind}`, points: line[k] })),
    h("span", { class: "touch-suspect-name" }, h("b", {}, String(k + 1)),
      checked ? ` ${names[k]}` : ` ends at ${ends[k].toFixed(3)}`),
    checked ? [h("span", { key: `verdict${k}`, class: "touch-verdict", "data-key": `verdict${k}` },
      verdict(k)),
    kinds.map((name, a) => h("span", { class: "touch-error" }, `${name} `,
      h("b", { key: `e${k}${name}`, class: error(k)[a] > WRONG ? "touch-g" : "" },
        power(error(k)[a], 0))))]
      : h("span", { class: "touch-verdict" }, picked ? "broken?" : "\u00a0"));
  }

  const list = (all) => all.length;
  function sum() {
    const wrong = layers.filter(broken);
    if (!state.checked) return ["picked ", h("b", { key: "picked" }, String(state.picked.size)),
      ` of ${count}`];
    const found = list(wrong.filter((k) => state.picked.has(k)));
    return ["your eye: ", h("b", { key: "found" }, String(found)), ` of ${wrong.length} found, `,
      h("b", { key: "accused" }, String(state.picked.size - found)), " accused wrongly; ",
      `the errors: ${wrong.length} of ${wrong.length}`];
  }

  function words() {
    if (state.hasty) return "Guess first: pick the curves that look broken.";
    if (!state.checked) return "Some of these layers have a wrong gradient. Whose loss gives it away?";
    const order = [...layers].sort((a, b) => ends[a] - ends[b]);
    const said = (k) => `layer ${k + 1}, which is ${broken(k) ? "broken" : "right"}`;
    return `Lowest at the end: ${said(order[0])}. Highest: ${said(order.at(-1))}. `
      + "Right errors lie near 10\u207b\u00b9\u2070, wrong ones far above.";
  }

  function picture() {
    return {
      parts: [
        h("div", { key: "suspects", class: "touch-suspects", role: "group",
          "aria-label": "Layers, and the loss of a network with each" }, layers.map(card)),
        h("p", { key: "sum", class: "touch-sum" }, sum()),
      ],
      words: words(),
      controls: [h("button", { key: "check", type: "button", pick: () => {
        if (state.checked) Object.assign(state, { picked: new Set(), checked: false });
        else if (state.picked.size) state.checked = true;
        else state.hasty = true;
        redraw();
      } }, state.checked ? "guess again" : "check gradients")],
    };
  }

  const redraw = touch.draw(board, picture);
});
