// Times models in turns: node measure.mjs FOLDER ORT ROUNDS. FOLDER has acdbit.wasm, the page's modules and for each name of names.json
// NAME.acdm, NAME_compact.acdm, NAME.onnx and, where there is one, NAME.twin; ORT is onnxruntime-web's folder. Prints JSON: milliseconds of
// processor time of one image, one thread, medians.
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [folder, ortFolder, rounds] = process.argv.slice(2);
const { load } = await import(pathToFileURL(path.join(folder, "acdbit.mjs")));
const { loadFloat } = await import(pathToFileURL(path.join(folder, "float_twin.mjs")));
const ort = await import(pathToFileURL(path.join(ortFolder, "dist/ort.node.min.mjs")));
ort.env.wasm.numThreads = 1;
ort.env.wasm.simd = true;
const bytes = (name) => new Uint8Array(fs.readFileSync(path.join(folder, name)));
const wasm = bytes("acdbit.wasm");

async function contenders(name) {
  const found = {};
  for (const form of ["", "_compact"]) {
    const model = await load(wasm, bytes(`${name}${form}.acdm`));
    const image = new Float32Array(model.height * model.width * model.channels).map((_, i) => Math.sin(i));
    found[`acdbit${form}`] = () => model.run(image);
  }
  const session = await ort.InferenceSession.create(bytes(`${name}.onnx`), { executionProviders: ["wasm"] });
  const model = await load(wasm, bytes(`${name}.acdm`));
  const shape = [1, model.height, model.width, model.channels], image = new Float32Array(shape.reduce((a, b) => a * b)).map((_, i) => Math.sin(i));
  found["onnxruntime-web float32"] = () => session.run({ [session.inputNames[0]]: new ort.Tensor("float32", image, shape) });
  if (fs.existsSync(path.join(folder, `${name}.twin`))) {
    const twin = await loadFloat(wasm, bytes(`${name}.twin`));
    found["float twin of the page"] = () => twin.run(image);
  }
  return found;
}

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
const result = {};
for (const name of JSON.parse(bytes("names.json").reduce((text, byte) => text + String.fromCharCode(byte), ""))) {
  const found = await contenders(name), times = Object.fromEntries(Object.keys(found).map((key) => [key, []])), count = {};
  for (const [key, run] of Object.entries(found)) {
    // First a browser compiles; then as many images as fill a tick of the processor's clock.
    for (let i = 0; i < 5; i++) await run();
    const start = process.cpuUsage();
    await run();
    const { user, system } = process.cpuUsage(start);
    count[key] = Math.max(1, Math.ceil(100_000 / (user + system + 1)));
  }
  for (let round = 0; round < Number(rounds); round++)
    for (const [key, run] of Object.entries(found)) {
      const start = process.cpuUsage();
      for (let i = 0; i < count[key]; i++) await run();
      const { user, system } = process.cpuUsage(start);
      times[key].push((user + system) / 1e3 / count[key]);
    }
  result[name] = Object.fromEntries(Object.entries(times).map(([key, values]) => [key, Number(median(values).toFixed(3))]));
}
console.log(JSON.stringify({ node: process.version, onnxruntime_web: ort.env.versions?.web ?? ort.env.versions?.common, milliseconds: result }));
process.exit(0);
