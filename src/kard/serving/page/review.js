// The review page: every decision is confirmed by the server before the next question comes, and every text goes through textContent.
"use strict";

const DONE = { accept: "accepted", mend: "mended", reject: "rejected" };
const at = (selector, root = document) => root.querySelector(selector);
const state = {
  items: [], places: new Map(), // all items, and the place of each id
  rows: 0, made: new Map(), undoable: [], // decisions known; id → reviewer → stack of decisions; ids that I decided, newest last
  place: -1, shown: [], busy: false, entries: [], passages: new Map(),
};

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

// --- the server -------------------------------------------------------------------------------------------------------

async function request(path, sent) {
  const more = sent ? { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(sent) } : {};
  const response = await fetch(path, { cache: "no-store", ...more }).catch(() => {
    throw new Error("The server cannot be reached: nothing was written. Start kard review again, then go on here.");
  });
  if (response.ok) return response.json();
  const failed = new Error((await response.json()).error.message);
  failed.status = response.status;
  throw failed;
}

const plain = (name) => name.replaceAll("_", " ");

function complain(error) {
  at("#error").textContent = error ? error.message : "";
  at("#error").hidden = !error;
}

const me = () => at("#reviewer").value.trim();

// --- decisions, as the file has them ------------------------------------------------------------------------------------

function learn(rows) {
  for (const row of rows) {
    row.place = state.rows;
    state.rows += 1;
    const by = state.made.get(row.id) || new Map();
    state.made.set(row.id, by);
    const own = by.get(row.reviewer) || [];
    by.set(row.reviewer, own);
    if (row.decision === "undo") own.pop();
    else own.push(row);
    if (row.reviewer === me()) remember(row);
  }
  rows.forEach((row) => state.places.has(row.id) && mark(state.places.get(row.id)));
}

function remember(row) {
  const last = state.undoable.lastIndexOf(row.id);
  if (row.decision !== "undo") state.undoable.push(row.id);
  else if (last >= 0) state.undoable.splice(last, 1);
}

function decisionOf(item, reviewer = me()) {
  const own = state.made.get(item.id)?.get(reviewer) || [];
  return own[own.length - 1] || null;
}

function othersOf(item) {
  const by = state.made.get(item.id) || new Map();
  return [...by].filter(([reviewer, own]) => reviewer !== me() && own.length).map(([, own]) => own[own.length - 1]);
}

// Others' decisions are hidden until one has decided oneself: two judgments are worth something if they are made apart.
function differs(item) {
  const own = decisionOf(item);
  return own !== null && othersOf(item).some((other) => other.decision !== own.decision);
}

function current(item) {
  const own = decisionOf(item);
  const mended = {};
  if (own?.decision === "mend") {
    for (const key of ["question", "choices", "answer", "rationale"]) if (key in own) mended[key] = own[key];
  }
  return { ...item, ...mended };
}

async function sync() {
  learn(await request(`/api/decisions?since=${state.rows}`));
}

async function decide(decision, changes = {}, id = null) {
  if (state.busy || !me()) return me() ? undefined : askName();
  if (id === null && state.place < 0) return undefined;
  const item = state.items[id === null ? state.place : state.places.get(id)];
  state.busy = true;
  document.body.setAttribute("aria-busy", "true");
  try {
    learn(await request("/api/decisions", { id: item.id, decision, reviewer: me(), since: state.rows, ...changes }));
    complain(null);
    forget(item.id);
    if (!at("#mending").hidden) at("#item").focus();
    at("#mending").hidden = true;
    goOn(decision, item);
  } catch (error) {
    complain(error);
    if (error.status === 409) await sync().then(() => (counts(), show()), complain);
  } finally {
    state.busy = false;
    document.body.removeAttribute("aria-busy");
  }
  agree();
  return undefined;
}

function goOn(decision, item) {
  const before = state.shown.indexOf(state.place);
  const after = state.shown.slice(before + 1);
  filter();
  counts();
  if (decision === "undo") {
    at("#status").textContent = `Taken back: ${item.question}`;
    return go(state.places.get(item.id));
  }
  const open = [...after, ...state.shown].find((place) => !decisionOf(state.items[place]));
  const next = open ?? after[0] ?? state.place;
  const rest = open === undefined ? "All questions of this list are decided." : `Next: ${state.items[next].question}`;
  at("#status").textContent = `You ${DONE[decision]} it. ${rest}`;
  return go(next);
}

function askName() {
  complain(new Error("Write your name first: each decision carries the name of who made it."));
  at("#reviewer").focus();
}

const undo = () => {
  const last = [...state.undoable].reverse().find((id) => state.places.has(id));
  return last === undefined ? complain(new Error("You have decided nothing that could be undone.")) : decide("undo", {}, last);
};

