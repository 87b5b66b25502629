/* Which layer is broken? Some layers without a name, each with the loss of a network
   that trained with it. The reader picks the broken ones by their curves; then the
   errors of their gradients say which they were. */

"use strict";

touch.figure("broken", (board, values) => {
  const { h, power, range, path, curve } = touch;
  const { errors, losses, names, kinds } = values;
  const [count, steps] = losses.shape;
  const layers = range(count);
  const state = { picked: new Set(), checked: false, hasty: false };
  const { draw, act, button } = board(state);
  const WRONG = 1e-4; // above this error a gradient is wrong

  // Means over as many losses as the chapter's curves are.
  const means = layers.map((k) => range(steps - values.over + 1).map((t) =>
    losses.data.subarray(k * steps + t, k * steps + t + values.over)
      .reduce((sum, v) => sum + v, 0) / values.over));
  const top = Math.max(...means.map(([first]) => first));
  const line = means.map((loss) => loss.map((v, t) =>
    [t / (loss.length - 1) * 150, 78 - v / top * 74]));
  const ends = means.map((loss) => loss.at(-1));
  const error = (k) => [...errors.data.subarray(k * kinds.length, (k + 1) * kinds.length)];
  const broken = (k) => Math.max(...error(k)) > WRONG;
  const [wrong, right] = [layers.filter(broken), layers.filter((k) => !broken(k))];

  const verdict = (k) => (state.picked.has(k) ? (broken(k) ? "found" : "accused wrongly")
    : broken(k) ? "missed" : "rightly spared");

  function card(k) {
    const [picked, checked] = [state.picked.has(k), state.checked];
    const kind = !checked ? (picked ? "picked g" : "") : broken(k) ? "g" : "y";
    return h("div.suspect", { key: `layer${k}`, group: checked ? null : "layer",
      class: kind, pressed: checked ? null : picked,
      pick: checked ? null : act(() => {
        if (!state.picked.delete(k)) state.picked.add(k);
        state.hasty = false;
      }) },
    h("svg", { viewBox: "0 0 150 80", "aria-hidden": "true" },
      path("axes", "M.5 2V78.5H150"),
      layers.filter((other) => other !== k).map((other) => curve(`${other}`, "thin pale", line[other])),
      curve("own", `own ${kind}`, line[k])),
    h("span", {}, h("b", {}, k + 1), ` ends at ${ends[k].toFixed(3)}`),
    checked && h("span", { key: `name${k}` }, names[k]),
    h("span.verdict", { key: `verdict${k}` },
      checked ? verdict(k) : picked ? "broken?" : "\u00a0"),
    checked && kinds.map((name, a) => h("span.error", {}, `${name} `,
      h(error(k)[a] > WRONG ? "b.g" : "b", { key: `e${k}${name}` },
        power(error(k)[a], 0)))));
  }

  function sum() {
    const picked = state.picked.size;
    const told = (key, value) => h("b", { key }, value);
    if (!state.checked) return ["picked ", told("picked", picked), ` of ${count}`];
    const found = wrong.filter((k) => state.picked.has(k)).length;
    return ["your eye: ", told("found", found), ` of ${wrong.length} found, `,
      told("accused", picked - found), ` accused wrongly; the errors: ${wrong.length} of ${wrong.length}`];
  }

  function words() {
    if (state.hasty) return "Guess first: pick the curves that look broken.";
    if (!state.checked)
      return `${wrong.length} of these layers have a wrong gradient. Whose loss gives it away?`;
    const low = wrong.filter((k) => right.every((r) => ends[k] < ends[r]));
    const all = layers.flatMap(error);
    return `Broken, and yet lower at the end than each right layer: ${low.map((k) => k + 1).join(", ") || "none"}. `
      + "The numbers are relative errors of the gradients: of right ones at most "
      + `${power(Math.max(...all.filter((e) => e <= WRONG)), 0)}, of wrong ones at least `
      + `${power(Math.min(...all.filter((e) => e > WRONG)), 0)}.`;
  }

  // The verdict stands between the button and the layers: in sight when it is given.
  draw(() => ({
    above: button("check", state.checked ? "guess again" : "check gradients", () => {
      if (state.checked) Object.assign(state, { picked: new Set(), checked: false });
      else if (state.picked.size) state.checked = true;
      else state.hasty = true;
    }),
    sum: sum(),
    words: words(),
    controls: h("div.suspects", { role: "group",
      label: "Layers, and the loss of a network with each" }, layers.map(card)),
  }));
});
