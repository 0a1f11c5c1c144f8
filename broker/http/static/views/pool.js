// The pool's settings, and whether its agents look at their cards at all.

import { el } from "../dom.js";
import { Settings } from "./settings.js";

/** What is looked at as #/settings. */
export class PoolView {
  constructor(app) {
    this.settings = new Settings(app);
    const monitoring = app.me.scope === "admin" && app.me.actions
      ? el("div", { class: "acts" }, el("button", { type: "button", onclick: () => app.actions.monitoring(true) }, "Start monitoring"),
          el("button", { type: "button", class: "danger", onclick: () => app.actions.monitoring(false) }, "Stop monitoring"))
      : null;
    this.element = el("article", { class: "detail" },
      el("header", {}, el("h2", { tabindex: "-1" }, "Settings"), el("p", { class: "second" }, "What the pool runs by. An emptied field gets its default back."), monitoring),
      this.settings.element);
    this.settings.read();
  }

  update() {}

  close() {}
}
