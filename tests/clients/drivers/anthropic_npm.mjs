// Anthropic's package for JavaScript.

import Anthropic, { BadRequestError, NotFoundError } from "@anthropic-ai/sdk";
import { KEY, LONG, NEURON, PARIS, must, raises, report, same, texts } from "./report.mjs";

const client = new Anthropic({ baseURL: NEURON, apiKey: KEY, maxRetries: 0, dangerouslyAllowBrowser: true });
const TOOL = { name: "get_weather", description: texts.description, input_schema: texts.parameters };
const format = { output_config: { format: { type: "json_schema", schema: texts.schema } } };
const said = (content) => ({ model: texts.model, messages: [{ role: "user", content }], max_tokens: 120 });
const ask = (content, options) => client.messages.create({ ...said(content), ...options });
const callsOf = (reply) =>
  reply.content.filter((block) => block.type === "tool_use").map((block) => [block.name, block.input]);
const textOf = (reply) => reply.content.filter((block) => block.type === "text").map((block) => block.text).join("");

async function chat() {
  const reply = await ask(texts.say);
  same([textOf(reply), reply.stop_reason], [texts.said, "end_turn"]);
}

await report({
  models: async () => {
    const found = [];
    for await (const model of client.models.list()) found.push(model.id);
    must(found.includes(texts.model), found);
  },
  chat,
  "chat, streamed": async () => {
    let text = "";
    const stream = client.messages.stream(said(texts.say)).on("text", (delta) => (text += delta));
    same([(await stream.finalMessage()).stop_reason, text], ["end_turn", texts.said]);
  },
  "chat, async": chat, // every call is asynchronous
  "tools, auto": async () => {
    const reply = await ask(texts.call, { tools: [TOOL] });
    same([callsOf(reply), reply.stop_reason], [[["get_weather", PARIS]], "tool_use"]);
    const id = reply.content.find((block) => block.type === "tool_use").id;
    const messages = [
      { role: "user", content: "Weather?" },
      { role: "assistant", content: reply.content },
      { role: "user", content: [{ type: "tool_result", tool_use_id: id, content: "Sunny" }] },
      { role: "assistant", content: "Sunny." },
      { role: "user", content: texts.say },
    ];
    same(textOf(await ask("", { messages, tools: [TOOL] })), texts.said);
  },
  "tools, streamed": async () => {
    const reply = await client.messages.stream({ ...said(texts.two_calls), tools: [TOOL] }).finalMessage();
    same(callsOf(reply).map(([, given]) => given.city), ["Paris", "Rome"]);
  },
  "tools, required": async () => {
    const reply = await ask("Hi", { tools: [TOOL], tool_choice: { type: "any", disable_parallel_tool_use: true } });
    same(callsOf(reply).map(([name]) => name), ["get_weather"]);
  },
  "tools, named": async () => {
    const other = { name: "other", input_schema: { type: "object" } };
    const reply = await ask("Hi", { tools: [other, TOOL], tool_choice: { type: "tool", name: "get_weather" } });
    same(callsOf(reply)[0][0], "get_weather");
  },
  "tools, parallel": async () => {
    same(callsOf(await ask(texts.two_calls, { tools: [TOOL] })).length, 2);
    const choice = { type: "auto", disable_parallel_tool_use: true };
    same(callsOf(await ask(texts.two_calls, { tools: [TOOL], tool_choice: choice })).length, 1);
  },
  structured: async () => same((await client.messages.parse({ ...said(texts.object), ...format })).parsed_output ??
    JSON.parse(textOf(await ask(texts.object, format))), { city: "Paris", degrees: 21 }),
  "structured, with tools": async () => {
    same(JSON.parse(textOf(await ask(texts.object, { ...format, tools: [TOOL] }))).degrees, 21);
    same(callsOf(await ask(texts.call, { ...format, tools: [TOOL] })), [["get_weather", PARIS]]);
  },
  reasoning: async () => {
    const options = { ...said(texts.think), thinking: { type: "enabled", budget_tokens: 1024 }, max_tokens: 2048 };
    for (const reply of [await client.messages.create(options), await client.messages.stream(options).finalMessage()])
      same(reply.content.map((block) => block.thinking ?? block.text), [texts.thought, texts.said]);
  },
  usage: async () => must((await ask(texts.say)).usage.output_tokens > 0),
  errors: async () => {
    await raises((error) => error instanceof NotFoundError, () => ask("Hi", { model: "no/model" }));
    await raises((error) => error instanceof BadRequestError, () => ask("Hi", { max_tokens: -3 }));
    const long = await raises((error) => error instanceof BadRequestError, () => ask(LONG));
    must(long.message.includes("prompt is too long"), long.message);
  },
  "stop, length": async () => {
    same((await ask(texts.say, { stop_sequences: ["answer"] })).stop_sequence, "answer");
    same((await ask(texts.say, { max_tokens: 2 })).stop_reason, "max_tokens");
  },
  messages: async () => {
    const { model, messages } = said(texts.say);
    const { usage } = await ask(texts.say);
    const counted = await client.messages.countTokens({ model, messages });
    same(counted.input_tokens, usage.input_tokens + (usage.cache_read_input_tokens ?? 0));
  },
}, "not in Anthropic's API");
