// The page: one form, streamed answers, and nothing that turns text into markup (every text goes through textContent).
"use strict";

const COMPARE = "side by side";
const SHOWN = 5; // passages at least, and all that are read
const MOST_SHOWN = 50;
const HISTORY = 30;
const NAMES = {
  reranker: () => "Passages, reranked",
  bm25: () => `Passages by ${state.retriever}`, // whatever the recipe's retriever is
  nothing: () => "No passages",
};
const nameOf = (model) => (NAMES[model.reads] ? NAMES[model.reads]() : model.label);
const STOP_WORDS = new Set(
  ("a an and are as at be been but by can could did do does for from had has have he her his how i if in into is it its " +
    "may more most no not of on or she so some such than that the their them then there these they this those to was we " +
    "were what when where which who whose why will with would you your also about after all any because between both").split(" ")
);

const at = (selector, root = document) => root.querySelector(selector);
const state = { models: [], retriever: "", passages: 1, asked: null, answers: new Map(), history: [], stop: new AbortController() };

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

// --- the server -------------------------------------------------------------------------------------------------------

function headers() {
  const key = sessionStorage.getItem("kard-key");
  return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
}

async function request(path, options) {
  try {
    return await fetch(path, options);
  } catch {
    throw new Error("The server cannot be reached. Try again when it runs."); // or it was stopped: then nobody reads this
  }
}

async function failure(response) {
  const body = await response.json().catch(() => ({}));
  if (response.status === 401) at("#key-line").hidden = false;
  const wait = response.headers.get("retry-after");
  const message = body.error ? body.error.message : `The server said ${response.status}.`;
  return new Error(response.status === 429 ? `Many are asking. Try again in ${wait} seconds.` : message);
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(() => ({ done: true })); // broken off: the answer has not come
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const [first, second] = block.split("\n");
      yield [first.slice("event: ".length), JSON.parse(second.slice("data: ".length))];
    }
  }
}

function body(question, model) {
  return { question: question.question, choices: question.choices, model, show: Math.min(Math.max(SHOWN, state.passages), MOST_SHOWN) };
}

// --- words that rationale and passages share -----------------------------------------------------------------------------

const segmenter = new Intl.Segmenter(undefined, { granularity: "word" });

function words(text) {
  return [...segmenter.segment(text)].map(({ segment, isWordLike }) => {
    // As search does: one form for ligatures, widths and composition, without characters that nobody sees.
    const word = segment.normalize("NFKC").replace(/\p{Default_Ignorable_Code_Point}/gu, "").toLowerCase();
    return { segment, word: isWordLike && !STOP_WORDS.has(word) ? word : null };
  });
}

function highlighted(text, shared) {
  const pieces = [];
  for (const { segment, word } of words(text)) {
    const marked = word !== null && shared.has(word);
    const last = pieces[pieces.length - 1];
    if (last && last.marked === marked) last.text += segment;
    else pieces.push({ marked, text: segment });
  }
  return pieces.map(({ marked, text }) => (marked ? element("mark", text) : document.createTextNode(text)));
}

// A text with some of its sentences told apart by a class, and nodes behind them.
function fillSentences(target, text, sentences, shared) {
  const parts = [];
  let begin = 0;
  for (const { sentence, className, behind } of sentences) {
    const place = text.indexOf(sentence, begin);
    if (place < 0) continue;
    const part = element("span", "", className);
    part.append(...highlighted(sentence, shared));
    parts.push(...highlighted(text.slice(begin, place), shared), part, ...behind);
    begin = place + sentence.length;
  }
  target.replaceChildren(...parts, ...highlighted(text.slice(begin), shared));
}

function wordSet(texts) {
  return new Set(texts.flatMap((text) => words(text).map(({ word }) => word)).filter((word) => word !== null));
}

// --- a card ----------------------------------------------------------------------------------------------------------

function score(list, name, value, moved = false) {
  const row = element("div");
  row.append(element("dt", name), element("dd", value, moved ? "moved" : ""));
  list.append(row);
}

