/* The pencil: five numbers, three weights. Forward alone (`g` is not given), or
   with the way back: the matrix T, its transpose, and what each pixel hears. */

"use strict";

touch.figure("pencil", (board, values) => {
  const { h, show, sub, letter, number, sum, range, at } = touch;
  const state = {
    x: [...values.x.data], w: [...values.w.data], g: values.g && [...values.g.data],
    stride: 1, adds: true, guess: null, asked: false, row: 0, pixel: null,
  };
  const { draw, act, choice, spin, last_used } = board(state);
  const back = Boolean(state.g);
  const added = (all) => all.reduce((total, [, , part]) => total + part, 0);

  /* y_i = sum_u w_u x_(si+u), and back: what each output sends to each pixel. */
  function compute() {
    const { x, w, g, stride } = state;
    const rows = range(Math.floor((x.length - w.length) / stride) + 1);
    const T = rows.map((i) => x.map((_, j) => w[j - i * stride] ?? null));
    const y = T.map((row) => row.reduce((total, t, j) => total + (t ?? 0) * x[j], 0));
    // heard[j]: [i, w, product] of the outputs that read pixel j, in order.
    const heard = x.map((_, j) => rows.filter((i) => T[i][j] !== null)
      .map((i) => [i, T[i][j], back ? T[i][j] * g[i] : 0]));
    const grad = heard.map((all) => (state.adds ? added(all) : all.at(-1)?.[2] ?? 0));
    return { T, y, rows, heard, grad, loses: heard.map((all) => all.length > 1) };
  }

  const dragged = (name, k) => spin({ name: name + sub(k), value: state[name][k], min: -9, max: 9,
    set: (value) => { state[name][k] = value; } });
  const name = (row, column, ...text) => h("span.name", { style: at(row, column) }, text);
  const cell = (key, kind, row, column, text, more) => h("span.cell", { key, style: at(row, column),
    class: kind, ...more }, text);
  // One whose number can be changed: `name` and k say which it is.
  const moved = (key, kind, row, column, name, k, more) => cell(key, kind, row, column, show(state[name][k]),
    { group: name, spin: dragged(name, k), "data-index": k, ...more });
  // A pixel is picked, or left; where one is asked for, it is the guess.
  const pick_pixel = (j) => act(() => {
    if (state.asked) Object.assign(state, { guess: j, asked: false, pixel: null });
    state.pixel = state.pixel === j ? null : j;
  });
  const pick_row = (i) => act(() => Object.assign(state, { row: i, pixel: null }));
  const seen = (holds) => (holds ? "seen" : "");

  function forward({ T, y, rows }) {
    const { row, pixel } = state;
    const cells = [name(1, 1, letter("x")), name(1, 8, letter("y"))];
    state.x.forEach((_, j) => cells.push(moved(`x${j}`,
      `x ${seen(pixel === null ? T[row][j] !== null : pixel === j)}`, 1, j + 2, "x", j, { pick: pick_pixel(j) })));
    if (back) cells.push(name(`2/span ${rows.length}`, 1, letter("T")));
    for (const i of rows) {
      const chosen = row === i && pixel === null;
      if (!back) cells.push(name(i + 2, 1, letter("w")));
      T[i].forEach((v, j) => {
        const u = j - i * state.stride;
        if (v !== null) cells.push(moved(`T${i}${j}`, `w ${seen(chosen || pixel === j)}`, i + 2, j + 2, "w", u,
          { group: i === row ? "w" : null, pick: pick_row(i) })); // the keys reach one row
        else if (back) cells.push(cell(`T${i}${j}`, "none", i + 2, j + 2, "0", { on: { click: pick_row(i) } }));
      });
      cells.push(cell(`y${i}`, `y ${seen(chosen)}`, i + 2, 8, show(y[i]), { group: "y", "data-index": i,
        pressed: chosen, label: `y${sub(i)} = ${show(y[i])}`, pick: pick_row(i) }));
    }
    return h("div.grid.pencil-forward", {}, cells);
  }

  function backward({ T, rows, heard, grad, loses }) {
    const { row, pixel, adds, asked: hidden } = state;
    const cells = [name(1, 1, letter("g")), name(1, "6/9", adds ? "adds up" : "is overwritten"),
      name(`2/span ${heard.length}`, 1, letter("T"), h("sup", {}, "⊤")),
      name(1, 9, "∂L/∂", letter("x"))];
    const mine = (i) => row === i && pixel === null;
    for (const i of rows) cells.push(moved(`g${i}`, `g ${seen(mine(i))}`, 1, i + 2, "g", i, { pick: pick_row(i) }));
    heard.forEach((all, j) => {
      const chosen = pixel === j;
      const on = { click: pick_pixel(j) }; // for a pointer; keys pick the sum
      for (const i of rows) {
        const v = T[i][j];
        cells.push(cell(`t${j}${i}`, v === null ? "none" : `w ${seen(chosen || mine(i))}`, j + 2, i + 2, show(v ?? 0),
          { on, "data-index": v === null ? null : j - i * state.stride }));
      }
      all.forEach(([i, , part], k) => {
        const lost = !adds && !hidden && k < all.length - 1;
        cells.push(cell(`part${j}${i}`, `part ${lost ? "lost" : ""} ${seen(chosen)}`, j + 2, 6 + i,
          lost ? h("s", {}, show(part)) : show(part), { on }));
      });
      const bad = !adds && !hidden && loses[j];
      const said = hidden ? "?" : show(grad[j]);
      cells.push(cell(`d${j}`, `sum ${seen(chosen)} ${bad ? "bad" : ""}`, j + 2, 9, said, { group: "d", "data-index": j,
        pressed: chosen, label: `∂L/∂x${sub(j)} = ${said}`, pick: pick_pixel(j) }));
    });
    return h("div.grid.pencil-backward", {}, cells);
  }

  // The arithmetic of what was picked, written out.
  function sums({ y, heard, grad }) {
    const j = state.pixel;
    if (state.asked) return [h("b", {}, "Guess first. "), "Which pixel will lose something? "
      + "Pick one of the five question marks."];
    if (j === null) return [letter("y"), sub(state.row), " = ", sum(state.w.map((v, u) =>
      ["w", v, "x", state.x[state.row * state.stride + u]])), " = ", number("y", y[state.row])];
    if (!back) return [letter("x"), sub(j), " has the weight ", heard[j].map(([i, w], k) =>
      [k ? ", " : "", number("w", w), " in ", letter("y"), sub(i)])];
    const terms = heard[j].map(([i, w]) => ["w", w, "g", state.g[i]]);
    const left = ["∂L/∂", letter("x"), sub(j), " = "];
    if (!terms.length) return [left, number("g", 0)];
    return [left, state.adds ? sum(terms) : [...terms.slice(0, -1)
      .map((term) => [h("s", {}, sum([term])), " → "]), sum(terms.slice(-1))],
    " = ", number("g", grad[j])];
  }

  function words({ heard, loses, grad }) {
    if (state.asked) return "Backward now writes with = instead of +=.";
    const [j, losers] = [state.pixel, loses.flatMap((lost, k) => (lost ? [`x${sub(k)}`] : []))];
    const outputs = (all) => (all.length === 1 ? "one output" : `${all.length} outputs`);
    if (j === null) return back
      ? `Row ${state.row} of T is column ${state.row} of its transpose.`
      : "The same three weights at each place: change one, and all places change.";
    if (!back) return `x${sub(j)} is read by ${outputs(heard[j])}.`;
    if (!heard[j].length) return `No window reads x${sub(j)}, so its gradient is 0.`;
    if (!state.adds) return `${state.guess !== j ? "" : loses[j] ? "Right: " : "No: "}x${sub(j)} hears from ${
      outputs(heard[j])}${loses[j] ? ", and keeps what the last one sent; += gave "
      + show(added(heard[j])) : " only, so nothing is written over"}. ${
      losers.length ? `Dashed: ${losers.join(", ")}.` : "Here none loses."}`;
    return `x${sub(j)} was read by ${outputs(heard[j])}, and hears ${show(grad[j])}.${
      heard[j].length === state.w.length ? " Its row holds the weights reversed." : ""}`;
  }

  draw(() => {
    const current = compute();
    return {
      parts: h("div.boards", {}, forward(current), back ? backward(current) : null),
      sum: sums(current),
      words: words(current),
      controls: [
        last_used(),
        choice("stride", "stride", [1, 2], act((value) => {
          Object.assign(state, { stride: value, row: 0, guess: null, asked: !state.adds });
          if (state.asked) state.pixel = null;
        })),
        back ? choice("adds", "backward writes with", [[true, "+="], [false, "="]], act((value) => {
          Object.assign(state, { adds: value, asked: !value && state.guess === null });
          if (state.asked) state.pixel = null;
        })) : null,
      ],
    };
  });
});
