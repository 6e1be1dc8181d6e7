// The script of the page. The host makes the HTML of its state, and this script asks for it again and again and takes
// over what has changed. The chat is made here. Everything that a model or a person has written becomes text nodes,
// never HTML. Addresses are relative, so the page also works below a path of a proxy.

const element = (id) => document.getElementById(id);
const KEY = "neuron-key"; // where this tab of the browser keeps the key

// ------------------------------------------------------------------------------------------------------- the host

/** Ask the host. Raises an Error with one sentence for people if it refuses, or if it does not answer. */
async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (failure) {
    if (options.signal?.aborted) throw failure;
    throw new Error("The service does not answer. Is it running?");
  }
  if (answer.ok) return answer;
  const problem = new Error(problemOf(await answer.text(), answer.status));
  problem.status = answer.status;
  throw problem;
}

/** Send JSON by POST. */
const post = (path, body, options = {}) =>
  ask(path, { ...options, method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

/** What the body of a refusal says. There are three shapes, and a proxy may send none of them. */
function problemOf(body, status) {
  try {
    const { error } = JSON.parse(body);
    return sentence(typeof error === "string" ? error : error.message);
  } catch {
    return `The service refused this with status ${status}.`;
  }
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

/** The data of each server-sent event of an answer. */
async function* eventsOf(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let unread = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (unread + value).split("\n\n");
    unread = events.pop();
    for (const event of events) {
      const data = event.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
      if (data.length) yield data.join("\n");
    }
  }
}

// ------------------------------------------------------------------------------------------------------ the state

const REFRESH_MS = 1000;
const HIDDEN_REFRESH_MS = 30000; // while nobody looks
const PATIENCE_MS = 10000;

// The one place where text becomes HTML. The text comes from the host, which escapes what others have written.
const policy = window.trustedTypes?.createPolicy("neuron", { createHTML: (html) => html });
const parse = (html) => new DOMParser().parseFromString(policy ? policy.createHTML(html) : html, "text/html");

const keyOf = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.id || node.dataset.key : undefined);
const isSame = (one, other) => one.nodeName === other.nodeName && keyOf(one) === keyOf(other);

/** Make `shown` like `fresh`, and touch nothing that is like it already. So focus, choices and selections stay. */
function morph(shown, fresh) {
  const choice = shown.value; // of a select: an option that changes its place is no longer the chosen one
  if (shown.nodeType === Node.TEXT_NODE) {
    if (shown.data !== fresh.data) shown.data = fresh.data;
    return;
  }
  if (shown.nodeType !== Node.ELEMENT_NODE || "own" in shown.dataset) return;
  for (const name of shown.getAttributeNames()) if (!fresh.hasAttribute(name)) shown.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (shown.getAttribute(name) !== value) shown.setAttribute(name, value);
  const left = [...shown.childNodes];
  const wanted = [...fresh.childNodes].map((child) => {
    const found = left.findIndex((node) => isSame(node, child));
    if (found < 0) return child;
    const [kept] = left.splice(found, 1);
    morph(kept, child);
    return kept;
  });
  for (const node of left) node.remove();
  wanted.forEach((node, place) => {
    if (shown.childNodes[place] !== node) shown.insertBefore(node, shown.childNodes[place] ?? null);
  });
  if (shown.nodeName === "SELECT" && [...shown.options].some(({ value }) => value === choice)) shown.value = choice;
}

let isDue = false; // something has changed since the last pause
let endPause = () => {};

function wake() {
  isDue = true;
  endPause();
}

/** Wait so long, or until `wake` is called. Without a time only `wake` ends the wait. */
async function pause(ms) {
  if (!isDue) {
    await new Promise((done) => {
      endPause = done;
      if (ms !== undefined) setTimeout(done, ms);
    });
  }
  isDue = false;
}

let following = null; // the AbortController of the stream of events; it stays if the key may not follow them

/** Refresh as soon as something happens. A reader who may not follow the events sees it after the next pause. */
async function followEvents() {
  if (following || document.hidden) return;
  const stream = (following = new AbortController());
  let isForbidden = false;
  try {
    for await (const _ of eventsOf(await ask("events", { signal: stream.signal }))) wake();
  } catch (problem) {
    isForbidden = problem.status === 403;
  }
  if (following === stream && !isForbidden) following = null;
}

function stopFollowing() {
  following?.abort();
  following = null;
}

async function refresh() {
  try {
    const answer = await ask("page/state", { signal: AbortSignal.timeout(PATIENCE_MS) });
    const before = states();
    const focused = document.activeElement;
    for (const part of parse(await answer.text()).body.children) morph(element(part.id), part);
    if (!focused.isConnected) element("models-title")?.focus(); // the button of a model that went
    document.body.classList.remove("locked", "stale");
    element("lost").hidden = true;
    tellOfChanges(before);
    followEvents();
    adaptChat();
  } catch (problem) {
    if (problem.status === 401) lock(problem);
    else if (!document.body.classList.contains("stale")) sayLost(problem);
  }
}

function sayLost(problem) {
  document.body.classList.add("stale");
  const why = problem.status === undefined ? "The service does not answer." : problem.message;
  element("lost").textContent = `${why} The numbers are those of ${new Date().toLocaleTimeString()}. This page keeps asking.`;
  element("lost").hidden = false;
}

const states = () => new Map([...document.querySelectorAll(".card")].map((card) => [card.dataset.key, card.classList[1]]));

/** Tell users of screen readers which models have changed their state. */
function tellOfChanges(before) {
  const now = states();
  const changes = [...now].filter(([id, state]) => before.size && before.get(id) !== state);
  for (const id of before.keys()) if (!now.has(id)) changes.push([id, "gone"]);
  if (changes.length) element("announce").textContent = changes.map(([id, state]) => `${id} is ${state}.`).join(" ");
}

async function follow() {
  const isLocked = () => document.body.classList.contains("locked");
  for (;;) {
    if (!isLocked() || sessionStorage.getItem(KEY)) await refresh();
    await pause(isLocked() ? undefined : document.hidden ? HIDDEN_REFRESH_MS : REFRESH_MS);
  }
}

function lock(problem) {
  const wasTried = sessionStorage.getItem(KEY) !== null;
  sessionStorage.removeItem(KEY);
  document.body.classList.add("locked");
  stopFollowing(); // another key may follow the events
  if (wasTried) element("unlock-problem").textContent = problem.message;
}

element("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = element("key").value.trim();
  element("key").value = "";
  const isSendable = /^[!-~]+$/.test(key);
  element("unlock-problem").textContent = isSendable ? "" : "A key has only letters, digits and signs of ASCII.";
  if (!isSendable) return;
  sessionStorage.setItem(KEY, key);
  wake();
});

