/* What all figures that move share: they take the place of a still one, draw
   themselves anew when their state changes, and are moved by pointer and keys.

   A figure is a file touch/NAME.js that calls touch.figure("NAME", start). Its
   start(board, values) has board(state) give it its controls, and draws a picture;
   only when that has come to its end without an error does the still figure give way. */

"use strict";

const touch = (() => {
  const SVG = "http://www.w3.org/2000/svg";

  const range = (count) => [...Array(count).keys()];
  const cells = (rows, columns) => range(rows).flatMap((r) => range(columns).map((c) => [r, c]));
  const clip = (value, least, most) => Math.max(least, Math.min(most, value));

  /* --- What the page carries --- */

  // An array is { shape, data }, as in cnn.js; see cnn/back/touch.py. One that was
  // deflated is a promise of it.
  function unpack(_, value) {
    if (typeof value?.base64 !== "string") return value;
    const bytes = Uint8Array.from(atob(value.base64), (letter) => letter.charCodeAt(0));
    const kind = value.dtype.replace(/^./, (letter) => letter.toUpperCase()); // Float32, Uint8
    const array = (buffer) => ({ shape: value.shape, data: new globalThis[`${kind}Array`](buffer) });
    if (!value.deflated) return array(bytes.buffer);
    const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(inflated).arrayBuffer().then(array);
  }

  async function figure(name, start) {
    for (const script of document.querySelectorAll(`script[data-touch="${name}"]`)) {
      const still = script.closest(".cell_output")?.querySelector("figure");
      const caption = still?.querySelector("figcaption");
      if (!caption) continue;
      const element = Object.assign(document.createElement("div"), {
        className: `touch touch-${name}`, role: "group", ariaLabel: "What can be moved" });
      try {
        const { hint, values } = JSON.parse(script.textContent, unpack);
        for (const [key, held] of Object.entries(values))
          if ([held].flat().some((one) => one instanceof Promise)) // others start at once
            values[key] = await (Array.isArray(held) ? Promise.all(held) : held);
        caption.before(element);
        start((state) => board(element, state), values);
        still.classList.add("touched");
        render(caption, [...caption.childNodes, h("p.hint", {},
          h("b", {}, "Try it. "), hint)]);
      } catch (error) {
        element.remove(); // the still one stays
        console.error(error);
      }
    }
  }

  /* --- Drawing: say what should be there, and the page is made so --- */

  /* h("div.plots", attributes, ...children) is a div of the class touch-plots. Attributes
     go to the element as they are, but for:
     key      names the element among its siblings, from one drawing to the next
     group    arrow keys lead from one of a group to the next
     spin     { value, set, min, max, step, name }: a number that can be dragged; with
              walk, all arrow keys lead on, and + and - change it
     pick     what Enter, a click or a tap does
     pressed  whether it is the one that was picked
     label    its name for those who do not see it
     on       { event: function }
     paint    called with the element after it has its attributes: for a canvas */
  function h(name, { class: more, ...props } = {}, ...children) {
    const [tag, ...kinds] = name.split(".");
    if (kinds.length || more)
      props.class = [...kinds.map((kind) => `touch-${kind}`), more].join(" ").trim();
    return { tag, props, children: children.flat(9) };
  }

  function render(parent, children) {
    const focus = document.activeElement;
    const old = new Map([...parent.childNodes].map((node) => [node.touchKey, node]));
    const there = children.flat(9).filter((child) => (child ?? false) !== false);
    there.forEach((child, place) => {
      let node = child;
      if (!(child instanceof Node)) {
        const key = child.props?.key ?? `${child.tag ?? "text"} ${place}`;
        node = old.get(key) ?? make(child.tag, parent);
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

  const make = (tag, parent) => (tag
    ? document.createElementNS(tag === "svg" ? SVG : parent.namespaceURI, tag)
    : document.createTextNode(""));

  const native = (node) => node.tagName === "BUTTON"; // it has its own role and keys

  function update(node, child) {
    if (node.touchSaid === child) return; // the very description that it has
    node.touchSaid = child;
    if (!child.tag) {
      node.data = String(child);
      return;
    }
    const { key, group, spin, pick, pressed, on, paint, label, ...attributes } = child.props;
    node.touchDo = { spin, pick };
    Object.assign(attributes, { "data-key": key, "data-group": group,
      "aria-pressed": pressed?.toString(), "aria-label": label });
    if (spin) Object.assign(attributes, {
      role: "spinbutton", "aria-label": `${spin.name} = ${spin.text ?? show(spin.value)}`,
      "aria-valuenow": spin.value, "aria-valuemin": spin.min, "aria-valuemax": spin.max,
    });
    else if (pick && !native(node)) attributes.role ??= "button";
    if ((spin || pick) && !native(node))
      attributes.tabindex = node.getAttribute("tabindex") ?? (group === undefined ? 0 : -1);
    for (const name of node.getAttributeNames())
      if (!(name in attributes)) node.removeAttribute(name);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "checked" || name === "value") node[name] = value;
      else if ((value ?? false) === false) node.removeAttribute(name);
      else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
    }
    for (const [name, act] of Object.entries(on ?? {})) node[`on${name}`] = act;
    render(node, child.children);
    paint?.(node);
  }

  // One of each group is reached by Tab: the last that was used, or the first.
  function rove(element) {
    const grouped = [...element.querySelectorAll("[data-group][tabindex]")];
    for (const group of new Set(grouped.map((e) => e.dataset.group))) {
      const all = grouped.filter((e) => e.dataset.group === group);
      const stop = all.find((e) => e === document.activeElement)
        ?? all.find((e) => e.tabIndex === 0) ?? all[0];
      for (const e of all) e.tabIndex = e === stop ? 0 : -1;
    }
  }

  /* --- The board of a figure --- */

  let boards = 0;

  /* The board whose numbers are `state`, and what changes them. draw(picture) shows what
     picture() returns, now and after each change: parts; sum, some arithmetic; words,
     which say for screen readers, and for all, what is seen; and controls,
     which stand below, or above, where nothing that changes moves them. */
  function board(element, state) {
    const id = boards++; // tells the radio buttons of two boards apart
    const spins = new Map(); // the numbers that can be dragged, by their names
    let [picture, last] = [null, ""];
    function redraw() {
      spins.clear();
      const { parts, sum: line, words, controls, above } = picture();
      render(element, [
        above && h("div.controls", {}, above),
        h("div", {}, parts, line && h("p.sum", {}, line)),
        h("p.said", { "aria-live": "polite" }, words),
        h("div.controls", {}, controls)]);
      rove(element);
    }
    // A change, and then a new picture; for a number of the state, by its name.
    const act = (change) => (...given) => { change(...given); redraw(); };
    const set = (name) => act((value) => { state[name] = value; });
    const draw = act((what) => { picture = what; });

    listen(element);
    element.addEventListener("focusin", ({ target: { touchDo } }) => {
      if (touchDo?.spin) act(() => { last = touchDo.spin.name; })();
    });
    // Canvases keep their colours when the page turns dark; so they are drawn again.
    new MutationObserver(redraw).observe(document.documentElement,
      { attributes: true, attributeFilter: ["data-theme"] });

    const button = (key, text, change, more) =>
      h("button", { key, ...more, pick: act(change) }, text);

    // One of several, as radio buttons: options are [value, text] or values.
    const choice = (name, legend, options, take = set(name), chosen = state[name]) =>
      h("fieldset.choice", { key: `${name}-${id}` }, h("legend", {}, legend),
        options.map((option) => [option].flat())
          .map(([value, text = value]) => h("label", { key: `${name}-${id}-${value}` },
            h("input", { type: "radio", name: `touch-${name}-${id}`, value: String(value),
              checked: value === chosen, on: { change: () => take(value) } }),
            h("span", {}, text))));

    // A number on a scale. It stands first after its words, as a label names but one
    // element; seen it is last.
    const slider = (name, label, { min, max, step: size = 1, value = state[name],
      text = show(value), take = set(name) }) =>
      h("label.slider", { key: `${name}-${id}` }, h("span", {}, label),
        h("input", { type: "range", min, max, step: size,
          value: String(value), name: `${name}-${id}`, "aria-valuetext": text,
          on: { input: (event) => take(Number(event.target.value)) } }), h("output", {}, text));

    // All as it was at first.
    const first = structuredClone(state);
    const again = () => button("again", "as it was", () => Object.assign(state, structuredClone(first)));

    // A number that can be dragged; and the one that was last used, with its buttons.
    const spin = ({ set: take, ...more }) => {
      const one = { ...more, set: act(take) };
      spins.set(more.name, one);
      return one;
    };
    const last_used = () => stepper(spins.get(last) ?? [...spins.values()][0]);

    return { element, draw, redraw, act, set, button, choice, slider, again, spin, last_used };
  }

  /* A number with a button for less and one for more: for those who can neither drag
     nor press keys. */
  function stepper({ name, value, set, min, max, step: size = 1, text = show(value) }) {
    const [less, more] = [["less", "\u2212", -size], ["more", "+", size]].map(([key, sign, by]) => {
      const next = clip(value + by, min, max);
      return h("button", { key, label: `${name}: ${key}`, disabled: next === value ? "" : null,
        pick: () => set(next) }, sign);
    });
    return h("span.stepper", { key: "stepper" }, less, h("span", {}, `${name} = ${text}`), more);
  }

  /* --- Pointer and keys --- */

  const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const chord = (event) => event.altKey || event.ctrlKey || event.metaKey;

  function step(node, by) {
    const { value, set, min, max, step: size = 1 } = node.touchDo.spin;
    const next = clip(value + by * size, min, max);
    if (next !== value) set(next);
  }

  const PIXELS = 14; // of dragging, for one step

  function listen(element) {
    let [drag, dragged] = [null, false];
    const at = ({ target: node }) => {
      while (node && !node.touchDo?.spin && !node.touchDo?.pick) node = node.parentElement;
      return node;
    };
    const lift = () => { drag = null; };
    const heard = {
      pointerdown(event) {
        const node = at(event);
        dragged = false;
        if (!node?.touchDo.spin || event.button) return;
        drag = { node, from: event.clientX - event.clientY };
        node.setPointerCapture(event.pointerId);
        node.focus();
      },
      pointermove(event) {
        if (!drag) return;
        const by = Math.trunc((event.clientX - event.clientY - drag.from) / PIXELS);
        if (!by) return;
        dragged = true;
        drag.from += by * PIXELS;
        step(drag.node, by);
      },
      pointerup: lift, pointercancel: lift, lostpointercapture: lift,
      click(event) { // by a key, or by a pointer that has not dragged
        if (!event.detail || !dragged) at(event)?.touchDo.pick?.();
      },
      focusin: () => rove(element),
      keydown(event) {
        const node = at(event);
        if (!node || chord(event)) return;
        if (keys(node, event.key, element)) event.preventDefault();
      },
    };
    for (const [name, act] of Object.entries(heard)) element.addEventListener(name, act);
  }

  // Returns whether the key was ours.
  function keys(node, key, element) {
    const { spin, pick } = node.touchDo;
    const by = { "+": 1, "-": -1, ArrowUp: 1, ArrowDown: -1, PageUp: 5, PageDown: -5 }[key];
    if (spin && by && !(spin.walk && ARROWS[key])) return step(node, by), true;
    if (spin && (key === "Home" || key === "End"))
      return spin.set(key === "Home" ? spin.min : spin.max), true;
    if ((key === "Enter" || key === " ") && pick && !native(node))
      return pick(), true;
    if (!ARROWS[key] || !node.dataset.group) return false;
    // Up and down along its column, if it has one; and from the last to the first.
    const all = [...element.querySelectorAll(`[data-group="${node.dataset.group}"]`)];
    const [down, across] = ARROWS[key];
    const left = (e) => Math.round(e.getBoundingClientRect().left);
    const column = all.filter((e) => left(e) === left(node));
    const list = down && column.length > 1 ? column : all;
    list.at((list.indexOf(node) + down + across) % list.length).focus();
    return true;
  }

  // Where an arrow key leads: [rows, columns]; another key leads nowhere.
  function arrow(event) {
    const by = ARROWS[event.key];
    if (!by || chord(event)) return null;
    event.preventDefault();
    return by;
  }

  // Where a pointer is on what listens: [down, across], in shares of its size.
  function place({ currentTarget, clientX, clientY }) {
    const { top, left, width, height } = currentTarget.getBoundingClientRect();
    return [(clientY - top) / height, (clientX - left) / width];
  }

  /* --- Numbers as text --- */

  const show = (value) => String(value).replace("-", "\u2212");
  // So many places, and 0.00 instead of −0.00.
  const fixed = (value, places) => show(value.toFixed(places).replace(/^-(0\.?0*)$/, "$1"));
  const up = (n) => String(n).replace("-", "⁻").replace(/\d/g, (d) =>
    "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]);
  const sub = (n) => String(n).replace(/\d/g, (d) => String.fromCharCode(0x2080 + Number(d)));
  // 1.2·10⁻⁹, from 1.2e-9.
  function power(value, places = 1) {
    if (value === 0 || !Number.isFinite(value)) return show(value).replace("Infinity", "inf");
    const [digits, exponent] = value.toExponential(places).split("e");
    return `${show(digits)}·10${up(Number(exponent))}`;
  }

  // Two digits: 0.012, 120, or a power.
  const short = (value) => (value === 0 || (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e4)
    ? show(Number(value.toPrecision(2))) : power(value));

  const letter = (name) => h("i", {}, name);
  // A number in the colour of what it is: x, w, y or g.
  const number = (kind, value, key) => h(`b.${kind}`, { key }, show(value));
  // The same as a factor: 2 or (−2).
  const factor = (kind, value) => (value < 0 ? ["(", number(kind, value), ")"]
    : number(kind, value));

  // A sum of products, as it is written by hand: 2·1 − 3·(−2), from
  // [kind, value, kind, value] for each term.
  const sum = (terms) => terms.map(([a, value, b, other], k) => [
    k === 0 ? null : value < 0 ? " − " : " + ",
    number(a, k ? Math.abs(value) : value), "·", factor(b, other)]);

  /* Dice that fall alike each time, here and in Python: the chapter "Train it yourself"
     derives them. The state is a number of 32 bits. */
  function dice(state) {
    const uniform = () => {
      state = (Math.imul(1664525, state) + 1013904223) >>> 0;
      return state / 2 ** 32;
    };
    // Twelve throws, less their mean: nearly normal, variance 1, and exact.
    const normal = () => {
      let total = -6;
      for (let k = 0; k < 12; k++) total += uniform();
      return total;
    };
    return { uniform, normal };
  }

  /* --- Plots and pictures --- */

  const path = (kind, d, key = kind) => h(`path.${kind}`, { key, d });

  // A plot, 320 wide; the label says what is seen on it.
  const plot = (key, label, height, parts, more) => h("svg.plot", { key, role: "img",
    viewBox: `0 0 320 ${height}`, label, ...more }, parts);
  const mark = (x, y, text, kind = "end") => h("text", { x, y, class: kind }, text);
  const curve = (key, kind, points) => h("polyline.curve", { key, class: kind,
    points: points.map((point) => point.map((v) => v.toFixed(1)).join()).join(" ") });
  const dot = (key, [cx, cy], r, kind = "") =>
    h("circle.dot", { key, class: kind, cx, cy, r });
  // The place of a number from low to high on a line; what is beyond stays at its ends.
  const scale = (low, high, from, to) => (value) =>
    from + (clip(value, low, high) - low) / (high - low) * (to - from);

  /* A picture of rows x columns cells, in which one is picked: by a click, by sliding,
     or with the arrow keys; with hover, by pointing at it. What it shows begins at
     [top, left] and is so many cells high, and wide. */
  function field(key, { name, rows, columns, at, set, view, hover }, ...parts) {
    const [top, left, tall, wide = tall] = view;
    const pick = (row, column) => set(clip(row, 0, rows - 1), clip(column, 0, columns - 1));
    const point = (event) => {
      if (event.type === "pointermove" && !event.buttons && !hover) return;
      const [down, across] = place(event);
      pick(Math.floor(top + down * tall), Math.floor(left + across * wide));
    };
    const keydown = (event) => {
      const by = arrow(event);
      if (by) pick(...(at ? [at[0] + by[0], at[1] + by[1]] : [0, 0]));
    };
    return h("svg.field", { key, role: "application", tabindex: 0,
      label: name, viewBox: `${left} ${top} ${wide} ${tall}`,
      style: `aspect-ratio:${wide}/${tall}`,
      on: { pointerdown: point, pointermove: point, keydown } }, parts);
  }

  // The path of some cells: [row, column], ...
  const squares = (some) => some.map(([r, c]) => `M${c} ${r}h1v1h-1z`).join("");
  // Where a cell stands on a grid.
  const at = (row, column) => `grid-row:${row};grid-column:${column}`;

  const colours = new Map(); // red, green and blue of each, in each theme
  function colour(name) {
    const root = document.documentElement;
    const key = name + root.dataset.theme;
    if (!colours.has(key)) colours.set(key, getComputedStyle(root).getPropertyValue(name)
      .match(/\w\w/g).map((hex) => parseInt(hex, 16)));
    return colours.get(key);
  }

  /* Numbers as pixels, so many in a row: the larger, as a share of the limit, the more of
     a colour; below 0 it is blue. Only another array, or theme, is painted. */
  const pixels = (key, data, width, limit, over, more) => h("canvas.map", { key, width,
    height: data.length / width, ...more, paint: (canvas) => {
      const [under, above] = ["--touch-x", over].map(colour);
      if (canvas.touchShown?.data === data && canvas.touchShown.above === above) return;
      canvas.touchShown = { data, above };
      const pen = canvas.getContext("2d");
      const image = pen.createImageData(width, data.length / width);
      data.forEach((v, a) => {
        image.data.set(v < 0 ? under : above, 4 * a);
        image.data[4 * a + 3] = 255 * Math.abs(v) / (limit || 1);
      });
      pen.putImageData(image, 0, 0);
    } });

  return {
    figure, h, range, cells, clip, show, fixed, sub, up, power, short, letter, number, sum, dice, stepper,
    arrow, place, path, plot, mark, curve, dot, scale, field, squares, at, pixels,
  };
})();
