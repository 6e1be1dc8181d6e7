// What every driver of a JavaScript client shares: the texts to send, and a line for each feature. Runs in Node and in a
// page. A page has to define `printLine`.

const node = globalThis.process?.versions?.node;
const file = new URL("texts.json", import.meta.url);
const source = node ? await import("node:fs").then((fs) => fs.readFileSync(file, "utf8")) : await (await fetch(file)).text();
const printLine = node ? console.log : globalThis.printLine;

export const texts = JSON.parse(source);
export const NEURON = node ? process.env.NEURON_URL : new URLSearchParams(location.search).get("neuron");
export const BASE = `${NEURON}/v1`;
export const KEY = "unused";
export const LONG = "word ".repeat(20000);
export const PARIS = { city: "Paris" };
export const TOOL = {
  type: "function",
  function: { name: "get_weather", description: texts.description, parameters: texts.parameters },
};

export function same(found, wanted) {
  const [a, b] = [found, wanted].map((value) => JSON.stringify(value));
  if (a !== b) throw new Error(`${a} is not ${b}`);
}

export function must(truth, about) {
  if (!truth) throw new Error(`not so: ${JSON.stringify(about) ?? "see the driver"}`);
}

export async function raises(wanted, act) {
  try {
    await act();
  } catch (error) {
    if (!wanted(error)) throw error;
    return error;
  }
  throw new Error("no error came");
}

// Runs the check of each feature and prints its outcome: `ok`, or `fail` with the error. A text instead of a check says
// why there is none. `rest` is that text for the features that `checks` does not name.
export async function report(checks, rest) {
  const unknown = Object.keys(checks).filter((name) => !texts.features.includes(name));
  if (unknown.length) throw new Error(`unknown features: ${unknown}`);
  for (const feature of texts.features) {
    const check = checks[feature] ?? rest;
    let [outcome, detail] = ["ok", ""];
    if (typeof check === "string") [outcome, detail] = ["none", check];
    else {
      try {
        await check();
      } catch (error) {
        [outcome, detail] = ["fail", `${error?.name}: ${error?.message ?? error}`];
      }
    }
    await printLine(JSON.stringify({ feature, outcome, detail: detail.slice(0, 400) }));
  }
}
