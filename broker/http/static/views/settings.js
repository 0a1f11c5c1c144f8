// What the pool, or one card, runs by: each value with its meaning and bounds; changed all together or not at all.

import { attribute, el, fill, text } from "../dom.js";
import { compare } from "../table.js";

let asked = null;

/** The schema of the configuration, from the server's own description of itself; asked for once. */
function schema(api) {
  asked ??= api.get("openapi.json").then((told) => told.components.schemas.Thresholds.properties);
  asked.catch(() => (asked = null));
  return asked;
}

/** The settings of the pool, or with `gpu` of one card. Only an admin gets fields to write into. */
export class Settings {
  constructor(app, gpu = "") {
    this.app = app;
    this.gpu = gpu;
    this.may = app.me.scope === "admin" && app.me.actions;
    this.inputs = new Map();
    this.rows = el("div", { class: "settings" });
    this.problem = el("p", { class: "problem", role: "alert" });
    this.save = el("button", { type: "submit", class: "primary", disabled: true }, "Change…");
    this.element = el("form", { class: "settings-form", novalidate: true, "aria-label": gpu ? "Settings of this card" : "Settings of the pool", onsubmit: (event) => this.ask(event), oninput: () => this.look() },
      this.rows, this.problem, this.may ? el("div", { class: "buttons" }, this.save) : null);
  }

  async read() {
    try {
      const [properties, values] = await Promise.all([schema(this.app.api), this.app.api.get("api/gpu/config", { gpu: this.gpu })]);
      this.show(properties, values);
    } catch (error) {
      text(this.problem, `The settings cannot be read: ${error.message}`);
    }
  }

  show(properties, values) {
    text(this.problem, "");
    this.values = values;
    this.properties = properties;
    this.inputs.clear();
    const names = Object.keys(properties).filter((name) => name in values);
    fill(this.rows, ...names.map((name) => this.row(name, kindOf(properties[name]), values[name])));
    this.look();
  }

  row(name, kind, value) {
    const id = `set-${this.gpu ? "card-" : ""}${name}`;
    const input = this.may ? input_(id, name, kind, value) : el("output", { id }, value === null ? "none" : String(value));
    if (this.may) this.inputs.set(name, input);
    const changed = String(value ?? "") !== String(kind.default ?? "");
    return el("div", { class: "setting", "data-changed": changed ? "true" : null },
      el("label", { for: id }, name), input,
      el("p", { class: "hint", id: `${id}-hint` }, `${kind.description}. ${bounds(kind)}Default ${kind.default === null || kind.default === "" ? "none" : kind.default}.`));
  }

  /** {name: [old, new]} of what was written; new is null where the field was emptied. */
  changes() {
    const found = {};
    for (const [name, input] of this.inputs) {
      const old = this.values[name];
      const written = input.value.trim();
      if (written === String(old ?? "")) continue;
      const number = kindOf(this.properties[name]).number && written !== "" && Number.isFinite(Number(written));
      found[name] = [old, written === "" ? null : number ? Number(written) : written];
    }
    return found;
  }

  look() {
    const changes = this.changes();
    for (const [name, input] of this.inputs) attribute(input, "data-edited", name in changes ? "true" : null);
    this.save.disabled = !Object.keys(changes).length;
  }

  ask(event) {
    event.preventDefault();
    const changes = this.changes();
    if (Object.keys(changes).length) this.app.actions.configure(changes, this.gpu, () => this.read());
  }
}

/** Type, bounds and words of one property, also where the schema says "this or null". */
function kindOf(property) {
  const own = property.anyOf?.find((one) => one.type !== "null") ?? property;
  return {
    description: property.description ?? "", default: property.default ?? null, words: own.enum ?? null, number: own.type === "integer" || own.type === "number",
    whole: own.type === "integer", least: own.minimum, most: own.maximum,
  };
}

function bounds({ words, number, least, most }) {
  if (words) return `One of ${words.join(", ")}. `;
  return number && least !== undefined ? `From ${least} to ${most}. ` : "";
}

function input_(id, name, kind, value) {
  const common = { id, name, "aria-describedby": `${id}-hint` };
  if (kind.words) {
    return el("select", common, ...kind.words.map((word) => el("option", { value: word, selected: compare(word, value) === 0 }, word)));
  }
  const made = el("input", { ...common, type: kind.number ? "number" : "text", min: kind.least, max: kind.most, step: kind.whole ? "1" : "any", autocomplete: "off", spellcheck: "false" });
  made.value = value ?? "";
  return made;
}
