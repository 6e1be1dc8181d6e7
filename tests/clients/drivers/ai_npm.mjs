// Vercel's AI SDK with @ai-sdk/openai-compatible.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, embedMany, generateObject, generateText, stepCountIs, streamObject, streamText, tool } from "ai";
import { z } from "zod";
import { BASE, KEY, LONG, must, raises, report, same, texts } from "./report.mjs";

const provider = createOpenAICompatible({
  name: "neuron", baseURL: BASE, apiKey: KEY, supportsStructuredOutputs: true, includeUsage: true,
});
const model = provider(texts.model);
const schema = z.object({ city: z.string(), degrees: z.number().int() });
const get_weather = tool({ description: texts.description, inputSchema: z.object({ city: z.string() }) });
const other = tool({ description: "Another function.", inputSchema: z.object({}) });
const said = (prompt, options) => ({ model, prompt, maxOutputTokens: 120, maxRetries: 0, ...options });
const ask = (prompt, options) => generateText(said(prompt, options));
const stream = async (prompt, options) => {
  const streamed = streamText({ ...said(prompt, options), onError: () => {} });
  await streamed.consumeStream(); // its promises wait for a reader
  return streamed;
};
const tools = { get_weather };
const cities = (calls) => calls.map((call) => call.input.city);

async function chat() {
  const reply = await ask(texts.say);
  same([reply.text, reply.finishReason], [texts.said, "stop"]);
}

await report({
  models: "it has no list of models",
  chat,
  "chat, streamed": async () => {
    let text = "";
    for await (const part of streamText(said(texts.say)).textStream) text += part;
    same(text, texts.said);
  },
  "chat, async": chat, // every call is asynchronous
  "tools, auto": async () => {
    same(cities((await ask(texts.call, { tools })).toolCalls), ["Paris"]);
    const run = { get_weather: tool({ ...get_weather, execute: async ({ city }) => `Sunny in ${city}` }) };
    const { steps } = await ask(texts.call, { tools: run, stopWhen: stepCountIs(2) });
    same([steps.length, steps[0].toolResults[0].output], [2, "Sunny in Paris"]);
  },
  "tools, streamed": async () => same(cities(await (await stream(texts.two_calls, { tools })).toolCalls), ["Paris", "Rome"]),
  "tools, required": async () => must((await ask("Hi", { tools, toolChoice: "required" })).toolCalls.length > 0),
  "tools, named": async () => {
    const toolChoice = { type: "tool", toolName: "get_weather" };
    const reply = await ask("Hi", { tools: { other, get_weather }, toolChoice });
    same(reply.toolCalls[0].toolName, "get_weather");
  },
  "tools, parallel": async () => {
    same(cities((await ask(texts.two_calls, { tools })).toolCalls), ["Paris", "Rome"]);
    const providerOptions = { neuron: { parallel_tool_calls: false } };
    same((await ask(texts.two_calls, { tools, providerOptions })).toolCalls.length, 1);
  },
  structured: async () => {
    same((await generateObject(said(texts.object, { schema }))).object, { city: "Paris", degrees: 21 });
    let last;
    for await (last of streamObject(said(texts.object, { schema })).partialObjectStream);
    same(last, { city: "Paris", degrees: 21 });
  },
  "structured, with tools": async () => {
    const options = { tools, output: Output.object({ schema }) };
    same((await ask(texts.object, options)).output, { city: "Paris", degrees: 21 });
    same(cities((await ask(texts.call, options)).toolCalls), ["Paris"]);
  },
  reasoning: async () => {
    const whole = await ask(texts.think);
    same([whole.reasoningText, whole.text], [texts.thought, texts.said]);
    const streamed = await stream(texts.think);
    same([await streamed.text, await streamed.reasoningText], [texts.said, texts.thought]);
  },
  usage: async () => {
    must((await ask(texts.say)).usage.outputTokens > 0);
    must((await (await stream(texts.say)).usage).outputTokens > 0);
  },
  errors: async () => {
    const is = (status) => (error) => APICallError.isInstance(error) && error.statusCode === status;
    await raises(is(404), () => ask("Hi", { model: provider("no/model") }));
    await raises(is(400), () => ask("Hi", { providerOptions: { neuron: { top_logprobs: "warm" } } }));
    await raises(is(400), () => ask(LONG));
  },
  "stop, length": async () => {
    same((await ask(texts.say, { stopSequences: ["answer"] })).text, "The ");
    same((await ask(texts.say, { maxOutputTokens: 2 })).finishReason, "length");
  },
  embeddings: async () => {
    const embedder = provider.embeddingModel?.(texts.embedder) ?? provider.textEmbeddingModel(texts.embedder);
    const { embeddings } = await embedMany({ model: embedder, values: ["one", "two"], maxRetries: 0 });
    same(embeddings.map((vector) => vector.length), [384, 384]);
  },
  completions: async () => {
    const text = provider.completionModel(texts.model);
    must((await ask("Once upon a", { model: text, maxOutputTokens: 4 })).text);
    must(await (await stream("Once upon a", { model: text, maxOutputTokens: 4 })).text);
  },
}, "@ai-sdk/openai-compatible does not speak it");
