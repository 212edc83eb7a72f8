// The page of `readqg compare`. Data goes into the document as text alone (textContent), never as markup.
"use strict";

const $ = (id) => document.getElementById(id);
const meta = document.querySelector("meta[name=key]");
const SIDES = ["left", "right"];
let shown = null; // the comparison on the page
let coming = 0; // loaded queries to go
let busy = false;
let ended = false;

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

async function call(name, body) {
  const asked = body === undefined ? {} : {
    method: "POST", body: JSON.stringify(body),
    headers: { "Content-Type": "application/json", [meta.dataset.header]: meta.content },
  };
  let answer;
  try {
    answer = await fetch(`/api/${name}`, asked);
  } catch {
    throw new Error("The command does not answer: it has ended. Start it again and open the address that it shows.");
  }
  if (answer.headers.get("Content-Type")?.startsWith("application/json")) {
    const found = await answer.json();
    if (answer.ok) return found;
    throw new Error(found.error);
  }
  throw new Error(await answer.text());
}

// One thing at a time: while `work` is under way the buttons rest.
async function during(message, work) {
  if (busy || ended) return;
  busy = true;
  $("alert").hidden = true;
  $("status").textContent = message;
  enable();
  try {
    await work();
  } catch (error) {
    $("alert").textContent = error.message;
    $("alert").hidden = false;
    $("status").textContent = "";
  }
  busy = false;
  enable();
}

function enable() {
  for (const button of document.querySelectorAll("[data-choice]")) {
    const side = SIDES.includes(button.dataset.choice);
    const nothing = !shown && !(button.dataset.choice === "skip" && coming); // one that failed may be skipped
    button.disabled = busy || nothing || (side && shown.same);
  }
  $("undo").disabled = busy || $("undo").dataset.able !== "true";
  $("end").disabled = busy;
  const asking = document.querySelector("#ask button");
  if (asking) asking.disabled = busy;
  $("main").setAttribute("aria-busy", busy);
}

function count(progress) {
  const ties = progress.ties ? `, ${progress.ties} of them ties` : "";
  $("counts").textContent = `${progress.judged} judged${ties}; ${progress.decided} of ${progress.needed} without a tie.`;
  $("bar").max = progress.needed;
  $("bar").value = Math.min(progress.decided, progress.needed);
  $("sentence").textContent = progress.sentence;
  $("undo").dataset.able = progress.undoable;
  coming = progress.left_over ?? 0;
  if ($("interim").open) interim();
}

const percent = (value) => `${(100 * value).toFixed(1)} %`;

function told(result) {
  if (result.more_wins !== undefined) { // before the end
    const test = result.p === null ? "the test is made once as many are judged as planned" :
      `exact sign test of the first ${result.tested}: p = ${result.p.toFixed(3)}`;
    return `One is better ${result.more_wins} times, the other ${result.fewer_wins} (${test}).`;
  }
  if (result.share_b === null) return "Nothing judged yet.";
  return `B is better in ${percent(result.share_b)} of the first ${result.tested} queries without a tie ` +
    `(95 % interval ${percent(result.low)} to ${percent(result.high)}; exact sign test p = ${result.p.toFixed(3)}). ` +
    `A better: ${result.wins_a}, B better: ${result.wins_b}.`;
}

async function interim() {
  try {
    $("interim-text").textContent = told(await call("result"));
  } catch (error) {
    $("interim-text").textContent = error.message;
  }
}

function put(parent, pieces) {
  for (const [text, marked] of pieces) parent.append(marked ? element("mark", text) : text);
}

function documentOf(id, rank, otherRank) {
  const found = shown.documents[id];
  const item = element("li", undefined, "doc");
  const title = element("strong");
  put(title, found.title);
  const text = element("div", undefined, "text");
  put(text, found.short);
  item.append(`${rank}. `, title, text);
  const foot = element("div", undefined, "foot");
  foot.append(element("span", `${id} · ${otherRank ? `other side: ${otherRank}` : "only here"}`, "soft"));
  if (found.long) foot.append(unfolding(id, text, found));
  foot.append(grading(id, 1, "Relevant"), grading(id, 0, "Not"));
  item.append(foot);
  return item;
}

function unfolding(id, text, found) {
  const button = element("button", "More");
  button.setAttribute("aria-label", `More of document ${id}`);
  button.setAttribute("aria-expanded", "false");
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") === "false";
    button.setAttribute("aria-expanded", open);
    button.textContent = open ? "Less" : "More";
    button.setAttribute("aria-label", `${button.textContent} of document ${id}`);
    text.replaceChildren();
    put(text, open ? found.long : found.short);
    if (open && found.left_out) text.append(` … (${found.left_out} characters more)`);
  });
  return button;
}

