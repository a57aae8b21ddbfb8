// Runs flat models (.acdm) in JavaScript: acdbit.wasm is the engine, this the whole of what stands around it.
//
//   const model = await load(await fetch("acdbit.wasm"), await fetch("model.acdm"));
//   const [best] = model.classify(imageData);   // {name, probability}

/** What cannot be done, in one sentence; `code` is "wasm", "model", "memory" or "picture". */
export class AcdbitError extends Error {
  constructor(code, message) {
    super(message);
    this.name = "AcdbitError";
    this.code = code;
  }
}

/** The bytes of a Response, an ArrayBuffer or a Uint8Array. */
export async function bytesOf(source) {
  if (typeof Response !== "undefined" && source instanceof Response) {
    if (!source.ok) throw new AcdbitError("model", `${source.url} answered ${source.status}`);
    return new Uint8Array(await source.arrayBuffer());
  }
  if (typeof source !== "object")
    throw new AcdbitError("model", `a model and the engine are a Response, an ArrayBuffer or a Uint8Array each, not ${source}; fetch it`);
  return source instanceof Uint8Array ? source : new Uint8Array(source);
}

/** What acdbit.wasm, in one of these forms, exports; it holds one model. */
export async function engineOf(wasm) {
  try {
    return (await WebAssembly.instantiate(await bytesOf(wasm), {})).instance.exports;
  } catch (error) {
    if (error instanceof AcdbitError) throw error;
    throw new AcdbitError("wasm", `this browser cannot run the engine, which needs WebAssembly with SIMD: ${error.message}`);
  }
}

/** A place of so many bytes in an engine's memory. */
export function reserve(engine, bytes) {
  const place = engine.reserve(bytes);
  if (!place) throw new AcdbitError("memory", `there are no ${bytes} bytes of memory for the model`);
  return place;
}

/** A model of two things that are a Response, an ArrayBuffer or a Uint8Array each: acdbit.wasm, and a flat file. */
export async function load(wasm, file) {
  return new Model(await engineOf(wasm), await bytesOf(file));
}

/** What has height, width, channels, card and `run`, and is asked for the classes of pictures. */
export class Classifier {
  /** The classes of an ImageData of the model's width and height, most probable first: [{name, probability}]. */
  classify(picture) {
    const { width, height, data } = picture ?? {};
    if (width !== this.width || height !== this.height)
      throw new AcdbitError("picture", `the model takes pictures of ${this.width} x ${this.height}, this has ${width} x ${height}`);
    const { mean = [0], std = [1], classes = [] } = this.card;
    if (!this.pixels && !this.card.mean) throw new AcdbitError("model", "the model does not say how its pixels are normalised");
    const image = new (this.pixels ? Uint8Array : Float32Array)(width * height * this.channels);
    for (let i = 0; i < width * height; i++) {
      const [red, green, blue] = data.subarray(4 * i, 4 * i + 3);
      for (let c = 0; c < this.channels; c++) {
        // Luma of ITU-R BT.601 in 16 bits, where there is one channel.
        const value = this.channels === 1 ? (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16 : data[4 * i + c];
        image[i * this.channels + c] = this.pixels ? value : (value / 255 - mean[c % mean.length]) / std[c % std.length];
      }
    }
    const logits = this.run(image), largest = Math.max(...logits);
    const weights = Array.from(logits, (logit) => Math.exp(logit - largest));
    const sum = weights.reduce((a, b) => a + b);
    return weights
      .map((weight, i) => ({ name: classes[i] ?? String(i), probability: weight / sum }))
      .sort((a, b) => b.probability - a.probability);
  }
}

export class Model extends Classifier {
  #engine;
  #file;
  #arena;
  #input;
  #output;

  constructor(engine, content) {
    super();
    this.#engine = engine;
    this.#file = reserve(engine, content.length);
    new Uint8Array(engine.memory.buffer).set(content, this.#file);
    this.#refuse("model", engine.acdbit_model_check(this.#file, content.length));
    const place = reserve(engine, 28);
    engine.acdbit_model_info(place, this.#file);
    const [height, width, channels, pixels, outputs, cardBytes, card] = new Int32Array(engine.memory.buffer, place, 7);
    const text = new TextDecoder().decode(new Uint8Array(engine.memory.buffer, card, cardBytes));
    /** {classes, mean, std, ...} as the file has them. */
    this.card = card ? JSON.parse(text) : {};
    Object.assign(this, { height, width, channels, pixels: pixels === 1, outputs, bytes: content.length });
    const arena = engine.acdbit_model_memory(this.#file);
    this.#arena = reserve(engine, arena);
    this.#refuse("memory", engine.acdbit_model_prepare(this.#file, this.#arena, arena));
    this.#input = reserve(engine, height * width * channels * (this.pixels ? 1 : 4));
    this.#output = reserve(engine, outputs * 4);
  }

  #refuse(code, sentence) {
    if (!sentence) return;
    const bytes = new Uint8Array(this.#engine.memory.buffer, sentence);
    throw new AcdbitError(code, new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0))));
  }

  /** Logits of an image as the model takes it: Uint8Array of pixels, or Float32Array, normalised. */
  run(image) {
    const size = this.height * this.width * this.channels, kind = this.pixels ? Uint8Array : Float32Array;
    if (!(image instanceof kind) || image.length !== size)
      throw new AcdbitError("picture", `the model takes a ${kind.name} of ${size} values`);
    new kind(this.#engine.memory.buffer, this.#input, size).set(image);
    this.#engine.acdbit_model_run(this.#file, this.#arena, this.#input, this.#output);
    return new Float32Array(this.#engine.memory.buffer.slice(this.#output, this.#output + 4 * this.outputs));
  }
}
