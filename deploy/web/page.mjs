// Runs a bundle by transformers.js: embeds, classifies or generates, and says how long it took.
//
//     index.html?bundle=FOLDER&original=FOLDER&variant=NAME
//
// Folders are relative to the page; by default `bundle` and `original`, as a build's output has them.
// The original is fetched only if somebody asks for its time.

import { env, pipeline } from "transformers";

const NEW_TOKENS = 32;
const asked = new URLSearchParams(location.search);
const place = (id) => document.getElementById(id);
const here = new URL(".", location);

env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = here.pathname; // not a whole address, which it would take for a place to download from
env.backends.onnx.wasm.wasmPaths = new URL("node_modules/onnxruntime-web/dist/", here).href;

// What each task shows first, how it answers one text, and how the answer becomes rows.
const TASKS = {
  "feature-extraction": {
    example: "How do I reset my password?\nI forgot my login details.\nThe weather is fine today.",
    turns: 15,
    hint: "a line a text; the first is compared with each of the others",
    each: (model, text, { pooling, normalize }) => model(text, { pooling, normalize }),
    rows: (found, texts) => {
      const [first, ...others] = found.map((vector) => vector.data);
      return others.map((other, i) => [texts[i + 1], cosine(first, other)]);
    },
  },
  "text-classification": {
    example: "I would like to return what I bought yesterday.",
    turns: 15,
    hint: "one text",
    each: (model, text) => model(text, { top_k: 5 }),
    rows: ([found]) => found.map(({ label, score }) => [label, score]),
  },
  "text-generation": {
    example: "Once upon a time",
    hint: `the beginning of a text, which goes on for ${NEW_TOKENS} tokens`,
    whole: true,
    turns: 3,
    // Special tokens as the tokenizer itself sets them, as the model was trained.
    each: (model, text) =>
      model(text, { max_new_tokens: NEW_TOKENS, do_sample: false, add_special_tokens: true }),
    prose: ([[found]]) => found.generated_text,
  },
};

try {
  await start();
} catch (error) {
  fail(error);
}
document.body.dataset.ready = "yes";

async function start() {
  const bundle = asked.get("bundle") ?? "bundle";
  const manifest = await json(`${bundle}/edgeprune.json`);
  const task = TASKS[manifest.task];
  if (!task) {
    throw new Error(`This page embeds, classifies and generates, and the bundle does ${manifest.task}.`);
  }
  const variant = chosen(manifest.variants ?? [{ name: "", file: "onnx/model.onnx" }]);
  const options = await embedding(bundle, manifest.task);
  const model = await load(bundle, manifest.task, variant.file);
  const megabytes = sizeOf(manifest, variant.file) / 1e6;
  const graph = variant.name ? `${variant.name}, ` : "";
  place("name").textContent = manifest.source?.model ?? bundle;
  place("about").textContent = `${manifest.task}: ${graph}${megabytes.toFixed(1)} MB; ${task.hint}`;
  place("text").value = task.example;

  let original;
  const call = (which, text) => task.each(which, text, options);
  const run = async () => {
    const texts = lines(task);
    const found = [];
    for (const text of texts) found.push(await call(model, text));
    show(task, found, texts);
    await paint();
    const [ms] = await timed(task, [() => call(model, texts[0])]);
    place("time").textContent = `${shown(ms)} a call here.`;
  };
  const compare = async () => {
    const [text] = lines(task);
    original ??= await load(asked.get("original") ?? "original", manifest.task, "onnx/model.onnx");
    const [ms, theirs] = await timed(task, [() => call(model, text), () => call(original, text)]);
    place("time").textContent =
      `${shown(ms)} a call here, the original ${shown(theirs)}: ${(theirs / ms).toFixed(1)} times as fast.`;
  };
  place("run").onclick = () => alone(run);
  place("compare").onclick = () => alone(compare);
  place("text").disabled = false;
  await alone(run);
}

// The graph for browsers, whose clients fetch one file; a bundle without one has its first.
function chosen(variants) {
  const name = asked.get("variant");
  if (name) {
    const found = variants.find((each) => each.name === name);
    if (!found) throw new Error(`The bundle has no variant ${name}.`);
    return found;
  }
  const named = (wanted) => variants.find((each) => each.name === wanted);
  return named("quantized") ?? named("int4") ?? variants[0];
}

function load(folder, task, file) {
  const name = file.replace(/^onnx\//, "").replace(/\.onnx$/, "");
  return pipeline(task, folder, { device: "wasm", dtype: "fp32", model_file_name: name });
}

// How a sentence encoder's tokens become one vector, as sentence-transformers writes it down.
async function embedding(folder, task) {
  if (task !== "feature-extraction") return {};
  const modules = (await json(`${folder}/modules.json`, [])).map(({ type }) => type.split(".").at(-1));
  if (modules.includes("Dense")) {
    throw new Error("This encoder's vectors go through a further layer, which this page does not have.");
  }
  const stated = await json(`${folder}/1_Pooling/config.json`, {});
  const kinds = { pooling_mode_cls_token: "cls", pooling_mode_lasttoken: "last_token" };
  const kind = Object.keys(kinds).find((each) => stated[each]);
  return { pooling: kind ? kinds[kind] : "mean", normalize: modules.includes("Normalize") };
}

async function json(file, otherwise) {
  const answer = await fetch(new URL(file, here));
  if (answer.ok) return answer.json();
  if (otherwise !== undefined) return otherwise;
  throw new Error(`There is no ${file} beside this page: put a build's folder bundle there.`);
}

function lines(task) {
  const text = place("text").value.trim();
  if (!text) throw new Error("There is no text.");
  return task.whole ? [text] : text.split("\n").map((each) => each.trim()).filter(Boolean);
}

function show(task, found, texts) {
  const answer = place("answer");
  answer.className = task.prose ? "prose" : "";
  if (task.prose) {
    answer.textContent = task.prose(found);
    return;
  }
  const table = document.createElement("table");
  for (const [words, value] of task.rows(found, texts)) {
    const row = table.insertRow();
    const cell = row.insertCell();
    cell.className = "value";
    cell.append(Object.assign(document.createElement("meter"), { value }), value.toFixed(3));
    row.insertCell().textContent = words;
  }
  answer.replaceChildren(table);
}

// Work during which no other is begun; a fault of it is told.
async function alone(work) {
  const buttons = [place("run"), place("compare")];
  for (const button of buttons) button.disabled = true;
  place("fault").hidden = true;
  try {
    await work();
  } catch (error) {
    fail(error);
  }
  for (const button of buttons) button.disabled = false;
}

// The median milliseconds of each of several calls, taken in turns, so that all meet the same machine.
async function timed(task, calls) {
  const times = calls.map(() => []);
  for (const call of calls) await call(); // the first one lays out its memory
  for (let turn = 0; turn < task.turns; turn++) {
    for (const [i, call] of calls.entries()) {
      const begun = performance.now();
      await call();
      times[i].push(performance.now() - begun);
    }
  }
  return times.map((each) => each.sort((a, b) => a - b)[Math.floor(each.length / 2)]);
}

function shown(ms) {
  return `${ms < 10 ? ms.toFixed(2) : ms.toFixed(0)} ms`;
}

function paint() {
  return new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
}

function cosine(a, b) {
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

function sizeOf(manifest, file) {
  return manifest.files[file].bytes + (manifest.files[`${file}_data`]?.bytes ?? 0);
}

function fail(error) {
  place("fault").textContent = error.message;
  place("fault").hidden = false;
}
