// openai for Node: the whole road; a file is sent as a stream, in chunks and without a length.

import { createReadStream } from "node:fs";
import OpenAI from "openai";
import { answer, base, baseURL, check, expect, key, question, train, tuned, twoTurns, version } from "./checks.mjs";

version("openai");
const client = new OpenAI({ baseURL, apiKey: key });
const asked = [{ role: "user", content: question }];

await check("tune", async () => {
  const file = await client.files.create({ file: createReadStream(train), purpose: "fine-tune" });
  let job = await client.fineTuning.jobs.create({ model: base, training_file: file.id, suffix: "node" });
  while (!["succeeded", "failed", "cancelled"].includes(job.status)) {
    await new Promise((resolve) => setTimeout(resolve, 500));
    job = await client.fineTuning.jobs.retrieve(job.id);
  }
  expect(job.status, "succeeded");
  await client.chat.completions.create({ model: job.fine_tuned_model, messages: asked, max_tokens: 8 });
});
await check("base", () => client.chat.completions.create({ model: base, messages: asked, max_tokens: 4 }));
await check("tuned", async () => {
  const found = await client.chat.completions.create({ model: tuned, messages: asked });
  expect(found.choices[0].message.content, answer);
});
await check("stream", async () => {
  expect(await client.chat.completions.stream({ model: tuned, messages: asked }).finalContent(), answer);
});
await check("two turns", () => client.chat.completions.create({ model: tuned, messages: twoTurns, max_tokens: 8 }));
