/* The network of the book a second time, for the browser: the functions and layers of
   the package `cnn`, with its names, its shapes, its order of arguments. An array is
   { shape, data }, its numbers in reading order, in float64; a size is a number or a
   pair [rows, columns]. tests/test_engine.py feeds both packages the same numbers. */

"use strict";

const cnn = (() => {
  const product = (shape) => shape.reduce((size, n) => size * n, 1);
  const array = (shape, data = room(product(shape))) => ({ shape, data });

  /* Numbers that start as 0. Fresh memory is slower than the sums that go into it: what
     f makes within briefly(f) lies where the next briefly(f) puts its own. */
  let [memory, used] = [new Float64Array(0), Infinity];
  function room(size) {
    if (used + size > memory.length) return new Float64Array(size);
    return memory.subarray(used, used += size).fill(0);
  }
  function briefly(f) {
    if (!memory.length) memory = new Float64Array(2 ** 17);
    used = 0;
    f();
    used = Infinity;
  }

  const zeros_like = (x) => array(x.shape);
  function map(x, f) {
    const y = zeros_like(x);
    for (let a = 0; a < x.data.length; a++) y.data[a] = f(x.data[a], a);
    return y;
  }
  const check = (holds, message) => { if (!holds) throw new Error(message); };

  /* --- Windows --- */
  const pair = (size) => (Array.isArray(size) ? size : [size, size]);
  // How many windows fit, down and across: floor((H + 2p - k) / s) + 1.
  function output_size(input_size, kernel_size, stride = 1, padding = 0) {
    const [k, s, p] = [pair(kernel_size), pair(stride), pair(padding)];
    const size = [0, 1].map(
      (a) => Math.floor((input_size[a] + 2 * p[a] - k[a]) / s[a]) + 1);
    check(Math.min(...size) >= 1,
      `A window of ${k.join(" × ")} does not fit into ${input_size.join(" × ")}`);
    return size;
  }

  /* What each window reads: reads[p * D + d] is where in an image of shape (C, H, W)
     window p has its place d, of D = C k k; in the frame, which is never built, -1. */
  const known = new Map();
  function reads([channels, height, width], kernel_size, stride, padding) {
    const key = JSON.stringify([channels, height, width, kernel_size, stride, padding]);
    if (known.has(key)) return known.get(key);
    const size = output_size([height, width], kernel_size, stride, padding);
    const [k, s, p] = [pair(kernel_size), pair(stride), pair(padding)];
    const places = channels * product(k);
    known.set(key, Int32Array.from({ length: product(size) * places }, (_, a) => {
      const [window, place] = [Math.floor(a / places), a % places];
      const row = Math.floor(window / size[1]) * s[0] + Math.floor(place / k[1]) % k[0] - p[0];
      const column = window % size[1] * s[1] + place % k[1] - p[1];
      if (row < 0 || row >= height || column < 0 || column >= width) return -1;
      return (Math.floor(place / product(k)) * height + row) * width + column;
    }));
    return known.get(key);
  }

  // The sum of a[i + k] b[j + k], and a[i + k] += factor b[j + k], k < count.
  function dot(a, i, b, j, count) {
    let sum = 0;
    for (let k = 0; k < count; k++) sum += a[i + k] * b[j + k];
    return sum;
  }
  function add(a, i, factor, b, j = 0, count = b.length) {
    for (let k = 0; k < count; k++) a[i + k] += factor * b[j + k];
  }

  /* --- Convolution --- */
  // (N, C, H, W), (F, C, k, k), (F,) -> (N, F, H', W').
  function conv2d(x, weight, bias, stride = 1, padding = 0) {
    const [[n, channels, ...image], [filters, depth, ...kernel]] = [x.shape, weight.shape];
    check(channels === depth, `conv2d was given ${channels} channels, not ${depth}`);
    const y = array([n, filters, ...output_size(image, kernel, stride, padding)]);
    const table = reads(x.shape.slice(1), kernel, stride, padding);
    const [xs, ws, ys, bs] = [x.data, weight.data, y.data, bias.data];
    const [size, places] = [xs.length / n, ws.length / filters];
    const [windows, patch] = [table.length / places, new Float64Array(places)];
    for (let m = 0; m < n; m++)
      for (let p = 0; p < windows; p++) {
        for (let d = 0; d < places; d++) {
          const a = table[p * places + d];
          patch[d] = a < 0 ? 0 : xs[m * size + a];
        }
        for (let f = 0; f < filters; f++)
          ys[(m * filters + f) * windows + p] = bs[f] + dot(ws, f * places, patch, 0, places);
      }
    return y;
  }

  /* dL/dx, dL/dw, dL/db: each output's gradient goes to the pixels and the weights that
     it was made of. Where it is 0, as for most outputs behind pooling, nothing goes. */
  function conv2d_backward(grad_output, x, weight, stride = 1, padding = 0) {
    const [n, filters] = grad_output.shape;
    const grads = [zeros_like(x), zeros_like(weight), array([filters])];
    const [grad_x, grad_weight, grad_bias] = grads.map((grad) => grad.data);
    const table = reads(x.shape.slice(1), weight.shape.slice(2), stride, padding);
    const [xs, ws, gs] = [x.data, weight.data, grad_output.data];
    const [size, places] = [xs.length / n, ws.length / filters];
    const windows = table.length / places;
    for (let b = 0; b < gs.length; b++) {
      const g = gs[b];
      if (g === 0) continue;
      const p = b % windows, map = (b - p) / windows, f = map % filters;
      const first = (map - f) / filters * size;
      grad_bias[f] += g;
      for (let d = 0; d < places; d++) {
        const a = table[p * places + d];
        if (a < 0) continue; // the frame
        grad_x[first + a] += g * ws[f * places + d]; // windows overlap: +=, not =
        grad_weight[f * places + d] += g * xs[first + a];
      }
    }
    return grads;
  }

  /* --- ReLU, max pooling, linear --- */
  // y = max(x, 0); nan stays nan.
  function relu(x) {
    const [y, xs] = [zeros_like(x), x.data];
    for (let a = 0, ys = y.data; a < xs.length; a++) ys[a] = xs[a] <= 0 ? 0 : xs[a];
    return y;
  }
  function relu_backward(grad_output, x) {
    const [grad_x, xs, g] = [zeros_like(x), x.data, grad_output.data];
    for (let a = 0, to = grad_x.data; a < xs.length; a++) to[a] = xs[a] > 0 ? g[a] : 0 * g[a];
    return grad_x;
  }

  // The largest number of each window: (N, C, H, W) -> (N, C, H', W'), map by map.
  function max_pool2d(x, kernel_size, stride = kernel_size, padding = 0) {
    const [[n, channels, ...image], k, p] = [x.shape, pair(kernel_size), pair(padding)];
    check(2 * p[0] <= k[0] && 2 * p[1] <= k[1], `padding ${p} is over half of ${k}`);
    const y = array([n, channels, ...output_size(image, k, stride, p)]);
    const table = reads([1, ...image], k, stride, p);
    const [xs, ys, size, places] = [x.data, y.data, product(image), product(k)];
    for (let b = 0, t = 0, first = 0; b < ys.length; b++) {
      let most = -Infinity; // the frame never wins
      for (const end = t + places; t < end; t++)
        if (table[t] >= 0) most = Math.max(most, xs[first + table[t]]);
      ys[b] = most;
      if (t === table.length) { t = 0; first += size; }
    }
    return y;
  }

  // dL/dx: each window's gradient goes to its first largest number.
  function max_pool2d_backward(grad_output, x, y, kernel_size, stride = kernel_size,
    padding = 0) {
    const [grad_x, image] = [zeros_like(x), x.shape.slice(2)];
    const table = reads([1, ...image], pair(kernel_size), stride, pair(padding));
    const [xs, ys, g, grad] = [x, y, grad_output, grad_x].map((held) => held.data);
    const [size, places] = [product(image), product(pair(kernel_size))];
    for (let b = 0, t = 0, first = 0; b < ys.length; b++) {
      const end = t + places;
      while (t < end && !(table[t] >= 0 && xs[first + table[t]] === ys[b])) t++;
      if (t < end) grad[first + table[t]] += g[b]; // a pixel collects from all its windows
      t = end;
      if (t === table.length) { t = 0; first += size; }
    }
    return grad_x;
  }

  // y = x W^T + b: (N, D), (M, D), (M,) -> (N, M).
  function linear(x, weight, bias) {
    const [[n, d], m, xs, ws] = [x.shape, weight.shape[0], x.data, weight.data];
    check(d === weight.shape[1], `linear was given ${d} features, not ${weight.shape[1]}`);
    return map(array([n, m]), (_, b) =>
      bias.data[b % m] + dot(xs, Math.floor(b / m) * d, ws, b % m * d, d));
  }

  // dL/dx = G W, dL/dW = G^T x, dL/db = the sum of G over the batch.
  function linear_backward(grad_output, x, weight) {
    const [d, m] = [x.shape[1], weight.shape[0]];
    const grads = [zeros_like(x), zeros_like(weight), array([m])];
    const [grad_x, grad_weight, grad_bias] = grads.map((grad) => grad.data);
    grad_output.data.forEach((g, b) => {
      const [row, output] = [Math.floor(b / m) * d, b % m];
      grad_bias[output] += g;
      add(grad_x, row, g, weight.data, output * d, d);
      add(grad_weight, output * d, g, x.data, row, d);
    });
    return grads;
  }

  /* --- The loss --- */
  // log p = (z - m) - log(sum(exp(z - m))) in each row, m = max(z).
  function log_softmax(logits) {
    const [log_p, classes] = [zeros_like(logits), logits.shape[1]];
    for (let r = 0; r < logits.data.length; r += classes) {
      const z = logits.data.subarray(r, r + classes);
      const m = Math.max(...z);
      const log_sum = Math.log(z.reduce((sum, v) => sum + Math.exp(v - m), 0));
      z.forEach((v, k) => { log_p.data[r + k] = v - m - log_sum; });
    }
    return log_p;
  }
  const softmax = (logits) => map(log_softmax(logits), Math.exp);

  // L = -mean(log p[n, labels[n]]).
  function cross_entropy(logits, labels) {
    const [[n, classes], log_p] = [logits.shape, log_softmax(logits).data];
    return -labels.reduce((sum, label, r) => sum + log_p[r * classes + label], 0) / n;
  }

  // dL/dz = (p - y) / N.
  function cross_entropy_backward(logits, labels) {
    const [grad, [n, classes]] = [softmax(logits), logits.shape];
    labels.forEach((label, r) => { grad.data[r * classes + label] -= 1; });
    return map(grad, (v) => v / n);
  }

  /* --- Layers: forward(x), backward(dL/dy), and what is trained --- */
  const parameter = (...shape) => ({ value: array(shape), grad: array(shape) });

  class Layer {
    parameters() { return Object.values(this).filter((held) => held?.grad); }
    keep(grad_x, grad_weight, grad_bias) {
      [this.weight.grad, this.bias.grad] = [grad_weight, grad_bias];
      return grad_x;
    }
  }

  class Conv2d extends Layer {
    constructor(in_channels, out_channels, kernel_size, stride = 1, padding = 0) {
      super();
      this.weight = parameter(out_channels, in_channels, ...pair(kernel_size));
      this.bias = parameter(out_channels);
      this.steps = [stride, padding];
    }
    forward(x) {
      return conv2d(this.x = x, this.weight.value, this.bias.value, ...this.steps);
    }
    backward(g) {
      return this.keep(...conv2d_backward(g, this.x, this.weight.value, ...this.steps));
    }
  }
  class ReLU extends Layer {
    forward(x) { return relu(this.x = x); }
    backward(g) { return relu_backward(g, this.x); }
  }
  class MaxPool2d extends Layer {
    constructor(...sizes) { super(); this.sizes = sizes; }
    forward(x) { return this.y = max_pool2d(this.x = x, ...this.sizes); }
    backward(g) { return max_pool2d_backward(g, this.x, this.y, ...this.sizes); }
  }
  class Flatten extends Layer {
    forward(x) { return array([x.shape[0], product((this.shape = x.shape).slice(1))], x.data); }
    backward(g) { return array(this.shape, g.data); }
  }
  class Linear extends Layer {
    constructor(in_features, out_features) {
      super();
      this.weight = parameter(out_features, in_features);
      this.bias = parameter(out_features);
    }
    forward(x) { return linear(this.x = x, this.weight.value, this.bias.value); }
    backward(g) { return this.keep(...linear_backward(g, this.x, this.weight.value)); }
  }

  class Sequential extends Layer {
    constructor(...layers) { super(); this.layers = layers; }
    parameters() { return this.layers.flatMap((layer) => layer.parameters()); }
    forward(x) { return this.layers.reduce((y, layer) => layer.forward(y), x); }
    backward(g) { return this.layers.reduceRight((h, layer) => layer.backward(h), g); }
  }

  // v <- momentum * v + (grad + weight_decay * w);  w <- w - lr * v.
  class SGD {
    constructor(parameters, lr, momentum = 0, weight_decay = 0) {
      Object.assign(this, { parameters, lr, momentum, weight_decay });
      this.velocities = parameters.map((p) => zeros_like(p.value).data);
    }
    step() {
      this.parameters.forEach(({ value: { data: w }, grad: { data: grad } }, i) => {
        for (let k = 0, v = this.velocities[i]; k < w.length; k++) {
          v[k] = this.momentum * v[k] + grad[k] + this.weight_decay * w[k];
          w[k] -= this.lr * v[k];
        }
      });
    }
  }

  return { array, briefly, add, output_size, conv2d, conv2d_backward, relu, relu_backward,
    max_pool2d, max_pool2d_backward, linear, linear_backward, log_softmax, softmax,
    cross_entropy, cross_entropy_backward, Conv2d, ReLU, MaxPool2d, Flatten, Linear,
    Sequential, SGD };
})();
