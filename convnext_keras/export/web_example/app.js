// Classifies images in the browser: model.json says how, ONNX Runtime Web computes.

import { decode, prepare } from "./image.js";
import { Tokenizer } from "./tokenizer.js";

const $ = (id) => document.getElementById(id);
const softmax = (values) => {
  const largest = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = values.map((value) => Math.exp(value - largest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
};
const ACTIVATIONS = {
  none: (values) => values,
  softmax,
  sigmoid: (values) => values.map((value) => 1 / (1 + Math.exp(-value))),
};

let ort, model, sessions, tokenizer, current;

async function start() {
  model = await (await fetch("./model.json")).json();
  document.title = $("title").textContent = model.name;
  ort = await import(new URL(model.runtime + "ort.wasm.min.mjs", document.baseURI));
  ort.env.wasm.wasmPaths = new URL(model.runtime, document.baseURI).href;
  ort.env.wasm.numThreads = 1; // more need headers that a plain file server does not send
  const open = (name) => ort.InferenceSession.create(new URL(name, document.baseURI).href);
  if (model.kind === "clip") {
    tokenizer = new Tokenizer(await (await fetch("./tokenizer.json")).json(), model.context_length);
    sessions = { image: await open("./image.onnx"), text: await open("./text.onnx") };
    $("labels").value = model.labels.join(", ");
    $("label-row").hidden = false;
  } else {
    sessions = { image: await open("./image.onnx") };
  }
  $("status").textContent = "Choose an image, or drop one here.";
  $("file").disabled = false;
}

async function run(session, tensor) {
  const found = await session.run({ [session.inputNames[0]]: tensor });
  return Array.from(found[session.outputNames[0]].data);
}

async function embedText(text) {
  return run(sessions.text, new ort.Tensor("int32", tokenizer.encode(text), [1, model.context_length]));
}

// Pairs of label and score, the best first.
export async function classify(blob) {
  const pixels = prepare(await decode(blob), model.image);
  const shape = [1, pixels.height, pixels.width, pixels.channels];
  const output = await run(sessions.image, new ort.Tensor("uint8", pixels.data, shape));
  let labels = model.classes, scores;
  if (model.kind === "clip") {
    labels = $("labels").value.split(",").map((label) => label.trim()).filter(Boolean);
    if (!labels.length) throw new Error("Enter one label or more, separated by commas.");
    const logits = [];
    for (const label of labels) {
      const vector = await embedText(model.template.replace("{}", label));
      logits.push(model.logit_scale * vector.reduce((sum, value, i) => sum + value * output[i], 0) + model.logit_bias);
    }
    scores = softmax(logits);
  } else {
    scores = ACTIVATIONS[model.activation](output);
  }
  return labels.map((label, i) => [label, scores[i]]).sort((a, b) => b[1] - a[1]);
}

async function show(blob) {
  current = blob;
  $("image").src = URL.createObjectURL(blob);
  $("image").hidden = false;
  $("status").textContent = "Computing ...";
  try {
    const rows = (await classify(blob)).slice(0, 5).map(([label, score]) => {
      const row = document.createElement("tr");
      for (const text of [label, score.toFixed(4)]) row.insertCell().textContent = text;
      return row;
    });
    $("results").tBodies[0].replaceChildren(...rows);
    $("results").hidden = false;
    $("status").textContent = "Done.";
  } catch (error) {
    $("status").textContent = error.message;
  }
}

$("file").addEventListener("change", (event) => event.target.files[0] && show(event.target.files[0]));
$("labels").addEventListener("change", () => current && show(current));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files[0]) show(event.dataTransfer.files[0]);
});
start().catch((error) => ($("status").textContent = `${error.message}. See README.md beside this page.`));
