// Every request that waits, in its place, and why on demand.

import { attribute, el } from "../dom.js";
import { duration } from "../format.js";
import { Table, twoLines, words } from "../table.js";
import { holder, wanted, where } from "../words.js";
import { cardName } from "./cards.js";

export function waitersTable(app) {
  const { ledger } = app;
  const spec = {
    name: "waiter", label: "Waiters", noun: "waiter", empty: "Nobody waits.",
    key: (waiter) => waiter.id,
    newest: (waiter) => ledger.waiters.get(waiter.id),
    words: (waiter) => [waiter.id, waiter.owner, waiter.tenant, waiter.job_id, waiter.function, wanted(waiter), where(waiter)],
    shows: {
      kept: { label: "With a card kept", test: (waiter) => Boolean(waiter.reserved_gpus) }, passed: { label: "Passed by others", test: (waiter) => waiter.bypassed > 0 },
      grows: { label: "Leases that grow", test: (waiter) => Boolean(waiter.grows) },
    },
    sorts: {
      place: { label: "place", by: (waiter) => waiter.place }, waited: { label: "longest wait first", by: (waiter) => waiter.since },
      memory: { label: "largest first", by: (waiter) => waiter.memory_bytes * waiter.gpus, down: true }, tenant: { label: "tenant", by: (waiter) => waiter.tenant },
      id: { label: "name", by: (waiter) => waiter.id },
    },
    columns: [
      words("place", "Place", (waiter) => String(waiter.place ?? "–"), { num: true, sort: "place" }),
      twoLines("id", "Request", (waiter) => waiter.id, holder, { href: waiterHref, sort: "id" }),
      twoLines("memory", "Wants", wanted, where, { sort: "memory" }),
      twoLines("tenant", "Tenant", (waiter) => String(waiter.tenant), (waiter) => `priority ${waiter.priority}`, { sort: "tenant" }),
      words("waited", "Waited", (waiter, now) => duration(now - waiter.since), { num: true, sort: "waited" }),
      words("passed", "Passed by", (waiter) => String(waiter.bypassed ?? 0), { num: true }),
      words("note", "Kept for it", (waiter) => kept(ledger, waiter)),
      { name: "act", label: "Actions", silent: true, make: () => buttons(app), fill: fillButtons },
    ],
  };
  return new Table(spec, () => ledger.now(), (params) => app.router.params("waiters", params));
}

export function waiterHref(waiter) {
  return `#/waiter/${encodeURIComponent(waiter.id)}`;
}

function kept(ledger, waiter) {
  const cards = String(waiter.reserved_gpus ?? "").split(",").filter(Boolean).map((uuid) => cardName(ledger, uuid));
  return cards.join(", ") || "–";
}

function buttons(app) {
  const why = el("a", { class: "button small" }, "Why?");
  if (!app.me.actions) return el("div", { class: "acts" }, why);
  const cancel = el("button", { type: "button", class: "small" }, "Cancel");
  cancel.addEventListener("click", () => app.actions.cancel(cancel.waiter));
  return el("div", { class: "acts" }, why, cancel);
}

function fillButtons(cell, waiter) {
  const [why, cancel] = cell.firstChild.children;
  attribute(why, "href", waiterHref(waiter));
  attribute(why, "aria-label", `Why ${waiter.id} waits`);
  if (!cancel) return;
  cancel.waiter = waiter;
  attribute(cancel, "aria-label", `Cancel the request ${waiter.id}`);
}
