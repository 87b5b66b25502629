/* The pooling board: a map of numbers, the largest of each window, and where a gradient
   of 1 from each window goes: which rule for ties, what stands in the frame, which is
   the padding. */

"use strict";

touch.figure("pooling", (board, values) => {
  const { h, show, sub, letter, number, cells, at } = touch;
  const [rows, columns] = values.x.shape;
  const state = { x: [...values.x.data], k: 2, s: 2, p: 0, ties: "first", frame: -Infinity,
    window: [0, 0] };
  const { draw, act, choice, slider, again, spin, last_used } = board(state);
  const NAMES = { first: "the first", all: "each", shared: "in shares" };
  const inside = (a, b) => a >= 0 && a < rows && b >= 0 && b < columns;

  function compute() {
    const { x, k, s, p, ties, frame } = state;
    const size = [rows, columns].map((n) => Math.floor((n + 2 * p - k) / s) + 1);
    state.window = state.window.map((n, axis) => Math.min(n, size[axis] - 1));
    const grad = new Map(); // "row column" -> what arrives there
    const windows = cells(...size).map(([i, j]) => {
      const places = cells(k, k).map(([u, v]) => {
        const [a, b] = [i * s + u - p, j * s + v - p];
        return [a, b, inside(a, b) ? x[a * columns + b] : frame];
      });
      const top = Math.max(...places.map(([, , value]) => value));
      const tied = places.filter(([, , value]) => value === top);
      const winners = ties === "first" ? tied.slice(0, 1) : tied;
      for (const [a, b] of winners)
        grad.set(`${a} ${b}`, (grad.get(`${a} ${b}`) ?? 0) + (ties === "shared" ? 1 / tied.length : 1));
      return { at: [i, j], top, tied: tied.length, winners };
    });
    let [arrived, lost] = [0, 0];
    for (const [place, value] of grad) {
      if (inside(...place.split(" ").map(Number))) arrived += value;
      else lost += value;
    }
    return { size, grad, windows, arrived, lost };
  }

  const short = (value) => show(Math.round(value * 100) / 100);
  const infinite = (value) => (value === -Infinity ? "\u2212∞" : show(value));
  const dragged = (place) => spin({ value: state.x[place], min: -20, max: 20, walk: true,
    name: `x${sub(Math.floor(place / columns))}${sub(place % columns)}`,
    set: (value) => { state.x[place] = value; } });

  function map({ grad }) {
    const { k, s, p, window: [i, j] } = state;
    const numbers = cells(rows + 2 * p, columns + 2 * p).map(([r, c]) => {
      const [a, b] = [r - p, c - p];
      const [image, place, got] = [inside(a, b), a * columns + b, grad.get(`${a} ${b}`)];
      return h("span.cell", { key: `x${image ? place : `${a} ${b}`}`, style: at(r + 1, c + 1),
        class: `${image ? "x" : "frame"} ${got ? "won" : ""}`, ...(image && { group: "x", spin: dragged(place) }) },
      h("span", {}, image ? show(state.x[place]) : infinite(state.frame)),
      got ? h("small.got", { key: `d${a} ${b}` }, short(got)) : null);
    });
    return h("div.grid.pooling-map", { style: `--n:${columns + 2 * p}`, role: "group",
      label: "The map: arrow keys lead from number to number, + and \u2212 change one" }, numbers,
      h("span.window", { style: at(`${i * s + 1}/span ${k}`, `${j * s + 1}/span ${k}`) }));
  }

  const output = ({ size, windows }) =>
    h("div.grid.pooling-map.pooling-output", { style: `--n:${size[1]}` },
      windows.map((one) => {
        const [place, chosen] = [one.at.join(" "), one.at.join() === state.window.join()];
        return h("span.cell", { key: `y${place}`, group: "y",
          class: `y ${chosen ? "seen" : ""}`, pressed: chosen,
          label: `window ${place}: ${infinite(one.top)}`,
          pick: act(() => { state.window = one.at; }) }, infinite(one.top));
      }));

  function words({ windows, arrived, lost }) {
    const mine = windows.find((one) => one.at.join() === state.window.join());
    const where = mine.winners.map(([a, b]) => `(${show(a)}, ${show(b)})`).join(", ");
    const share = state.ties === "shared" && mine.tied > 1 ? `1/${mine.tied} to each of ` : "1 to ";
    return [`Window (${mine.at.join(", ")}): the largest is ${infinite(mine.top)}${
      mine.tied > 1 ? `, ${mine.tied} times` : ""}. Its gradient goes back, ${share}${where}.`,
    arrived + lost > windows.length + 1e-9
      && ` In all, ${short(arrived + lost)} is paid, more than was sent.`,
    lost > 0 && " What windows sent to the frame is lost."];
  }

  const set = (name) => act((value) => {
    state[name] = value;
    state.p = Math.min(state.p, Math.floor(state.k / 2)); // or a window holds only frame
  });

  draw(() => {
    const now = compute();
    const scale = (text, name, min, max) =>
      slider(name, [`${text} `, letter(name)], { min, max, take: set(name) });
    return {
      parts: h("div.boards", {}, map(now), output(now)),
      // The ledger: what the windows sent, and where it is now.
      sum: ["sent ", number("g", now.windows.length), ", arrived ", number("g", short(now.arrived), "arrived"),
        now.lost ? [", lost in the frame ", number("g", short(now.lost), "lost")] : null],
      words: words(now),
      above: [
        scale("window", "k", 1, 4), scale("stride", "s", 1, 4),
        scale("padding", "p", 0, Math.floor(state.k / 2)),
        choice("ties", "a tie pays", Object.entries(NAMES), set("ties")),
        choice("frame", "the frame holds", [[-Infinity, "\u2212∞"], [0, "0"]], set("frame")),
        last_used(), again(),
      ],
    };
  });
});
