// One lease: everything that the ledger says of it, and what happened to it.

import { fillUse, useBar } from "../bars.js";
import { el, text } from "../dom.js";
import { facts, plainTable, section } from "../facts.js";
import { clock, duration, known, size } from "../format.js";
import { uuids } from "../ledger.js";
import { asked, leaseMarks, leaseNotes } from "../words.js";
import { cardHref, cardName } from "./cards.js";
import { happened } from "./happened.js";

/** What is looked at as #/lease/ID. */
export class LeaseView {
  constructor(app, id) {
    this.app = app;
    this.id = id;
    this.lease = app.ledger.leases.get(id);
    this.title = el("h2", { tabindex: "-1" });
    this.why = el("p", { class: "why" });
    this.bar = useBar();
    this.facts = facts();
    this.cards = plainTable("Its cards", ["Card", "UUID", "State", "Claimed"], "It is on no card.");
    this.happened = happened(app, (event) => event.fields.id === id);
    this.act = app.me.actions ? el("button", { type: "button", class: "danger", onclick: () => app.actions.revoke(this.lease) }, "Revoke") : null;
    this.element = el("article", { class: "detail" },
      el("header", {}, el("a", { href: "#/leases", class: "back" }, "All leases"), el("div", { class: "title" }, this.title, this.act), this.why),
      section("Memory", this.bar, this.facts.element), section("Its cards", this.cards.element), section("What happened", this.happened.element));
    this.update();
  }

  close() {}

  update() {
    const { ledger } = this.app;
    const now = ledger.now();
    const there = ledger.leases.has(this.id);
    const lease = (this.lease = ledger.leases.get(this.id) ?? this.lease);
    text(this.title, `Lease ${this.id}`);
    this.happened.update();
    if (this.act) this.act.hidden = !there;
    if (!lease) return text(this.why, "The ledger knows no such lease: it ended, or never was.");
    text(this.why, there ? leaseNotes(lease, now) || "It is as it should be." : "It has ended.");
    fillUse(this.bar, lease.memory_bytes * uuids(lease).length, lease.used_bytes, lease.peak_bytes);
    this.facts.fill(factsOf(lease, now));
    this.cards.fill(uuids(lease).map((uuid) => [{ words: cardName(ledger, uuid), href: cardHref({ uuid }) }, uuid, ledger.gpus.get(uuid)?.state ?? "unknown", size(lease.memory_bytes)]));
    return undefined;
  }
}

function factsOf(lease, now) {
  const pairs = [
    ["state", [lease.state, ...leaseMarks(lease)].join(" ")], ["asked", asked(lease)], ["used", `${size(lease.used_bytes)}, as NVML sees it`], ["peak", size(lease.peak_bytes)],
    ["age", `${duration(now - lease.created_at)}, since ${clock(lease.created_at, now)}`], ["ends in", duration(lease.expires_at - now)], ["TTL", duration(lease.ttl_ms)], ["waited", duration(lease.waited_ms)],
    ["owner", lease.owner], ["tenant", lease.tenant], ["priority", String(lease.priority)], ["host", lease.host],
  ];
  const more = { "job": lease.job_id, "function": lease.function, "pid": lease.pid, "revoked because": lease.revoke_reason };
  for (const [name, value] of Object.entries(more)) if (value !== "" && value != null) pairs.push([name, String(value)]);
  if (known(lease.host_memory_bytes) && lease.host_memory_bytes > 0) pairs.push(["of the host", size(lease.host_memory_bytes)]);
  if (lease.cpus_milli > 0) pairs.push(["processors", String(lease.cpus_milli / 1000)]);
  if (lease.over_bytes > 0) pairs.push(["over", size(lease.over_bytes)]);
  return pairs;
}
