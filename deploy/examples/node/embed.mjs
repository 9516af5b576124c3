// Embeds texts with a bundle, from Node with ONNX Runtime and the bundle's tokenizer.
//
//     node embed.mjs BUNDLE TEXT...
//
// Each output line is a text's embedding in JSON: the mean of the tokens' last hidden states, scaled
// to length 1, as 1_Pooling and modules.json ask for in most sentence encoders.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Tokenizer } from "@huggingface/tokenizers";
import { InferenceSession, Tensor } from "onnxruntime-node";

const [bundle, ...texts] = process.argv.slice(2);
if (!bundle || !texts.length) {
  console.error("usage: node embed.mjs BUNDLE TEXT...");
  process.exit(2);
}

const json = async (name) => JSON.parse(await readFile(join(bundle, name), "utf8"));
const tokenizer = new Tokenizer(await json("tokenizer.json"), await json("tokenizer_config.json"));
const session = await InferenceSession.create(join(bundle, "onnx", "model.onnx"));

for (const text of texts) {
  console.log(JSON.stringify(await embed(text)));
}

async function embed(text) {
  const { ids } = tokenizer.encode(text);
  const tensor = (values) => new Tensor("int64", BigInt64Array.from(values, BigInt), [1, ids.length]);
  const known = {
    input_ids: () => tensor(ids),
    attention_mask: () => tensor(ids.map(() => 1)),
    token_type_ids: () => tensor(ids.map(() => 0)),
  };
  const feeds = Object.fromEntries(session.inputNames.map((name) => [name, known[name]()]));
  const { last_hidden_state: hidden } = await session.run(feeds);

  // [1, tokens, width]; no token is padding.
  const [, tokens, width] = hidden.dims;
  const sum = new Float64Array(width);
  for (let token = 0; token < tokens; token++) {
    for (let i = 0; i < width; i++) sum[i] += hidden.data[token * width + i];
  }
  const length = Math.hypot(...sum);
  return Array.from(sum, (value) => value / length);
}
