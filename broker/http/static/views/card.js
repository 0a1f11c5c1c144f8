// One card: how it is, where its temperature goes, its history, what NVML sees on it beside what is claimed.

import { fillGauge, fillMemory, gauge, memoryBar, memoryLine, memoryOf } from "../bars.js";
import { attribute, el, icon, text } from "../dom.js";
import { facts, plainTable, section } from "../facts.js";
import { duration, known, plain, size } from "../format.js";
import { Plots } from "../plots.js";
import { asked, cardNotes, holder, leaseMarks, lends, trendWords } from "../words.js";
import { cardName, fillState } from "./cards.js";
import { happened } from "./happened.js";
import { leaseHref } from "./leases.js";
import { Settings } from "./settings.js";

const READ_AGAIN_MS = 5000;

/** What is looked at as #/card/UUID. */
export class CardView {
  constructor(app, uuid) {
    this.app = app;
    this.uuid = uuid;
    this.card = app.ledger.gpus.get(uuid);
    this.state = el("span", { class: "state" }, icon("UNAVAILABLE"), el("span"));
    this.title = el("h2", { tabindex: "-1" });
    this.sub = el("p", { class: "second" });
    this.why = el("p", { class: "why" });
    this.bar = memoryBar();
    this.line = el("p", { class: "second" });
    this.gauge = gauge();
    this.trend = el("p", { class: "trend" });
    this.facts = facts();
    this.hardware = facts();
    this.leases = plainTable("Leases on this card", ["Lease", "Holder", "State", "Claimed", "NVML sees", "Peak", "Age"], "No lease is on it.");
    this.processes = plainTable("Processes that NVML sees", ["Pid", "Program", "Memory", "Works under"], "NVML lists no process.");
    this.plots = new Plots(() => app.ledger.configOf(uuid), () => this.card?.memory_total_bytes);
    this.happened = happened(app, (event) => [event.fields.gpu, ...(event.fields.gpu_uuids ?? "").split(",")].includes(uuid));
    this.settings = new Settings(app, uuid);
    this.act = app.me.actions ? el("button", { type: "button", onclick: () => app.actions.drainCard(this.card) }) : null;
    this.element = el("article", { class: "detail" },
      el("header", {}, el("a", { href: "#/cards", class: "back" }, "All cards"), el("div", { class: "title" }, this.state, this.title, this.act), this.sub, this.why),
      el("div", { class: "columns" },
        section("Memory", this.bar, this.line, this.facts.element),
        section("Temperature", this.gauge, this.trend, this.plots.figures.temperature.element)),
      section("History", this.plots.element),
      section("Leases, claimed beside seen", this.leases.element),
      section("Processes", this.processes.element),
      section("Hardware", this.hardware.element),
      section("What happened", this.happened.element),
      el("details", {}, el("summary", {}, "Settings of this card"), this.settings.element));
    this.update();
  }

  look() {
    this.looking = true;
    this.read();
    this.timer = setInterval(() => this.readAgain(), READ_AGAIN_MS);
  }

  close() {
    clearInterval(this.timer);
    this.plots.close();
    this.closed = true;
  }

  async read() {
    const { api } = this.app;
    this.settings.read();
    try {
      const history = await api.get("api/gpu/metrics/history", { gpu: this.uuid, limit: 200 });
      if (!this.closed) await this.plots.show(history.samples);
    } catch (error) {
      if (!this.closed) text(this.trend, `No history: ${error.message}`);
    }
    await this.readAgain();
  }

  /** What the stream does not tell: the trend, the processes, what the hardware says beside. */
  async readAgain() {
    if (this.closed || document.hidden || !this.app.link.live) return;
    const { api } = this.app;
    try {
      const [trend, metrics] = await Promise.all([
        api.get("api/gpu/temperature/trend", { gpu: this.uuid, minutes: 5 }), api.get("api/gpu/metrics", { gpu: this.uuid }),
      ]);
      if (this.closed) return;
      text(this.trend, trendWords(trend));
      this.processes.fill((metrics.processes ?? []).map((one) => [one.pid, one.name || "–", size(one.memory_bytes),
        one.lease ? { words: one.lease, href: leaseHref({ id: one.lease }) } : "no lease: unmanaged"]));
      this.hardware.fill(Object.entries(metrics.hardware ?? {}).map(([name, value]) => [name, String(value)]));
    } catch (error) {
      if (!this.closed) text(this.trend, `Not known now: ${error.message}`);
    }
  }

  update() {
    const { ledger } = this.app;
    const card = (this.card = ledger.gpus.get(this.uuid) ?? this.card);
    const now = ledger.now();
    text(this.title, cardName(ledger, this.uuid));
    if (card && !this.looking) this.look(); // at once, or when it comes
    if (!card) return text(this.why, "The pool knows no such card.");
    const memory = memoryOf(card);
    const gone = !ledger.gpus.has(this.uuid);
    fillState(this.state, gone ? "UNAVAILABLE" : card.state);
    text(this.sub, [card.name, card.uuid, card.capability && `capability ${card.capability}`, card.mig, card.labels].filter(Boolean).join(" · "));
    text(this.why, gone ? "The pool has forgotten this card." : cardNotes(card, now) || (lends(card) ? "It lends." : "It lends nothing."));
    fillMemory(this.bar, memory);
    text(this.line, memoryLine(memory));
    fillGauge(this.gauge, card.temperature_c, ledger.config ? ledger.configOf(this.uuid) : null);
    this.facts.fill(factsOf(card, memory, now));
    this.leases.fill(ledger.leasesOn(this.uuid).map((lease) => [{ words: lease.id, href: leaseHref(lease) }, holder(lease), [lease.state, ...leaseMarks(lease)].join(" "),
      asked(lease), size(lease.used_bytes), size(lease.peak_bytes), duration(now - lease.created_at)]));
    this.happened.update();
    this.plots.add(card, ledger.config?.history_size ?? 200);
    if (this.act) {
      const drained = String(card.drained_by ?? "").split(",").includes("gpu");
      text(this.act, drained ? "Undrain" : "Drain");
      attribute(this.act, "aria-label", `${this.act.textContent} card ${card.index} of ${card.host}`);
    }
    return undefined;
  }
}

function factsOf(card, memory, now) {
  const pairs = [
    ["total", size(memory.total)], ["budget", `${size(card.budget_bytes)} may be leased`], ["leased", size(memory.leased)], ["free", size(memory.free)],
    ["used", `${size(memory.used)}, as NVML sees it`], ["unmanaged", size(memory.unmanaged)], ["reserved", size(memory.reserved)],
    ["load", plain(card.utilization_percent, " %")], ["power", known(card.power_mw) ? `${(card.power_mw / 1000).toFixed(0)} W` : "–"],
    ["job speed", `${speed(card.job_speed)}: ${card.job_state} by temperature and health`], ["with its memory", `${speed(card.speed)}: ${card.state}`], ["sampled", `${duration(now - card.sampled_at)} ago`],
  ];
  if (card.reserved_for) pairs.push(["kept for", card.reserved_for]);
  return pairs;
}

function speed(value) {
  return known(value) ? Number(value).toFixed(1) : "–";
}
