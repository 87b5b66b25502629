/* The pencil: five numbers, three weights. Forward alone (`g` is not given), or
   with the way back: the matrix T, its transpose, and what each pixel hears. */

"use strict";

touch.figure("pencil", (board, values) => {
  const { h, show, sub, number, sum } = touch;
  const state = {
    x: [...values.x.data], w: [...values.w.data], g: values.g && [...values.g.data],
    stride: 1, adds: true, guess: null, asked: false, row: 0, pixel: null, last: "x0",
  };
  const back = Boolean(state.g);

  /* y_i = sum_u w_u x_(si+u), and back: what each output sends to each pixel. */
  function compute() {
    const { x, w, g, stride } = state;
    const windows = Math.floor((x.length - w.length) / stride) + 1;
    const rows = [...Array(windows).keys()];
    const T = rows.map((i) => x.map((_, j) => w[j - i * stride] ?? null));
    const y = T.map((row) => row.reduce((sum, t, j) => sum + (t ?? 0) * x[j], 0));
    // heard[j]: [i, w, product] of the outputs that read pixel j, in order.
    const heard = x.map((_, j) => rows.filter((i) => T[i][j] !== null)
      .map((i) => [i, T[i][j], back ? T[i][j] * g[i] : 0]));
    const grad = heard.map((all) => (state.adds
      ? all.reduce((sum, [, , part]) => sum + part, 0) : all.at(-1)?.[2] ?? 0));
    return { T, y, rows, heard, grad, loses: heard.map((all) => all.length > 1) };
  }

  const set = (name, k) => (value) => {
    state[name][k] = value;
    state.last = `${name}${k}`;
    redraw();
  };
  const spin = (name, k) => ({ name: name + sub(k), value: state[name][k],
    set: set(name, k), min: -9, max: 9 });
  const act = (change) => () => { change(); redraw(); };
  const use = (name) => ({ focus: act(() => { state.last = name; }) });
  const at = (row, column) => `grid-row:${row};grid-column:${column}`;
  const name = (row, column, ...text) =>
    h("span", { key: `name ${row} ${column}`, class: "touch-name", style: at(row, column) }, text);

  function forward({ T, y, rows }) {
    const seen = (j) => (state.pixel === null ? T[state.row][j] !== null : state.pixel === j);
    const cells = [name(1, 1, h("i", {}, "x")), name(1, 8, h("i", {}, "y"))];
    state.x.forEach((v, j) => cells.push(h("span", { key: `x${j}`, group: "x",
      class: `touch-cell x ${seen(j) ? "seen" : ""}`, style: at(1, j + 2),
      spin: spin("x", j), on: use(`x${j}`) }, show(v))));
    if (back) cells.push(name(`2/span ${rows.length}`, 1, h("i", {}, "T")));
    for (const i of rows) {
      const chosen = state.row === i && state.pixel === null;
      if (!back) cells.push(name(i + 2, 1, h("i", {}, "w")));
      T[i].forEach((v, j) => {
        const u = j - i * state.stride;
        const mine = i === state.row; // the row whose weights the keys can reach
        const lit = chosen ? v !== null : state.pixel === j && v !== null;
        if (v === null && !back) return;
        cells.push(v === null
          ? h("span", { key: `T${i}${j}`, class: "touch-cell none", style: at(i + 2, j + 2) }, "0")
          : h("span", { key: `T${i}${j}`, group: mine ? "w" : null,
            class: `touch-cell w ${lit ? "seen" : ""}`, style: at(i + 2, j + 2),
            "data-weight": u, spin: spin("w", u), on: use(`w${u}`) }, show(v)));
      });
      cells.push(h("span", { key: `y${i}`, group: "y", style: at(i + 2, 8),
        class: `touch-cell y ${chosen ? "seen" : ""}`, "aria-pressed": String(chosen),
        "aria-label": `y${sub(i)} = ${show(y[i])}`,
        pick: act(() => { state.row = i; state.pixel = null; }) }, show(y[i])));
    }
    return h("div", { key: "forward", class: "touch-grid touch-pencil-forward" }, cells);
  }

  function backward({ T, rows, heard, grad, loses }) {
    const cells = [name(1, 1, h("i", {}, "g"))];
    for (const i of rows) cells.push(h("span", { key: `g${i}`, group: "g",
      class: `touch-cell g ${state.row === i && state.pixel === null ? "seen" : ""}`,
      style: at(1, i + 2), spin: spin("g", i), on: use(`g${i}`) }, show(state.g[i])));
    cells.push(name(1, "6/9", state.adds ? "adds up" : "is overwritten"),
      name(`2/span ${heard.length}`, 1, h("i", {}, "T"), h("sup", {}, "\u22a4")),
      name(1, 9, "\u2202L/\u2202", h("i", {}, "x")));
    const hidden = state.asked;
    heard.forEach((all, j) => {
      const chosen = state.pixel === j;
      for (const i of rows) {
        const v = T[i][j];
        const lit = chosen || (state.pixel === null && state.row === i);
        cells.push(h("span", { key: `t${j}${i}`, style: at(j + 2, i + 2),
          class: `touch-cell ${v === null ? "none" : `w ${lit ? "seen" : ""}`}` }, show(v ?? 0)));
      }
      all.forEach(([i, , part], k) => {
        const lost = !state.adds && !hidden && k < all.length - 1;
        cells.push(h("span", { key: `part${j}${i}`, style: at(j + 2, 6 + i),
          class: `touch-cell part ${lost ? "lost" : ""} ${chosen ? "seen" : ""}` },
        lost ? h("s", {}, show(part)) : show(part)));
      });
      const bad = !state.adds && !hidden && loses[j];
      cells.push(h("span", { key: `d${j}`, group: "d", style: at(j + 2, 9),
        class: `touch-cell sum ${chosen ? "seen" : ""} ${bad ? "bad" : ""}`,
        "aria-pressed": String(chosen),
        "aria-label": `\u2202L/\u2202x${sub(j)} = ${hidden ? "?" : show(grad[j])}`,
        pick: act(() => {
          if (hidden) Object.assign(state, { guess: j, asked: false });
          state.pixel = chosen && !hidden ? null : j;
        }) }, hidden ? "?" : show(grad[j])));
    });
    return h("div", { key: "backward", class: "touch-grid touch-pencil-backward" }, cells);
  }

  // The arithmetic of what was picked, written out.
  function sums({ y, heard, grad }) {
    const j = state.pixel;
    if (state.asked) return [h("b", {}, "Guess first. "), "Which pixel will lose something? "
      + "Pick one of the five question marks."];
    if (j === null) return [h("i", {}, "y"), sub(state.row), " = ", sum(state.w.map((v, u) =>
      ["w", v, "x", state.x[state.row * state.stride + u]])), " = ", number("y", y[state.row])];
    const terms = heard[j].map(([i, w]) => ["w", w, "g", state.g[i]]);
    const left = ["\u2202L/\u2202", h("i", {}, "x"), sub(j), " = "];
    if (!terms.length) return [left, number("g", 0)];
    return [left, state.adds ? sum(terms) : [...terms.slice(0, -1)
      .map((term) => [h("s", {}, sum([term])), ", "]), sum(terms.slice(-1))],
    " = ", number("g", grad[j])];
  }

  function words({ heard, loses, grad }) {
    if (state.asked) return "Backward now writes with = instead of +=.";
    const [j, losers] = [state.pixel, loses.flatMap((lost, k) => (lost ? [`x${sub(k)}`] : []))];
    if (state.guess !== null && !state.adds) {
      const right = loses[state.guess];
      const answer = `${right ? "Right" : "No"}: x${sub(state.guess)} hears from `
        + (heard[state.guess].length === 1 ? "one output only, so nothing is written over. "
          : `${heard[state.guess].length} outputs, and keeps what the last one sent. `);
      return answer + (losers.length ? `Dashed: ${losers.join(", ")}.` : "Here none loses.");
    }
    if (j === null) return back
      ? `Row ${state.row} of T is column ${state.row} of its transpose.`
      : "The same three weights at each place: change one, and all places change.";
    const all = heard[j];
    if (!all.length) return `No window reads x${sub(j)}, so its gradient is 0.`;
    const times = all.length === 1 ? "one output" : `${all.length} outputs`;
    const reversed = all.length === state.w.length
      ? " Its row holds the weights reversed." : "";
    return `x${sub(j)} was read by ${times}, and hears ${show(grad[j])}.${reversed}`;
  }

  function picture(id) {
    const current = compute();
    const [kind, k] = [state.last[0], Number(state.last[1])];
    const strides = touch.choice(`stride-${id}`, "stride", [1, 2], state.stride, (value) => {
      Object.assign(state, { stride: value, row: 0, pixel: null });
      if (kind === "g" && k > 1) state.last = "g0";
      redraw();
    });
    const writes = touch.choice(`write-${id}`, "backward writes with",
      [[true, "+="], [false, "="]], state.adds, (value) => {
        Object.assign(state, { adds: value, asked: !value && state.guess === null, pixel: null });
        redraw();
      });
    return {
      parts: [
        h("div", { key: "boards", class: "touch-boards" },
          forward(current), back ? backward(current) : null),
        h("p", { key: "sum", class: "touch-sum" }, sums(current)),
      ],
      words: words(current),
      controls: [touch.stepper(spin(kind, k)), strides, back ? writes : null],
    };
  }

  const redraw = touch.draw(board, picture);
});
