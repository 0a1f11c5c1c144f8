// The page: one stream of what changes, one ledger of what is known, and the view that the address names.

import { Actions } from "./actions.js";
import { Api } from "./api.js";
import { Confirm } from "./dialog.js";
import { attribute, el, fill, text } from "./dom.js";
import { earlier } from "./earlier.js";
import { Ledger } from "./ledger.js";
import { showMe, whoAmI } from "./login.js";
import { Router } from "./router.js";
import { Stream } from "./sse.js";
import { Status } from "./status.js";
import { askForm } from "./views/ask.js";
import { CardView } from "./views/card.js";
import { cardsTable } from "./views/cards.js";
import { hostsTable } from "./views/hosts.js";
import { journalTable } from "./views/journal.js";
import { LeaseView } from "./views/lease.js";
import { leasesTable } from "./views/leases.js";
import { PoolView } from "./views/pool.js";
import { WaiterView } from "./views/waiter.js";
import { waitersTable } from "./views/waiters.js";

const LISTS = {
  cards: { make: cardsTable, from: (ledger) => [...ledger.gpus.values()], changed: "gpus" },
  leases: { make: leasesTable, from: (ledger) => [...ledger.leases.values()], changed: "leases" },
  waiters: { make: waitersTable, from: (ledger) => [...ledger.waiters.values()], changed: "waiters" },
  journal: { make: journalTable, from: (ledger) => ledger.journal, changed: "journal" },
  hosts: { make: hostsTable, from: (ledger) => [...ledger.hosts.values()], changed: "hosts" },
};
const DETAILS = { card: ["cards", CardView], lease: ["leases", LeaseView], waiter: ["waiters", WaiterView], settings: ["settings", PoolView] };

/** What all parts of the page share. */
class App {
  constructor() {
    this.api = new Api();
    this.ledger = new Ledger((changed) => this.changed(changed));
    this.link = { word: "connecting", live: false, away: false };
    this.main = document.getElementById("main");
    this.toast = document.getElementById("toast");
    this.status = new Status(this);
    this.actions = new Actions(this.api, new Confirm((words) => this.say(words)), this.ledger);
    this.tables = new Map();
  }

  async start() {
    this.status.update();
    this.me = await whoAmI(this.api, document.getElementById("login"));
    showMe(this.api, this.me, document.getElementById("me"));
    this.api.onRefused = () => location.reload(); // its token was taken away: ask for another
    this.router = new Router((route) => this.go(route));
    this.stream = new Stream(this.api, "api/live", { event: (event) => this.hear(event), word: (link) => this.linked(link) });
    document.getElementById("work").hidden = false;
    this.router.go();
    this.stream.start();
    setInterval(() => this.tick(), 1000);
    addEventListener("keydown", (event) => this.key(event));
  }

  // -- what is heard -------------------------------------------------------------------------------------------------

  hear(event) {
    if (event.event === "away") {
      this.link.away = true;
      this.linked(this.link);
      return;
    }
    if (event.event === "snapshot") this.link.away = false;
    this.ledger.take(event);
    if (event.event === "snapshot") this.linked(this.link);
    if (event.event === "snapshot" && !this.ledger.toldJournal) this.readJournal();
    if (this.ledger.changesConfig(event)) this.readConfig();
  }

  /** What the journal said before this page was opened, or while it was away. */
  async readJournal() {
    try {
      this.ledger.noteAll(await earlier(this.api, this.ledger.lastEventId(), this.ledger.now()));
    } catch {
      // The next snapshot asks again.
    }
  }

  /** The thresholds that rows are drawn by, where the stream does not tell them. */
  async readConfig() {
    try {
      this.ledger.setConfig({ pool: await this.api.get("api/gpu/config") });
      this.changed({ gpus: "all" });
    } catch {
      // The next snapshot asks again.
    }
  }

  linked(link) {
    const away = link.word === "live" && this.link.away;
    this.link = { ...link, away, live: link.word === "live" && !away && this.ledger.known };
    this.status.update();
  }

  changed(changed) {
    this.dirty = { ...this.dirty };
    for (const [noun, keys] of Object.entries(changed)) {
      const before = this.dirty[noun];
      this.dirty[noun] = keys === "all" || before === "all" ? "all" : new Set([...(before ?? []), ...(keys ?? [])]);
    }
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => this.show());
  }

  show() {
    const { dirty } = this;
    this.due = false;
    this.dirty = {};
    this.status.update();
    this.status.tabs();
    const list = LISTS[this.view];
    if (list && dirty[list.changed]) this.tables.get(this.view).update(list.from(this.ledger), dirty[list.changed]);
    else if (this.view === "cards" && (dirty.hosts || dirty.leases)) this.tables.get("cards").rows.refresh(this.ledger.groupKeys());
    this.detail?.update();
  }

  /** Ages and rests of time go on although nothing was heard. */
  tick() {
    if (document.hidden) return;
    this.status.update();
    if (Object.hasOwn(LISTS, this.view)) this.tables.get(this.view).rows.refresh();
    this.detail?.update();
  }

  // -- what is looked at ---------------------------------------------------------------------------------------------

  go({ view, id, params }) {
    this.detail?.close();
    this.detail = null;
    const [tab, Detail] = Object.hasOwn(DETAILS, view) ? DETAILS[view] : [Object.hasOwn(LISTS, view) ? view : "cards", null];
    this.view = Detail ? view : tab;
    for (const link of document.querySelectorAll("nav a")) attribute(link, "aria-current", link.dataset.view === tab ? "page" : null);
    if (Detail) this.open(new Detail(this, id));
    else this.list(tab, params);
    if (this.wasAt !== undefined && this.wasAt !== this.view + id) {
      scrollTo(0, 0);
      (this.main.querySelector("h2") ?? this.main).focus({ preventScroll: true });
    }
    this.wasAt = this.view + id;
  }

  open(detail) {
    this.detail = detail;
    fill(this.main, detail.element);
  }

  list(name, params) {
    const { make, from } = LISTS[name];
    if (!this.tables.has(name)) this.tables.set(name, make(this));
    const table = this.tables.get(name);
    const title = el("h2", { class: "hidden-words", tabindex: "-1" }, table.spec.label);
    fill(this.main, title, table.element, name === "waiters" ? (this.askForm ??= askForm(this)) : null);
    table.take(params);
    table.update(from(this.ledger), "all");
  }

  // -- people --------------------------------------------------------------------------------------------------------

  say(words) {
    text(this.toast, words);
    attribute(this.toast, "data-shown", "true");
    clearTimeout(this.saying);
    this.saying = setTimeout(() => attribute(this.toast, "data-shown", null), 6000);
  }

  key(event) {
    const writing = event.target.closest?.("input, select, textarea, dialog");
    if (event.key !== "/" || writing || event.ctrlKey || event.metaKey || event.altKey) return;
    const search = this.main.querySelector("[data-search]");
    if (!search) return;
    event.preventDefault();
    search.focus();
  }
}

new App().start();
