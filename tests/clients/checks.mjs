// What a client's script says of itself, as checks.py does.

import { readFileSync } from "node:fs";

const given = process.env;
export const [address, key, base, tuned, train] = ["ADDRESS", "KEY", "BASE", "TUNED", "TRAIN"].map((name) => given[`TUNERUN_${name}`]);
export const baseURL = `${address}/v1`;
export const [question, answer] = ["twenty two", "twenty three"];
export const twoTurns = [
  { role: "user", content: "1" },
  { role: "assistant", content: "2" },
  { role: "user", content: question },
];

export async function check(name, work) {
  let why = "";
  try {
    await work();
  } catch (error) {
    why = String(error).replace(/\s+/g, " ");
  }
  console.log(JSON.stringify({ check: name, ok: why === "", why }));
}

export function expect(found, wanted) {
  if (found !== wanted) throw new Error(`${JSON.stringify(found)}, not ${JSON.stringify(wanted)}`);
}

export function version(...names) {
  const found = names.map((name) => JSON.parse(readFileSync(`node_modules/${name}/package.json`, "utf8")).version);
  console.log(JSON.stringify({ version: found.join(", ") }));
}