// A text whose addresses are links; nothing but http and https is one.
function withLinks(text) {
  return text.split(/(https?:\/\/[^\s<>"]*[^\s<>",])/).map((piece, place) => {
    if (place % 2 === 0) return document.createTextNode(piece);
    const link = element("a", piece);
    Object.assign(link, { href: piece, target: "_blank", rel: "noopener noreferrer" });
    return link;
  });
}

function passageItem(passage, shared, citations = []) {
  const item = at("#passage").content.cloneNode(true);
  at("h4", item).textContent = passage.read ? `[${passage.rank}] ${passage.title || passage.id}` : passage.title || passage.id;
  const own = citations.flatMap(({ sources }) => sources.filter(({ number }) => number === passage.rank).map(({ sentence }) => sentence));
  const cited = [...new Set(own)].sort((one, other) => passage.text.indexOf(one) - passage.text.indexOf(other));
  fillSentences(at(".text", item), passage.text, cited.map((sentence) => ({ sentence, className: "cited", behind: [] })), shared);
  const list = at(".scores", item);
  if (passage.retriever !== null) score(list, state.retriever, `${passage.retriever.toFixed(2)}, place ${passage.retriever_rank}`);
  if (passage.reranker !== null)
    score(list, "reranker", `${passage.reranker.toFixed(3)}, place ${passage.rank}`, passage.rank < passage.retriever_rank);
  if (passage.likelihood !== null) score(list, "likelihood", `${passage.likelihood.toFixed(2)} (log)`);
  score(list, "source", "");
  at("div:last-child dd", list).replaceChildren(...withLinks(passage.source));
  if (passage.id !== passage.title) score(list, "id", passage.id);
  return item;
}

// Behind a sentence of the explanation: links to the passages that say so, or in a word that none does.
function behindSentence(card, { sources }) {
  if (!sources.length) {
    const tag = element("a", "unsupported", "tag");
    tag.href = "/glossary#citation";
    return [" ", tag];
  }
  return sources.flatMap(({ number, sentence }) => {
    const link = element("a", `[${number}]`, "number");
    link.href = `#${card.dataset.model}-${number}`;
    link.title = sentence;
    link.setAttribute("aria-label", `passage ${number}: ${sentence}`);
    return [" ", link];
  });
}

function showPassages(card, passages, rationale, citations = []) {
  const read = passages.filter((passage) => passage.read);
  const shared = wordSet([rationale]);
  at(".evidence", card).hidden = passages.length === 0;
  at(".evidence > .passages", card).replaceChildren(...read.map((passage) => passageItem(passage, shared, citations)));
  const items = [...at(".evidence > .passages", card).children];
  items.forEach((item, place) => (item.id = `${card.dataset.model}-${place + 1}`));
  const links = read.map((passage, place) => {
    const link = element("a", passage.title || passage.id);
    link.href = `#${items[place].id}`;
    return link;
  });
  at(".sources", card).replaceChildren("Sources: ", ...links);
  at(".sources", card).hidden = read.length === 0;
  const others = passages.filter((passage) => !passage.read);
  at(".others", card).hidden = others.length === 0;
  at(".others .passages", card).replaceChildren(...others.map((passage) => passageItem(passage, shared)));
  const said = citations.map((citation) => ({
    sentence: citation.sentence,
    className: citation.supported ? "" : "unsupported",
    behind: behindSentence(card, citation),
  }));
  fillSentences(at(".rationale", card), rationale, said, wordSet(read.map((passage) => `${passage.title} ${passage.text}`)));
}

function newCard(question, model) {
  const card = at("#card").content.cloneNode(true).firstElementChild;
  card.dataset.model = model.id;
  card.classList.add("busy");
  card.setAttribute("aria-busy", "true");
  at(".doing", card).textContent = "Waiting for its turn";
  at("h2", card).textContent = nameOf(model);
  at(".read", card).textContent = model.label;
  at(".question", card).textContent = question.question;
  at(".evidence", card).hidden = true;
  at(".sure", card).hidden = true;
  at("footer", card).querySelectorAll("button").forEach((button) => (button.disabled = true));
  return card;
}

