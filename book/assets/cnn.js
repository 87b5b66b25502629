/* The network of the book a second time, for the browser: the functions and layers of
   the package `cnn`, with its names, its shapes, its order of arguments. An array is
   { shape, data }, its numbers in reading order, in float64; a size is a number or a
   pair [rows, columns]. tests/test_engine.py feeds both packages the same numbers. */

"use strict";

const cnn = (() => {
  const product = (shape) => shape.reduce((size, n) => size * n, 1);
  const array = (shape, data = new Float64Array(product(shape))) => ({ shape, data });
  const zeros_like = (x) => array(x.shape);
  function map(x, f) {
    const y = zeros_like(x);
    for (let a = 0; a < x.data.length; a++) y.data[a] = f(x.data[a], a);
    return y;
  }
  const check = (holds, message) => { if (!holds) throw new Error(message); };

  /* --- Windows ------------------------------------------------------------- */
  const pair = (size) => (Array.isArray(size) ? size : [size, size]);
  // How many windows fit, down and across: floor((H + 2p - k) / s) + 1.
  function output_size(input_size, kernel_size, stride = 1, padding = 0) {
    const [k, s, p] = [pair(kernel_size), pair(stride), pair(padding)];
    const size = [0, 1].map(
      (a) => Math.floor((input_size[a] + 2 * p[a] - k[a]) / s[a]) + 1);
    check(Math.min(...size) >= 1, `kernel_size ${k} does not fit into ${input_size}`);
    return size;
  }

  /* What all windows read, as runs along the rows: [place, from, to, count, ...] for
     each place (u, v) in the window, in reading order. Output number to + j reads the
     input's number from + j * step there, for j < count. The frame is never built:
     places in it are left out. */
  function strided_slices([height, width], kernel_size, size, stride, padding) {
    const [[down, step], [top, left]] = [pair(stride), pair(padding)];
    const [kernel, runs] = [pair(kernel_size), []];
    for (let place = 0; place < product(kernel); place++) {
      const [u, v] = [Math.floor(place / kernel[1]), place % kernel[1]];
      const first = Math.max(0, Math.ceil((left - v) / step));
      const end = Math.min(size[1], Math.floor((width - 1 + left - v) / step) + 1);
      for (let i = 0; i < size[0] && first < end; i++) {
        const from = (i * down + u - top) * width + first * step + v - left;
        if (from >= 0 && from < height * width)
          runs.push(place, from, i * size[1] + first, end - first);
      }
    }
    return Int32Array.from(runs);
  }

  /* --- Convolution --------------------------------------------------------- */
  // (N, C, H, W), (F, C, k, k), (F,) -> (N, F, H', W').
  function conv2d(x, weight, bias, stride = 1, padding = 0) {
    const [[n, channels, ...image], [filters, depth, ...kernel]] = [x.shape, weight.shape];
    check(channels === depth, `conv2d was given ${channels} channels, not ${depth}`);
    const size = output_size(image, kernel, stride, padding);
    const [y, windows] = [array([n, filters, ...size]), product(size)];
    for (let m = 0; m < n * filters; m++)
      y.data.fill(bias.data[m % filters], m * windows, (m + 1) * windows);
    const [xs, ws, ys] = [x.data, weight.data, y.data];
    meet(x, weight, y, stride, padding, (w, a, b, count, step) => {
      const value = ws[w];
      for (const end = b + count; b < end; b++, a += step) ys[b] += value * xs[a];
    });
    return y;
  }

  /* Who meets whom: visit(w, a, b, count, step) says that weight w weighs the input's
     number a + j * step for the output's number b + j, j < count. Forward and both
     ways backward are this one loop, and differ in which of the three they sum. */
  function meet(x, weight, y, stride, padding, visit) {
    const [[n, filters, ...size], [, channels, ...image]] = [y.shape, x.shape];
    const [kernel, step] = [weight.shape.slice(2), pair(stride)[1]];
    const runs = strided_slices(image, kernel, size, stride, padding);
    for (let m = 0; m < n; m++)
      for (let f = 0; f < filters; f++)
        for (let c = 0; c < channels; c++) {
          const w = (f * channels + c) * product(kernel);
          const a = (m * channels + c) * product(image);
          const b = (m * filters + f) * product(size);
          for (let r = 0; r < runs.length; r += 4)
            visit(w + runs[r], a + runs[r + 1], b + runs[r + 2], runs[r + 3], step);
        }
  }

  // dL/dw and dL/db: all places where weight and bias were used, summed.
  function conv2d_grad_parameters(grad_output, x, weight, stride = 1, padding = 0) {
    const [, filters, rows, columns] = grad_output.shape;
    const [grad_weight, grad_bias] = [zeros_like(weight), array([filters])];
    const [xs, ws, g] = [x.data, grad_weight.data, grad_output.data];
    meet(x, weight, grad_output, stride, padding, (w, a, b, count, step) => {
      let sum = 0;
      for (const end = b + count; b < end; b++, a += step) sum += g[b] * xs[a];
      ws[w] += sum;
    });
    for (let b = 0; b < g.length; b++)
      grad_bias.data[Math.floor(b / (rows * columns)) % filters] += g[b];
    return [grad_weight, grad_bias];
  }

  // dL/dx: each output's gradient goes back to the pixels it read.
  function conv2d_grad_input(grad_output, weight, input_shape, stride = 1, padding = 0) {
    const grad_x = array(input_shape);
    const [xs, ws, g] = [grad_x.data, weight.data, grad_output.data];
    meet(grad_x, weight, grad_output, stride, padding, (w, a, b, count, step) => {
      const value = ws[w]; // windows overlap: +=, not =
      for (const end = b + count; b < end; b++, a += step) xs[a] += value * g[b];
    });
    return grad_x;
  }

  const conv2d_backward = (grad_output, x, weight, ...steps) => [
    conv2d_grad_input(grad_output, weight, x.shape, ...steps),
    ...conv2d_grad_parameters(grad_output, x, weight, ...steps),
  ];

  /* --- ReLU, max pooling, linear ------------------------------------------- */
  // y = max(x, 0); nan stays nan.
  function relu(x) {
    const y = array(x.shape, x.data.slice());
    for (let a = 0; a < y.data.length; a++) if (y.data[a] <= 0) y.data[a] = 0;
    return y;
  }
  function relu_backward(grad_output, x) {
    const [grad_x, xs] = [array(x.shape, grad_output.data.slice()), x.data];
    for (let a = 0; a < xs.length; a++) if (!(xs[a] > 0)) grad_x.data[a] *= 0;
    return grad_x;
  }

  // Pooling goes map by map, as over images of one channel, for one filter.
  const alone = ({ shape: [n, channels, ...size] }) => ({ shape: [n * channels, 1, ...size] });
  const meet_alone = (x, y, kernel_size, ...others) =>
    meet(alone(x), { shape: [1, 1, ...pair(kernel_size)] }, alone(y), ...others);

  // The largest number of each window: (N, C, H, W) -> (N, C, H', W').
  function max_pool2d(x, kernel_size, stride = kernel_size, padding = 0) {
    const [[n, channels, ...image], k, p] = [x.shape, pair(kernel_size), pair(padding)];
    check(2 * p[0] <= k[0] && 2 * p[1] <= k[1], `padding ${p} is over half of ${k}`);
    const y = array([n, channels, ...output_size(image, k, stride, p)]);
    const [xs, ys] = [x.data, y.data.fill(-Infinity)]; // the frame never wins
    meet_alone(x, y, k, stride, p, (_, a, b, count, step) => {
      for (const end = b + count; b < end; b++, a += step) ys[b] = Math.max(ys[b], xs[a]);
    });
    return y;
  }

  // dL/dx: each window's gradient goes to its first largest number.
  function max_pool2d_backward(grad_output, x, y, kernel_size, stride = kernel_size,
    padding = 0) {
    const [grad_x, claimed] = [zeros_like(x), new Uint8Array(y.data.length)];
    const [xs, ys, g, grad] = [x, y, grad_output, grad_x].map((held) => held.data);
    meet_alone(x, y, kernel_size, stride, padding, (_, a, b, count, step) => {
      for (const end = b + count; b < end; b++, a += step)
        if (!claimed[b] && xs[a] === ys[b]) {
          claimed[b] = 1;
          grad[a] += g[b]; // a pixel collects from all its windows
        }
    });
    return grad_x;
  }

  // y = x W^T + b: (N, D), (M, D), (M,) -> (N, M).
  function linear(x, weight, bias) {
    const [[n, d], m, xs, ws] = [x.shape, weight.shape[0], x.data, weight.data];
    check(d === weight.shape[1], `linear was given ${d} features, not ${weight.shape[1]}`);
    return map(array([n, m]), (_, b) => {
      const [row, output] = [Math.floor(b / m), b % m];
      let sum = bias.data[output];
      for (let k = 0, a = row * d, w = output * d; k < d; k++) sum += xs[a + k] * ws[w + k];
      return sum;
    });
  }

  // dL/dx = G W, dL/dW = G^T x, dL/db = the sum of G over the batch.
  function linear_backward(grad_output, x, weight) {
    const [d, m, xs, ws] = [x.shape[1], weight.shape[0], x.data, weight.data];
    const grads = [zeros_like(x), zeros_like(weight), array([m])];
    const [grad_x, grad_weight, grad_bias] = grads.map((grad) => grad.data);
    grad_output.data.forEach((g, b) => {
      const [row, output] = [Math.floor(b / m), b % m];
      grad_bias[output] += g;
      for (let k = 0; k < d; k++) {
        grad_x[row * d + k] += g * ws[output * d + k];
        grad_weight[output * d + k] += g * xs[row * d + k];
      }
    });
    return grads;
  }

  /* --- The loss ------------------------------------------------------------ */
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

  /* --- Layers: forward(x), backward(dL/dy), and what is trained ------------- */
  const parameter = (...shape) => ({ value: array(shape), grad: array(shape) });

  class Layer {
    parameters() { return Object.values(this).filter((held) => held?.grad); }
    backward_parameters(g) { this.backward(g); }
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
      this.backward_parameters(g);
      return conv2d_grad_input(g, this.weight.value, this.x.shape, ...this.steps);
    }
    backward_parameters(g) {
      [this.weight.grad, this.bias.grad] =
        conv2d_grad_parameters(g, this.x, this.weight.value, ...this.steps);
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
    backward(g) {
      const [grad_x, ...grads] = linear_backward(g, this.x, this.weight.value);
      [this.weight.grad, this.bias.grad] = grads;
      return grad_x;
    }
  }

  class Sequential extends Layer {
    constructor(...layers) { super(); this.layers = layers; }
    parameters() { return this.layers.flatMap((layer) => layer.parameters()); }
    forward(x) { return this.layers.reduce((y, layer) => layer.forward(y), x); }
    backward(g) { return this.layers.reduceRight((h, layer) => layer.backward(h), g); }
    backward_parameters(g) { // of the images nobody needs the gradient
      const [first, ...others] = this.layers;
      first.backward_parameters(others.reduceRight((h, layer) => layer.backward(h), g));
    }
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

  return { array, output_size, conv2d, conv2d_backward, relu, relu_backward, max_pool2d,
    max_pool2d_backward, linear, linear_backward, log_softmax, softmax, cross_entropy,
    cross_entropy_backward, Conv2d, ReLU, MaxPool2d, Flatten, Linear, Sequential, SGD };
})();
