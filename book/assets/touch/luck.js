/* The luck of the best: of many candidates the best is chosen on some images, and asked
   again on fresh ones. The candidates are drawn by dice, or the epochs of a real run. */

"use strict";

touch.figure("luck", (board, values) => {
  const { h, range, fixed, letter, number, path, mark, curve, dot, scale } = touch;
  const { share } = values; // what a candidate reads right, on average
  const [A, B] = [values.chosen.data, values.fresh.data]; // by epoch
  const COUNTS = [1, 2, 3, 5, 10, 20, 30, 60, 100, 200, 500, 1000];
  const IMAGES = [100, 200, 500, 1000, 2000, 5000, 10000];
  const ROLLS = 200; // for the mean
  const state = { m: COUNTS.indexOf(values.m), n: IMAGES.indexOf(values.n), tau: values.tau,
    by: "dice", epoch: A.length, roll: 0 };
  const { draw, button, choice, slider } = board(state);
  const luck = () => Math.sqrt(share * (1 - share) / IMAGES[state.n]); // s
  const bound = (m) => luck() * Math.sqrt(2 * Math.log(m));

  // Three normal numbers a candidate: its merit, its luck where it is chosen, and fresh.
  const most = COUNTS.at(-1);
  const rolls = new Map();
  function rolled(roll) {
    if (!rolls.has(roll))
      rolls.set(roll, Float64Array.from({ length: 3 * most }, touch.dice(7919 * roll).normal));
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

  /* --- Two plots: the candidates, and the gap against their number --- */

  const [LEFT, RIGHT, TOP, BOTTOM] = [40, 304, 10, 158];
  const percent = (v, places = 1) => fixed(100 * v, places);
  // Round numbers between two, three or four of them.
  function ticks(low, high) {
    const step = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5].find((v) => (high - low) / v <= 4.5);
    return range(6).map((k) => (Math.ceil(low / step) + k) * step).filter((v) => v <= high);
  }

  // A plot of numbers that reach from `low` to `high`, with some air; parts(down) draws them.
  function plot(key, label, [low, high], air, name, foot, parts) {
    const edge = Math.max(air, (high - low) * 0.06);
    const down = scale(low - edge, high + edge, BOTTOM, TOP);
    return touch.plot(key, label, 196, [path("axes", `M${LEFT} ${TOP}V${BOTTOM}H${RIGHT}`),
      ticks(low - edge, high + edge).map((v) => mark(LEFT - 5, down(v) + 4, percent(v, high - low < 0.03 ? 1 : 0))),
      mark(RIGHT, foot, name), parts(down)]);
  }
  const dots = (points) => points.map(([x, y]) => `M${x.toFixed(1)} ${y.toFixed(1)}h0`).join("");

  function race([a, b], best, run) {
    const across = scale(0, a.length - 1 || 1, LEFT + 8, RIGHT - 8);
    const all = [...a, b[best], ...(run ? [...A, ...B] : [])];
    const high = Math.max(...all);
    const low = Math.max(Math.min(...all), run ? high - 0.12 : 0); // not the first epochs
    return plot("race", "The candidates, where they are chosen, and the winner on fresh images", [low, high],
      0.004, run ? `epochs 1 to ${a.length}, % right` : `${a.length} candidates, % right`, 177, (down) => {
        const points = (held) => [...held].map((v, j) => [across(j), down(v)]);
        return [
          run ? [curve("A", "thin g", points(a)), curve("B", "thin two", points(b))]
            : [path("dots", dots(points(a))),
              curve("level", "thin two", [[LEFT, down(share)], [RIGHT, down(share)]])],
          path("walk", `M${across(best)} ${down(a[best])}V${down(b[best])}`),
          dot("winner", [across(best), down(a[best])], 6),
          dot("again", [across(best), down(b[best])], 5, "again")];
      });
  }

  function growth(mean, gap, count, run) {
    const last = run ? A.length : most;
    const place = run ? (m) => m - 1 : Math.log;
    const across = (m) => scale(0, place(last), LEFT + 8, RIGHT - 8)(place(m));
    const all = [0, gap, ...mean.map(([, v]) => v), ...(run ? [] : [bound(last)])];
    return plot("growth", "The gap between chosen and fresh, against the number of candidates",
      [Math.min(...all), Math.max(...all)], 0.002, run ? "epochs, gap in points" : "candidates, gap in points", 193, (down) => {
        const points = mean.map(([m, v]) => [across(m), down(v)]);
        return [
          curve("none", "thin pale", [[LEFT, down(0)], [RIGHT, down(0)]]),
          run ? curve("run", "thin g", points)
            : [curve("bound", "truth", range(61).map((k) => last ** (k / 60)).map((m) => [across(m), down(bound(m))])),
              h("path.dots", { key: "mean", class: "g", "data-means": mean.map(([, v]) => v).join(" "), d: dots(points) })],
          (run ? [1, last] : [1, 10, 100, 1000]).map((m) => mark(across(m), 174, m, "middle")),
          dot("here", [across(count), down(gap)], 6)];
      });
  }

  draw(() => {
    const [a, b] = candidates();
    const best = a.indexOf(Math.max(...a));
    const [gap, run, mean] = [a[best] - b[best], state.by === "run", gaps()];
    const told = (kind, key, value) => number(kind, percent(value), key);
    const list = (name, label, options) => slider(name, label, { min: 0, max: options.length - 1,
      text: String(options[state[name]]) });
    const here = ` Over ${run ? `${values.splits} splits` : `${ROLLS} rolls`} the gap is ${
      percent(mean[run ? a.length - 1 : state.m][1])} points on average.`;
    return {
      parts: h("div.plots", {}, race([a, b], best, run), growth(mean, gap, a.length, run)),
      sum: ["chosen with ", told("g", "chosen", a[best]), " %, on fresh images ", told("y", "fresh", b[best]),
        " %: gap ", told("g", "gap", gap), run ? null : [", bound ", letter("s"),
          `√(2 log ${a.length}) = `, told("x", "bound", bound(a.length))], " points"],
      words: run ? `Of ${a.length} epochs, epoch ${best + 1} is the best where it was chosen.${here}`
        : `Candidate ${best + 1} of ${a.length} wins. Its lead shrinks on images that did not choose it.${here}`,
      controls: [
        choice("by", "candidates", [["dice", "by dice"], ["run", "epochs of a run"]]),
        run ? slider("epoch", "epochs", { min: 1, max: A.length }) : [
          list("m", letter("m"), COUNTS), list("n", "images", IMAGES),
          slider("tau", letter("τ"), { min: 0, max: 3, step: 0.25 }),
          button("roll", "roll again", () => { state.roll += 1; })],
      ],
    };
  });
});
