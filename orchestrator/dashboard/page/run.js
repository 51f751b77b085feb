// One run: its state, cause, nodes and ranks, curves, load, logs and timeline, and what can be done with it.

import { about, act, duration, made, moment, often, short, state } from "./ask.js";
import { drawStrips } from "./draw.js";
import { curveView } from "./curves.js";
import { logView } from "./logs.js";

export function runView(run) {
  const title = made("h1", {});
  const facts = made("p", { class: "dim" });
  const stop = made("button", { type: "button", class: "danger", hidden: true }, "Stop");
  const stacks = made("button", { type: "button", hidden: true }, "Stacks");
  const doctor = made("button", { type: "button" }, "Examine the hosts");
  const said = made("div", {});
  const causes = made("div", {});
  const nodes = made("div", { class: "nodes" });
  const strips = made("canvas", { "aria-label": "load of each node and GPU over time" });
  const load = made("section", { class: "card", hidden: true }, made("h2", {}, "Load"), strips);
  const events = made("table", {});
  const logs = logView(run);
  const curves = curveView([run]);
  const element = made(
    "div",
    {},
    made("section", { class: "card" }, made("div", { class: "bar" }, title, made("span", { class: "space" }), stop, stacks, doctor), facts, said),
    causes,
    made("section", { class: "card" }, made("h2", {}, "Nodes and ranks"), nodes),
    made("div", { class: "two" }, curves.element, made("div", {}, load, made("section", { class: "card" }, made("h2", {}, "Timeline"), made("div", { class: "timeline" }, events)))),
    logs.element,
  );
  const seen = {};

  // Draws a part again only if what it shows has changed, so that a click is never lost.
  function changed(part, value) {
    const now = JSON.stringify(value);
    if (seen[part] === now) return false;
    seen[part] = now;
    return true;
  }

  function show(told) {
    if (changed("title", [told.state, told.name, told.workload, told.args])) {
      title.replaceChildren(state(told.state), ` ${[told.workload, ...told.args].join(" ")}`);
    }
    facts.textContent = [
      told.run_id,
      told.name,
      moment(told.began),
      duration(told.duration ?? (told.state === "running" ? Date.now() / 1000 - told.began : null)),
      told.attempt > 1 ? `attempt ${told.attempt}` : null,
      told.code?.git ? `commit ${told.code.git.commit.slice(0, 12)}` : null,
      Object.entries(told.metrics).map(([name, value]) => `${name} ${short(value)}`).join(", "),
      ...told.tags.map((tag) => `#${tag}`),
    ].filter(Boolean).join(" · ");
    stop.hidden = stacks.hidden = !["running", "left"].includes(told.state);
    if (changed("causes", [told.cause, told.told])) {
      const cards = told.told.map((each) => made("section", { class: "card told" }, made("b", {}, each.what), made("p", {}, `→ ${each.remedy}`)));
      if (told.cause) {
        const lines = told.cause.evidence.length ? made("pre", { class: "said" }, told.cause.evidence.join("\n")) : null;
        cards.unshift(made("section", { class: "card cause" }, made("b", {}, told.cause.what), made("p", {}, told.cause.cause), made("p", {}, `→ ${told.cause.remedy}`), lines));
      }
      causes.replaceChildren(...cards);
    }
    if (changed("nodes", told.nodes)) {
      const many = told.nodes.length > 16;
      nodes.replaceChildren(
        ...told.nodes.map((node) =>
          made(
            "div",
            { class: `node ${node.state}` },
            made("span", { class: "name", title: `${node.name}: ${node.state}` }, node.name),
            made("span", { class: "ranks" }, node.ranks.map((each) => made("button", { type: "button", class: each.state, title: `rank ${each.rank} on ${node.name}: ${each.state}`, "aria-label": `log of rank ${each.rank}`, onclick: () => logs.rank(node.name, each.rank) }))),
            made("span", { class: `state ${node.state}`, title: node.state }, many ? "" : node.state),
          ),
        ),
      );
    }
    if (changed("timeline", told.timeline)) {
      events.replaceChildren(...told.timeline.map((each) => made("tr", {}, made("td", {}, `${(each.time - told.began).toFixed(1)} s`), made("td", {}, each.what))));
      events.parentElement.scrollTop = events.parentElement.scrollHeight;
    }
    logs.names(told.logs);
  }

  async function order(button, what) {
    button.disabled = true;
    said.replaceChildren(made("p", { class: "dim", role: "status" }, `${button.textContent} …`));
    try {
      const told = await act(run, what);
      const lines = told.error ?? [told.said, told.code ? told.errors : ""].join("").trim();
      said.replaceChildren(made("pre", { class: "said", role: "status" }, lines || "done"));
      if (what === "/doctor" && !told.error) said.append(made("a", { href: "/doctor.html", target: "_blank", rel: "noopener" }, "the report with its heat maps"));
    } catch (error) {
      said.replaceChildren(made("p", { class: "failed" }, error.message));
    } finally {
      button.disabled = false;
    }
  }

  stop.addEventListener("click", () => {
    const dialog = document.getElementById("dialog");
    dialog.querySelector("h2").textContent = `Stop ${run}?`;
    dialog.querySelector("p").textContent = "Its ranks have time to save, then they are ended on every host.";
    dialog.returnValue = "no";
    dialog.addEventListener("close", () => dialog.returnValue === "yes" && order(stop, "/stop"), { once: true });
    dialog.showModal();
  });
  stacks.addEventListener("click", () => order(stacks, "/stacks"));
  doctor.addEventListener("click", () => order(doctor, "/doctor"));
  often(element, 1500, async () => {
    const told = await about(run);
    if (told.error) title.textContent = `${run}: ${told.error}`;
    else show(told);
  });
  often(element, 10000, async () => {
    const told = await about(run, "/loads");
    const rows = Object.entries(told.nodes).flatMap(([node, parts]) => Object.entries(parts).map(([name, shares]) => [`${node} ${name}`, shares]));
    load.hidden = !rows.length;
    if (rows.length) drawStrips(strips, rows);
  });
  return element;
}
