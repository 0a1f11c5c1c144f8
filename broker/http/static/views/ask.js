// Would it fit? What a request of that size would meet now, without asking for anything.

import { el, fill } from "../dom.js";

export function askForm(app) {
  const memory = el("input", { name: "memory", placeholder: "4GiB or 2x8GiB", required: true, autocomplete: "off", spellcheck: "false", "aria-label": "How much memory" });
  const host = el("input", { name: "host", placeholder: "any host", autocomplete: "off", spellcheck: "false", "aria-label": "On which host" });
  const told = el("ul", { class: "reasons", "aria-live": "polite" });
  const ask = async (event) => {
    event.preventDefault();
    try {
      const answer = await app.api.get("api/explain", { memory: memory.value.trim(), host: host.value.trim() });
      fill(told, ...(answer.words ?? []).map((line) => el("li", {}, line)));
    } catch (error) {
      fill(told, el("li", {}, error.message));
    }
  };
  return el("section", { class: "ask", "aria-label": "Would it fit?" },
    el("form", { class: "toolbar", onsubmit: ask }, el("strong", {}, "Would it fit?"), memory, host, el("button", { type: "submit", class: "small" }, "Ask")), told);
}
