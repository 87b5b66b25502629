/* The pooling board: a map of numbers, the largest of each window, and where a gradient
   of 1 from each window goes: which rule for ties, what stands in the frame. */

"use strict";

touch.figure("pooling", (board, values) => {
  const { h, show, number, slider, choice } = touch;
  const [rows, columns] = values.x.shape;
  const state = { x: [...values.x.data], k: 2, s: 2, p: 0, ties: "first", frame: -Infinity,
    window: [0, 0], last: 0 };
  const NAMES = { first: "the first", all: "each", shared: "in shares" };

  function compute() {
    const { x, k, s, p, ties, frame } = state;
    const inside = (a, b) => a >= 0 && a < rows && b >= 0 && b < columns;
    const size = [rows, columns].map((n) => Math.floor((n + 2 * p - k) / s) + 1);
    const grad = new Map(); // "row column" -> what arrives there
    const windows = [];
    for (let i = 0; i < size[0]; i++)
      for (let j = 0; j < size[1]; j++) {
        const places = [];
        for (let u = 0; u < k; u++)
          for (let v = 0; v < k; v++) {
            const [a, b] = [i * s + u - p, j * s + v - p];
            places.push([a, b, inside(a, b) ? x[a * columns + b] : frame]);
          }
        const top = Math.max(...places.map(([, , value]) => value));
        const tied = places.filter(([, , value]) => value === top);
        const winners = ties === "first" ? tied.slice(0, 1) : tied;
        for (const [a, b] of winners)
          grad.set(`${a} ${b}`, (grad.get(`${a} ${b}`) ?? 0)
            + (ties === "shared" ? 1 / tied.length : 1));
        windows.push({ at: [i, j], top, tied: tied.length, winners });
      }
    let [arrived, lost] = [0, 0];
    for (const [place, value] of grad) {
      if (inside(...place.split(" ").map(Number))) arrived += value;
      else lost += value;
    }
    return { size, grad, windows, arrived, lost, inside };
  }

  const short = (value) => show(Math.round(value * 100) / 100);
  const infinite = (value) => (value === -Infinity ? "\u2212\u221e" : show(value));
  const spin = (place) => ({ value: state.x[place], min: -20, max: 20,
    name: `x${touch.sub(Math.floor(place / columns))}${touch.sub(place % columns)}`,
    set: (value) => { state.x[place] = value; state.last = place; redraw(); } });

  function map({ grad, inside }) {
    const { k, s, p, window: [i, j] } = state;
    const cells = [];
    for (let a = -p; a < rows + p; a++)
      for (let b = -p; b < columns + p; b++) {
        const [image, place, got] = [inside(a, b), a * columns + b, grad.get(`${a} ${b}`)];
        const style = `grid-row:${a + p + 1};grid-column:${b + p + 1}`;
        const shown = [h("span", {}, image ? show(state.x[place]) : infinite(state.frame)),
          got ? h("small", { key: `d${a} ${b}`, class: "touch-got" }, short(got)) : null];
        cells.push(image
          ? h("span", { key: `x${place}`, group: "x", style, spin: spin(place),
            class: `touch-cell x ${got ? "won" : ""}`,
            on: { focus: () => { state.last = place; redraw(); } } }, shown)
          : h("span", { key: `f${a} ${b}`, style, class: `touch-cell frame ${got ? "won" : ""}` },
            shown));
      }
    cells.push(h("span", { key: "window", class: "touch-frame",
      style: `grid-row:${i * s + 1}/span ${k};grid-column:${j * s + 1}/span ${k}` }));
    return h("div", { key: "map", class: "touch-grid touch-pooling-map",
      style: `--n:${columns + 2 * p}` }, cells);
  }

  const output = ({ size, windows }) =>
    h("div", { key: "output", class: "touch-grid touch-pooling-map touch-pooling-output",
      style: `--n:${size[1]}` },
    windows.map(({ at, top }) => {
      const chosen = at.join() === state.window.join();
      return h("span", { key: `y${at.join(" ")}`, group: "y",
        class: `touch-cell y ${chosen ? "seen" : ""}`, "aria-pressed": String(chosen),
        "aria-label": `window ${at.join(" ")}: ${infinite(top)}`,
        pick: () => { state.window = at; redraw(); } }, infinite(top));
    }));

  // The ledger: what the windows sent, and where it is now.
  function ledger({ windows, arrived, lost }) {
    const parts = ["sent ", number("g", windows.length), ", arrived ", h("b",
      { key: "arrived", class: "touch-g", "data-key": "arrived" }, short(arrived))];
    if (lost) parts.push(", lost in the frame ", h("b", { key: "lost", class: "touch-g",
      "data-key": "lost" }, short(lost)));
    return parts;
  }

  function words({ windows, arrived, lost }) {
    const { window: at, ties } = state;
    const mine = windows.find((one) => one.at.join() === at.join());
    const where = mine.winners.map(([a, b]) => `(${show(a)}, ${show(b)})`).join(", ");
    const share = ties === "shared" && mine.tied > 1 ? `1/${mine.tied} to each of ` : "1 to ";
    const said = [`Window (${at.join(", ")}): the largest is ${infinite(mine.top)}`
      + (mine.tied > 1 ? `, ${mine.tied} times` : "") + `. Its gradient goes back, ${share}${where}.`];
    if (arrived + lost > windows.length + 1e-9)
      said.push(" More arrives than was sent: ties were paid in full, again and again.");
    if (lost) said.push(" The frame won, and what it won is lost.");
    return said.join("");
  }

  const set = (name) => (value) => {
    state[name] = value;
    state.p = Math.min(state.p, Math.floor(state.k / 2)); // or a window holds only frame
    state.window = [0, 0];
    redraw();
  };

  function picture(id) {
    const now = compute();
    const scale = (name, min, max) => slider(`${name}-${id}`, h("i", {}, name),
      { value: state[name], min, max, set: set(name) });
    return {
      parts: [
        h("div", { key: "boards", class: "touch-boards" }, map(now), output(now)),
        h("p", { key: "sum", class: "touch-sum" }, ledger(now)),
      ],
      words: words(now),
      controls: [
        touch.stepper(spin(state.last)),
        scale("k", 1, 4), scale("s", 1, 4), scale("p", 0, Math.floor(state.k / 2)),
        choice(`ties-${id}`, "a tie pays", Object.entries(NAMES), state.ties, set("ties")),
        choice(`frame-${id}`, "the frame holds", [[-Infinity, "\u2212\u221e"], [0, "0"]],
          state.frame, set("frame")),
      ],
    };
  }

  const redraw = touch.draw(board, picture);
});
