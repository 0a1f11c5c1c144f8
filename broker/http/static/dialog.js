// One question before anything is changed: what will happen, to what, and a button that says it.

import { newKey } from "./api.js";
import { attribute, el, fill, text } from "./dom.js";

/** Asks, then does. One for the page; it shows what the server said where it refused. */
export class Confirm {
  constructor(onDone) {
    this.onDone = onDone;
    this.title = el("h2", { id: "confirm-title" });
    this.body = el("div", { id: "confirm-words" });
    this.fields = el("div", { class: "fields" });
    this.problem = el("p", { class: "problem", role: "alert" });
    this.no = el("button", { type: "button", onclick: () => this.dialog.close() }, "Cancel");
    this.yes = el("button", { type: "submit", class: "primary" });
    this.form = el("form", { onsubmit: (event) => this.submit(event) }, this.title, this.body, this.fields, this.problem,
      el("div", { class: "buttons" }, this.no, this.yes));
    this.dialog = el("dialog", { id: "confirm", "aria-labelledby": "confirm-title", "aria-describedby": "confirm-words" }, this.form);
    document.body.append(this.dialog);
  }

  /**
   * `words`: what it means, a line or several; `fields`: [{name, label, value, type, min, max}]; `run(values, key)` does
   * it; `done(answer)` is what to say then. The key is one for each question: sent twice, it is carried out once.
   */
  ask({ title, words, verb, danger = false, fields = [], run, done }) {
    this.question = { run, done, key: newKey() };
    text(this.title, title);
    fill(this.body, ...[words].flat().map((line) => (typeof line === "string" ? el("p", {}, line) : line)));
    fill(this.fields, ...fields.map(field));
    text(this.problem, "");
    text(this.yes, verb);
    attribute(this.yes, "class", danger ? "primary danger" : "primary");
    this.busy(false);
    this.dialog.showModal();
    (this.fields.querySelector("input, select") ?? this.no).focus();
  }

  async submit(event) {
    event.preventDefault();
    const question = this.question;
    this.busy(true);
    text(this.problem, "");
    try {
      const answer = await question.run(Object.fromEntries(new FormData(this.form)), question.key);
      if (question !== this.question) return;
      this.dialog.close();
      this.onDone(typeof question.done === "function" ? question.done(answer) : question.done);
    } catch (error) {
      text(this.problem, refusal(error));
      // Another try is another request; the same key would give the same refusal.
      if (error.status) question.key = newKey();
    } finally {
      this.busy(false);
    }
  }

  busy(busy) {
    this.yes.disabled = busy;
    attribute(this.form, "aria-busy", busy ? "true" : null);
  }
}

/** What the server said, in a sentence with the field that is meant. */
export function refusal(error) {
  if (!error.status) return `Not done: the server cannot be reached (${error.message}).`;
  if (error.status === 403) return `Refused: ${error.message}`;
  const allowed = error.allowed && !error.message.includes(error.allowed) ? ` Allowed: ${error.allowed}.` : "";
  return `Not done: ${error.message}${allowed}`;
}

function field({ name, label, hint, ...attributes }) {
  const id = `confirm-${name}`;
  return el("div", { class: "field" }, el("label", { for: id }, label),
    el("input", { id, name, autocomplete: "off", "aria-describedby": hint ? `${id}-hint` : null, ...attributes }),
    hint ? el("span", { class: "hint", id: `${id}-hint` }, hint) : null);
}
