// Runs the float twin of a model in the page, to be compared with: the graph that acdbit_keras/convert/float_graph.py packed, node by node.
// Products, softmax and GELU are the engine's (float_ops.cc); what only moves or adds numbers is done here.
//
//   const twin = await loadFloat(await fetch("acdbit.wasm"), await fetch("model.twin"));

import { AcdbitError, Classifier, bytesOf, engineOf, reserve } from "./acdbit.mjs";

const TILE = 8;  // units of a product that are computed together

const sizeOf = (shape) => shape.reduce((a, b) => a * b, 1);
const whole = (count) => Math.ceil(count / TILE) * TILE;

/** A twin of two things that are a Response, an ArrayBuffer or a Uint8Array each: acdbit.wasm, and a packed graph. */
export async function loadFloat(wasm, file) {
  return new FloatTwin(await engineOf(wasm), await bytesOf(file));
}

/** For each number of `shape`, in order, the place that `strides` give it. */
function places(shape, strides) {
  const found = new Int32Array(sizeOf(shape)), at = shape.map(() => 0);
  for (let i = 0, place = 0; i < found.length; i++) {
    found[i] = place;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      place += strides[axis];
      if (++at[axis] < shape[axis]) break;
      place -= strides[axis] * shape[axis];
      at[axis] = 0;
    }
  }
  return found;
}

function stridesOf(shape) {
  const strides = shape.map(() => 1);
  for (let axis = shape.length - 2; axis >= 0; axis--) strides[axis] = strides[axis + 1] * shape[axis + 1];
  return strides;
}

/** Where each number of the turned tensor lies in the one before. */
function turnedPlaces(order, from, shape) {
  const strides = stridesOf(from);
  return places(shape, order.map((axis) => strides[axis]));
}

/** Which mean each number goes into. */
function meanPlaces(axes, from) {
  const kept = stridesOf(from.map((size, axis) => (axes.includes(axis) ? 1 : size)));
  return places(from, kept.map((stride, axis) => (axes.includes(axis) ? 0 : stride)));
}

function relu(y) {
  for (let i = 0; i < y.length; i++) if (y[i] < 0) y[i] = 0;
}

/** Windows of an image (height, width, channels) under a filter, one behind the other. */
function gather(windows, image, { height, width, channels, filter, stride, before, out }) {
  let at = 0;
  for (let r = 0; r < out[0]; r++)
    for (let c = 0; c < out[1]; c++)
      for (let i = 0; i < filter[0]; i++) {
        const row = r * stride[0] - before[0] + i;
        for (let j = 0; j < filter[1]; j++) {
          const column = c * stride[1] - before[1] + j, inside = row >= 0 && row < height && column >= 0 && column < width;
          const from = (row * width + column) * channels;
          for (let k = 0; k < channels; k++) windows[at++] = inside ? image[from + k] : 0;
        }
      }
}

/** Weights (units, inputs), or (inputs, units) with `turned`, in tiles as float_product takes them. */
function tiled(weights, inputs, units, turned, tiles) {
  for (let u = 0; u < units; u++)
    for (let i = 0; i < inputs; i++)
      tiles[((u - (u % TILE)) * inputs) + i * TILE + (u % TILE)] = turned ? weights[i * units + u] : weights[u * inputs + i];
}

// Each a loop of its own, which a browser compiles for itself: y[i] of a[first[i]] and b[second[i]], or of x[table[i]].
const PAIRS = {
  ADD: (y, a, first, b, second) => { for (let i = 0; i < y.length; i++) y[i] = a[first[i]] + b[second[i]]; },
  SUB: (y, a, first, b, second) => { for (let i = 0; i < y.length; i++) y[i] = a[first[i]] - b[second[i]]; },
  MUL: (y, a, first, b, second) => { for (let i = 0; i < y.length; i++) y[i] = a[first[i]] * b[second[i]]; },
  SQUARED_DIFFERENCE: (y, a, first, b, second) => {
    for (let i = 0; i < y.length; i++) {
      const difference = a[first[i]] - b[second[i]];
      y[i] = difference * difference;
    }
  },
};
const ALONE = {
  NEG: (y, x) => { for (let i = 0; i < y.length; i++) y[i] = -x[i]; },
  RSQRT: (y, x) => { for (let i = 0; i < y.length; i++) y[i] = 1 / Math.sqrt(x[i]); },
  TRANSPOSE: (y, x, table) => { for (let i = 0; i < y.length; i++) y[i] = x[table[i]]; },
  MEAN: (y, x, table) => {
    const share = y.length / x.length;
    y.fill(0);
    for (let i = 0; i < x.length; i++) y[table[i]] += x[i] * share;
  },
};

export class FloatTwin extends Classifier {
  #engine;
  #input;
  #output;
  #steps = [];
  #views = [];

