/* Train it yourself: the book's network, trained in the page. What computes stands in
   train_run.js, the tasks in train_tasks.js; here is the board, and who works when. */

"use strict";

touch.figure("train", (board, values) => {
  const { h, show, short, range, path, mark, curve, scale } = touch;
  const { controls: choices } = values; // what can be set; in the address each goes by its key
  const tasks = train.tasks(choices);
  const { percent, whole } = tasks;
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
  const defaults = { ...values.start, n: values.learn.shape[0], seed: 0 };

  const state = { settings: { ...defaults }, run: null, problem: "", playing: false, single: false,
    old: [{ name: "cnn, in Python", epochs: values.history }], log: [], side: null,
    series: [], at: {}, code: false, bounds: new Map(), guesses: new Map() };
  const { element, draw, redraw, act, ...controls } = board(state);

  /* --- Who works when --- */

  let [waiting, rest] = [false, 0];
  const turn = new MessageChannel(); // a timer would rest for 4 ms each time
  turn.port1.onmessage = work;
  const wake = () => {
    if (!waiting) turn.port2.postMessage(0);
    waiting = true;
  };

  // A run judges its first weights without being told to; beyond that it needs "run".
  const wanted = () => state.side?.job ?? (state.run && !state.run.lost
    && (state.playing || state.single || !state.run.seen) ? state.run.job : null);

  function work() {
    waiting = false;
    const begun = performance.now();
    while (wanted() && performance.now() - begun < SLICE) {
      if (state.side) { // the bound, or a collapse
        const { job, then } = state.side;
        const { done, value } = job.next();
        if (done) {
          state.side = null;
          then(value);
        }
      } else {
        const { value } = state.run.job.next();
        if (value) state.single = false;
        if (value === "lost" || (value === "epoch" && state.run.epochs.length === state.run.settings.epochs)) ended();
      }
    }
    if (!wanted() || performance.now() > rest) setTimeout(show_it);
    if (wanted()) wake();
  }

  // Not so often that drawing would take more than a tenth of the time.
  function show_it() {
    const begun = performance.now();
    redraw();
    const ended = performance.now();
    rest = ended + Math.max(120, 9 * (ended - begun));
  }

  function ended() {
    state.playing = false;
    if (!state.series.length) return;
    begin({ ...state.settings, seed: state.series.shift() });
    state.playing = true;
  }

  const runs = () => [...state.log, ...(state.run?.epochs.length || state.run?.lost
    ? [tasks.account(state.run)] : [])];

  // A new run, from the first weights of these settings; the old one stays as a pale curve.
  function begin(settings) {
    const { run } = state;
    if (run && (run.epochs.length || run.lost)) {
      state.log.push(tasks.account(run));
      state.old = [{ settings: { ...run.settings }, epochs: run.epochs, lost: run.lost,
        kind: "wyg"[state.log.length % 3] }, ...state.old].slice(0, 3);
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
    tell();
  }

  function set(name, value) {
    const settings = { ...state.settings, [name]: value };
    if (name !== "epochs" || !state.run || state.run.epochs.length > value) return go(settings, state.playing);
    state.settings = settings; // all else goes on as it was
    state.run.settings.epochs = value;
    tell();
  }

  /* --- The address --- */

  function link() {
    const told = tasks.changed(state.settings, defaults).map((key) => `${key}=${state.settings[key]}`);
    return told.length ? `#${told.join("&")}` : location.pathname + location.search;
  }

  const tell = () => history.replaceState(null, "", link());

  // Sets the board as the address says: "#lr=0.1&init=zero".
  function read() {
    const told = new URLSearchParams(location.hash.slice(1));
    const known = Object.keys(choices).filter((key) => told.has(key));
    if (!known.length) return;
    const settings = { ...defaults };
    for (const key of known)
      settings[key] = choices[key].values.find((value) => String(value) === told.get(key)) ?? settings[key];
    act(go)(settings);
    element.closest("figure").scrollIntoView();
  }

  // The description of a part, while what it depends on is the same.
  const kept = {};
  function keep(describe, ...on) {
    const { name } = describe;
    if (!kept[name]?.on.every((value, k) => value === on[k])) kept[name] = { on, part: describe() };
    return kept[name].part;
  }

  /* --- Curves --- */

  const [LEFT, RIGHT, TOP, BOTTOM] = [46, 310, 22, 182];

  // marks: what the lines across say; at: where a number stands among them.
  function plot(title, marks, at, text, guess, curves) {
    const last = Math.max(state.settings.epochs, 1);
    const across = scale(0, last, LEFT, RIGHT);
    const down = (value) => scale(at(marks[0]), at(marks.at(-1)), BOTTOM, TOP)(at(value));
    const step = [1, 2, 5, 10, 20, 50].find((size) => last / size <= 6);
    return touch.plot(title, `${title}, against the epoch`, 208, [
      mark(LEFT, 12, title, "touch-title"),
      marks.map((v) => [path("lines", `M${LEFT} ${down(v)}H${RIGHT}`, v), mark(LEFT - 6, down(v) + 4, text(v))]),
      range(Math.floor(last / step) + 1).map((k) => mark(across(k * step), 196, k * step, "middle")),
      curve("guess", "one", [LEFT, RIGHT].map((x) => [x, down(guess)])), mark(RIGHT, down(guess) - 4, "a guess"),
      curves.map(({ name, points }) => curve(name, name, points.filter(([epoch, v]) => epoch <= last && Number.isFinite(v))
        .map(([epoch, v]) => [across(epoch), down(v)])))]);
  }

  // The batches' losses, thinned to what can be seen.
  function thin(losses, per) {
    const size = Math.ceil(losses.length / 200);
    return range(Math.ceil(losses.length / size) || 0).map((k) => {
      const part = losses.slice(k * size, (k + 1) * size);
      return [(k * size + part.length / 2) / per, tasks.mean(part)];
    });
  }

  function curves(what) {
    const { run } = state;
    const of = (epochs, key) => epochs.map((epoch, k) => [k + 1, epoch[`${key}_${what}`]]);
    const found = [...state.old.entries()].reverse().flatMap(([k, { epochs, kind }]) => [
      { name: `old train${k} ${kind}`, points: of(epochs, "train") },
      { name: `old valid${k} ${kind}`, points: of(epochs, "validation") }]);
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
    const low = Math.max(-4, Math.floor(Math.log10(Math.min(0.5, ...shown))));
    const high = Math.ceil(Math.log10(Math.max(5, ...shown)));
    return h("div.plots", {},
      plot("loss", range(high - low + 1).map((k) => Number(`1e${low + k}`)), Math.log, String,
        Math.log(data.names.length), losses),
      plot("accuracy", [0, 0.25, 0.5, 0.75, 1], (v) => v, (v) => `${100 * v} %`,
        1 / data.names.length, curves("accuracy")));
  }

  const table = (heads, rows) => h("table", {},
    h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text)))), h("tbody", {}, rows));
  // What a run was set to, where that is not as the board was at first.
  const list = (settings, keys) =>
    keys.map((key) => `${choices[key].name} ${tasks.told(key, settings[key])}`).join(", ");
  const told = (settings) => list(settings, tasks.changed(settings, defaults, ["epochs"])) || "as at first";

  function row(key, { name, settings, epochs, lost, kind }) {
    const [now, last] = [key === "this run", epochs.at(-1)];
    return h("tr", { key, class: now ? "now" : null },
      h("td", {}, h("i.swatch", { class: kind }),
        settings && !now ? h("button.take", { title: "take these settings",
          pick: act(() => go({ ...settings })) }, told(settings)) : name ?? told(settings)),
      [epochs.length, last ? percent(last.train_accuracy) : "\u2013",
        lost ? "lost" : last ? percent(last.validation_accuracy) : "\u2013"].map((text) => h("td", {}, text)));
  }

  /* --- Pictures --- */

  /* A picture of rows x columns numbers: `cells` are its numbers, the limit and the colour
     that they are painted with, or parts are drawn, from `edge` on. Below stands what
     tell(row, column) says of the cell that is pointed at. */
  function picture_of(key, title, [rows, columns], { cells, parts, edge = 0, tell, idle }) {
    const at = state.at[key];
    return h("figure.picture", { key },
      h("div", {}, cells && touch.pixels("cells", cells[0], columns, cells[1], cells[2], { "aria-hidden": "true" }),
        touch.field(`${key} field`, { name: `${title}. Arrow keys read its numbers.`, rows, columns, at, hover: true,
          view: [edge, edge, rows - edge, columns - edge], set: act((...cell) => { state.at[key] = cell; }) },
        parts, at && path("outline", touch.squares([at])))),
      h("p.step-name", {}, title),
      h("p.read", { key: `${key} read`, "aria-live": "polite" }, (at && tell(...at)) || idle));
  }

  function filters() {
    const { shape: [count, , k], data: w } = state.run.parameters[0].value;
    const [across, step] = [Math.min(count, 4), k + 1]; // a gap beside each
    const [rows, columns] = [Math.ceil(count / across) * step - 1, across * step - 1];
    const find = (r, c) => [Math.floor(r / step) * across + Math.floor(c / step), r % step, c % step];
    const weight = (f, u, v) => (u < k && v < k ? w[f * w.length / count + u * k + v] : undefined);
    const cells = Float64Array.from({ length: rows * columns }, (_, a) =>
      weight(...find(Math.floor(a / columns), a % columns)) ?? 0);
    return picture_of("filters", `filters ${k} × ${k}`, [rows, columns], {
      cells: [cells, cells.reduce((most, v) => Math.max(most, Math.abs(v)), 0), "--touch-g"],
      tell: (r, c) => {
        const [f, u, v] = find(r, c);
        const value = weight(f, u, v);
        return value === undefined ? "" : `filter ${f}, place (${u}, ${v}): ${show(value.toFixed(4))}`;
      },
      idle: "blue below 0, vermilion above" });
  }

  function worst() {
    const { worst: n, said, most } = state.run.seen;
    const { images, labels } = data.judge;
    const pixels = images.data.subarray(n * side * side, (n + 1) * side * side);
    return picture_of("worst", "most wrong about", [side, side], {
      cells: [pixels, Math.max(...pixels), "--book-ink"],
      tell: (r, c) => `pixel (${r}, ${c}): ${pixels[r * side + c]}`,
      idle: `${data.names[labels.data[n]]}, read as ${data.names[said]}: a loss of ${most.toFixed(1)}`,
    });
  }

  function matrix() {
    const [{ confusion }, k] = [state.run.seen, data.names.length];
    const most = confusion.reduce((top, v, a) => (a % (k + 1) ? Math.max(top, v) : top), 1);
    const cells = [...confusion].map((v, a) => [Math.floor(a / k), a % k, v]).filter(([, , v]) => v);
    const label = (x, y, text) => h("text", { class: "quiet", x, y, "font-size": 0.5 }, text);
    return picture_of("matrix", "confusion matrix", [k, k], { edge: -1, parts: [
      path("lines", `M0 0h${k}v${k}h-${k}z`),
      cells.map(([r, c, v]) => [h("rect", { key: `c${r} ${c}`, x: c, y: r, width: 1, height: 1,
        class: r === c ? "right" : "wrong", opacity: r === c ? 1 : 0.25 + 0.75 * v / most }),
      h("text", { key: `n${r} ${c}`, x: c + 0.5, y: r + 0.53, "font-size": v > 99 ? 0.42 : 0.5 }, v)]),
      range(k).map((c) => [label(c + 0.5, -0.45, c), label(-0.45, c + 0.53, c)])],
    tell: (r, c) => `${data.names[r]} read as ${data.names[c]}: ${confusion[r * k + c]}`,
    idle: "rows true, columns read" });
  }

  // Each layer with weights: the size of its gradient, and its dead filters.
  function layers() {
    const { parameters, gradients, settings, seen } = state.run;
    const weights = parameters.map((p, i) => [p, gradients[i]]).filter(([p]) => p.value.shape.length > 1);
    return table(["layer", "size of its gradient", "dead filters"], weights.map(([p, size], i) => {
      const [dead, long] = [seen?.dead[i], scale(-6, 2, 0, 100)(Math.log10(size))]; // 1e-6 to 100
      return h("tr", {}, h("td", {}, p.value.shape.length === 4
        ? `convolution${settings.convs > 1 ? ` ${i + 1}` : ""}` : "fully connected"),
      h("td", { key: `gradient${i}` }, h("span.gauge", {},
        h("i", { style: `width:${long || 0}%` })),
      size === undefined ? "\u2013" : short(size)),
      h("td", { key: `dead${i}` }, dead ? `${dead[0]} of ${dead[1]}` : "\u2013"));
    }));
  }

  /* --- Controls --- */

  const button = (key, text, change, off = false, more = {}) => controls.button(key, text,
    () => { change(); wake(); }, { disabled: off ? "" : null, ...more });

  function buttons() {
    const { run, playing } = state;
    const over = !run || run.lost || run.epochs.length >= run.settings.epochs;
    if (playing && run) { // since "run" was pressed, or the run began
      if (state.since?.run !== run) state.since = { run, images: run.images, time: performance.now() };
      const speed = (run.images - state.since.images) / (performance.now() - state.since.time);
      state.speed = speed ? `${(10 * Math.round(100 * speed)).toLocaleString("en")} images a second` : "";
    }
    return h("div.buttons", {},
      button("run", playing ? "pause" : "run", () => Object.assign(state, { playing: !playing, since: null }),
        over, { class: "touch-run" }),
      button("step", "step", () => Object.assign(state, { playing: false, single: true }), over),
      button("rewind", "rewind", () => go(state.settings), !run),
      button("new", "new seed", () => set("seed", (state.settings.seed + 1) % 100)),
      h("span", { key: "size" }, run && `${whole(run.size)} parameters`), h("span.speed", {}, state.speed));
  }

  function settings() {
    const now = state.settings;
    return h("div.settings", {},
      Object.entries(choices).map(([key, { name, values: list, texts }]) => {
        const take = act((value) => set(key, value));
        if (key === "seed") return touch.stepper({ name, value: now.seed, min: 0, max: 99, set: take });
        return texts ? controls.choice(key, name, list.map((value) => [value, tasks.told(key, value)]), take, now[key])
          : controls.slider(key, name, { value: list.indexOf(now[key]), min: 0, max: list.length - 1,
            text: show(now[key]), take: (k) => take(list[k]) });
      }));
  }

  function code() {
    const text = state.run ? `${dice}\n\n${train.python(state.settings, data, values.code)}` : state.problem;
    const toggle = act(({ currentTarget }) => { state.code = currentTarget.open; });
    return h("details.code", { open: state.code ? "" : null, on: { toggle } },
      h("summary", {}, "As code"), state.code ? [
        h("p", {}, "These lines do the same with ", h("code", {}, "cnn"), ", to the last digits of float64."),
        h("pre", { key: "python", tabindex: 0 }, text),
        h("p", {}, "What this page would print:"),
        h("pre", { key: "printed", tabindex: 0 }, state.run?.epochs.map((epoch) =>
          `EpochMetrics(${Object.entries(epoch).map((pair) => pair.join("=")).join(", ")})`).join("\n") || "Nothing yet.")] : null);
  }

  function task([key, [title, goal]]) {
    const [now, bounds] = [state.settings, state.bounds];
    const { done, text, guess } = tasks.checks[key](runs(), { ...values, ...state, defaults });
    const answer = (said) => button(said, said, () => state.guesses.set(guess.id, { said, is: guess.is }));
    const set_up = values.setups[key];
    const is_set = set_up && !tasks.changed(now, { ...defaults, ...set_up }).length;
    const bound = key === "cliff" && bounds.get(tasks.ground(now));
    const more = {
      cliff: () => button("bound", "the bound", () => {
        state.side = { job: train.curvature(now, data), then: (found) =>
          bounds.set(tasks.ground(now), 2 * (1 + now.momentum) / (found + now.decay)) };
      }, !state.run),
      straight: () => button("collapse", "collapse it", () => {
        state.side = { job: train.collapse(state.run), then: (found) => { state.run.collapsed = found; } };
      }, !state.run || now.act !== "none" || now.pool !== 1),
      luck: () => [button("five", "five seeds", () => {
        begin({ ...now, seed: 0 });
        Object.assign(state, { series: [1, 2, 3, 4], playing: true });
      }, !state.run), guess ? [answer("luck"), answer("gain")] : null],
    }[key]?.();
    return h("li", { key: `task ${key}`, class: done ? "done" : null },
      h("span.check", { role: "img", label: done ? "done" : "to do" }, done ? "✓" : ""),
      h("div", {}, h("b", {}, title), h("p", {}, goal),
        h("p.state", { key: `${key} text`, "aria-live": "polite" },
          is_set && `Set: ${list(now, Object.keys(set_up))}; all else as at first. `,
          bound && `Bound at these first weights: ${short(bound)}. `, text),
        h("div.buttons", {}, set_up && button(`set ${key}`,
          "set it up", () => go({ ...defaults, ...set_up })), more)));
  }

  function words() {
    const { run, problem } = state;
    if (problem) return problem;
    const last = run.epochs.at(-1);
    if (run.lost) return `Over: ${run.lost}.`;
    if (!run.seen) return "It looks at the validation images.";
    if (!last) return `Nothing is learned yet: ${percent(run.first.accuracy)} of the validation images are read right.`;
    return `After epoch ${run.epochs.length} of ${run.settings.epochs}, ${percent(last.train_accuracy)} of the training images and ${
      percent(last.validation_accuracy)} of the validation images were read right.`;
  }

  begin(state.settings);
  draw(() => {
    const { run } = state;
    if (run?.seen) run.first ??= run.seen;
    return {
      above: buttons(),
      parts: [plots(), table(["run", "epochs", [h("i.swatch", { class: "train" }), "training"],
        [h("i.swatch", {}), "validation"]], [
        run && row("this run", run), state.old.map((old, k) => row(`before${k}`, old))])],
      words: words(),
      controls: [
        keep(settings, state.settings),
        h("div.pictures", {}, run && [filters(), run.seen && [keep(worst, run.seen, state.at.worst), keep(matrix, run.seen, state.at.matrix)]]),
        run && layers(),
        code(),
        h("p.share", {}, h("a", { key: "link", href: link() }, "Link"), " to these settings."),
        h("ol.tasks", {}, Object.entries(values.tasks).map(task)),
      ],
    };
  });
  read();
  addEventListener("hashchange", read);
});
