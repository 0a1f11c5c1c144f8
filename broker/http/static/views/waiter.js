// One request that waits: why, card by card, asked of the predicate that grants.

import { el, fill, text } from "../dom.js";
import { facts, plainTable, section } from "../facts.js";
import { duration, size } from "../format.js";
import { holder, wanted, where } from "../words.js";
import { cardHref, cardName } from "./cards.js";
import { happened } from "./happened.js";

/** What is looked at as #/waiter/ID. */
export class WaiterView {
  constructor(app, id) {
    this.app = app;
    this.id = id;
    this.waiter = app.ledger.waiters.get(id);
    this.title = el("h2", { tabindex: "-1" });
    this.facts = facts();
    this.reasons = el("ul", { class: "reasons", "aria-live": "polite" });
    this.cards = plainTable("Card by card", ["Card", "Verdict", "Needed", "Free", "Budget", "Detail"], "No card was asked.");
    this.happened = happened(app, (event) => event.fields.id === id);
    this.act = app.me.actions ? el("button", { type: "button", class: "danger", onclick: () => app.actions.cancel(this.waiter) }, "Cancel request") : null;
    this.element = el("article", { class: "detail" },
      el("header", {}, el("a", { href: "#/waiters", class: "back" }, "All waiters"), el("div", { class: "title" }, this.title, this.act)),
      section("Why it waits", this.reasons, el("button", { type: "button", class: "small", onclick: () => this.explain() }, "Ask again")),
      section("The request", this.facts.element), section("Card by card", this.cards.element), section("What happened", this.happened.element));
    this.update();
    this.explain();
  }

  close() {
    this.closed = true;
  }

  async explain() {
    try {
      const told = await this.app.api.get("api/explain", { id: this.id });
      if (this.closed) return;
      fill(this.reasons, ...(told.words ?? []).map((line) => el("li", {}, line)));
      this.cards.fill((told.cards ?? []).map((card) => [{ words: cardName(this.app.ledger, card.uuid), href: cardHref(card) }, card.why, size(card.need_bytes), size(card.free_bytes), size(card.budget_bytes), card.detail || "–"]));
    } catch (error) {
      if (!this.closed) fill(this.reasons, el("li", {}, error.message));
    }
  }

  update() {
    const { ledger } = this.app;
    const now = ledger.now();
    const there = ledger.waiters.has(this.id);
    const waiter = (this.waiter = ledger.waiters.get(this.id) ?? this.waiter);
    text(this.title, `Request ${this.id}`);
    this.happened.update();
    if (this.act) this.act.hidden = !there;
    if (!waiter) return this.facts.fill([["state", "it waits no longer, or never did"]]);
    return this.facts.fill([
      ["place", there ? String(waiter.place ?? "–") : "it waits no longer"], ["wants", wanted(waiter)], ["where", where(waiter)], ["waited", duration(now - waiter.since)], ["dropped in", there ? `${duration(waiter.deadline - now)}, unless it gives a sign of life` : "–"],
      ["for", holder(waiter)], ["owner", waiter.owner], ["tenant", waiter.tenant], ["priority", String(waiter.priority)], ["passed by", String(waiter.bypassed ?? 0)], ["kept for it", waiter.reserved_gpus || "–"],
    ]);
  }
}
