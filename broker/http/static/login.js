// Who this tab is. Without tokens on the server there is nothing to ask; with them, a token is asked for.

import { el, fill, text } from "./dom.js";

/** {scope, actions, authenticated} of this tab; asks for a token until the server takes it. */
export async function whoAmI(api, place) {
  for (;;) {
    try {
      const me = await api.get("api/me");
      if (me.scope !== null) {
        place.hidden = true;
        return me;
      }
      api.logIn(await askToken(place, api.token ? "The server does not take this token." : ""));
    } catch (error) {
      // Not there yet, or going away: this is asked until somebody answers.
      await pause(place, `The server cannot be asked: ${error.message}`);
    }
  }
}

function askToken(place, told) {
  return new Promise((resolve) => {
    const input = el("input", { id: "token", type: "password", required: true, autocomplete: "current-password", spellcheck: "false" });
    const problem = el("p", { class: "problem", role: "alert" });
    const take = (event) => {
      event.preventDefault();
      const token = input.value.trim();
      // What no header can carry cannot be asked about.
      if (/^[\x21-\x7e\x80-\xff]+$/.test(token)) resolve(token);
      else text(problem, "That is no token: it has blanks, or signs that no token has.");
    };
    const form = el("form", { onsubmit: take },
      el("h1", {}, "Log in"), el("p", {}, "This server wants a token. It is kept in this tab only, until it is closed."),
      el("label", { for: "token" }, "Token"), input, problem, el("div", { class: "buttons" }, el("button", { type: "submit", class: "primary" }, "Log in")));
    fill(place, form);
    place.hidden = false;
    input.focus();
    text(problem, told);
  });
}

function pause(place, words) {
  fill(place, el("p", { class: "problem", role: "alert" }, words), el("p", {}, "Trying again…"));
  place.hidden = false;
  return new Promise((resolve) => setTimeout(resolve, 2000));
}

/** Scope and a way out, in the head of the page. */
export function showMe(api, me, place) {
  const out = me.authenticated ? el("button", { type: "button", class: "small", onclick: () => (api.logIn(""), location.reload()) }, "Log out") : null;
  fill(place, el("span", { class: "scope" }, me.scope), out);
}