// ------------------------------------------------------------------------------------------------ load and unload

async function change(id, action) {
  element("load-problem").textContent = "";
  const done = action().catch((problem) => (element("load-problem").textContent = `${id}: ${problem.message}`));
  wake();
  await done;
  wake();
}

const load = (id) => change(id, () => post("models/load", { model_id: id, harness: element("harness")?.value }));
const unload = (id) => change(id, () => post("models/unload", { model_id: id }));

function askBeforeUnload(id) {
  const dialog = element("ask");
  element("ask-title").textContent = `Unload ${id}?`;
  dialog.returnValue = "keep";
  dialog.onclose = () => dialog.returnValue === "unload" && unload(id);
  dialog.showModal();
}

document.addEventListener("click", ({ target }) => {
  const { act, model } = target.closest("button")?.dataset ?? {};
  if (act === "load") load(model);
  if (act === "cancel") unload(model);
  if (act === "unload") askBeforeUnload(model);
});

document.addEventListener("submit", (event) => {
  if (event.target.id !== "load") return;
  event.preventDefault();
  load(element("load-id").value.trim());
  element("load-id").value = "";
});

// ------------------------------------------------------------------------------------------------------- markdown

const INLINE = /`([^`]+)`|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|\[([^\]\n]{1,300})\]\(([^()\s]{1,2000})\)/g;
const LONGEST_STYLED = 20000; // characters of a block; a longer one is shown as it is
const DEEPEST = 8; // quotes and lists inside each other
const FENCE = /^ {0,3}(```+|~~~+)\s*([\w+#.-]*)/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])\s+/;
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;
const HEADING = /^ {0,3}(#{1,6})\s/;
const BORDER = /^ *\|?( *:?-+:? *\|)+ *:?-*:? *$/;

function make(tag, content = [], properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...[content].flat());
  return made;
}

/** Text with code, bold, italics and links, as nodes. */
function inline(text) {
  if (text.length > LONGEST_STYLED) return [text];
  const nodes = [];
  let end = 0;
  for (const found of text.matchAll(INLINE)) {
    const [whole, code, bold, italic, label, address] = found;
    nodes.push(text.slice(end, found.index));
    end = found.index + whole.length;
    if (code) nodes.push(make("code", code));
    else if (bold) nodes.push(make("strong", inline(bold)));
    else if (italic) nodes.push(make("em", inline(italic)));
    else if (/^(https?:|mailto:)/i.test(address))
      nodes.push(make("a", label, { href: address, rel: "noopener noreferrer", target: "_blank" }));
    else nodes.push(whole);
  }
  return [...nodes, text.slice(end)];
}

/** Take a text apart into blocks: `{kind, lines}`. A fence that is not closed ends with the text. */
function blocksOf(text) {
  const lines = text.split("\n");
  const blocks = [];
  for (let at = 0; at < lines.length; ) {
    const start = at;
    const upTo = (isLast) => {
      do at += 1;
      while (at < lines.length && !isLast(lines[at], at));
    };
    const add = (kind) => blocks.push({ kind, lines: lines.slice(start, at) });
    const line = lines[at];
    const fence = FENCE.exec(line);
    if (!line.trim()) at += 1;
    else if (fence) {
      upTo((next) => next.trim().startsWith(fence[1]) && !next.trim().slice(fence[1].length));
      add("code");
      at += 1;
    } else if (RULE.test(line) || HEADING.test(line)) {
      at += 1;
      add(HEADING.test(line) ? "heading" : "rule");
    } else if (line.startsWith(">")) {
      upTo((next) => !next.startsWith(">"));
      add("quote");
    } else if (ITEM.test(line)) {
      // A blank line ends a list unless an item or something indented follows.
      const goesOn = (next) => next !== undefined && (ITEM.test(next) || /^ {2,}\S/.test(next));
      upTo((next, place) => (next.trim() ? !goesOn(next) && !lines[place - 1].trim() : !goesOn(lines[place + 1])));
      add("list");
    } else if (line.includes("|") && BORDER.test(lines[at + 1] ?? "")) {
      upTo((next) => !next.includes("|"));
      add("table");
    } else {
      upTo((next) => !next.trim() || FENCE.test(next) || HEADING.test(next) || ITEM.test(next) || next.startsWith(">"));
      add("paragraph");
    }
  }
  return blocks;
}

const cellsOf = (line) => line.trim().replace(/^\||\|$/g, "").split("|");
const row = (line, tag) => make("tr", cellsOf(line).map((cell) => make(tag, inline(cell.trim()))));

/** The text of a heading that may end with signs again. Not by a pattern, which would try every place in long blanks. */
function withoutClosingSigns(text) {
  let end = text.length;
  while (text[end - 1] === "#") end -= 1;
  return end === 0 || /\s/.test(text[end - 1]) ? text.slice(0, end).trimEnd() : text;
}

/** What is inside a quote or an item. What is too deep inside others is shown as it is. */
const within = (lines, depth) =>
  depth < DEEPEST ? blocksOf(lines.join("\n")).map((block) => render(block, depth + 1)) : [lines.join("\n")];

function itemsOf(lines, depth) {
  const items = [];
  const indent = ITEM.exec(lines[0])[1].length;
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (item && item[1].length <= indent + 1) items.push([line.slice(item[0].length)]);
    else items.at(-1).push(line.replace(/^ {1,4}/, ""));
  }
  return items.map((item) => make("li", item.length > 1 ? within(item, depth) : inline(item[0])));
}

const RENDERED = {
  code: (lines) => make("pre", make("code", lines.slice(1).join("\n")), { tabIndex: 0 }),
  heading: ([line]) => {
    const [mark, signs] = HEADING.exec(line);
    return make(`h${Math.min(5, signs.length + 2)}`, inline(withoutClosingSigns(line.slice(mark.length).trim())));
  },
  rule: () => make("hr"),
  quote: (lines, depth) => make("blockquote", within(lines.map((line) => line.replace(/^> ?/, "")), depth)),
  list: (lines, depth) => {
    const first = parseInt(lines[0], 10);
    return isNaN(first) ? make("ul", itemsOf(lines, depth)) : make("ol", itemsOf(lines, depth), { start: first });
  },
  table: ([head, , ...rows]) =>
    make("table", [make("thead", row(head, "th")), make("tbody", rows.map((line) => row(line, "td")))]),
  paragraph: (lines) => make("p", inline(lines.join("\n"))),
};
const render = ({ kind, lines }, depth = 0) => RENDERED[kind](lines, depth);

/** Show `text` in `place`. Blocks that are there already stay, so a long reply costs little while it grows. */
function showMarkdown(place, text) {
  const shown = (place.shown ??= []); // of each block its source and its element
  const blocks = blocksOf(text);
  blocks.forEach((block, at) => {
    const source = `${block.kind}\n${block.lines.join("\n")}`;
    if (shown[at]?.source === source) return;
    const node = render(block);
    if (shown[at]) shown[at].node.replaceWith(node);
    else place.append(node);
    shown[at] = { source, node };
  });
  for (const { node } of shown.splice(blocks.length)) node.remove();
}

// ----------------------------------------------------------------------------------------------------------- chat

let conversation = []; // messages as in OpenAI's API
let writing = null; // the AbortController of the reply that is being written

/** The tool calls of the last reply that have no result so far. What a person writes next is such a result. */
function openCalls() {
  const last = conversation.findLastIndex((message) => message.role === "assistant");
  const answered = new Set(conversation.slice(last + 1).map((message) => message.tool_call_id));
  return (conversation[last]?.tool_calls ?? []).filter((call) => !answered.has(call.id));
}

function adaptChat() {
  const [call] = openCalls();
  const hasModel = element("model").value !== "";
  element("compose").hidden = false;
  element("new-chat").hidden = element("log").children.length === 0;
  element("send").hidden = writing !== null;
  element("stop").hidden = writing === null;
  element("send").disabled = !hasModel;
  element("message").placeholder = call
    ? `Write the result of ${call.function.name}.`
    : hasModel
      ? "Write a message. Shift+Enter begins a new line."
      : `${element("model").textContent.trim()}.`;
}

/** Add to the conversation that is shown, and follow its end unless the reader has scrolled away from it. */
function follows(change) {
  const log = element("log");
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  const result = change();
  if (isAtEnd) log.scrollTop = log.scrollHeight;
  return result;
}

const show = (node) => follows(() => (element("log").append(node), node));

function send(text) {
  const [call] = openCalls();
  conversation.push(call ? { role: "tool", tool_call_id: call.id, content: text } : { role: "user", content: text });
  const by = call ? [make("span", `Result of ${call.function.name}`, { className: "by" })] : [];
  show(make("li", [...by, make("span", text)], { className: "message user" }));
  element("log").scrollTop = element("log").scrollHeight;
  if (openCalls().length === 0) reply();
  adaptChat();
}

/** The body of a chat. Raises an Error where the tools are no JSON. */
function chatBody() {
  const body = { model: element("model").value, messages: conversation, stream: true };
  const [system, tools] = [element("system").value.trim(), element("tools").value.trim()];
  if (system) body.messages = [{ role: "system", content: system }, ...conversation];
  if (element("temperature").value) body.temperature = Number(element("temperature").value);
  if (element("max-tokens").value) body.max_tokens = Number(element("max-tokens").value);
  try {
    if (tools) body.tools = JSON.parse(tools);
  } catch (wrong) {
    throw new Error(`The tools in the settings are no JSON: ${wrong.message}`);
  }
  return body;
}

/** A reply that begins: its place in the page, what was said before it, and what there is of it. */
function newReply(model) {
  const parts = {
    reasoning: make("div", [], { tabIndex: 0 }),
    summary: make("summary", "Reasoning …"),
    text: make("div", [], { className: "text" }),
    foot: make("p", "", { className: "by" }),
  };
  const details = make("details", [parts.summary, parts.reasoning], { className: "reasoning", hidden: true });
  const by = make("span", model, { className: "by" });
  const item = show(make("li", [by, details, parts.text, parts.foot], { className: "message assistant writing" }));
  return { ...parts, details, item, conversation, words: "", thoughts: "", calls: [] };
}

/** Show a reply as it is. Done at most once for each picture of the screen. */
function draw(reply) {
  follows(() => {
    reply.details.hidden = !reply.thoughts;
    reply.reasoning.textContent = reply.thoughts;
    if (reply.words) reply.summary.textContent = "Reasoning";
    showMarkdown(reply.text, reply.words);
  });
}

function showCall(reply, call) {
  reply.calls.push({ id: call.id, type: "function", function: call.function });
  const caption = make("figcaption", ["Calls ", make("code", call.function.name)]);
  const shown = make("pre", pretty(call.function.arguments));
  follows(() => reply.foot.before(make("figure", [caption, shown], { className: "call" })));
}

function pretty(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}

async function reply() {
  for (const again of document.querySelectorAll("#log .again")) again.remove(); // only the last question is asked again
  const stopped = (writing = new AbortController());
  const model = element("model").value;
  const shown = newReply(model);
  const began = performance.now();
  let first = 0;
  let account = {};
  let frame = 0;
  adaptChat();
  try {
    const answer = await post("v1/chat/completions", chatBody(), { signal: stopped.signal });
    for await (const data of eventsOf(answer)) {
      if (data === "[DONE]") break;
      const { choices, usage, timings, error } = JSON.parse(data);
      if (error) throw new Error(sentence(error.message));
      const { delta = {}, finish_reason } = choices?.[0] ?? {}; // a gateway may add a chunk without a choice
      shown.words += delta.content ?? "";
      shown.thoughts += delta.reasoning_content ?? "";
      delta.tool_calls?.forEach((call) => showCall(shown, call));
      if (delta.content || delta.reasoning_content) first ||= performance.now() - began;
      if (usage) account = { usage, timings, finish_reason };
      frame ||= requestAnimationFrame(() => ((frame = 0), draw(shown)));
    }
    end(shown, account.usage ? inWords(account, first) : "The reply ended early.");
  } catch (problem) {
    if (stopped.signal.aborted) end(shown, "Stopped.");
    else fail(shown, problem);
  } finally {
    cancelAnimationFrame(frame);
    if (writing === stopped) writing = null; // a new chat may have begun another reply
    draw(shown);
    shown.item.classList.remove("writing");
    adaptChat();
  }
}

function inWords({ usage, timings, finish_reason }, first) {
  const parts = [`${usage.completion_tokens} tokens`];
  if (timings?.predicted_per_second) parts.push(`${timings.predicted_per_second.toFixed(1)} tokens/s`);
  if (first) parts.push(`first after ${(first / 1000).toFixed(2)} s`);
  if (finish_reason === "length") parts.push("cut at the most tokens");
  return parts.join(" · ");
}

/** The reply has ended, or was stopped: what there is of it is part of the conversation. */
function end(shown, foot) {
  shown.foot.textContent = foot;
  shown.summary.textContent = "Reasoning";
  const calls = shown.calls.length ? { tool_calls: shown.calls } : {};
  if (shown.words || shown.calls.length) shown.conversation.push({ role: "assistant", content: shown.words, ...calls });
  element("announce").textContent = `The reply is complete. ${shown.words}`;
}

/** The reply is lost: it is not part of the conversation, and the same question can be asked again. */
function fail(shown, problem) {
  const again = make("button", "Try again", { type: "button", className: "quiet again" });
  again.onclick = () => (shown.item.remove(), reply());
  const words = make("p", problem.message, { className: "error" });
  words.setAttribute("role", "alert");
  follows(() => shown.foot.replaceWith(words, make("div", again)));
}

element("compose").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = element("message").value.trim();
  if (!text || writing || element("send").disabled) return;
  element("message").value = "";
  send(text);
});
element("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    element("compose").requestSubmit();
  }
});
element("chat").addEventListener("keydown", (event) => event.key === "Escape" && writing?.abort());
element("stop").addEventListener("click", () => writing?.abort());
element("new-chat").addEventListener("click", () => {
  writing?.abort();
  conversation = [];
  element("log").replaceChildren();
  adaptChat();
  element("message").focus();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) stopFollowing(); // a browser opens six connections to a host, for all of its tabs together
  wake();
});

document.documentElement.classList.add("scripted");
follow();