function quiet(card) {
  card.classList.remove("busy");
  card.removeAttribute("aria-busy");
}

function said(reply) {
  if (reply.abstained) return "not sure enough to answer";
  return reply.answer === null ? "none could be read off" : reply.answer;
}

function showAnswer(card, question, reply) {
  quiet(card);
  at(".wait", card).hidden = true;
  at(".cut", card).hidden = !reply.question_cut;
  const answer = at(".answer strong", card);
  answer.textContent = said(reply);
  answer.classList.toggle("none", reply.answer === null);
  showPassages(card, reply.passages, reply.rationale || (reply.answer === null ? reply.text : ""), reply.citations);
  if (!reply.rationale && reply.answer !== null) at(".rationale", card).textContent = "This student writes no explanation.";
  at(".sure", card).hidden = reply.confidence === null;
  if (reply.confidence !== null) {
    const percent = reply.confidence > 0.99 ? "over 99 %" : `${Math.round(100 * reply.confidence)} %`;
    at("meter", card).value = Math.min(reply.confidence, 0.99);
    const kind = reply.calibrated ? "calibrated" : "not calibrated";
    at("meter", card).setAttribute("aria-label", `Confidence ${percent}, ${kind}`);
    const meaning = reply.calibrated ? "how often an answer like this one is right" : "how sure the student is of this choice";
    at(".percent", card).textContent = `${percent}: ${meaning},`;
    at(".sure a", card).textContent = kind;
  }
  const times = Object.entries(reply.milliseconds).map(([step, time]) => `${step} ${inWords(time)}`);
  at(".times", card).textContent = times.join(" · ");
  const sent = body(question, reply.model);
  const copies = { ".copy-json": () => JSON.stringify(reply, null, 1), ".copy-curl": () => curl(sent) };
  for (const [button, text] of Object.entries(copies)) {
    at(button, card).disabled = false;
    at(button, card).onclick = () => copy(text(), at(button, card));
  }
}