async function agree() {
  const reviewers = new Set([...state.made.values()].flatMap((by) => [...by.keys()]));
  if (reviewers.size < 2) return;
  const pairs = await request("/api/agreement").catch(() => []);
  const lines = pairs.map(({ reviewers: names, both, same, kappa }) => {
    const share = both ? `${Math.round((100 * same) / both)} % of ${both} the same` : "no question in common";
    return element("li", `${names.join(" and ")}: ${share}${both ? `, Cohen's κ ${kappa === null ? "not defined" : kappa.toFixed(2)}` : ""}`);
  });
  at("#agreement ul").replaceChildren(...lines);
  at("#agreement").hidden = lines.length === 0;
}

const placeKey = () => `kard-review ${at("#file").textContent}`;

// --- one question -----------------------------------------------------------------------------------------------------

function go(place) {
  const before = state.entries[state.place]?.firstElementChild;
  if (before) {
    before.removeAttribute("aria-current");
    before.tabIndex = -1;
  }
  state.place = place;
  const entry = state.entries[place]?.firstElementChild;
  if (entry) {
    entry.setAttribute("aria-current", "true");
    entry.tabIndex = 0;
    const list = at("#list");
    const top = entry.parentElement.offsetTop - list.offsetTop;
    if (top < list.scrollTop || top > list.scrollTop + list.clientHeight - 60) list.scrollTop = top - list.clientHeight / 2;
    sessionStorage.setItem(placeKey(), state.items[place].id); // where this tab goes on when it is loaded again
  }
  at("#mending").hidden = true;
  show();
}

function show() {
  const item = state.items[state.place];
  at("#item").hidden = !item;
  at("#nothing").hidden = Boolean(item);
  if (!item) return;
  const shown = current(item);
  const number = state.shown.indexOf(state.place) + 1;
  at("#where").textContent = [plain(item.kind), plain(item.status), number ? `${number.toLocaleString("en")} of ${state.shown.length.toLocaleString("en")}` : ""].filter(Boolean).join(" · ");
  at("#why-not").textContent = item.reason;
  at("#why-not").hidden = !item.reason;
  const own = decisionOf(item);
  at("#mark").textContent = own ? `You ${DONE[own.decision]} it` : "";
  at("#mark").className = `mark ${own ? own.decision : ""}`;
  at("#question").textContent = shown.question;
  at("#choices").replaceChildren(...shown.choices.map((choice, place) => choiceItem(choice, place === shown.answer)));
  at("#choices").hidden = shown.choices.length === 0;
  at("#answer-line").hidden = shown.choices.length > 0;
  at("#answer").textContent = shown.answer === null ? "none: the documents do not say" : String(shown.answer);
  at("#rationale").textContent = shown.rationale;
  at("#rationale-part").hidden = !shown.rationale;
  const others = own ? othersOf(item) : [];
  at("#others").textContent = others.map((other) => `${other.reviewer}: ${DONE[other.decision]}`).join(", ");
  at("#others").hidden = others.length === 0;
  at("#reading").hidden = !at("#mending").hidden;
  at("#actions").hidden = !at("#mending").hidden;
  showPassages(item, shown);
}

function choiceItem(choice, right) {
  const row = element("li", choice, right ? "right" : "");
  if (right) row.append(element("span", " ✓", "tick"), element("span", " (right)", "off-screen"));
  return row;
}

function passagesOf(item) {
  if (!state.passages.has(item.id)) {
    const asked = request(`/api/passages?id=${encodeURIComponent(item.id)}`);
    asked.catch(() => state.passages.delete(item.id));
    state.passages.set(item.id, asked);
  }
  return state.passages.get(item.id);
}

async function showPassages(item, shown) {
  let found;
  try {
    found = await passagesOf(item);
  } catch (error) {
    return complain(error);
  }
  if (state.items[state.place] !== item) return undefined;
  const answer = typeof shown.answer === "number" ? shown.choices[shown.answer] : shown.answer;
  const rows = found.map((passage) => {
    const row = at("#passage").content.cloneNode(true);
    at("h4", row).textContent = passage.title || passage.id;
    at(".text", row).replaceChildren(...marked(passage.text, answer || ""));
    at(".source", row).textContent = passage.source;
    return row;
  });
  at("#passages").replaceChildren(...(rows.length ? rows : [element("li", "This question names no passage of the knowledge base.", "quiet")]));
  at("#passages-title").textContent = rows.length === 1 ? "Passage" : "Passages";
  const next = state.shown[state.shown.indexOf(state.place) + 1];
  if (next !== undefined) passagesOf(state.items[next]).catch(() => null); // so that it is there when it is wanted
  return undefined;
}

// A text with the places where the answer stands word for word.
function marked(text, answer) {
  const wanted = answer.trim().toLowerCase();
  const low = text.toLowerCase();
  if (!wanted || low.length !== text.length) return [document.createTextNode(text)];
  const pieces = [];
  let done = 0;
  for (let place = low.indexOf(wanted); place >= 0; place = low.indexOf(wanted, done)) {
    pieces.push(document.createTextNode(text.slice(done, place)), element("mark", text.slice(place, place + wanted.length)));
    done = place + wanted.length;
  }
  return [...pieces, document.createTextNode(text.slice(done))];
}

// --- mending ----------------------------------------------------------------------------------------------------------

const draftKey = (id) => `kard-review ${at("#file").textContent} ${me()} ${id}`;
const forget = (id) => localStorage.removeItem(draftKey(id));

function mend() {
  const item = state.items[state.place];
  if (!item || state.busy) return;
  const draft = localStorage.getItem(draftKey(item.id));
  const shown = draft ? { ...item, ...JSON.parse(draft) } : current(item);
  at("#new-question").value = shown.question;
  at("#new-choices").hidden = item.choices.length === 0;
  at("#new-answer-line").hidden = item.choices.length > 0 || item.answer === null;
  at("#new-answer").value = typeof shown.answer === "string" ? shown.answer : "";
  at("#new-rationale").value = shown.rationale;
  setChoices(shown.choices, shown.answer);
  at("#mending").hidden = false;
  show();
  at("#new-question").focus();
}

function setChoices(texts, right) {
  const rows = texts.map((text, place) => {
    const row = element("li");
    const radio = element("input");
    Object.assign(radio, { type: "radio", name: "right", checked: place === right });
    radio.setAttribute("aria-label", `Choice ${place + 1} is right`);
    const input = element("input");
    Object.assign(input, { value: text, dir: "auto", autocomplete: "off" });
    input.setAttribute("aria-label", `Choice ${place + 1}`);
    const remove = element("button", "×", "plain");
    remove.type = "button";
    remove.setAttribute("aria-label", `Remove choice ${place + 1}`);
    remove.onclick = () => {
      const { choices, answer } = written();
      setChoices(choices.filter((_, other) => other !== place), answer === place ? null : answer - (answer > place));
      keepDraft();
      at("#add-choice").focus();
    };
    row.append(radio, input, remove);
    return row;
  });
  at("#new-choices ol").replaceChildren(...rows);
}

function written() {
  const item = state.items[state.place];
  const rows = [...at("#new-choices ol").children];
  const right = rows.findIndex((row) => at("input", row).checked);
  const choices = rows.map((row) => at("input:not([type=radio])", row).value.trim());
  const own = item.choices.length ? (right < 0 ? null : right) : item.answer === null ? null : at("#new-answer").value.trim();
  return { question: at("#new-question").value.trim(), choices, answer: own, rationale: at("#new-rationale").value.trim() };
}

const keepDraft = () => localStorage.setItem(draftKey(state.items[state.place].id), JSON.stringify(written()));

function cancel() {
  forget(state.items[state.place].id);
  at("#mending").hidden = true;
  complain(null);
  show();
  at("#item").focus();
}

// --- the list ---------------------------------------------------------------------------------------------------------

function mark(place) {
  const entry = state.entries[place];
  if (!entry) return;
  const item = state.items[place];
  const own = decisionOf(item);
  at(".sub", entry).textContent = [own ? DONE[own.decision] : "", plain(item.kind), plain(item.status)].filter(Boolean).join(" · ");
}

const FITS = {
  "": () => true,
  open: (item) => !decisionOf(item),
  ...Object.fromEntries(Object.keys(DONE).map((name) => [name, (item) => decisionOf(item)?.decision === name])),
  differs,
};

function filter() {
  const [status, kind, decision] = ["status", "kind", "decision"].map((name) => at(`#by-${name}`).value);
  state.shown = [];
  state.items.forEach((item, place) => {
    const fits = (!status || item.status === status) && (!kind || item.kind === kind) && FITS[decision](item);
    if (fits) state.shown.push(place);
    if (state.entries[place].hidden === fits) state.entries[place].hidden = !fits;
  });
}

function refilter() {
  filter();
  go(state.shown.includes(state.place) ? state.place : (state.shown[0] ?? -1));
}

function step(by) {
  const rest = state.shown.filter((place) => (by > 0 ? place > state.place : place < state.place));
  const next = by > 0 ? rest[0] : rest[rest.length - 1];
  if (next !== undefined && !state.busy) go(next);
}

function options(select, name, counted, labels = {}) {
  const rows = [...counted].map(([value, count]) => {
    const option = element("option", `${labels[value] || plain(value)}${count === null ? "" : ` (${count.toLocaleString("en")})`}`);
    option.value = value;
    return option;
  });
  const all = element("option", name);
  all.value = "";
  select.replaceChildren(all, ...rows);
  select.parentElement.hidden = rows.length < 2;
}

function tally(key) {
  const counted = new Map();
  for (const item of state.items) counted.set(item[key], (counted.get(item[key]) || 0) + 1);
  return counted;
}

function counts() {
  const counted = { accept: 0, mend: 0, reject: 0 };
  for (const item of state.items) {
    const own = decisionOf(item);
    if (own) counted[own.decision] += 1;
  }
  const decided = counted.accept + counted.mend + counted.reject;
  const parts = Object.entries(counted).map(([name, count]) => `${count.toLocaleString("en")} ${DONE[name]}`);
  at("#bar").max = Math.max(1, state.items.length);
  at("#bar").value = decided;
  at("#counts").textContent = `${decided.toLocaleString("en")} of ${state.items.length.toLocaleString("en")} decided by you: ${parts.join(", ")}`;
}

function listed() {
  state.entries = state.items.map((item, place) => {
    const entry = element("li");
    const button = element("button");
    button.type = "button";
    button.tabIndex = -1;
    const text = element("span", item.question);
    text.dir = "auto";
    button.append(text, element("span", "", "sub"));
    button.onclick = () => go(place);
    entry.append(button);
    return entry;
  });
  state.entries.forEach((_, place) => mark(place));
  at("#list").replaceChildren(...state.entries);
}

function rename() {
  localStorage.setItem("kard-reviewer", me());
  const mine = [...state.made].flatMap(([id, by]) => (by.get(me()) || []).map((row) => [id, row.place]));
  state.undoable = mine.sort((one, other) => one[1] - other[1]).map(([id]) => id);
  state.items.forEach((_, place) => mark(place));
  counts();
  refilter();
}

// --- keys -------------------------------------------------------------------------------------------------------------

const KEYS = {
  a: () => decide("accept"), m: mend, r: () => decide("reject"), u: undo,
  j: () => step(1), k: () => step(-1), ArrowRight: () => step(1), ArrowLeft: () => step(-1),
};

document.addEventListener("keydown", (event) => {
  const mending = !at("#mending").hidden;
  if (mending && event.key === "Escape") return cancel();
  if (mending && event.key === "Enter" && (event.ctrlKey || event.metaKey)) return at("#mending").requestSubmit();
  const typing = event.target.closest("input:not([type=checkbox]), textarea, select");
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const inList = event.target.closest("#list") && { ArrowDown: () => step(1), ArrowUp: () => step(-1) }[key];
  const act = inList || (at("#keys").checked && KEYS[key]);
  if (!act || mending || typing || (event.repeat && "amru".includes(key)) || event.ctrlKey || event.metaKey || event.altKey) return undefined;
  event.preventDefault();
  act();
  if (inList) state.entries[state.place].firstElementChild.focus();
  return undefined;
});

at("#accept").onclick = () => decide("accept");
at("#reject").onclick = () => decide("reject");
at("#mend").onclick = mend;
at("#undo").onclick = undo;
at("#next").onclick = () => step(1);
at("#previous").onclick = () => step(-1);
at("#cancel").onclick = cancel;
at("#mending").onsubmit = (event) => {
  event.preventDefault();
  decide("mend", written());
};
at("#mending").oninput = keepDraft;
at("#add-choice").onclick = () => {
  const { choices, answer } = written();
  setChoices([...choices, ""], answer);
  at("#new-choices ol > :last-child input:not([type=radio])").focus();
};
for (const name of ["status", "kind", "decision"]) at(`#by-${name}`).onchange = refilter;
at("#reviewer").onchange = rename;
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && state.items.length) sync().then(() => (counts(), show()), complain);
});

async function begin() {
  const [found, rows] = await Promise.all([request("/api/items"), request("/api/decisions?since=0")]);
  at("#reviewer").value = localStorage.getItem("kard-reviewer") || found.reviewer;
  at("#about").textContent = found.run;
  at("#file").textContent = found.file;
  document.title = `kard review: ${found.run}`;
  state.items = found.items;
  found.items.forEach((item, place) => state.places.set(item.id, place));
  learn(rows);
  options(at("#by-status"), "any", tally("status"));
  options(at("#by-kind"), "any", tally("kind"));
  const decisions = ["open", ...Object.keys(DONE), "differs"].map((name) => [name, null]);
  options(at("#by-decision"), "any or none", decisions, { open: "none yet", ...DONE, differs: "others differ" });
  listed();
  filter();
  counts();
  const last = state.places.get(sessionStorage.getItem(placeKey()));
  go(last ?? state.shown.find((place) => !decisionOf(state.items[place])) ?? state.shown[0] ?? -1);
  agree();
}

begin().catch((error) => complain(new Error(`${error.message} Then load this page again.`)));
