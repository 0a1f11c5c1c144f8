// Every lease: what was asked for against what NVML sees, how old it is, when it ends, and what is wrong with it.

import { fillUse, useBar } from "../bars.js";
import { attribute, el, text } from "../dom.js";
import { duration, gib, known, number } from "../format.js";
import { uuids } from "../ledger.js";
import { Table, twoLines, words } from "../table.js";
import { asked, holder, leaseMarks, leaseNotes } from "../words.js";
import { cardName } from "./cards.js";

export function leasesTable(app) {
  const { ledger } = app;
  const marked = (mark, label) => ({ label, test: (lease) => leaseMarks(lease).includes(mark) });
  const spec = {
    name: "lease", label: "Leases", noun: "lease", empty: "Nobody holds a lease.",
    key: (lease) => lease.id,
    newest: (lease) => ledger.leases.get(lease.id),
    words: (lease) => [lease.id, lease.host, lease.gpu_uuids, lease.owner, lease.tenant, lease.job_id, lease.function, lease.state, ...leaseMarks(lease), ...uuids(lease).map((uuid) => cardName(ledger, uuid))],
    shows: {
      overused: marked("overused", "Over what was borrowed"), idle: marked("idle", "Idle"), revoked: marked("revoked", "Revoked"),
      active: { label: "active", test: (lease) => lease.state === "active" }, granted: { label: "granted", test: (lease) => lease.state === "granted" },
      reclaiming: { label: "reclaiming", test: (lease) => lease.state === "reclaiming" },
      adopted: marked("adopted", "Adopted"), registered: marked("registered", "Registered"),
    },
    sorts: {
      ends: { label: "next to end", by: (lease) => lease.expires_at }, age: { label: "oldest first", by: (lease) => lease.created_at },
      "-age": { label: "newest first", by: (lease) => lease.created_at, down: true },
      memory: { label: "largest first", by: (lease) => lease.memory_bytes * uuids(lease).length, down: true },
      used: { label: "most used first", by: (lease) => number(lease.used_bytes), down: true },
      over: { label: "most over-used first", by: (lease) => number(lease.over_bytes), down: true },
      where: { label: "host", by: (lease) => [lease.host, cardName(ledger, uuids(lease)[0])] }, tenant: { label: "tenant", by: (lease) => lease.tenant },
      id: { label: "name", by: (lease) => lease.id },
    },
    columns: [
      twoLines("id", "Lease", (lease) => lease.id, holder, { href: leaseHref, sort: "id" }),
      twoLines("where", "Where", (lease) => uuids(lease).map((uuid) => cardName(ledger, uuid)).join(", "), (lease) => lease.host, { sort: "where" }),
      { name: "state", label: "State", make: () => el("div", { class: "lines" }, el("span", { class: "first" }), el("span", { class: "marks" })), fill: fillLeaseState },
      {
        name: "memory", label: "Asked, used, peak", sort: "memory", make: () => el("div", { class: "lines" }, useBar(), el("span", { class: "second" })),
        fill: (cell, lease) => {
          fillUse(cell.firstChild.firstChild, lease.memory_bytes * uuids(lease).length, number(lease.used_bytes), number(lease.peak_bytes));
          text(cell.firstChild.lastChild, `${asked(lease)} asked · ${gib(lease.used_bytes)} used · ${gib(lease.peak_bytes)} peak`);
        },
      },
      words("age", "Age", (lease, now) => duration(now - lease.created_at), { num: true, sort: "age" }),
      words("ends", "Ends in", (lease, now) => duration((known(lease.revoke_at) ? Math.min(lease.revoke_at, lease.expires_at) : lease.expires_at) - now), { num: true, sort: "ends" }),
      twoLines("tenant", "Tenant", (lease) => String(lease.tenant), (lease) => `priority ${lease.priority}`, { sort: "tenant" }),
      words("note", "Note", leaseNotes),
      ...(app.me.actions ? [{ name: "act", label: "Actions", silent: true, make: () => revokeButton(app), fill: fillRevoke }] : []),
    ],
  };
  return new Table(spec, () => ledger.now(), (params) => app.router.params("leases", params));
}

export function leaseHref(lease) {
  return `#/lease/${encodeURIComponent(lease.id)}`;
}

function fillLeaseState(cell, lease) {
  const [state, marks] = cell.firstChild.children;
  text(state, String(lease.state));
  const found = leaseMarks(lease);
  text(marks, found.join(" "));
  attribute(marks, "data-level", found.some((mark) => mark === "overused" || mark === "revoked") ? "look" : null);
}

function revokeButton(app) {
  const button = el("button", { type: "button", class: "small" }, "Revoke");
  button.addEventListener("click", () => app.actions.revoke(button.lease));
  return button;
}

function fillRevoke(cell, lease) {
  cell.firstChild.lease = lease;
  attribute(cell.firstChild, "aria-label", `Revoke lease ${lease.id}`);
}
