/* How many windows fit: H, k, s and p, the count with its floor, the rows that none
   reads, and who reads whom. */

"use strict";

touch.figure("windows", (board, values) => {
  const { h, field, slider, squares } = touch;
  const state = { H: values.H, k: values.k, s: values.s, p: values.p,
    window: [0, 0], pixel: null };

  const set = (name) => (value) => {
    Object.assign(state, { [name]: value, window: [0, 0], pixel: null });
    redraw();
  };

  // Along one axis, for each row of the framed image: the windows (i, u) that read it.
  function compute() {
    const { H, k, s, p } = state;
    const framed = H + 2 * p;
    const count = Math.max(0, Math.floor((framed - k) / s) + 1);
    const readers = [...Array(framed).keys()].map((a) => [...Array(count).keys()]
      .filter((i) => a - s * i >= 0 && a - s * i < k).map((i) => [i, a - s * i]));
    const unread = readers.flatMap((all, a) => (all.length ? [] : [a - p]));
    const inside = (a) => a >= 0 && a < H;
    return { framed, count, readers, image: unread.filter(inside),
      frame: unread.filter((a) => !inside(a)) };
  }

  const all = (rows, columns) => [...Array(rows).keys()].flatMap((r) =>
    [...Array(columns).keys()].map((c) => [r, c]));
  const outline = (key, [i, j], kind = "") => h("rect", { key, class: `touch-outline ${kind}`,
    x: j * state.s, y: i * state.s, width: state.k, height: state.k });
  const numeral = (key, r, c, value) => h("text", { key, x: c + 0.5, y: r + 0.52,
    "font-size": 0.46 }, value);

  function image({ framed, readers, count }) {
    const { H, p, window, pixel } = state;
    const often = (r, c) => readers[r].length * readers[c].length;
    const inside = (a) => a >= p && a < H + p;
    const levels = new Map();
    for (const cell of all(framed, framed)) {
      const kind = cell.every(inside) ? "pixels" : "frame";
      const n = often(...cell);
      const level = n ? `${kind} read-${Math.min(n, 9)}` : `${kind} unread`;
      levels.set(level, [...(levels.get(level) ?? []), cell]);
    }
    const lost = all(framed, framed).filter((cell) => !often(...cell));
    const shown = pixel ? readers[pixel[0]].flatMap(([i]) =>
      readers[pixel[1]].map(([j]) => [i, j])) : count ? [window] : [];
    return field("image", {
      name: `The image with its frame, ${framed} rows. Arrow keys pick a pixel.`,
      rows: framed, columns: framed, at: pixel, view: [-0.1, -0.1, framed + 0.2],
      set: (r, c) => { state.pixel = [r, c]; redraw(); },
    },
    [...levels].map(([level, cells]) => h("path", { key: level, class: level, d: squares(cells) })),
    h("path", { key: "crosses", class: "touch-crosses",
      d: lost.map(([r, c]) => `M${c + 0.3} ${r + 0.3}l.4 .4m0 -.4l-.4 .4`).join("") }),
    framed <= 12 ? all(framed, framed).filter((cell) => often(...cell)).map(([r, c]) =>
      numeral(`n${r}-${c}`, r, c, often(r, c))) : null,
    h("path", { key: "lines", class: "touch-lines",
      d: [...Array(framed + 1).keys()].map((a) => `M0 ${a}h${framed}M${a} 0v${framed}`).join("") }),
    shown.map(([i, j]) => outline(`w${i}-${j}`, [i, j])),
    pixel ? h("rect", { key: "pixel", class: "touch-outline x", x: pixel[1], y: pixel[0],
      width: 1, height: 1 }) : null);
  }

  function output({ framed, count, readers }) {
    const { window, pixel } = state;
    const lit = new Set(pixel ? readers[pixel[0]].flatMap(([i]) =>
      readers[pixel[1]].map(([j]) => `${i} ${j}`)) : [window.join(" ")]);
    const place = all(count, count);
    const shift = (framed - count) / 2;
    return field("output", {
      name: `The outputs, ${count} by ${count}. Arrow keys pick a window.`,
      rows: count, columns: count, at: pixel ? null : window,
      view: [-0.1 - shift, -0.1 - shift, framed + 0.2],
      set: (r, c) => { Object.assign(state, { window: [r, c], pixel: null }); redraw(); },
    },
    h("path", { key: "cells", class: "outputs", d: squares(place) }),
    h("path", { key: "lit", class: "lit",
      d: squares(place.filter((cell) => lit.has(cell.join(" ")))) }),
    h("path", { key: "lines", class: "touch-lines", d: [...Array(count + 1).keys()]
      .map((a) => `M0 ${a}h${count}M${a} 0v${count}`).join("") }));
  }

  function sum({ count }) {
    const { H, k, s, p } = state;
    const letter = (name) => h("i", {}, name);
    if (!count) return [`${k} rows do not fit into ${H} + 2\u00b7${p} = ${H + 2 * p}.`];
    const ratio = (H + 2 * p - k) / s;
    return [letter("H"), "\u2032 = \u230a(", `${H} + 2\u00b7${p} \u2212 ${k}) / ${s}\u230b + 1 = \u230a`,
      String(Math.round(ratio * 100) / 100), "\u230b + 1 = ",
      h("b", { key: "size", class: "touch-y", "data-key": "size" }, String(count))];
  }

  const list = (rows) => (rows.length === 1 ? `Row ${rows[0]}`
    : `Rows ${rows.slice(0, -1).join(", ")} and ${rows.at(-1)}`);

  function words({ image, frame, readers, count }) {
    const { p, pixel, window, s, k } = state;
    if (!count) return "Not even one window fits.";
    if (pixel) {
      const where = (axis) => readers[pixel[axis]].map(([i, u]) =>
        `${"ij"[axis]} = ${i} at ${"uv"[axis]} = ${u}`).join(", ");
      const n = readers[pixel[0]].length * readers[pixel[1]].length;
      const name = `${pixel.every((a) => a >= p && a < state.H + p) ? "Pixel" : "Frame cell"} (${
        pixel.map((a) => touch.show(a - p)).join(", ")})`;
      if (!n) return `${name} is read by no window: its gradient is 0.`;
      return `${name} is read by ${n} window${n > 1 ? "s" : ""}: ${where(0)}; ${where(1)}.`;
    }
    const [i, j] = window;
    const reads = `Window (${i}, ${j}) reads rows ${touch.show(i * s - p)} to ${
      touch.show(i * s - p + k - 1)}. `;
    if (image.length) return `${reads}${list(image)} of the image: read by no window, gradient 0.`;
    return reads + (frame.length ? "What no window reads is frame: no pixel is lost."
      : "Every row is read.");
  }

  function picture(id) {
    const now = compute();
    return {
      parts: [
        h("div", { key: "fields", class: "touch-fields" },
          image(now), now.count ? output(now) : null),
        h("p", { key: "sum", class: "touch-sum" }, sum(now)),
      ],
      words: words(now),
      controls: [["H", "H", 1, 28], ["k", "k", 1, 7], ["s", "s", 1, 5], ["p", "p", 0, 3]]
        .map(([name, text, min, max]) => slider(`${name}-${id}`, h("i", {}, text),
          { value: state[name], min, max, set: set(name) })),
    };
  }

  const redraw = touch.draw(board, picture);
});
