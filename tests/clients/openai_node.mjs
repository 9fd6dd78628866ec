// OpenAI's client for Node, unmodified, at a gateway: `node openai_node.mjs URL KEY FOLDER CLIENTS`.
// Prints a line of JSON for each case: what it is, and what went wrong, if anything.
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [url, key, folder, clients] = process.argv.slice(2);
const load = createRequire(path.join(path.resolve(clients), "x.js"));
const { default: OpenAI, toFile } = await import(pathToFileURL(load.resolve("openai")).href.replace(/\.js$/, ".mjs"));
const { version } = JSON.parse(fs.readFileSync(path.join(clients, "node_modules/openai/package.json")));
const client = new OpenAI({ baseURL: url, apiKey: key, maxRetries: 0 });
const messages = [{ role: "user", content: "How was it?" }];

const chat = async (user, more = {}) => {
  const answer = await client.chat.completions.create({ model: "chat", messages, user, ...more });
  return answer.choices[0].message.content;
};
const streamed = async (user, more = {}) => {
  let text = "";
  const asked = { model: "chat", messages, user, stream: true, ...more };
  for await (const chunk of await client.chat.completions.create(asked)) text += chunk.choices[0]?.delta?.content ?? "";
  return text;
};
const error = async (made) => made.then(() => "no error", (raised) => raised.status ?? raised.constructor.name);
const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object", properties: {} } } }];
const sound = () => toFile(Buffer.alloc(10000), "a.wav");

const cases = {
  chat: [() => chat("node"), "so it was"],
  streaming: [() => streamed("node"), "so it was"],
  tools: [
    async () => {
      const answer = await client.chat.completions.create({ model: "chat", messages, user: "tools", tools });
      return answer.choices[0].message.tool_calls[0].function.arguments;
    },
    '{"city": "Paris"}',
  ],
  embeddings: [
    async () => (await client.embeddings.create({ model: "chat", input: "x", encoding_format: "float" })).data[0].embedding,
    [0.5, -1],
  ],
  "audio upload": [
    async () => (await client.audio.transcriptions.create({ model: "chat", file: await sound() })).text,
    "the quick brown fox",
  ],
  images: [async () => (await client.images.generate({ model: "chat", prompt: "x" })).data[0].b64_json, "aGk="],
  "slow first byte": [
    () => {
      setTimeout(() => fs.writeFileSync(path.join(folder, "go-waits:node"), ""), 2000);
      return streamed("waits:node");
    },
    "so it was",
  ],
  "death before the first byte": [() => streamed("breaks-once:node"), "so it was"],
  "death after the first byte": [() => error(streamed("dies")), "APIError"],
  "[DONE] in content": [() => streamed("done"), "data: [DONE]\n\n[DONE]"],
  "429, once": [() => chat("busy-once:node"), "so it was"],
  "429 with Retry-After": [() => error(chat("full")), 429],
  "huge event": [async () => (await streamed("huge")).length, 2000000],
  "llama.cpp: chat": [async () => (await chat("x", { model: "llama", max_tokens: 8 })) !== null, true],
  "llama.cpp: streaming": [async () => typeof (await streamed("x", { model: "llama", max_tokens: 8 })), "string"],
};
for (const [name, [made, wanted]] of Object.entries(cases)) {
  let got;
  try {
    got = await made();
  } catch (raised) {
    got = String(raised);
  }
  const wrong = JSON.stringify(got) === JSON.stringify(wanted) ? "" : JSON.stringify(got).slice(0, 300);
  console.log(JSON.stringify({ client: `openai (Node) ${version}`, case: name, wrong }));
}
