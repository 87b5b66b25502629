/* Train it yourself: the book's network, trained in the page. What computes stands in
   train_run.js, the tasks in train_tasks.js; here is the board, and who works when. */

"use strict";

touch.figure("train", (board, values) => {
  const { h, show, slider, choice, stepper, field } = touch;
  const { CONTROLS, tasks } = train;
  const { percent } = tasks;
  const SLICE = 12; // milliseconds of work, then the page has its turn
  const side = values.learn.shape[1];
  const data = {
    side, name: values.name, names: values.names,
    learn: { images: values.learn, labels: values.learn_labels },
    judge: { images: values.judge, labels: values.judge_labels },
    // As the package scales them, to single precision.
    greys: Float64Array.from({ length: 256 }, (_, v) => Math.fround((v - values.mean) / values.std)),
  };
  const dice = [...document.querySelectorAll("pre")].map((pre) => pre.textContent.trim())
    .find((text) => text.includes("class Dice"));
  const many = values.learn.shape[0];
  const choices = { ...CONTROLS, n: { ...CONTROLS.n,
    values: [...CONTROLS.n.values.filter((n) => n < many), many] } };
  const defaults = { ...values.start, n: many, seed: 0 };

  const state = { settings: { ...defaults }, run: null, problem: "", playing: false, single: false,
    old: [{ name: "cnn, in Python", epochs: values.history }], log: [], side: null,
    series: [], at: {}, code: false,
    bounds: new Map(), guesses: new Map() };

  /* --- Who works when ---------------------------------------------------------------- */

  let [waiting, drawn] = [false, 0];
  const turn = new MessageChannel(); // a timer would rest for 4 ms each time
  turn.port1.onmessage = work;
  const wake = () => {
    if (!waiting) turn.port2.postMessage(0);
    waiting = true;
  };

  // A run judges its first weights without being told to; beyond that it needs "run".
  const wanted = () => state.side ?? (state.run && !state.run.lost
    && (state.playing || state.single || !state.run.seen) ? state.run.job : null);

  function work() {
    waiting = false;
    const begun = performance.now();
    while (wanted() && performance.now() - begun < SLICE) {
      if (state.side) { // the bound, or a collapse
        const { done, value } = state.side.next();
        if (done) finish(value);
      } else {
        const { value } = state.run.job.next();
        if (value) state.single = false;
        if (value === "lost" || (value === "epoch" && state.run.epochs.length === state.run.settings.epochs)) ended();
      }
    }
    const now = performance.now();
    if (!wanted() || now - drawn > 120) setTimeout(() => { redraw(); drawn = performance.now(); });
    if (wanted()) wake();
  }

  function ended() {
    state.playing = false;
    if (!state.series.length) return;
    begin({ ...state.settings, seed: state.series.shift() });
    state.playing = true;
  }

  // What the side job was asked for has come.
  let finish = () => {};
  function ask(job, then) {
    state.side = job;
    finish = (value) => { state.side = null; then(value); };
    wake();
  }

  const runs = () => [...state.log, ...(state.run?.epochs.length || state.run?.lost
    ? [tasks.account(state.run)] : [])];

  // A new run, from the first weights of these settings; the old one stays as a pale curve.
  function begin(settings) {
    const { run } = state;
    if (run && (run.epochs.length || run.lost)) {
      state.log.push(tasks.account(run));
      state.old = [{ settings: { ...run.settings }, epochs: run.epochs, lost: run.lost }, ...state.old].slice(0, 3);
    }
    Object.assign(state, { settings, run: null, problem: "", single: false, side: null });
    try {
      state.run = train.start({ ...settings }, data);
    } catch (error) {
      state.problem = `${error.message}.`;
      state.playing = false;
    }
    wake();
  }

  // To other settings, standing still unless it ran.
  function go(settings, playing = false) {
    Object.assign(state, { series: [], playing });
    begin(settings);
    history.replaceState(null, "", link());
    redraw();
  }

  function set(name, value) {
    const settings = { ...state.settings, [name]: value };
    if (name !== "epochs" || !state.run || state.run.epochs.length > value) return go(settings, state.playing);
    state.settings = settings; // all else goes on as it was
    state.run.settings.epochs = value;
    history.replaceState(null, "", link());
    redraw();
  }

  /* --- The address ---------------------------------------------------------------------- */

  function link() {
    const told = tasks.changed(state.settings, defaults).map((key) => `${key}=${state.settings[key]}`);
    return told.length ? `#${told.join("&")}` : location.pathname + location.search;
  }

  // Sets the board as the address says: "#lr=0.1&init=zero".
  function read() {
    const told = new URLSearchParams(location.hash.slice(1));
    const known = Object.keys(choices).filter((key) => told.has(key));
    if (!known.length) return;
    const settings = { ...defaults };
    for (const key of known)
      settings[key] = choices[key].values.find((value) => String(value) === told.get(key)) ?? settings[key];
    go(settings);
    board.closest("figure").scrollIntoView();
  }

  /* --- Curves ---------------------------------------------------------------------------- */

  const [W, H, LEFT, LOW] = [330, 215, 46, 26];

  function plot(key, title, low, high, at, marks, curves, guess) {
    const last = Math.max(state.settings.epochs, 1);
    const x = (epoch) => LEFT + Math.min(epoch / last, 1.02) * (W - LEFT - 10);
    const y = (value) => H - LOW - (at(Math.max(low, Math.min(high, value))) - at(low))
      / (at(high) - at(low)) * (H - LOW - 22);
    const line = (points) => points.filter(([, v]) => Number.isFinite(v))
      .map(([e, v]) => `${x(e).toFixed(1)},${y(v).toFixed(1)}`).join(" ");
    const step = [1, 2, 5, 10, 20, 50].find((size) => last / size <= 6);
    const ticks = Array.from({ length: Math.floor(last / step) + 1 }, (_, k) => k * step);
    return h("svg", { key, class: "touch-plot", viewBox: `0 0 ${W} ${H}`, role: "img",
      "aria-label": `${title}, against the epoch` },
    h("text", { key: "title", x: LEFT, y: 12, class: "touch-title" }, title),
    marks.map((v) => [h("line", { key: `line${v}`, class: "touch-lines", x1: LEFT, x2: W - 10, y1: y(v), y2: y(v) }),
      h("text", { key: `mark${v}`, class: "end", x: LEFT - 6, y: y(v) + 4 }, guess.text(v))]),
    ticks.map((e) => h("text", { key: `tick${e}`, class: "middle", x: x(e), y: H - 12 }, e)),
    h("line", { key: "guess", class: "touch-curve one", x1: LEFT, x2: W - 10, y1: y(guess.at), y2: y(guess.at) }),
    h("text", { key: "guess text", class: "end", x: W - 10, y: y(guess.at) - 4 }, "a guess"),
    curves.map(({ name, points }) => h("polyline", { key: name, class: `touch-curve ${name}`, points: line(points) })));
  }

  // The batches' losses, thinned to what can be seen.
  function thin(losses, per) {
    const size = Math.ceil(losses.length / 200);
    return Array.from({ length: Math.ceil(losses.length / size) || 0 }, (_, k) => {
      const part = losses.slice(k * size, (k + 1) * size);
      return [(k * size + part.length / 2) / per, tasks.mean(part)];
    });
  }

  function curves(what) {
    const { run } = state;
    const of = (epochs, key) => epochs.map((epoch, k) => [k + 1, epoch[`${key}_${what}`]]);
    const found = [...state.old.entries()].reverse().flatMap(([k, { epochs }]) => [
      { name: `old train${k}`, points: of(epochs, "train") },
      { name: `old valid${k}`, points: of(epochs, "validation") }]);
    if (!run) return found;
    if (what === "loss") found.push({ name: "batches",
      points: thin(run.batches, Math.ceil(run.settings.n / run.settings.batch)) });
    const first = run.first ? [[0, run.first[what]]] : [];
    return [...found, { name: "train", points: of(run.epochs, "train") },
      { name: "valid", points: [...first, ...of(run.epochs, "validation")] }];
  }

  function plots() {
    const losses = curves("loss");
    const shown = losses.flatMap(({ points }) => points.map(([, v]) => v)).filter((v) => v > 0 && v < 1e4);
    const low = 10 ** Math.max(-4, Math.floor(Math.log10(Math.min(0.5, ...shown))));
    const high = 10 ** Math.ceil(Math.log10(Math.max(5, ...shown)));
    const decades = Array.from({ length: Math.round(Math.log10(high / low)) + 1 }, (_, k) => Number((low * 10 ** k).toPrecision(1)));
    return h("div", { key: "plots", class: "touch-plots" },
      plot("losses", "loss", low, high, Math.log, decades, losses, { at: Math.log(data.names.length), text: String }),
      plot("accuracies", "accuracy", 0, 1, (v) => v, [0, 0.25, 0.5, 0.75, 1], curves("accuracy"),
        { at: 1 / data.names.length, text: (v) => `${100 * v} %` }));
  }

  const value_of = (key, value) => show(tasks.told(key, value));
  // What a run was set to, where that is not as the board was at first.
  const told = (settings) => tasks.changed(settings, defaults, ["epochs"])
    .map((key) => `${choices[key].name} ${value_of(key, settings[key])}`).join(", ") || "as at first";

  function row(kind, key, { name, settings, epochs, lost }) {
    const last = epochs.at(-1);
    return h("tr", { key, class: kind },
      h("td", {}, h("i", { class: "touch-swatch" }),
        settings && kind !== "now" ? h("button", { key: `take${key}`, type: "button", class: "touch-take",
          title: "take these settings", pick: () => go({ ...settings }) }, told(settings))
          : name ?? told(settings)),
      h("td", {}, epochs.length), h("td", {}, last ? percent(last.train_accuracy) : "\u2013"),
      h("td", {}, lost ? "lost" : last ? percent(last.validation_accuracy) : "\u2013"));
  }

  const table = () => h("table", { key: "runs", class: "touch-runs" },
    h("thead", {}, h("tr", {}, ["run", "epochs", "training", "validation"].map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, state.run ? row("now", "this run", state.run) : null,
      state.old.map((run, k) => row("before", `before${k}`, run))));

  /* --- Pictures -------------------------------------------------------------------------- */

  const colour = (name) => getComputedStyle(board).getPropertyValue(name).trim();

  /* A picture of rows x columns numbers: paint(dot) colours its cells, or parts are drawn
     over it, from `edge` on. Below stands what tell(row, column) says of the cell that is
     pointed at. */
  function picture_of(key, title, [rows, columns], { paint, parts, edge = 0, tell, idle }) {
    const at = state.at[key];
    const draw_cells = (canvas) => {
      const pen = canvas.getContext("2d");
      pen.clearRect(0, 0, columns, rows);
      paint((r, c, ink, share) => {
        pen.globalAlpha = Math.min(1, share);
        pen.fillStyle = ink;
        pen.fillRect(c, r, 1, 1);
      });
    };
    return h("figure", { key, class: "touch-picture" },
      h("div", {}, paint ? h("canvas", { key: `${key} cells`, width: columns, height: rows,
        class: "touch-map", "aria-hidden": "true", paint: draw_cells }) : null,
      field(`${key} field`, { name: `${title}. Arrow keys read its numbers.`, rows, columns, at, hover: true,
        view: [edge, edge, rows - edge, columns - edge], set: (...cell) => { state.at[key] = cell; redraw(); } },
      parts, at ? h("path", { key: "here", class: "touch-outline", d: `M${at[1]} ${at[0]}h1v1h-1z` }) : null)),
      h("p", { key: `${key} name`, class: "touch-step-name" }, title),
      h("p", { key: `${key} read`, class: "touch-read", "aria-live": "polite" }, (at && tell(...at)) || idle));
  }

  function filters() {
    const [weight] = state.run.parameters;
    const { shape: [count, , k], data: w } = weight.value;
    const [across, step] = [Math.min(count, 4), k + 1];
    const index = (r, c) => {
      const f = Math.floor(r / step) * across + Math.floor(c / step);
      return r % step === k || c % step === k || f >= count ? -1
        : f * w.length / count + (r % step) * k + c % step;
    };
    const [rows, columns] = [Math.ceil(count / across) * step - 1, across * step - 1];
    const limit = w.subarray(0, w.length).reduce((most, v) => Math.max(most, Math.abs(v)), 0) || 1;
    const [under, over] = [colour("--touch-x"), colour("--touch-g")];
    return picture_of("filters", `filters ${k} \u00d7 ${k}`, [rows, columns], { paint: (dot) => {
      for (let r = 0; r < rows; r++)
        for (let c = 0; c < columns; c++) {
          const a = index(r, c);
          if (a >= 0) dot(r, c, w[a] < 0 ? under : over, 0.06 + Math.abs(w[a]) / limit);
        }
    }, tell: (r, c) => {
      const a = index(r, c);
      return a < 0 ? "" : `filter ${Math.floor(r / step) * across + Math.floor(c / step)}, place (${r % step}, ${
        c % step}): ${show(w[a].toFixed(4))}`;
    }, idle: "blue below 0, vermilion above" });
  }

  function worst() {
    const { worst: n, said, most } = state.run.seen;
    const { images, labels } = data.judge;
    const pixels = images.data.subarray(n * side * side, (n + 1) * side * side);
    const white = pixels.reduce((a, b) => Math.max(a, b), 1);
    const ink = colour("--book-ink");
    return picture_of("worst", "most wrong about", [side, side], {
      paint: (dot) => pixels.forEach((v, a) => dot(Math.floor(a / side), a % side, ink, v / white)),
      tell: (r, c) => `pixel (${r}, ${c}): ${pixels[r * side + c]}`,
      idle: `${data.names[labels.data[n]]}, read as ${data.names[said]}: a loss of ${most.toFixed(1)}`,
    });
  }

  function matrix() {
    const [{ confusion }, k] = [state.run.seen, data.names.length];
    const most = confusion.reduce((top, v, a) => (a % (k + 1) ? Math.max(top, v) : top), 1);
    const cells = [...confusion].map((v, a) => [Math.floor(a / k), a % k, v]).filter(([, , v]) => v);
    const label = (key, text, x, y) => h("text", { key, class: "quiet", x, y, "font-size": 0.5 }, text);
    return picture_of("matrix", "confusion matrix", [k, k], { edge: -1, parts: [
      h("path", { key: "grid", class: "touch-lines", d: `M0 0h${k}v${k}h-${k}z` }),
      cells.map(([r, c, v]) => [h("rect", { key: `c${r} ${c}`, x: c, y: r, width: 1, height: 1,
        class: r === c ? "right" : "wrong", opacity: r === c ? 1 : 0.25 + 0.75 * v / most }),
      h("text", { key: `n${r} ${c}`, x: c + 0.5, y: r + 0.53, "font-size": v > 99 ? 0.42 : 0.5 }, v)]),
      data.names.map((_, c) => [label(`said${c}`, c, c + 0.5, -0.45), label(`true${c}`, c, -0.45, c + 0.53)])],
    tell: (r, c) => `${data.names[r]} read as ${data.names[c]}: ${confusion[r * k + c]}`,
    idle: "rows true, columns read" });
  }

  // Each layer with weights: the size of its gradient, and its dead filters.
  function layers() {
    const { run } = state;
    const weights = run.parameters.map((p, i) => [p, run.gradients[i]]).filter(([p]) => p.value.shape.length > 1);
    const bar = (size) => Math.max(0, Math.min(1, (Math.log10(size) + 6) / 8)); // 1e-6 to 100
    return h("table", { key: "layers", class: "touch-layers" },
      h("thead", {}, h("tr", {}, ["layer", "size of its gradient", "dead filters"].map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, weights.map(([p, size], i) => {
        const dead = run.seen?.dead[i];
        return h("tr", { key: `layer${i}` }, h("td", {}, p.value.shape.length === 4
          ? `convolution${run.settings.convs > 1 ? ` ${i + 1}` : ""}` : "fully connected"),
        h("td", { key: `gradient${i}` }, h("span", { class: "touch-size" },
          h("i", { style: `width:${(100 * (size ? bar(size) : 0)).toFixed(0)}%` })),
        size === undefined ? "\u2013" : show(size >= 0.001 ? size.toPrecision(2) : size.toExponential(1))),
        h("td", { key: `dead${i}` }, dead ? `${dead[0]} of ${dead[1]}` : "\u2013"));
      })));
  }

  /* --- Controls ---------------------------------------------------------------------------- */

  const button = (key, text, act, off = false, more = {}) => h("button", { key, type: "button",
    disabled: off ? "" : null, ...more, pick: () => { act(); wake(); redraw(); } }, text);

  function buttons() {
    const { run, playing } = state;
    const over = !run || run.lost || run.epochs.length >= run.settings.epochs;
    if (playing && run) { // since "run" was pressed, or the run began
      if (state.since?.run !== run) state.since = { run, images: run.images, time: performance.now() };
      const speed = (run.images - state.since.images) / (performance.now() - state.since.time);
      state.speed = speed ? `${(10 * Math.round(100 * speed)).toLocaleString("en")} images a second` : "";
    }
    const play = () => Object.assign(state, { playing: !playing, since: null });
    return h("div", { key: "buttons", class: "touch-buttons" },
      button("run", playing ? "pause" : "run", play, over, { class: "touch-run" }),
      button("step", "step", () => { state.playing = false; state.single = true; }, over),
      button("rewind", "rewind", () => go(state.settings), !run),
      button("new", "new seed", () => set("seed", (state.settings.seed + 1) % 100)),
      h("span", { key: "speed", class: "touch-speed" }, state.speed));
  }

  function settings(id) {
    const now = state.settings;
    const scale = (key) => {
      const { name, values: list } = choices[key];
      return slider(`${key}-${id}`, name, { value: list.indexOf(now[key]), min: 0, max: list.length - 1,
        text: show(now[key]), set: (k) => set(key, list[k]) });
    };
    const pick = (key) => choice(`${key}-${id}`, choices[key].name,
      choices[key].values.map((value) => [value, value_of(key, value)]), now[key], (value) => set(key, value));
    return h("div", { key: "settings", class: "touch-settings" },
      Object.keys(choices).filter((key) => key !== "seed").map((key) => (choices[key].texts ? pick(key) : scale(key))),
      stepper({ name: "seed", value: now.seed, min: 0, max: 99, set: (value) => set("seed", value) }));
  }

  function code() {
    const text = state.run ? train.python(state.settings, data, dice) : state.problem;
    return h("details", { key: "code", class: "touch-code", open: state.code ? "" : null,
      on: { toggle: (event) => { state.code = event.currentTarget.open; redraw(); } } },
    h("summary", {}, "As code"), state.code ? [
      h("p", {}, "These lines do the same with ", h("code", {}, "cnn"), ", to the last digits of float64."),
      h("pre", { key: "python", tabindex: 0 }, text),
      h("p", {}, "What this page would print:"),
      h("pre", { key: "printed", tabindex: 0 }, state.run?.epochs.map((epoch) =>
        `EpochMetrics(${Object.entries(epoch).map((pair) => pair.join("=")).join(", ")})`).join("\n") || "Nothing yet.")] : null);
  }

  const share = () => h("p", { key: "share", class: "touch-share" },
    h("a", { key: "link", href: link() }, "Link"), " to these settings.");

  function task([key, [title, goal]]) {
    const [now, bounds] = [state.settings, state.bounds];
    const { done, text, guess } = tasks.checks[key](runs(), { ...values, ...state, defaults });
    const answer = (said) => button(said, said, () => state.guesses.set(guess.id, { said, is: guess.is }));
    const bound = key === "cliff" && bounds.get(tasks.ground(now));
    const more = {
      cliff: () => button("bound", "the bound", () => ask(train.curvature(now, data), (found) =>
        bounds.set(tasks.ground(now), 2 * (1 + now.momentum) / (found + now.decay))), !state.run),
      straight: () => button("collapse", "collapse it", () => ask(train.collapse(state.run),
        (found) => { state.run.collapsed = found; }), !state.run || now.act !== "none" || now.pool !== 1),
      luck: () => [button("five", "five seeds", () => {
        begin({ ...now, seed: 0 });
        Object.assign(state, { series: [1, 2, 3, 4], playing: true });
      }, !state.run), guess ? [answer("luck"), answer("gain")] : null],
    }[key]?.();
    return h("li", { key: `task ${key}`, class: done ? "done" : null },
      h("span", { class: "touch-check", role: "img", "aria-label": done ? "done" : "to do" }, done ? "\u2713" : ""),
      h("div", {}, h("b", {}, title), h("p", {}, goal),
        h("p", { key: `${key} text`, class: "touch-state", "aria-live": "polite" },
          bound ? `Bound at these first weights: ${bound.toPrecision(2)}. ${text}` : text),
        h("div", { key: `${key} buttons`, class: "touch-buttons" }, values.setups[key] ? button(`set ${key}`,
          "set it up", () => go({ ...defaults, ...values.setups[key] })) : null, more)));
  }

  function words() {
    const { run, problem } = state;
    if (problem) return problem;
    const last = run.epochs.at(-1);
    if (run.lost) return `Over: ${run.lost}.`;
    if (!run.seen) return "It looks at the validation images.";
    if (!last) return `Nothing is learned yet: ${percent((run.first ?? run.seen).accuracy)} of the validation images are read right.`;
    return `After epoch ${run.epochs.length} of ${run.settings.epochs}, ${percent(last.train_accuracy)} of the training images and ${
      percent(last.validation_accuracy)} of the validation images were read right.`;
  }

  function picture(id) {
    const { run } = state;
    if (run?.seen && !run.first) run.first = { ...run.seen };
    return {
      parts: [buttons(), plots(), table()],
      words: words(),
      controls: [
        settings(id),
        h("div", { key: "pictures", class: "touch-pictures" }, run ? [filters(), run.seen ? [worst(), matrix()] : null] : null),
        run ? layers() : null,
        code(), share(),
        h("ol", { key: "tasks", class: "touch-tasks" }, Object.entries(values.tasks).map(task)),
      ],
    };
  }

  begin(state.settings);
  const redraw = touch.draw(board, picture);
  read();
  addEventListener("hashchange", read);
  // Canvases keep their colours when the page turns dark; so they are drawn again.
  new MutationObserver(redraw).observe(document.documentElement,
    { attributes: true, attributeFilter: ["data-theme"] });
});