  constructor(engine, content) {
    super();
    const text = new TextDecoder();
    if (text.decode(content.subarray(0, 4)) !== "ACDT") throw new AcdbitError("model", "the file is no float twin");
    const length = new DataView(content.buffer, content.byteOffset).getUint32(4, true);
    const graph = JSON.parse(text.decode(content.subarray(8, 8 + length)));
    this.#engine = engine;
    /** {classes, mean, std, ...} as the file has them. */
    this.card = graph.card;
    [this.height, this.width, this.channels] = graph.shape;
    Object.assign(this, { pixels: false, outputs: graph.outputs, bytes: content.length });
    const constants = new Float32Array(content.slice(8 + length).buffer);
    const results = [];
    this.#input = this.#numbers(sizeOf(graph.shape));
    const image = { view: this.#input, shape: [1, ...graph.shape] };
    for (const node of graph.nodes) {
      const inputs = node.inputs.map((input) => {
        if (typeof input === "number") return input < 0 ? image : results[input];
        const values = constants.subarray(input.at, input.at + sizeOf(input.shape));
        return { values, shape: input.shape };
      });
      results.push(this.#plan(node, inputs));
    }
    this.#output = results.at(-1).view;
    // No memory is reserved from here on, so that views of it stay.
    for (const view of this.#views) {
      view.array = new Float32Array(engine.memory.buffer, view.place, view.size);
      if (view.values) view.array.set(view.values);
    }
  }

  /** Logits of a normalised image, a Float32Array. */
  run(image) {
    if (!(image instanceof Float32Array) || image.length !== this.#input.size)
      throw new AcdbitError("picture", `the model takes a Float32Array of ${this.#input.size} values`);
    this.#input.array.set(image);
    for (const step of this.#steps) step();
    return this.#output.array.slice();
  }

  /** So many numbers in the engine's memory, of these values or empty. */
  #numbers(size, values) {
    const view = { place: reserve(this.#engine, 4 * size), size, values };
    this.#views.push(view);
    return view;
  }

  #stored(input) {
    return input.view ?? this.#numbers(input.values.length, input.values);
  }

  /** What a node writes, {view, shape}; how is kept among the steps. */
  #plan({ op, shape, ...options }, inputs) {
    if (op === "RESHAPE") return { view: inputs[0].view, shape };
    const y = this.#numbers(sizeOf(shape)), engine = this.#engine;
    if (op === "FULLY_CONNECTED" || op === "CONV_2D") this.#product(op, options, inputs, shape, y);
    else if (op === "BATCH_MATMUL") this.#products(options, inputs, shape, y);
    else if (inputs.length === 2) this.#pairs(op, inputs, shape, y);
    else {
      const x = this.#stored(inputs[0]), columns = shape.at(-1);
      const kernels = {
        GELU: () => engine.float_gelu(x.place, y.place, y.size, options.approximate ? 1 : 0),
        SOFTMAX: () => engine.float_softmax(x.place, y.place, y.size / columns, columns),
      };
      const table = { TRANSPOSE: () => turnedPlaces(options.order, inputs[0].shape, shape), MEAN: () => meanPlaces(options.axes, inputs[0].shape) }[op]?.();
      this.#steps.push(kernels[op] ?? (() => ALONE[op](y.array, x.array, table)));
    }
    if (options.activation === "relu") this.#steps.push(() => relu(y.array));
    return { view: y, shape };
  }

  #product(op, { stride, before }, [image, kernel, bias], shape, y) {
    const units = kernel.shape[0], inputs = sizeOf(kernel.shape) / units, rows = y.size / units, engine = this.#engine;
    const tiles = new Float32Array(inputs * whole(units)), padded = new Float32Array(whole(units));
    tiled(kernel.values, inputs, units, false, tiles);
    if (bias) padded.set(bias.values);
    const [weights, offsets] = [this.#numbers(tiles.length, tiles), this.#numbers(padded.length, padded)];
    let x = this.#stored(image);
    if (op === "CONV_2D") {
      const [source, windows] = [x, this.#numbers(rows * inputs)];
      const [[, height, width, channels], filter, out] = [image.shape, kernel.shape.slice(1, 3), shape.slice(1, 3)];
      const sizes = { height, width, channels, filter, stride, before, out };
      this.#steps.push(() => gather(windows.array, source.array, sizes));
      x = windows;
    }
    this.#steps.push(() => engine.float_product(x.place, weights.place, offsets.place, y.place, rows, inputs, units));
  }

  #products({ turned }, [left, right], shape, y) {
    const [rows, units] = shape.slice(-2), inputs = left.shape.at(turned[0] ? -2 : -1), count = y.size / rows / units;
    const [a, b] = [this.#stored(left), this.#stored(right)], engine = this.#engine;
    const [weights, zeros] = [this.#numbers(inputs * whole(units)), this.#numbers(whole(units))];
    const upright = turned[0] ? this.#numbers(rows * inputs) : null;
    this.#steps.push(() => {
      for (let i = 0; i < count; i++) {
        const from = a.array.subarray(i * rows * inputs, (i + 1) * rows * inputs);
        if (upright) for (let r = 0; r < rows; r++) for (let k = 0; k < inputs; k++) upright.array[r * inputs + k] = from[k * rows + r];
        tiled(b.array.subarray(i * inputs * units, (i + 1) * inputs * units), inputs, units, !turned[1], weights.array);
        const x = upright ? upright.place : a.place + 4 * i * rows * inputs;
        engine.float_product(x, weights.place, zeros.place, y.place + 4 * i * rows * units, rows, inputs, units);
      }
    });
  }

  #pairs(op, inputs, shape, y) {
    const [a, b] = inputs.map((input) => this.#stored(input));
    const [first, second] = inputs.map((input) => {
      const own = [...shape.map(() => 1), ...input.shape].slice(-shape.length), strides = stridesOf(own);
      return places(shape, strides.map((stride, axis) => (own[axis] === 1 ? 0 : stride)));
    });
    this.#steps.push(() => PAIRS[op](y.array, a.array, first, b.array, second));
  }
}
