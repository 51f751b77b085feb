// The logs of a run: one of them, all merged as they grow, and a search.

import { about, made, often } from "./ask.js";

const MOST = 2000;
const ALL = "all ranks";

function split(line, text) {
  if (!text) return [line];
  const found = [];
  let at = 0;
  for (let next; (next = line.toLowerCase().indexOf(text.toLowerCase(), at)) >= 0; at = next + text.length) {
    found.push(line.slice(at, next), made("mark", {}, line.slice(next, next + text.length)));
  }
  return [...found, line.slice(at)];
}

export function logView(run) {
  const choice = made("select", { "aria-label": "log" });
  const text = made("input", { type: "search", placeholder: "search the logs", "aria-label": "search the logs" });
  const older = made("button", { type: "button", hidden: true }, "Older");
  const live = made("button", { type: "button" }, "Live");
  const said = made("span", { class: "dim", role: "status" });
  const lines = made("div", { class: "log mono", tabindex: "0", "aria-label": "lines" });
  const element = made("section", { class: "card" }, made("h2", {}, "Logs"), made("div", { class: "bar" }, choice, text, older, live, said), lines);
  choice.append(made("option", { value: ALL }, ALL));
  // mode: "merged", "tail" (the end of one log), "window" (an earlier part) or "search".
  const view = { mode: "merged", last: 0, begin: 0, names: "" };

  const line = (told, label) => {
    const name = label.includes("stderr") ? "err" : "";
    return made("div", { class: name }, label ? made("span", { class: "from" }, `${label} `) : null, ...split(told, ""));
  };

  function show(rows, add) {
    const stays = lines.scrollTop + lines.clientHeight >= lines.scrollHeight - 30;
    if (!add) lines.replaceChildren();
    lines.append(...rows);
    while (lines.childElementCount > MOST) lines.firstElementChild.remove();
    if (stays || !add) lines.scrollTop = lines.scrollHeight;
  }

  function begin(name) {
    text.value = "";
    choice.value = name;
    Object.assign(view, { mode: name === ALL ? "merged" : "tail", last: 0 });
    lines.replaceChildren();
    older.hidden = name === ALL;
    said.textContent = "";
    return turn();
  }

  async function turn() {
    if (view.mode === "merged") {
      const told = await about(run, "/merged", { after: view.last });
      if (view.mode !== "merged") return;
      if (told.lines.length) show(told.lines.map((each) => line(each.line, each.log)), true);
      view.last = told.last;
      said.textContent = told.skipped ? `${Math.round(told.skipped / 1000).toLocaleString()} kB came too fast to be shown` : "";
    } else if (view.mode === "tail") {
      const name = choice.value;
      const told = await about(run, "/log", { name });
      if (view.mode !== "tail" || choice.value !== name) return;
      if (told.size !== view.last) show(told.lines.slice(-MOST).map((each) => line(each, "")), false);
      Object.assign(view, { last: told.size, begin: told.begin });
      older.disabled = told.begin === 0;
    }
  }

  async function open(name, end) {
    const told = await about(run, "/log", end === undefined ? { name } : { name, end });
    choice.value = name;
    Object.assign(view, { mode: "window", begin: told.begin });
    older.hidden = false;
    older.disabled = told.begin === 0;
    show(told.lines.slice(-MOST).map((each) => line(each, "")), false);
    said.textContent = `up to byte ${told.end.toLocaleString()} of ${told.size.toLocaleString()}`;
  }

  let waits;
  async function search() {
    const wanted = text.value;
    if (!wanted) return begin(choice.value || ALL);
    view.mode = "search";
    said.textContent = "searching";
    const told = await about(run, "/search", { text: wanted, name: choice.value === ALL ? "" : choice.value });
    if (text.value !== wanted) return undefined;
    show(
      told.matches.map((each) =>
        made("div", { class: "hit", onclick: () => open(each.log, each.end) }, made("span", { class: "from" }, `${each.log.replace(/\.log$/, "")} `), ...split(each.line, wanted)),
      ),
      false,
    );
    lines.scrollTop = 0;
    said.textContent = `${told.matches.length}${told.more ? " or more" : ""} found`;
    return undefined;
  }

  text.addEventListener("input", () => {
    clearTimeout(waits);
    waits = setTimeout(() => search().catch(() => {}), 250);
  });
  choice.addEventListener("change", () => (text.value ? search() : begin(choice.value)));
  older.addEventListener("click", () => open(choice.value, view.begin));
  live.addEventListener("click", () => begin(choice.value || ALL));
  often(element, 1000, turn);

  return {
    element,
    // Takes the names of all logs.
    names(all) {
      if (view.names === all.join()) return;
      view.names = all.join();
      const chosen = choice.value || ALL;
      choice.replaceChildren(...[ALL, ...all].map((name) => made("option", { value: name }, name.replace(/\.log$/, ""))));
      choice.value = chosen;
    },
    // Shows a rank's output.
    rank(node, rank) {
      const name = [...choice.options].map((each) => each.value).find((each) => each.startsWith(`${node}/`) && each.endsWith(`rank${rank}.stdout.log`));
      if (name) begin(name).catch(() => {});
    },
  };
}
