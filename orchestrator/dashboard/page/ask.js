// What the server is asked for, and elements made of what it answers: text of nodes is only ever text.

export async function ask(path, options = {}) {
  const trouble = document.getElementById("trouble");
  try {
    const answer = await fetch(path, { credentials: "same-origin", ...options });
    if (answer.status === 403) throw new Error(await answer.text());
    const told = await answer.json();
    trouble.hidden = true;
    return told;
  } catch (error) {
    trouble.textContent = error instanceof TypeError ? "the dashboard does not answer" : error.message;
    trouble.hidden = false;
    throw error;
  }
}

export const about = (run, what = "", query = {}) =>
  ask(`/api/runs/${encodeURIComponent(run)}${what}?${new URLSearchParams(query)}`);

export const act = (run, what) => ask(`/api/runs/${encodeURIComponent(run)}${what}`, { method: "POST" });

export function made(tag, attributes = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...inside.flat().filter((each) => each !== null && each !== undefined && each !== false));
  return element;
}

export const state = (name) => made("span", { class: `state ${name}` }, name === "left" ? "not followed to its end" : name);

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 100) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

export function moment(seconds) {
  if (!seconds) return "";
  const then = new Date(seconds * 1000);
  const today = then.toDateString() === new Date().toDateString();
  const time = then.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  return today ? time : `${then.toLocaleDateString([], { month: "short", day: "numeric" })} ${time}`;
}

export const short = (number) => (number === null ? "-" : String(Number(number.toPrecision(4))));

// Calls `work` now and then every so many milliseconds while `shown` is in the page, never twice at a time.
export function often(shown, milliseconds, work) {
  const turn = async () => {
    if (!shown.isConnected) return;
    if (!document.hidden) await work().catch(() => {});
    setTimeout(turn, milliseconds);
  };
  setTimeout(turn, 0);
}
