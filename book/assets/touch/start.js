/* Scale and depth of the start: how large a signal is in each layer of a stack, and the
   gradient on its way back, for weights of any size; with the limits of float32. */

"use strict";

touch.figure("start", (board, values) => {
  const { h, power, short, up, letter, number, path, mark } = touch;
  const { x, labels, units: width, classes } = values;
  const state = { sigma: values.sigma, rule: "one size", depth: values.depth, relu: true, biases: false };
  const { draw, act, choice, slider } = board(state);
  const RULES = { "one size": () => state.sigma,
    Xavier: (from, to) => Math.sqrt(2 / (from + to)), He: (from) => Math.sqrt(2 / from) };
  const [LARGEST, LEAST] = [2 ** 128, 2 ** -149]; // where float32 says inf, or 0

  // Numbers of size 1 for a layer's weights and biases: the same dice at every scale.
  const drawn = new Map();
  function draw_layer(layer, from, to) {
    const key = `${layer} ${to}`;
    if (!drawn.has(key)) {
      const { normal } = touch.dice(7919 * layer);
      drawn.set(key, [to * from, to].map((n) => Float64Array.from({ length: n }, normal)));
    }
    return drawn.get(key);
  }

  const rms = (a) => Math.sqrt(a.reduce((sum, v) => sum + v * v, 0) / a.length);
  // What differs from image to image: the size of y less its mean over the batch.
  function apart({ shape: [n, m], data }) {
    const means = data.slice(0, m).fill(0);
    data.forEach((v, a) => { means[a % m] += v / n; });
    return rms(data.map((v, a) => v - means[a % m]));
  }

  function compute() {
    let signal = cnn.array(x.shape, Float64Array.from(x.data));
    const layers = [];
    for (let l = 0; l < state.depth; l++) {
      const [from, to] = [signal.shape[1], l === state.depth - 1 ? classes : width];
      const scale = RULES[state.rule](from, to);
      const [weight, bias] = draw_layer(l, from, to);
      const given = { input: signal, weight: cnn.array([to, from], weight.map((v) => scale * v)) };
      const y = cnn.linear(signal, given.weight,
        cnn.array([to], bias.map((v) => (state.biases ? scale * v : 0))));
      layers.push({ ...given, y, size: rms(y.data), apart: apart(y) });
      signal = state.relu && l < state.depth - 1 ? cnn.relu(y) : y;
    }
    let grad = cnn.cross_entropy_backward(signal, labels);
    for (const layer of [...layers].reverse()) {
      layer.told = rms(grad.data);
      [grad] = cnn.linear_backward(grad, layer.input, layer.weight);
      const below = layers[layers.indexOf(layer) - 1];
      if (below && state.relu) grad = cnn.relu_backward(grad, below.y);
    }
    return layers;
  }

  /* --- Bars that grow up or down from 1, on a logarithmic scale --- */

  const [LEFT, RIGHT, TOP, BOTTOM] = [54, 308, 24, 150];
  const powers = (value) => Math.log10(Math.max(value, 1e-300));
  const reach = (layers) => [2, 4, 10, 20, 50, 100, 300].find((most) =>
    layers.every(({ size, told }) => Math.max(Math.abs(powers(size)), Math.abs(powers(told))) <= most));

  function bars(key, title, kind, layers, most, size) {
    const wide = (RIGHT - LEFT) / layers.length;
    const down = touch.scale(-most, most, BOTTOM, TOP);
    const limit = (value, text, dy) => (Math.abs(powers(value)) > most ? null : [
      path("limit", `M${LEFT} ${down(powers(value))}H${RIGHT}`, text),
      mark(RIGHT, down(powers(value)) + dy, text)]);
    const lost = (value) => value >= LARGEST || value < LEAST;
    return touch.plot(key, `${title}: ${power(size(layers[0]))} in layer 1, ${
      power(size(layers.at(-1)))} in layer ${layers.length}`, 172, [
      mark(4, 13, title, ""),
      [-1, -0.5, 0, 0.5, 1].map((share) => mark(LEFT - 5, down(share * most) + 4, `10${up(share * most)}`)),
      layers.map((layer, l) => {
        const [one, end] = [down(0), down(powers(size(layer)))];
        return h("rect.column", { class: `${kind} ${lost(size(layer)) ? "lost" : ""}`,
          "data-size": size(layer), x: LEFT + l * wide + wide * 0.12, width: wide * 0.76,
          y: Math.min(one, end), height: Math.max(1, Math.abs(end - one)) });
      }),
      kind === "y" && path("apart", layers.map((layer, l) =>
        `M${LEFT + l * wide} ${down(powers(layer.apart)).toFixed(1)}h${wide.toFixed(1)}`).join("")),
      path("axes", `M${LEFT} ${TOP}V${BOTTOM}M${LEFT} ${down(0)}H${RIGHT}`),
      limit(LARGEST, "largest float32", -4), limit(LEAST, "smallest float32", 13),
      [[LEFT + wide / 2, 1], [RIGHT - wide / 2, layers.length], [(LEFT + RIGHT) / 2, "layer"]]
        .map(([at, text]) => mark(at, 168, text, "middle"))]);
  }

  // One layer's factor, and its power, beside what was measured from first to last.
  function sum(layers) {
    const sigma = RULES[state.rule](width, width);
    const factor = sigma * Math.sqrt(width / (state.relu ? 2 : 1));
    const times = layers.length - 1;
    return [number("w", short(sigma)), ` · √${
      state.relu ? `(${width}/2)` : width} = ${short(factor)} a layer; ${short(factor)}${up(times)} = `,
    h("b", { key: "predicted" }, power(factor ** times)), ", measured ",
    number("y", power(layers.at(-1).size / layers[0].size), "measured")];
  }

  function words(layers) {
    const first = (holds) => layers.findIndex(holds) + 1;
    const [burst, faded] = [first(({ size }) => size >= LARGEST), first(({ size }) => size < LEAST)];
    const deaf = layers.filter(({ told }) => told < LEAST).length;
    const last = layers.at(-1);
    if (burst) return `From layer ${burst} on the signal is more than float32 can hold: inf, and the loss nan.`;
    if (faded) return `From layer ${faded} on the signal is less than float32 can hold: 0.`;
    if (deaf) return `The gradient of ${deaf} layers is less than float32 can hold: 0. They cannot learn.`;
    if (last.apart < last.size / 100) return "The biases keep the signal up, but it is the same for all images: "
      + "the thin lines show what differs among them.";
    const drift = Math.abs(powers(last.size / layers[0].size));
    if (drift < 0.7) return "Level, up and down: no layer loses the image, and each is told the error.";
    return `The signal ${last.size < layers[0].size ? "fades" : "grows"} on its way up, the gradient on its way down. `
      + "A straight line on this scale is a power.";
  }

  draw(() => {
    const layers = compute();
    const most = reach(layers);
    const sigma = RULES[state.rule](width, width);
    return {
      parts: h("div.plots", {},
        bars("up", "signal y, on its way up →", "y", layers, most, ({ size }) => size),
        bars("down", "← gradient ∂L/∂y, on its way down", "g", layers, most, ({ told }) => told)),
      sum: sum(layers),
      words: words(layers),
      controls: [
        slider("sigma", letter("σ"), { value: Math.round(20 * Math.log10(sigma)) / 20,
          min: -3, max: 1, step: 0.05, text: short(sigma),
          take: act((e) => Object.assign(state, { sigma: 10 ** e, rule: "one size" })) }),
        slider("depth", "layers", { min: 2, max: 40 }),
        choice("rule", "start", Object.keys(RULES)),
        choice("relu", "ReLU", [[true, "on"], [false, "off"]]),
        choice("biases", "biases", [[true, "drawn"], [false, "zero"]]),
      ],
    };
  });
});
