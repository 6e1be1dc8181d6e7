// OpenAI's package for JavaScript, in Node and in a page of another origin.

import OpenAI, { BadRequestError, NotFoundError } from "openai";
import { BASE, KEY, LONG, PARIS, TOOL, must, raises, report, same, texts } from "./report.mjs";

const client = new OpenAI({ baseURL: BASE, apiKey: KEY, maxRetries: 0, dangerouslyAllowBrowser: true });
const said = (content) => ({ model: texts.model, messages: [{ role: "user", content }], max_tokens: 120 });
const ask = (content, options) => client.chat.completions.create({ ...said(content), ...options });
const callsOf = (reply) =>
  (reply.choices[0].message.tool_calls ?? []).map((call) => [call.function.name, JSON.parse(call.function.arguments)]);
const format = { type: "json_schema", json_schema: { name: "weather", schema: texts.schema, strict: true } };
const flat = { type: "function", strict: true, ...TOOL.function };

async function chat() {
  const [choice] = (await ask(texts.say)).choices;
  same([choice.message.content, choice.finish_reason], [texts.said, "stop"]);
}

await report({
  models: async () => {
    must((await client.models.list()).data.some((model) => model.id === texts.model));
    same((await client.models.retrieve(texts.model)).id, texts.model);
  },
  chat,
  "chat, streamed": async () => {
    let text = "";
    for await (const chunk of await ask(texts.say, { stream: true })) text += chunk.choices[0].delta.content ?? "";
    same(text, texts.said);
  },
  "chat, async": chat, // every call is asynchronous
  "tools, auto": async () => {
    const { message } = (await ask(texts.call, { tools: [TOOL] })).choices[0];
    same(callsOf({ choices: [{ message }] }), [["get_weather", PARIS]]);
    const result = { role: "tool", tool_call_id: message.tool_calls[0].id, content: "Sunny" };
    const turns = [{ role: "user", content: "Weather?" }, message, result, { role: "user", content: texts.say }];
    same((await ask("", { messages: turns, tools: [TOOL] })).choices[0].message.content, texts.said);
  },
  "tools, streamed": async () => {
    const stream = client.chat.completions.stream({ ...said(texts.two_calls), tools: [TOOL] });
    same(callsOf(await stream.finalChatCompletion()).map(([, given]) => given.city), ["Paris", "Rome"]);
  },
  "tools, required": async () => {
    const reply = await ask("Hi", { tools: [TOOL], tool_choice: "required", parallel_tool_calls: false });
    same(callsOf(reply).map(([name, given]) => [name, Object.keys(given)]), [["get_weather", ["city"]]]);
  },
  "tools, named": async () => {
    const other = { type: "function", function: { name: "other", parameters: { type: "object" } } };
    const choice = { type: "function", function: { name: "get_weather" } };
    const reply = await ask("Hi", { tools: [other, TOOL], tool_choice: choice, parallel_tool_calls: false });
    same(callsOf(reply)[0][0], "get_weather");
  },
  "tools, parallel": async () => {
    same(callsOf(await ask(texts.two_calls, { tools: [TOOL] })).length, 2);
    same(callsOf(await ask(texts.two_calls, { tools: [TOOL], parallel_tool_calls: false })).length, 1);
  },
  structured: async () => {
    const reply = await client.chat.completions.parse({ ...said(texts.object), response_format: format });
    same(reply.choices[0].message.parsed, { city: "Paris", degrees: 21 });
  },
  "structured, with tools": async () => {
    const options = { tools: [TOOL], response_format: format };
    same(JSON.parse((await ask(texts.object, options)).choices[0].message.content).degrees, 21);
    same(callsOf(await ask(texts.call, options)), [["get_weather", PARIS]]);
  },
  reasoning: async () => {
    const { message } = (await ask(texts.think)).choices[0];
    same([message.reasoning_content, message.content], [texts.thought, texts.said]);
    let thought = "";
    for await (const chunk of await ask(texts.think, { stream: true }))
      thought += chunk.choices[0].delta.reasoning_content ?? "";
    same(thought, texts.thought);
  },
  usage: async () => {
    must((await ask(texts.say)).usage.completion_tokens > 0);
    let last;
    for await (last of await ask(texts.say, { stream: true, stream_options: { include_usage: true } }));
    must(last.usage.total_tokens > 0);
  },
  errors: async () => {
    await raises((error) => error instanceof NotFoundError, () => ask("Hi", { model: "no/model" }));
    await raises((error) => error instanceof BadRequestError, () => ask("Hi", { temperature: "warm" }));
    const long = await raises((error) => error instanceof BadRequestError, () => ask(LONG));
    same(long.code, "context_length_exceeded");
  },
  "stop, length": async () => {
    same((await ask(texts.say, { stop: ["answer"] })).choices[0].message.content, "The ");
    same((await ask(texts.say, { max_tokens: 2 })).choices[0].finish_reason, "length");
  },
  embeddings: async () => {
    const reply = await client.embeddings.create({ model: texts.embedder, input: ["one", "two"] });
    same(reply.data.map((item) => item.embedding.length), [384, 384]);
  },
  completions: async () => {
    const reply = await client.completions.create({ model: texts.model, prompt: ["Once", "Twice"], max_tokens: 4 });
    same(reply.choices.map((choice) => choice.index), [0, 1]);
  },
  responses: async () => {
    same((await client.responses.create({ model: texts.model, input: texts.say })).output_text, texts.said);
    const stream = client.responses.stream({ model: texts.model, input: texts.think });
    same((await stream.finalResponse()).output_text, texts.said);
    const reply = await client.responses.create({ model: texts.model, input: texts.call, tools: [flat] });
    same(reply.output.filter((item) => item.type === "function_call").map((item) => JSON.parse(item.arguments)), [PARIS]);
  },
}, "OpenAI's clients do not speak it");
