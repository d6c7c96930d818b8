// Vercel's AI SDK, by both of its providers; `openai("m")` alone would ask /v1/responses, so `.chat("m")`.

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";
import { answer, base, baseURL, check, expect, key, question, tuned, twoTurns, version } from "./checks.mjs";

version("ai");
const openai = createOpenAI({ baseURL, apiKey: key });
const compatible = createOpenAICompatible({ name: "tunerun", baseURL, apiKey: key });

await check("base", () => generateText({ model: openai.chat(base), prompt: question, maxOutputTokens: 8 }));
await check("tuned", async () => {
  expect((await generateText({ model: openai.chat(tuned), prompt: question })).text, answer);
  expect((await generateText({ model: compatible(tuned), prompt: question })).text, answer);
});
await check("stream", async () => {
  expect(await streamText({ model: openai.chat(tuned), prompt: question }).text, answer);
  expect(await streamText({ model: compatible(tuned), prompt: question }).text, answer);
});
await check("two turns", () => generateText({ model: openai.chat(tuned), messages: twoTurns, maxOutputTokens: 8 }));
