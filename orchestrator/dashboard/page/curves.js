// Curves of one metric of one or more runs, over each other.

import { about, made, often, short } from "./ask.js";
import { drawCurves, lineColour } from "./draw.js";

export function curveView(runs) {
  const choice = made("select", { "aria-label": "metric" });
  const log = made("button", { type: "button", "aria-pressed": "false" }, "log");
  const canvas = made("canvas", { role: "img", "aria-label": "curves" });
  const legend = made("div", { class: "legend" });
  const element = made("section", { class: "card" }, made("h2", {}, "Metrics"), made("div", { class: "bar" }, choice, log), canvas, legend);
  const view = { names: "", log: false, curves: [] };

  function draw() {
    drawCurves(canvas, view.curves, view.log);
  }

  async function turn() {
    const listed = await Promise.all(runs.map((run) => about(run, "/metrics")));
    const names = [...new Set(listed.flat().map((each) => each.name))];
    if (names.join() !== view.names) {
      const chosen = choice.value || names.find((name) => /(^|[/._])loss$/.test(name)) || names[0];
      view.names = names.join();
      choice.replaceChildren(...names.map((name) => made("option", { value: name }, name)));
      choice.value = chosen;
    }
    if (!names.length) return draw();
    const metric = choice.value;
    const found = await Promise.all(runs.map((run) => about(run, "/curves", { metric })));
    if (choice.value !== metric) return undefined;
    view.curves = found.flat();
    draw();
    legend.replaceChildren(
      ...view.curves.map((curve, number) => {
        const bar = made("i", {});
        bar.style.background = lineColour(number);
        return made("span", {}, bar, `${curve.run}  ${short(curve.points.at(-1)?.[1] ?? null)} (${curve.source})`);
      }),
    );
    return undefined;
  }

  choice.addEventListener("change", () => turn().catch(() => {}));
  log.addEventListener("click", () => {
    view.log = !view.log;
    log.setAttribute("aria-pressed", String(view.log));
    draw();
  });
  new ResizeObserver(draw).observe(element);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  often(element, 4000, turn);
  return { element };
}
