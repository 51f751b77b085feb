// The list of runs, and which view the address names: #/, #/run/ID or #/compare/ID,ID.

import { ask, duration, made, moment, often, short, state } from "./ask.js";
import { curveView } from "./curves.js";
import { runView } from "./run.js";

const main = document.getElementById("main");
const where = document.getElementById("where");
const STATES = ["running", "ok", "failed", "stopped", "left"];
const filter = { text: "", states: new Set() };
const chosen = new Set();

function listView() {
  const text = made("input", { type: "search", placeholder: "search runs", "aria-label": "search runs", value: filter.text });
  const compare = made("button", { type: "button", disabled: true }, "Compare");
  const buttons = STATES.map((name) => made("button", { type: "button", "aria-pressed": String(filter.states.has(name)), onclick: (event) => toggle(name, event.currentTarget) }, name));
  const rows = made("tbody", {});
  const count = made("span", { class: "dim", role: "status" });
  const heading = ["", "ended", "run", "what", "began", "took", "on", "metrics"].map((each) => made("th", {}, each));
  const element = made(
    "section",
    { class: "card" },
    made("div", { class: "bar" }, text, ...buttons, compare, count),
    made("table", { class: "runs" }, made("thead", {}, made("tr", {}, ...heading)), rows),
  );
  let all = [];
  let shown = "";

  function toggle(name, button) {
    if (!filter.states.delete(name)) filter.states.add(name);
    button.setAttribute("aria-pressed", String(filter.states.has(name)));
    draw();
  }

  function row(run) {
    const box = made("input", { type: "checkbox", "aria-label": `choose ${run.run_id}`, onchange: () => pick(run.run_id, box) });
    box.checked = chosen.has(run.run_id);
    const metrics = Object.entries(run.metrics).map(([name, value]) => `${name} ${short(value)}`).join(", ");
    const named = [run.name, ...run.tags.map((tag) => `#${tag}`)].filter(Boolean).join(" ");
    return made(
      "tr",
      {},
      made("td", {}, box),
      made("td", {}, state(run.state)),
      made("td", { class: "id" }, made("a", { href: `#/run/${run.run_id}` }, run.run_id), made("div", { class: "tag" }, named)),
      made("td", { class: "wide" }, [run.workload, ...run.args].join(" "), run.what ? made("div", { class: "dim" }, run.what) : null),
      made("td", { class: "id" }, moment(run.began)),
      made("td", { class: "id" }, duration(run.duration)),
      made("td", { class: "id" }, `${run.nodes.length} node${run.nodes.length === 1 ? "" : "s"}`),
      made("td", { class: "wide dim" }, metrics),
    );
  }

  function pick(run, box) {
    if (box.checked) chosen.add(run);
    else chosen.delete(run);
    compare.disabled = chosen.size < 2;
  }

  function draw() {
    const words = filter.text.toLowerCase();
    const fits = all.filter((run) => (!filter.states.size || filter.states.has(run.state)) && (!words || JSON.stringify(run).toLowerCase().includes(words)));
    const now = JSON.stringify(fits.slice(0, 200));
    count.textContent = `${fits.length} of ${all.length}`;
    if (now === shown) return;
    shown = now;
    rows.replaceChildren(...fits.slice(0, 200).map(row));
  }

  compare.disabled = chosen.size < 2;
  compare.addEventListener("click", () => (location.hash = `#/compare/${[...chosen].join(",")}`));
  text.addEventListener("input", () => {
    filter.text = text.value;
    draw();
  });
  often(element, 2000, async () => {
    all = await ask("/api/runs");
    draw();
  });
  return element;
}

function show() {
  const [, view, words] = location.hash.split("/");
  where.textContent = view ? decodeURIComponent(words ?? "") : "runs";
  if (view === "run") main.replaceChildren(runView(decodeURIComponent(words)));
  else if (view === "compare") main.replaceChildren(curveView(decodeURIComponent(words).split(",")).element);
  else main.replaceChildren(listView());
}

addEventListener("hashchange", show);
// The token has been used, and must not stay in the address.
if (location.search) history.replaceState(null, "", `/${location.hash}`);
show();
