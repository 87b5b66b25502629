/* How many windows fit: H, k, s and p, the count with its floor, the rows that none
   reads, and who reads whom. */

"use strict";

touch.figure("windows", (board, values) => {
  const { h, show, letter, number, field, squares, cells, path, range } = touch;
  const state = { H: values.H, k: values.k, s: values.s, p: values.p,
    window: [0, 0], pixel: null };
  const { draw, act, slider } = board(state);
  const see = (change) => act((...cell) => Object.assign(state, { pixel: null }, change(cell)));

  // Along one axis, for each row of the framed image: the windows (i, u) that read it.
  function compute() {
    const { H, k, s, p } = state;
    const framed = H + 2 * p;
    const count = Math.max(0, Math.floor((framed - k) / s) + 1);
    const readers = range(framed).map((a) => range(count)
      .filter((i) => a - s * i >= 0 && a - s * i < k).map((i) => [i, a - s * i]));
    const unread = readers.flatMap((all, a) => (all.length ? [] : [a - p]));
    const inside = (a) => a >= 0 && a < H;
    return { framed, count, readers, image: unread.filter(inside),
      frame: unread.filter((a) => !inside(a)) };
  }

  const grid = (side) => path("lines", range(side + 1).map((a) =>
    `M0 ${a}h${side}M${a} 0v${side}`).join(""));
  const outline = ([i, j], side, step, kind = "") => h("rect.outline", { class: kind,
    x: j * step, y: i * step, width: side, height: side });
  // The windows that read a cell.
  const meeting = (readers, [r, c]) => readers[r].flatMap(([i]) => readers[c].map(([j]) => [i, j]));

  function image({ framed, readers, count }) {
    const { H, k, s, p, window, pixel } = state;
    const often = ([r, c]) => readers[r].length * readers[c].length;
    const inside = (a) => a >= p && a < H + p;
    const all = cells(framed, framed);
    const kind = (cell) => `${cell.every(inside) ? "pixels" : "frame"} ${often(cell) ? "read" : "unread"}`;
    const shown = pixel ? meeting(readers, pixel) : count ? [window] : [];
    return field("image", {
      name: `The image with its frame, ${framed} rows. Arrow keys pick a pixel.`,
      rows: framed, columns: framed, at: pixel, view: [-0.1, -0.1, framed + 0.2],
      set: see((cell) => ({ pixel: cell })),
    },
    ["pixels read", "pixels unread", "frame read", "frame unread"].map((name) =>
      h("path", { class: name, d: squares(all.filter((cell) => kind(cell) === name)) })),
    path("crosses", all.filter((cell) => !often(cell))
      .map(([r, c]) => `M${c + 0.3} ${r + 0.3}l.4 .4m0 -.4l-.4 .4`).join("")),
    framed <= 12 ? all.filter(often).map(([r, c]) => h("text", { key: `n${r}-${c}`,
      x: c + 0.5, y: r + 0.52, "font-size": 0.46 }, often([r, c]))) : null,
    grid(framed),
    shown.map((cell) => outline(cell, k, s)),
    pixel ? outline(pixel, 1, 1, "x") : null);
  }

  function output({ framed, count, readers }) {
    const { window, pixel } = state;
    const shift = (framed - count) / 2;
    return field("output", {
      name: `The outputs, ${count} by ${count}. Arrow keys pick a window.`,
      rows: count, columns: count, at: pixel ? null : window,
      view: [-0.1 - shift, -0.1 - shift, framed + 0.2],
      set: see((cell) => ({ window: cell })),
    },
    h("path", { class: "outputs", d: squares(cells(count, count)) }),
    h("path", { class: "lit", d: squares(pixel ? meeting(readers, pixel) : [window]) }),
    grid(count));
  }

  function sum({ count }) {
    const { H, k, s, p } = state;
    if (!count) return [`${k} rows do not fit into ${H} + 2·${p} = ${H + 2 * p}.`];
    const ratio = (H + 2 * p - k) / s;
    return [letter("H"), `′ = ⌊(${H} + 2·${p} \u2212 ${k}) / ${s}⌋ + 1 = ⌊${
      Math.round(ratio * 100) / 100}⌋ + 1 = `, number("y", count, "size")];
  }

  const list = (rows) => (rows.length === 1 ? `Row ${rows[0]}`
    : `Rows ${rows.slice(0, -1).join(", ")} and ${rows.at(-1)}`);

  function words({ image, frame, readers, count }) {
    const { p, pixel, window: [i, j], s, k } = state;
    if (!count) return "Not even one window fits.";
    if (pixel) {
      const where = (axis) => readers[pixel[axis]].map(([i, u]) =>
        `${"ij"[axis]} = ${i} at ${"uv"[axis]} = ${u}`).join(", ");
      const n = meeting(readers, pixel).length;
      const name = `${pixel.every((a) => a >= p && a < state.H + p) ? "Pixel" : "Frame cell"} (${
        pixel.map((a) => show(a - p)).join(", ")})`;
      if (!n) return `${name} is read by no window: its gradient is 0.`;
      return `${name} is read by ${n} window${n > 1 ? "s" : ""}: ${where(0)}; ${where(1)}.`;
    }
    const reads = `Window (${i}, ${j}) reads rows ${show(i * s - p)} to ${show(i * s - p + k - 1)}. `;
    if (image.length) return `${reads}${list(image)} of the image: read by no window, gradient 0.`;
    return reads + (frame.length ? "What no window reads is frame: no pixel is lost."
      : "Every row is read.");
  }

  draw(() => {
    const now = compute();
    return {
      parts: h("div.fields", {}, image(now), now.count ? output(now) : null),
      sum: sum(now),
      words: words(now),
      controls: [["H", 1, 28], ["k", 1, 7], ["s", 1, 5], ["p", 0, 3]].map(([name, min, max]) =>
        slider(name, letter(name), { min, max,
          take: see(([value]) => ({ [name]: value, window: [0, 0] })) })),
    };
  });
});
