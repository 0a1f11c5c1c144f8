// The journal as it goes, newest first.

import { attribute, el, icon, setIcon, text } from "../dom.js";
import { clock, iso } from "../format.js";
import { Table } from "../table.js";
import { eventLevel, eventWords } from "../words.js";
import { cardName } from "./cards.js";

const KINDS = {
  state: ["state", "warning", "xid", "short"],
  leases: ["granted", "claimed", "released", "expired", "reclaimed", "unclaimed", "resized", "revoked", "registered", "adopted", "revived", "overuse", "idle"],
  waiters: ["queued", "cancelled", "dropped", "reserved", "unreserved"],
  operators: ["drained", "undrained", "config", "tenant", "repaired", "revoked"],
  ledger: ["epoch", "clock", "settling", "joined", "left", "gap"],
};

export function journalTable(app) {
  const { ledger } = app;
  const kinds = (name, label) => ({ label, test: (event) => KINDS[name].includes(event.kind) });
  const spec = {
    name: "event", label: "Journal", noun: "event", empty: "The journal is empty.",
    key: (event) => String(event.stream_id),
    words: (event) => [event.kind, ...Object.values(event.fields ?? {}), ...eventWords(event, (uuid) => cardName(ledger, uuid)).map(([, value]) => value)],
    shows: {
      trouble: { label: "Trouble", test: (event) => eventLevel(event) !== "" }, state: kinds("state", "States of cards"), leases: kinds("leases", "Leases"),
      waiters: kinds("waiters", "Waiters"), operators: kinds("operators", "What operators did"), ledger: kinds("ledger", "Ledger and agents"),
    },
    sorts: { newest: { label: "newest first", by: (event) => [event.at, event.seq ?? 0], down: true }, oldest: { label: "oldest first", by: (event) => [event.at, event.seq ?? 0] } },
    columns: [
      {
        name: "at", label: "Time", make: () => el("time"),
        fill: (cell, event, now) => {
          text(cell.firstChild, clock(event.at, now));
          attribute(cell.firstChild, "datetime", iso(event.at));
        },
      },
      { name: "kind", label: "Kind", make: () => el("span", { class: "kind" }, icon("event"), el("span")), fill: fillKind },
      { name: "words", label: "What", fill: (cell, event) => fillWords(cell, eventWords(event, (uuid) => cardName(ledger, uuid))) },
    ],
  };
  return new Table(spec, () => ledger.now(), (params) => app.router.params("journal", params));
}

function fillKind(cell, event) {
  const level = eventLevel(event);
  attribute(cell.firstChild, "data-level", level || null);
  setIcon(cell.firstChild.firstChild, level || "event");
  text(cell.firstChild.lastChild, String(event.kind));
}

/** Names small and quiet, values plain. */
function fillWords(cell, parts) {
  const said = parts.map(([name, value]) => `${name} ${value}`).join(" ");
  if (cell.said === said) return;
  cell.said = said;
  cell.replaceChildren(...parts.flatMap(([name, value]) => [el("span", { class: "name" }, name), ` ${value} `]));
  attribute(cell, "title", said);
}