function grading(id, relevance, label) {
  const button = element("button", label, relevance ? "yes" : "no");
  button.dataset.document = id;
  button.dataset.relevance = relevance;
  button.setAttribute("aria-label", `${relevance ? "Relevant" : "Not relevant"}: document ${id}`);
  button.addEventListener("click", () => during("", async () => {
    const given = shown.grades[id] === relevance ? null : relevance;
    count((await call("grade", { query_id: shown.query_id, doc_id: id, relevance: given })).progress);
    if (given === null) delete shown.grades[id]; else shown.grades[id] = given;
    press();
  }));
  return button;
}

function press() {
  for (const button of document.querySelectorAll("[data-relevance]")) {
    button.setAttribute("aria-pressed", shown.grades[button.dataset.document] === Number(button.dataset.relevance));
  }
}

function show(answer, said) {
  shown = answer.comparison;
  count(answer.progress);
  $("main").hidden = !shown;
  if (!shown) {
    $("status").textContent = said + nothing(answer.progress);
    $("query")?.focus();
    return;
  }
  $("asked").textContent = shown.query;
  $("same").hidden = !shown.same;
  for (const side of SIDES) {
    const other = shown[side === "left" ? "right" : "left"];
    const items = shown[side].map((id, at) => documentOf(id, at + 1, other.indexOf(id) + 1));
    $(side).replaceChildren(...(items.length ? items : [element("li", "Nothing found.", "doc soft")]));
  }
  press();
  const left = answer.progress.left_over;
  $("status").textContent = said + (left ? `${left} loaded ${left === 1 ? "query" : "queries"} to go.` : "");
  scrollTo(0, 0);
  $("asked").focus({ preventScroll: true });
}

function nothing(progress) {
  if (meta.dataset.typing === "true") return progress.left_over ? "" : "Type a query, or end.";
  return "All queries are judged. End and see.";
}

// Typed queries may go on after the loaded ones, or there may be none of these.
const next = (said) => during("Scoring …", async () => show(await call("next", {}), said));

function choose(choice) {
  if (!shown && choice === "skip" && coming) next("");
  if (!shown || (shown.same && SIDES.includes(choice))) return;
  during("", async () => {
    await call("choice", { query_id: shown.query_id, choice });
    shown = null;
    $("main").hidden = true;
    $("status").textContent = "Scoring …";
    show(await call("next", {}), `Kept: ${choice}. `);
  });
}

const undo = () => during("", async () => show(await call("undo", {}), "Taken back. "));

function reveal(summary) {
  ended = true;
  for (const id of ["main", "choices", "ask", "interim", "status"]) if ($(id)) $(id).hidden = true;
  count(summary);
  $("final-title").textContent = summary.verdict[0].toUpperCase() + summary.verdict.slice(1) + ".";
  for (const side of ["a", "b"]) {
    const row = element("tr");
    row.append(element("th", side.toUpperCase()), element("td", summary[side]), element("td", summary[`wins_${side}`], "n"));
    $("final-rows").append(row);
  }
  $("final-text").textContent = told(summary);
  $("final-files").textContent = `Judgments and figures are in ${summary.out}. The command has ended.`;
  $("final").hidden = false;
  scrollTo(0, 0);
  $("final").focus();
}

for (const button of document.querySelectorAll("[data-choice]")) {
  button.addEventListener("click", () => choose(button.dataset.choice));
}
$("undo").addEventListener("click", undo);
$("interim").addEventListener("toggle", () => $("interim").open && interim());
$("end").addEventListener("click", () => {
  $("sure-text").textContent = `${$("sentence").textContent} After this, no more judgments are taken into this folder.`;
  $("sure").showModal();
});
$("sure-no").addEventListener("click", () => $("sure").close());
$("sure-yes").addEventListener("click", () => {
  $("sure").close();
  during("", async () => reveal(await call("end", {})));
});
$("ask")?.addEventListener("submit", (event) => {
  event.preventDefault();
  during("Scoring …", async () => {
    show(await call("ask", { query: $("query").value }), "");
    $("query").value = "";
  });
});

$("keys").checked = localStorage.getItem("keys") !== "off";
$("keys").addEventListener("change", () => localStorage.setItem("keys", $("keys").checked ? "on" : "off"));

const KEYS = { ArrowLeft: () => choose("left"), ArrowRight: () => choose("right"), t: () => choose("tie"), s: () => choose("skip"), u: undo };
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, dialog") || (event.key.length === 1 && event.target.closest("button"));
  if (!$("keys").checked || typing || event.repeat || event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
  event.preventDefault();
  if (event.key !== "u" || !$("undo").disabled) KEYS[event.key]();
});

during("", async () => {
  const answer = await call("state");
  if (answer.comparison || !answer.progress.left_over) return show(answer, "");
  $("status").textContent = "Scoring …";
  show(await call("next", {}), "");
});
