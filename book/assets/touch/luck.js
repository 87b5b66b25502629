/* The luck of the best: of many candidates the best is chosen on some images, and asked
   again on fresh ones. The candidates are drawn by dice, or the epochs of a real run. */

"use strict";

touch.figure("luck", (board, values) => {
  const { h, slider, choice } = touch;
  const { share } = values; // what a candidate reads right, on average
  const [A, B] = [values.chosen.data, values.fresh.data]; // by epoch
  const COUNTS = [1, 2, 3, 5, 10, 20, 30, 60, 100, 200, 500, 1000];
  const IMAGES = [100, 200, 500, 1000, 2000, 5000, 10000];
  const ROLLS = 200; // for the mean
  const state = { m: COUNTS.indexOf(values.m), n: IMAGES.indexOf(values.n), tau: values.tau,
    by: "dice", epoch: A.length, roll: 0 };
  const luck = () => Math.sqrt(share * (1 - share) / IMAGES[state.n]); // s

  // Three normal numbers a candidate: its merit, its luck where it is chosen, and fresh.
  const most = COUNTS.at(-1);
  const rolls = new Map();
  function rolled(roll) {
    if (!rolls.has(roll)) rolls.set(roll, Float64Array.from({ length: 3 * most }, touch.dice(roll)));
    return rolls.get(roll);
  }

  function candidates() {
    if (state.by === "run") return [A.slice(0, state.epoch), B.slice(0, state.epoch)];
    const [normal, s] = [rolled(state.roll), luck()];
    return [1, 2].map((which) => Float64Array.from({ length: COUNTS[state.m] }, (_, j) =>
      share + state.tau / 100 * normal[3 * j] + s * normal[3 * j + which]));
  }

  // The gap for the first 1, 2, 3, ... candidates, a mean over many rolls, or splits.
  function gaps() {
    if (state.by === "run") return [...values.gaps.data].map((gap, e) => [e + 1, gap]);
    const [s, tau] = [luck(), state.tau / 100];
    const sums = COUNTS.map(() => 0);
    for (let roll = 0; roll < ROLLS; roll++) {
      const normal = rolled(roll);
      let [best, gap, k] = [-Infinity, 0, 0];
      for (let j = 0; j < most; j++) {
        const total = tau * normal[3 * j] + s * normal[3 * j + 1];
        if (total > best) [best, gap] = [total, s * (normal[3 * j + 1] - normal[3 * j + 2])];
        if (j + 1 === COUNTS[k]) sums[k++] += gap / ROLLS;
      }
    }
    return COUNTS.map((m, k) => [m, sums[k]]);
  }

  /* --- Two plots: the candidates, and the gap against their number ------------------- */

  const [LEFT, RIGHT, TOP, BOTTOM] = [40, 304, 10, 158];
  const percent = (v, places = 1) => touch.show((100 * v).toFixed(places).replace(/^-(0\.?0*)$/, "$1"));
  // Round numbers between two, three or four of them.
  function ticks(low, high) {
    const step = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5].find((v) => (high - low) / v <= 4.5);
    return Array.from({ length: 6 }, (_, k) => (Math.ceil(low / step) + k) * step).filter((v) => v <= high);
  }

  function plot(key, label, low, high, name, foot, ...parts) {
    const down = (v) => BOTTOM - (Math.max(v, low) - low) / (high - low) * (BOTTOM - TOP);
    return h("svg", { key, class: "touch-plot", role: "img", viewBox: "0 0 320 196", "aria-label": label },
      h("path", { key: "axes", class: "touch-axes", d: `M${LEFT} ${TOP}V${BOTTOM}H${RIGHT}` }),
      ticks(low, high).map((v) => h("text", { key: `t${v.toFixed(3)}`, x: LEFT - 5, y: down(v) + 4,
        class: "end" }, percent(v, high - low < 0.03 ? 1 : 0))),
      h("text", { key: "name", x: RIGHT, y: foot, class: "end" }, name), parts.map((part) => part(down)));
  }
  const dots = (points) => points.map(([x, y]) => `M${x.toFixed(1)} ${y.toFixed(1)}h0`).join("");

  function race([a, b], best) {
    const run = state.by === "run";
    const across = (j) => LEFT + 8 + (RIGHT - LEFT - 16) * (a.length > 1 ? j / (a.length - 1) : 0.5);
    const all = [...a, b[best], ...(run ? [...A, ...B] : [])];
    const high = Math.max(...all);
    const low = Math.max(Math.min(...all), run ? high - 0.12 : 0); // not the first epochs
    const edge = Math.max(0.004, (high - low) * 0.06);
    const line = (key, kind, held) => (down) => h("polyline", { key, class: `touch-curve thin ${kind}`,
      points: [...held].map((v, j) => `${across(j)},${down(v).toFixed(1)}`).join(" ") });
    return plot("race", "The candidates, where they are chosen, and the winner on fresh images",
      low - edge, high + edge, run ? `epochs 1 to ${a.length}, % right` : `${a.length} candidates, % right`, 177,
      ...(run ? [line("A", "g", a), line("B", "two", b)]
        : [(down) => h("path", { key: "all", class: "touch-dots", d: dots([...a].map((v, j) => [across(j), down(v)])) }),
          (down) => h("path", { key: "level", class: "touch-curve thin two", d: `M${LEFT} ${down(share)}H${RIGHT}` })]),
      (down) => h("path", { key: "fall", class: "touch-walk", d: `M${across(best)} ${down(a[best])}V${down(b[best])}` }),
      (down) => h("circle", { key: "winner", class: "touch-dot", cx: across(best), cy: down(a[best]), r: 6 }),
      (down) => h("circle", { key: "again", class: "touch-dot again", cx: across(best), cy: down(b[best]), r: 5 }));
  }

  function growth(mean, gap, count) {
    const run = state.by === "run";
    const last = run ? A.length : most;
    const bound = (m) => luck() * Math.sqrt(2 * Math.log(m));
    const across = (m) => LEFT + 8 + (RIGHT - LEFT - 16) * (run ? (m - 1) / (last - 1) : Math.log(m) / Math.log(last));
    const all = [0, gap, ...mean.map(([, v]) => v), ...(run ? [] : [bound(last)])];
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const edge = Math.max(0.002, (high - low) * 0.06);
    const path = (points) => points.map(([m, v], k) => `${k ? "L" : "M"}${across(m).toFixed(1)} ${v.toFixed(1)}`).join("");
    return plot("growth", "The gap between chosen and fresh, against the number of candidates",
      low - edge, high + edge, run ? "epochs, gap in points" : "candidates, gap in points", 193,
      (down) => h("path", { key: "none", class: "touch-curve thin pale", d: `M${LEFT} ${down(0)}H${RIGHT}` }),
      (down) => (run ? h("path", { key: "mean", class: "touch-curve thin g", d: path(mean.map(([m, v]) => [m, down(v)])) })
        : [h("path", { key: "bound", class: "touch-curve truth", d: path(Array.from({ length: 61 }, (_, k) =>
          [last ** (k / 60), down(bound(last ** (k / 60)))])) }),
        h("path", { key: "mean", class: "touch-dots g", "data-means": mean.map(([, v]) => v).join(" "),
          d: dots(mean.map(([m, v]) => [across(m), down(v)])) })]),
      () => (run ? [1, last] : [1, 10, 100, 1000]).map((m) => h("text", { key: `m${m}`, x: across(m), y: 174,
        class: "middle" }, String(m))),
      (down) => h("circle", { key: "here", class: "touch-dot", cx: across(count), cy: down(gap), r: 6 }));
  }

  const letter = (key, kind, text) => h("b", { key, class: `touch-${kind}`, "data-key": key }, text);

  function picture(id) {
    const [a, b] = candidates();
    const best = a.reduce((top, v, j) => (v > a[top] ? j : top), 0);
    const [gap, run, mean] = [a[best] - b[best], state.by === "run", gaps()];
    const bound = luck() * Math.sqrt(2 * Math.log(a.length));
    const set = (name) => (value) => { state[name] = value; redraw(); };
    const here = ` Over ${run ? `${values.splits} splits` : `${ROLLS} rolls`} the gap is ${
      percent(mean[run ? a.length - 1 : state.m][1])} points on average.`;
    return {
      parts: [
        h("div", { key: "plots", class: "touch-plots" }, race([a, b], best), growth(mean, gap, a.length)),
        h("p", { key: "sum", class: "touch-sum" }, "chosen with ", letter("chosen", "g", percent(a[best])),
          " %, on fresh images ", letter("fresh", "y", percent(b[best])), " %: gap ",
          letter("gap", "g", percent(gap)), run ? " points" : [", bound ", h("i", {}, "s"),
            `\u221a(2 log ${a.length}) = `, letter("bound", "x", percent(bound)), " points"]),
      ],
      words: run ? `Of ${a.length} epochs, epoch ${best + 1} is the best where it was chosen.${here}`
        : `Candidate ${best + 1} of ${a.length} wins. Its lead shrinks on images that did not choose it.${here}`,
      controls: [
        choice(`by-${id}`, "candidates", [["dice", "by dice"], ["run", "epochs of a run"]], state.by, set("by")),
        ...(run ? [slider(`epoch-${id}`, "epochs", { value: state.epoch, min: 1, max: A.length, set: set("epoch") })] : [
          slider(`m-${id}`, h("i", {}, "m"), { value: state.m, min: 0, max: COUNTS.length - 1,
            text: String(COUNTS[state.m]), set: set("m") }),
          slider(`n-${id}`, "images", { value: state.n, min: 0, max: IMAGES.length - 1,
            text: String(IMAGES[state.n]), set: set("n") }),
          slider(`tau-${id}`, h("i", {}, "\u03c4"), { value: state.tau, min: 0, max: 3, step: 0.25, set: set("tau") }),
          h("button", { key: "roll", type: "button", pick: () => { state.roll += 1; redraw(); } }, "roll again")]),
      ],
    };
  }

  const redraw = touch.draw(board, picture);
});
