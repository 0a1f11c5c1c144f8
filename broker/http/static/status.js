// The head of the page: whether all is well, whether what is shown is new, and the pool in five numbers.

import { fillMemory, memoryBar } from "./bars.js";
import { attribute, el, fill, icon, setIcon, text } from "./dom.js";
import { duration, gib, size } from "./format.js";
import { totals, verdict } from "./verdict.js";

const SIGNS = { bad: "bad", look: "look", well: "well", unknown: "lost", asking: "wait" };
const MARKS = { bad: "✕", look: "▲", well: "✓", unknown: "?", asking: "…" };
const MOST = 6;

/** Fills the elements that stand in index.html. */
export class Status {
  constructor(app) {
    this.app = app;
    this.box = document.getElementById("verdict");
    this.headline = document.getElementById("headline");
    this.findings = document.getElementById("findings");
    this.spoken = document.getElementById("spoken");
    this.pool = document.getElementById("pool");
    this.link = document.getElementById("link");
    this.sign = icon("wait");
    this.box.prepend(this.sign);
    this.bar = memoryBar();
    this.numbers = new Map(["Cards", "Leased", "Free", "Leases", "Waiters"].map((name) => [name, el("dd")]));
    fill(document.getElementById("totals"), ...[...this.numbers].map(([name, value]) => el("div", {}, el("dt", {}, name), value)));
    document.getElementById("poolbar").append(this.bar);
    this.retry = el("button", { type: "button", class: "small", hidden: true, onclick: () => app.stream.hurry() }, "Try now");
    this.linkWord = el("span");
    this.link.append(icon("live"), this.linkWord, this.retry);
  }

  update() {
    const { ledger, link } = this.app;
    const now = ledger.now();
    const told = verdict(ledger, link, now);
    attribute(this.box, "data-level", told.level);
    setIcon(this.sign, SIGNS[told.level]);
    text(this.headline, told.headline);
    this.tell(told.findings);
    this.count(totals(ledger, now));
    text(this.pool, ledger.pool ? `pool ${ledger.pool}` : "");
    document.title = `${MARKS[told.level]} ${told.headline} · gpubroker${ledger.pool ? ` · ${ledger.pool}` : ""}`;
    attribute(document.documentElement, "data-old", link.live || !ledger.known ? null : "true");
    // Said aloud once for each change of the verdict itself; its figures go on changing in silence.
    const spoken = [told.headline, ...told.findings.map((one) => one.text.replace(/ \d+(\.\d+)? (s|min|h)\b/g, ""))].join(". ");
    if (told.level !== "asking") text(this.spoken, spoken);
    this.connection(link);
  }

  tell(findings) {
    const shown = findings.slice(0, MOST);
    const wanted = shown.map(({ level, text: words, href }) => `${level} ${words} ${href ?? ""}`).join("\n");
    if (this.told === wanted) return;
    this.told = wanted;
    const more = findings.length - shown.length;
    fill(this.findings, ...shown.map(({ level, text: words, href }) => el("li", { "data-level": level }, icon(level === "note" ? "event" : level), href ? el("a", { href }, words) : el("span", {}, words))),
      more > 0 ? el("li", {}, `and ${more} more`) : null);
  }

  count(sum) {
    const say = (name, words) => text(this.numbers.get(name), words);
    say("Cards", sum.lending === sum.cards ? `${sum.cards}` : `${sum.lending} of ${sum.cards} lend`);
    say("Leased", `${gib(sum.leased)} of ${size(sum.budget)}`);
    say("Free", size(sum.free));
    say("Leases", String(sum.leases));
    say("Waiters", sum.waiters ? `${sum.waiters}, longest ${duration(sum.longest)}` : "0");
    fillMemory(this.bar, { total: sum.total, leased: sum.leased, unmanaged: sum.unmanaged, reserved: sum.reserved, free: sum.free, used: 0 });
  }

  /** The word on the connection: live, connecting, lost and when it tries again. */
  connection(link) {
    const left = Math.max(0, Math.ceil(((link.retryAt ?? 0) - performance.now()) / 1000));
    const says = {
      live: link.away ? "ledger away" : "live", connecting: "connecting…", refused: "not allowed",
      lost: left ? `reconnecting in ${left} s` : "reconnecting…",
    };
    text(this.linkWord, says[link.word] ?? "");
    attribute(this.link, "data-word", link.away ? "away" : link.word);
    attribute(this.link, "title", link.detail || null);
    setIcon(this.link.firstElementChild, link.live ? "live" : "lost");
    this.retry.hidden = link.word !== "lost";
  }

  /** Counters beside the names of the views. */
  tabs() {
    const { ledger } = this.app;
    const say = (name, number) => text(document.querySelector(`[data-count="${name}"]`), ledger.known ? String(number) : "");
    say("cards", ledger.gpus.size);
    say("leases", ledger.leases.size);
    say("waiters", ledger.waiters.size);
    say("hosts", ledger.hosts.size);
  }
}