const inWords = (milliseconds) => (milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`);

function curl(sent) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const key = sessionStorage.getItem("kard-key") ? ` -H "Authorization: Bearer $KARD_API_KEY"` : "";
  return `curl ${location.origin}/v1/answer -H 'Content-Type: application/json'${key} -d ${quoted(JSON.stringify(sent))}`;
}

async function copy(text, button) {
  const label = button.textContent;
  // There is no clipboard object on a page that comes from another machine by plain HTTP.
  const copied = navigator.clipboard ? await navigator.clipboard.writeText(text).then(() => true, () => false) : copySelected(text);
  button.textContent = copied ? "Copied" : "Not allowed here";
  button.focus();
  setTimeout(() => (button.textContent = label), 1500);
}

function copySelected(text) {
  const area = element("textarea", text, "off-screen");
  area.readOnly = true;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  return copied;
}

// --- asking ----------------------------------------------------------------------------------------------------------

function wanted() {
  const chosen = at("#switch input:checked").value;
  return chosen === COMPARE ? state.models : state.models.filter((model) => model.id === chosen);
}

async function answer(question, model, card, signal) {
  const response = await request("/v1/answer", {
    method: "POST",
    signal,
    headers: headers(),
    body: JSON.stringify({ ...body(question, model.id), stream: true }),
  });
  if (!response.ok) throw await failure(response);
  let text = "";
  let passages = [];
  let reply = null;
  for await (const [name, data] of events(response)) {
    if (name === "error") throw new Error(data.error.message);
    if (name === "answer") reply = data;
    if (name === "passages") passages = data;
    at(".doing", card).textContent = passages.some((passage) => passage.read) ? "Reading the passages, writing" : "Writing";
    if (name === "text") text += data;
    showPassages(card, passages, text.split("\nAnswer:")[0]);
  }
  if (reply === null) throw new Error("The connection broke. Ask again.");
  return reply;
}

async function ask(question) {
  if (!state.asked || JSON.stringify(state.asked) !== JSON.stringify(question)) state.answers.clear();
  state.asked = question;
  state.stop.abort(); // what is still being answered is no longer wanted: the server gives its place to others
  const stop = (state.stop = new AbortController());
  const models = wanted();
  const results = at("#results");
  results.classList.toggle("side-by-side", models.length > 1);
  document.body.classList.toggle("wide-results", models.length > 1);
  at("#examples").hidden = true;
  at("#error").hidden = true;
  const cards = models.map((model) => newCard(question, model));
  results.replaceChildren(...cards);
  busy(true);
  const begun = Date.now();
  const clock = setInterval(() => tick(cards, Math.round((Date.now() - begun) / 1000)), 1000);
  tick(cards, 0);
  const finished = await Promise.allSettled(
    models.map(async (model, place) => {
      const reply = state.answers.get(model.id) || (await answer(question, model, cards[place], stop.signal));
      if (state.asked === question) state.answers.set(model.id, reply);
      showAnswer(cards[place], question, reply);
      return `${nameOf(model)}: ${said(reply)}`;
    })
  );
  clearInterval(clock);
  if (stop !== state.stop) return; // another question came in the meantime
  busy(false);
  const stopped = stop.signal.aborted;
  const missing = finished.flatMap((outcome, place) => (outcome.status === "rejected" ? [[cards[place], outcome.reason]] : []));
  missing.forEach(([card]) => (stopped ? showStopped(card) : card.remove()));
  if (missing.length && !stopped) say(missing[0][1].message);
  at("#status").textContent = stopped ? "Stopped." : finished.map((outcome) => outcome.value || "").join(". ");
  if (!missing.length) remember(question);
}

function busy(asking) {
  const held = [at("#go"), at("#stop")].includes(document.activeElement);
  at("#go").disabled = asking;
  at("#stop").hidden = !asking;
  if (held) at(asking ? "#stop" : "#go").focus(); // a button that goes would take the focus with it
}

// A sign of life: each second for the eye, each ten for a screen reader.
function tick(cards, seconds) {
  for (const card of cards) at(".seconds", card).textContent = `${seconds} s`;
  if (seconds % 10 === 0) at("#status").textContent = seconds ? `Still at it after ${seconds} seconds.` : "Asking …";
}

function showStopped(card) {
  quiet(card);
  at(".doing", card).textContent = "Stopped after";
}

function say(message) {
  at("#error").textContent = message;
  at("#error").hidden = false;
}

// --- the form --------------------------------------------------------------------------------------------------------

function addChoice(text = "", focus = false) {
  const item = element("li");
  const input = element("input");
  const number = at("#choice-list").children.length + 1;
  Object.assign(input, { value: text, maxLength: 500, dir: "auto", autocomplete: "off" });
  input.setAttribute("aria-label", `Choice ${number}`);
  input.placeholder = `Choice ${number}`;
  const remove = element("button", "×", "plain");
  remove.type = "button";
  remove.setAttribute("aria-label", `Remove choice ${number}`);
  remove.onclick = () => {
    const rest = choices(item);
    setChoices(rest);
    at("#add-choice").focus();
  };
  input.onpaste = (event) => {
    const lines = event.clipboardData.getData("text").split(/\r?\n/).map((line) => line.replace(/^\s*[-*•]\s+/, "").trim()).filter(Boolean);
    if (lines.length < 2) return;
    event.preventDefault();
    setChoices([...choices(item), ...lines]);
  };
  item.append(input, remove);
  at("#choice-list").append(item);
  if (focus) input.focus();
}

function choices(without = null) {
  const items = [...at("#choice-list").children].filter((item) => item !== without);
  return items.map((item) => at("input", item).value.trim()).filter(Boolean);
}

function setChoices(texts) {
  at("#choice-list").replaceChildren();
  [...texts, ...Array(Math.max(0, 2 - texts.length)).fill("")].forEach((text) => addChoice(text));
}

function fill(question) {
  at("#question").value = question.question;
  setChoices(question.choices);
}

function submit() {
  const question = { question: at("#question").value.trim(), choices: choices() };
  if (question.question && !at("#go").disabled && state.models.length) ask(question);
}

function choose(question) {
  fill(question);
  if (state.models.length) ask(question);
}

function addSwitch(value, label, checked) {
  const option = element("label");
  const input = element("input");
  Object.assign(input, { type: "radio", name: "model", value, checked });
  input.onchange = () => state.asked && ask(state.asked);
  option.append(input, element("span", label));
  at("#switch").append(option);
}

// --- history, in this browser only ---------------------------------------------------------------------------------------

function remember(question) {
  const same = JSON.stringify(question);
  state.history = [question, ...state.history.filter((other) => JSON.stringify(other) !== same)].slice(0, HISTORY);
  localStorage.setItem("kard-history", JSON.stringify(state.history));
  showHistory();
}

function showHistory() {
  const items = state.history.map((question) => {
    const item = element("li");
    const button = element("button", question.question, "plain");
    Object.assign(button, { type: "button", dir: "auto" });
    button.onclick = () => choose(question);
    item.append(button);
    return item;
  });
  at("#history").replaceChildren(...items);
  at("#no-history").hidden = items.length > 0;
  at("#forget").hidden = items.length === 0;
}

function readHistory() {
  try {
    const rows = JSON.parse(localStorage.getItem("kard-history") || "[]");
    return rows.filter((row) => typeof row.question === "string" && Array.isArray(row.choices));
  } catch {
    return [];
  }
}

function unreachable(error) {
  say(`${error.message} Then load this page again.`);
}

async function begin() {
  const response = await request("/v1/models", { headers: headers() });
  if (!response.ok) return say((await failure(response)).message);
  const listed = await response.json();
  Object.assign(state, { models: listed.data, retriever: listed.retriever, passages: listed.passages });
  at("#key-line").hidden = true;
  at("#error").hidden = true;
  at("#about").textContent = `${listed.recipe}: a small model that reads before it answers`;
  document.title = `kard: ${listed.recipe}`;
  at("#switch").replaceChildren();
  listed.data.forEach((model, place) => addSwitch(model.id, nameOf(model), place === 0));
  if (listed.data.length > 1) addSwitch(COMPARE, "Side by side", false);
  at("#models").hidden = listed.data.length < 2;
  const tries = listed.examples.map((example) => {
    const item = element("li");
    const button = element("button", example.question);
    Object.assign(button, { type: "button", dir: "auto" });
    button.onclick = () => choose(example);
    item.append(button);
    return item;
  });
  at("#examples ul").replaceChildren(...tries);
  at("#examples").hidden = tries.length === 0 || state.asked !== null;
}

at("#ask").onsubmit = (event) => {
  event.preventDefault();
  submit();
};
at("#question").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
};
at("#stop").onclick = () => state.stop.abort();
document.addEventListener("keydown", (event) => event.key === "Escape" && state.stop.abort());
at("#add-choice").onclick = () => addChoice("", true);
at("#clear").onclick = () => {
  fill({ question: "", choices: [] });
  at("#question").focus();
};
at("#key").onchange = () => {
  const key = at("#key").value.trim();
  if (/[^\x20-\x7e]/.test(key)) return say("No key has such a character. Enter it again.");
  sessionStorage.setItem("kard-key", key);
  begin().catch(unreachable);
};
at("#forget").onclick = () => {
  state.history = [];
  localStorage.removeItem("kard-history");
  showHistory();
};
state.history = readHistory();
showHistory();
setChoices([]);
begin().catch(unreachable);
