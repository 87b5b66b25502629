/* What all figures that move share: they take the place of a still one, draw
   themselves anew when their state changes, and are moved by pointer and keys.

   A figure is a file touch/NAME.js that calls touch.figure("NAME", start). Its
   start(board, values) builds on `board`; only when it has come to its end
   without an error does the still figure give way. */

"use strict";

const touch = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const DRAWN = new Set(["svg", "g", "path", "line", "circle", "rect", "text", "tspan",
    "polyline", "polygon", "ellipse"]);
  const ARRAYS = {
    float32: Float32Array, float64: Float64Array, uint8: Uint8Array,
    int8: Int8Array, int16: Int16Array, int32: Int32Array,
  };

  /* --- What the page carries ------------------------------------------------ */

  // An array is { shape, data }, as in cnn.js; see cnn/back/touch.py. One that was
  // deflated is a promise of it.
  function unpack(_, value) {
    if (typeof value?.base64 !== "string") return value;
    const bytes = Uint8Array.from(atob(value.base64), (letter) => letter.charCodeAt(0));
    const array = (buffer) => ({ shape: value.shape, data: new ARRAYS[value.dtype](buffer) });
    if (!value.deflated) return array(bytes.buffer);
    const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(inflated).arrayBuffer().then(array);
  }

  async function figure(name, start) {
    for (const script of document.querySelectorAll(`script[data-touch="${name}"]`)) {
      const still = script.closest(".cell_output")?.querySelector("figure");
      const caption = still?.querySelector("figcaption");
      if (!caption) continue;
      const board = document.createElement("div");
      board.className = `touch touch-${name}`;
      board.setAttribute("role", "group");
      board.setAttribute("aria-label", "What can be moved");
      try {
        const { hint, values } = JSON.parse(script.textContent, unpack);
        for (const [key, held] of Object.entries(values))
          if ([held].flat().some((one) => one instanceof Promise)) // others start at once
            values[key] = await (Array.isArray(held) ? Promise.all(held) : held);
        listen(board);
        still.insertBefore(board, caption);
        start(board, values);
        still.classList.add("touched");
        render(caption, [...caption.childNodes, h("p", { class: "touch-hint" },
          h("b", {}, "Try it. "), hint)]);
      } catch (error) {
        board.remove(); // the still one stays
        console.error(error);
      }
    }
  }

  /* --- Drawing: say what should be there, and the page is made so ------------- */

  /* Attributes go to the element as they are, but for:
     key      names the element among its siblings, from one drawing to the next
     group    arrow keys lead from one of a group to the next
     spin     { value, set, min, max, step, name }: a number that can be dragged
     pick     what Enter, a click or a tap does
     on       { event: function }
     paint    called with the element after it has its attributes: for a canvas */
  const h = (tag, props = {}, ...children) => ({ tag, props, children: children.flat(9) });

  function render(parent, children) {
    const focus = document.activeElement;
    const old = new Map([...parent.childNodes].map((node) => [node.touchKey, node]));
    children.flat(9).filter((child) => child !== null && child !== undefined
      && child !== false).forEach((child, place) => {
      let node = child;
      if (!(child instanceof Node)) {
        const key = child.props?.key ?? `${child.tag ?? "text"} ${place}`;
        node = old.get(key) ?? make(child);
        node.touchKey = key;
        old.delete(key);
        update(node, child);
      } else old.delete(child.touchKey);
      if (parent.childNodes[place] !== node)
        parent.insertBefore(node, parent.childNodes[place] ?? null);
    });
    old.forEach((node) => node.remove());
    if (focus !== document.activeElement && parent.contains(focus)) focus.focus();
  }

  function make(child) {
    if (!child.tag) return document.createTextNode("");
    return DRAWN.has(child.tag)
      ? document.createElementNS(SVG, child.tag) : document.createElement(child.tag);
  }

  function update(node, child) {
    if (!child.tag) {
      if (node.data !== String(child)) node.data = String(child);
      return;
    }
    const { key, group, spin, pick, on, paint, ...attributes } = child.props;
    node.touchDo = { spin, pick };
    if (key !== undefined) attributes["data-key"] = key;
    if (group !== undefined) attributes["data-group"] = group;
    if (spin) Object.assign(attributes, {
      role: "spinbutton", "aria-label": `${spin.name} = ${spin.text ?? show(spin.value)}`,
      "aria-valuenow": spin.value, "aria-valuemin": spin.min, "aria-valuemax": spin.max,
    });
    else if (pick && node.tagName !== "BUTTON") attributes.role ??= "button";
    if ((spin || pick) && node.tagName !== "BUTTON")
      attributes.tabindex = node.getAttribute("tabindex") ?? (group === undefined ? 0 : -1);
    for (const name of node.getAttributeNames())
      if (!(name in attributes)) node.removeAttribute(name);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "checked" || name === "value") node[name] = value;
      else if (value === null || value === undefined || value === false)
        node.removeAttribute(name);
      else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
    }
    for (const [name, act] of Object.entries(on ?? {})) node[`on${name}`] = act;
    render(node, child.children);
    paint?.(node);
  }

  // One of each group is reached by Tab: the last that was used, or the first.
  function rove(board) {
    const groups = new Map();
    for (const e of board.querySelectorAll("[data-group][tabindex]"))
      groups.set(e.dataset.group, [...(groups.get(e.dataset.group) ?? []), e]);
    for (const all of groups.values()) {
      const stop = all.find((e) => e === document.activeElement)
        ?? all.find((e) => e.tabIndex === 0) ?? all[0];
      for (const e of all) e.tabIndex = e === stop ? 0 : -1;
    }
  }

  /* --- Pointer and keys --------------------------------------------------------- */

  function step(node, by) {
    const { value, set, min, max, step: size = 1 } = node.touchDo.spin;
    const next = Math.min(max, Math.max(min, value + by * size));
    if (next !== value) set(next);
  }

  const PIXELS = 14; // of dragging, for one step

  function listen(board) {
    let drag = null;
    const at = (event) => {
      const node = event.target.closest?.("[data-key]");
      return node?.touchDo && board.contains(node) ? node : null;
    };
    board.addEventListener("pointerdown", (event) => {
      const node = at(event);
      if (!node?.touchDo.spin || event.button) return;
      drag = { node, from: event.clientX - event.clientY };
      node.setPointerCapture(event.pointerId);
    });
    board.addEventListener("pointermove", (event) => {
      if (!drag) return;
      const by = Math.trunc((event.clientX - event.clientY - drag.from) / PIXELS);
      if (!by) return;
      drag.from += by * PIXELS;
      step(drag.node, by);
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"])
      board.addEventListener(end, () => { drag = null; });
    board.addEventListener("click", (event) => at(event)?.touchDo.pick?.());
    board.addEventListener("focusin", () => rove(board));
    board.addEventListener("keydown", (event) => {
      const node = at(event);
      if (!node || event.altKey || event.ctrlKey || event.metaKey) return;
      if (keys(node, event.key, board)) event.preventDefault();
    });
  }

  // Returns whether the key was ours.
  function keys(node, key, board) {
    const { spin, pick } = node.touchDo;
    const by = { ArrowUp: 1, ArrowDown: -1, PageUp: 5, PageDown: -5 }[key];
    if (spin && by) return step(node, by), true;
    if (spin && (key === "Home" || key === "End"))
      return spin.set(key === "Home" ? spin.min : spin.max), true;
    if ((key === "Enter" || key === " ") && pick && node.tagName !== "BUTTON")
      return pick(), true;
    const along = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 }[key];
    if (!along || !node.dataset.group) return false;
    const all = [...board.querySelectorAll(`[data-group="${node.dataset.group}"]`)];
    all[all.indexOf(node) + along]?.focus();
    return true;
  }

  /* --- Parts that figures are made of -------------------------------------------- */

  const show = (value) => String(value).replace("-", "\u2212");
  const up = (n) => String(n).replace("-", "\u207b").replace(/\d/g, (d) =>
    "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"[d]);
  // 1.2·10⁻⁹, from 1.2e-9.
  function power(value, places = 1) {
    if (value === 0 || !Number.isFinite(value)) return show(value).replace("Infinity", "inf");
    const [digits, exponent] = value.toExponential(places).split("e");
    return `${show(digits)}\u00b710${up(Number(exponent))}`;
  }
  const sub = (value) => String(value).replace(/\d/g, (d) => "\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089"[d]);

  // A number in the colour of what it is: x, w, y or g.
  const number = (kind, value) => h("b", { class: `touch-${kind}` }, show(value));
  // The same as a factor: 2 or (−2).
  const factor = (kind, value) => (value < 0 ? ["(", number(kind, value), ")"]
    : number(kind, value));

  // A sum of products, as it is written by hand: 2·1 − 3·(−2), from
  // [kind, value, kind, value] for each term.
  const sum = (terms) => terms.map(([a, value, b, other], k) => [
    k === 0 ? null : value < 0 ? " − " : " + ",
    number(a, k ? Math.abs(value) : value), "·", factor(b, other)]);

  /* The number that was last used, with a button for less and one for more: for
     those who can neither drag nor press keys. */
  const stepper = ({ name, value, set, min, max, step: size = 1, text = show(value) }) =>
    h("span", { key: "stepper", class: "touch-stepper" },
      h("button", { key: "less", type: "button", "aria-label": `${name}: less`,
        disabled: value <= min ? "" : null, pick: () => set(Math.max(min, value - size)) },
      "\u2212"),
      h("span", { key: "now" }, `${name} = ${text}`),
      h("button", { key: "more", type: "button", "aria-label": `${name}: more`,
        disabled: value >= max ? "" : null, pick: () => set(Math.min(max, value + size)) },
      "+"));

  /* Normal numbers by dice that fall alike each time: a small generator of even ones
     (Park and Miller's), and two of them for a normal one (Box and Muller's way). */
  function dice(seed) {
    let state = 1e9 + 7919 * seed;
    const even = () => { state = 48271 * state % 2147483647; return state / 2147483647; };
    return () => Math.sqrt(-2 * Math.log(even())) * Math.cos(2 * Math.PI * even());
  }

  let boards = 0;

  // One of several, as radio buttons: options are [value, text] or values.
  const choice = (id, legend, options, chosen, set) =>
    h("fieldset", { key: id, class: "touch-choice" }, h("legend", {}, legend),
      options.map((option) => (Array.isArray(option) ? option : [option, option]))
        .map(([value, text]) => h("label", { key: `${id}-${value}` },
          h("input", { type: "radio", name: `touch-${id}`, checked: value === chosen,
            value: String(value), on: { change: () => set(value) } }),
          h("span", {}, text))));

  // A number on a scale: label and number stand before it.
  const slider = (id, name, { value, set, min, max, step: size = 1, text = show(value) }) =>
    h("label", { key: id, class: "touch-slider" }, h("span", {}, name),
      h("output", {}, text),
      h("input", { type: "range", min, max, step: size, value: String(value), name: id,
        "aria-valuetext": text, on: { input: (event) => set(Number(event.target.value)) } }));

  /* A picture of rows x columns cells, in which one is picked: by a click, by sliding,
     or with the arrow keys; with hover, by pointing at it. What it shows begins at
     [top, left] and is so many cells high, and wide. */
  function field(key, { name, rows, columns, at, set, view, hover }, ...parts) {
    const [top, left, side, across = side] = view;
    const clip = (value, most) => Math.max(0, Math.min(most - 1, value));
    const point = (event) => {
      if (event.type === "pointermove" && !event.buttons && !hover) return;
      const box = event.currentTarget.getBoundingClientRect();
      set(clip(Math.floor(top + (event.clientY - box.top) / box.height * side), rows),
        clip(Math.floor(left + (event.clientX - box.left) / box.width * across), columns));
    };
    const key_down = (event) => {
      const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1],
        ArrowRight: [0, 1] }[event.key];
      if (!by || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      const [row, column] = at ?? [0, 0];
      set(...(at ? [clip(row + by[0], rows), clip(column + by[1], columns)] : [0, 0]));
    };
    return h("svg", { key, class: "touch-field", role: "application", tabindex: 0,
      "aria-label": name, viewBox: `${left} ${top} ${across} ${side}`,
      style: `aspect-ratio:${across}/${side}`,
      on: { pointerdown: point, pointermove: point, keydown: key_down } }, parts);
  }

  // The path of some cells: [row, column], ...
  const squares = (cells) => cells.map(([r, c]) => `M${c} ${r}h1v1h-1z`).join("");

  /* Draws what `picture(id)` returns now, and again at each call of the function that
     it returns: parts, then words, which say for screen readers, and for all, what is
     seen, and controls. The id tells the radio buttons of two figures apart. */
  function draw(board, picture) {
    const id = boards++;
    const [stage, said, controls] = ["div", "p", "div"].map((tag, k) => {
      const part = document.createElement(tag);
      part.className = ["touch-stage", "touch-said", "touch-controls"][k];
      return part;
    });
    said.setAttribute("aria-live", "polite");
    board.append(stage, said, controls);
    const redraw = () => {
      const now = picture(id);
      render(stage, now.parts);
      render(said, [now.words].flat());
      render(controls, now.controls);
      rove(board);
    };
    redraw();
    return redraw;
  }

  return {
    figure, h, draw, show, sub, up, power, dice, number, sum, stepper, choice, slider,
    field, squares,
  };
})();
