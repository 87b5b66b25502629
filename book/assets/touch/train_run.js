/* Train it yourself, what computes: a run from its settings, in pieces of an image each,
   and the Python that does the same with `cnn`. */

"use strict";

const train = (() => {
  const { range } = touch;
  const LARGEST = 1.5e6; // multiply-adds for an image: what one piece can bear

  /* --- The network --- */

  // Its layers: name and numbers of each.
  function plan(s, side, classes) {
    let [channels, cost] = [1, 0];
    const layers = [];
    const shrink = (...sizes) => { [side] = cnn.output_size([side, side], ...sizes); };
    for (let c = 0; c < s.convs; c++) {
      layers.push(["Conv2d", channels, s.filters, s.k, s.s, s.p]);
      shrink(s.k, s.s, s.p);
      cost += channels * s.filters * s.k ** 2 * side ** 2;
      channels = s.filters;
      if (s.act === "relu") layers.push(["ReLU"]);
    }
    if (s.pool > 1) {
      layers.push(["MaxPool2d", s.pool]);
      shrink(s.pool, s.pool);
    }
    layers.push(["Flatten"], ["Linear", channels * side ** 2, classes]);
    cost += channels * side ** 2 * classes;
    if (cost > LARGEST) throw new Error(
      `${(cost / 1e6).toFixed(1)} million multiply-adds for an image are too many for a page`);
    return layers;
  }

  const std_of = (init, fan_in) => (init === "he" ? Math.sqrt(2 / fan_in) : Number(init) || 0); // zero

  // A run at its first weights. data: learn and judge, {images, labels} each; greys, the
  // scaled number of each grey; side; names.
  function start(settings, data) {
    const network = new cnn.Sequential(...plan(settings, data.side, data.names.length)
      .map(([name, ...sizes]) => new cnn[name](...sizes)));
    const [roll, parameters] = [touch.dice(settings.seed), network.parameters()];
    for (const { value: { shape, data: w } } of parameters) {
      if (shape.length === 1) continue; // biases start at 0
      const std = std_of(settings.init, w.length / shape[0]);
      for (let k = 0; k < w.length; k++) w[k] = std * roll.normal();
    }
    const run = { settings, data, network, parameters, roll, batches: [], epochs: [],
      gradients: [], images: 0, lost: null,
      optimizer: new cnn.SGD(parameters, settings.lr, settings.momentum, settings.decay),
      size: parameters.reduce((sum, p) => sum + p.value.data.length, 0) };
    run.job = descend(run);
    return run;
  }

  // The image at some place of a set, (1, 1, side, side), and its label.
  function take({ images, labels }, place, { greys, side }) {
    const x = cnn.array([1, 1, side, side]);
    for (let a = 0; a < side * side; a++) x.data[a] = greys[images.data[place * side * side + a]];
    return [x, labels.data[place]];
  }

  function permutation(count, { uniform }) {
    const order = range(count);
    for (let last = count - 1; last > 0; last--) {
      const other = Math.floor(uniform() * (last + 1));
      [order[last], order[other]] = [order[other], order[last]];
    }
    return order;
  }

  const largest = (row) => row.reduce((best, v, k) => (v > row[best] ? k : best), 0);
  const norm = (data) => Math.sqrt(data.reduce((sum, g) => sum + g * g, 0));

  /* The mean gradient of some images, left in the parameters' grad, and the mean loss and
     the right answers: image by image, for a batch at once would hold the page up. */
  function* gradient(run, places) {
    const sums = run.parameters.map((p) => p.value.data.slice().fill(0));
    let [loss, right] = [0, 0];
    for (const place of places) {
      cnn.briefly(() => {
        const [x, label] = take(run.data.learn, place, run.data);
        const logits = run.network.forward(x);
        run.network.backward(cnn.cross_entropy_backward(logits, [label]));
        run.parameters.forEach((p, i) => cnn.add(sums[i], 0, 1 / places.length, p.grad.data));
        loss += cnn.cross_entropy(logits, [label]) / places.length;
        right += largest(logits.data) === label;
      });
      run.images += 1;
      yield;
    }
    run.parameters.forEach((p, i) => { p.grad = cnn.array(p.value.shape, sums[i]); });
    return [loss, right];
  }

  /* Descends for ever. Yields after each piece: "step" after a batch, "epoch" when the
     images to judge by have been asked, first of all before the first step. */
  function* descend(run) {
    const { settings: s, parameters } = run;
    yield* judge(run);
    yield "epoch";
    for (;;) {
      let [loss_sum, correct] = [0, 0];
      const order = permutation(s.n, run.roll);
      for (let first = 0; first < s.n; first += s.batch) {
        const batch = order.slice(first, first + s.batch);
        const [loss, right] = yield* gradient(run, batch);
        if (!Number.isFinite(loss)) return lose(run, loss);
        run.gradients = parameters.map((p) => norm(p.grad.data));
        run.optimizer.step();
        run.batches.push(loss);
        loss_sum += loss * batch.length;
        correct += right;
        yield "step";
      }
      const seen = yield* judge(run);
      if (!Number.isFinite(seen.loss)) return lose(run, seen.loss);
      run.epochs.push({ train_loss: loss_sum / s.n, train_accuracy: correct / s.n,
        validation_loss: seen.loss, validation_accuracy: seen.accuracy });
      yield "epoch";
    }
  }

  function lose(run, loss) {
    run.lost = `the loss is ${loss === Infinity ? "infinite" : "not a number"} after ${
      run.batches.length} steps`;
    return "lost";
  }

  // Asks the network about all images to judge by.
  function* judge(run) {
    const { data: { judge: set, names }, network } = run;
    const count = set.labels.data.length;
    const seen = { loss: 0, accuracy: 0, worst: 0, most: -1, dead: [],
      confusion: new Int32Array(names.length ** 2) };
    for (let place = 0; place < count; place++) {
      cnn.briefly(() => {
        let [x, label] = take(set, place, run.data);
        network.layers.forEach((layer, k) => {
          x = layer.forward(x);
          if (layer instanceof cnn.ReLU) alive(seen.dead[k] ??= new Uint8Array(x.shape[1]), x);
        });
        const [loss, said] = [cnn.cross_entropy(x, [label]), largest(x.data)];
        seen.loss += loss / count;
        seen.accuracy += (said === label) / count;
        seen.confusion[label * names.length + said] += 1;
        if (loss > seen.most) Object.assign(seen, { most: loss, worst: place, said });
      });
      yield;
    }
    // Of each ReLU: how many of its maps are 0 everywhere in all images.
    seen.dead = seen.dead.filter(Boolean).map((lit) => [lit.filter((v) => !v).length, lit.length]);
    return run.seen = seen;
  }

  // Which maps of an image have a number above 0.
  function alive(lit, { data }) {
    const size = data.length / lit.length;
    for (let k = 0; k < lit.length; k++)
      lit[k] ||= data.subarray(k * size, (k + 1) * size).some((v) => v > 0);
  }

  /* --- What is asked of a run --- */

  /* The greatest curvature of the loss at the first weights, on its first images: power
     iteration on differences of gradients, as in the chapter on hyperparameters. */
  function* curvature(settings, data, rounds = 12, h = 1e-4) {
    const run = start(settings, data);
    const places = range(Math.min(settings.n, 100));
    const first = run.parameters.flatMap((p) => [...p.value.data]);
    const roll = touch.dice(1);
    function* at(v, by) {
      let k = 0;
      for (const { value } of run.parameters)
        for (let a = 0; a < value.data.length; a++, k++) value.data[a] = first[k] + by * v[k];
      yield* gradient(run, places);
      return run.parameters.flatMap((p) => [...p.grad.data]);
    }
    function* iterate(lift) {
      let [v, value] = [first.map(roll.normal), 0];
      for (let round = 0; round < rounds; round++) {
        const size = norm(v);
        v = v.map((a) => a / size);
        const [up, down] = [yield* at(v, h), yield* at(v, -h)];
        const product = v.map((a, k) => (up[k] - down[k]) / (2 * h) - lift * a);
        value = v.reduce((sum, a, k) => sum + a * product[k], 0);
        v = product;
      }
      return value;
    }
    const found = yield* iterate(0);
    return found < 0 ? found + (yield* iterate(found)) : found;
  }

  /* The one matrix that a network without ReLU and pooling is: asked with an image of
     zeros and with one image for each pixel. Returns how far the matrix is from the
     network on the images to judge by, as a share of the largest logit. */
  function* collapse({ network, data }) {
    const [size, classes] = [data.side ** 2, data.names.length];
    const ask = (...lit) => { // those pixels are 1
      const x = cnn.array([1, 1, data.side, data.side]);
      for (const d of lit) x.data[d] = 1;
      return network.forward(x).data;
    };
    const bias = ask();
    const columns = [];
    for (let d = 0; d < size; d++) {
      columns.push(ask(d).map((v, k) => v - bias[k]));
      yield;
    }
    let [apart, most] = [0, 0];
    for (let place = 0; place < data.judge.labels.data.length; place++) {
      const [x] = take(data.judge, place, data);
      network.forward(x).data.forEach((logit, k) => {
        const sum = columns.reduce((total, column, d) => total + column[k] * x.data[d], bias[k]);
        apart = Math.max(apart, Math.abs(sum - logit));
        most = Math.max(most, Math.abs(logit));
      });
      yield;
    }
    return { apart: apart / most, numbers: (size + 1) * classes };
  }

  /* --- As code --- */

  // code: the lines of the chapter, with places for what is set.
  function python(s, data, code) {
    const layers = plan(s, data.side, data.names.length).map(([name, ...sizes]) => ({
      Conv2d: ([c, f, k, step, p]) => `Conv2d(${c}, ${f}, ${k}, stride=${step}, padding=${p}, rng=rng)`,
      MaxPool2d: ([k]) => `MaxPool2d(${k})`,
      Linear: ([d, m]) => `Linear(${d}, ${m}, rng=rng)`,
    }[name]?.(sizes) ?? `${name}()`)).map((line) => `    cnn.${line},\n`).join("");
    const rule = s.init === "he" ? "cnn.he_std" : `lambda fan_in, fan_out: ${std_of(s.init)}`;
    const known = { ...s, layers, rule, name: data.name, judge: data.judge.labels.data.length };
    return code.replace(/{(\w+)}/g, (_, key) => known[key]);
  }

  return { start, curvature, collapse, python };
})();
