// Every card, by host: state, memory as a stack, temperature, load, speed, and why.

import { fillGauge, fillMemory, gauge, memoryBar, memoryLine, memoryOf } from "../bars.js";
import { attribute, el, icon, once, setIcon, text } from "../dom.js";
import { count, duration, gib, known, number, plain } from "../format.js";
import { cardNotes, isSilent, lends, rank, sign } from "../words.js";
import { Table, twoLines, words } from "../table.js";

/** The state as sign and word. */
export function stateCell(of, more = {}) {
  return {
    name: "state", label: "State", ...more,
    make: () => el("span", { class: "state" }, icon("UNAVAILABLE"), el("span")),
    fill: (cell, item, now) => fillState(cell.firstChild, of(item, now)),
  };
}

export function fillState(element, state) {
  const [svg, word] = element.children;
  setIcon(svg, sign(state));
  text(word, String(state));
  attribute(element, "data-state", sign(state));
}

export function cardsTable(app) {
  const { ledger } = app;
  const test = (state) => ({ label: state, test: (card) => card.state === state });
  const spec = {
    name: "card", label: "Cards", noun: "card",
    empty: "The pool has no card: start `gpubroker agent` on a machine with GPUs.",
    key: (card) => card.uuid,
    newest: (card) => ledger.gpus.get(card.uuid),
    words: (card) => [card.host, `${card.host}:${card.index}`, card.name, card.uuid, card.state, card.reason, card.labels, card.drained_by, card.reserved_for],
    shows: {
      attention: { label: "Not well", test: (card, now) => rank(card.state) >= rank("THROTTLED") || card.short_bytes > 0 || isSilent(card, now) },
      lending: { label: "Lending", test: lends }, closed: { label: "Not lending", test: (card) => !lends(card) },
      leased: { label: "With leases", test: (card) => card.leased_bytes > 0 }, drained: { label: "Drained", test: (card) => card.drained },
      OPTIMAL: test("OPTIMAL"), NORMAL: test("NORMAL"), THROTTLED: test("THROTTLED"), CRITICAL: test("CRITICAL"), UNAVAILABLE: test("UNAVAILABLE"),
      short: { label: "Short", test: (card) => card.short_bytes > 0 }, unmanaged: { label: "With unmanaged memory", test: (card) => card.unmanaged_bytes > 0 },
    },
    sorts: {
      host: { label: "host", by: (card) => [card.host, card.index] },
      state: { label: "worst first", by: (card) => rank(card.state), down: true },
      temperature: { label: "hottest first", by: (card) => number(card.temperature_c), down: true },
      "-temperature": { label: "coolest first", by: (card) => number(card.temperature_c) },
      free: { label: "most free first", by: (card) => (lends(card) ? number(card.free_bytes) : -1), down: true },
      leased: { label: "most leased first", by: (card) => number(card.leased_bytes), down: true },
      load: { label: "busiest first", by: (card) => number(card.utilization_percent), down: true },
      speed: { label: "slowest first", by: (card) => number(card.job_speed) },
    },
    group: hostGroup(app),
    columns: [
      stateCell((card) => card.state, { sort: "state" }),
      twoLines("card", "Card", (card) => `${card.host} · ${card.index}`, (card) => card.name, { href: cardHref, sort: "host" }),
      memoryColumn(),
      {
        name: "temperature", label: "Temperature", sort: "temperature", make: gauge,
        fill: (cell, card) => fillGauge(cell.firstChild, card.temperature_c, ledger.config ? ledger.configOf(card.uuid) : null),
      },
      words("load", "Load", (card) => plain(card.utilization_percent, " %"), { num: true, sort: "load" }),
      words("speed", "Job speed", (card) => (known(card.job_speed) ? Number(card.job_speed).toFixed(1) : "–"), { num: true, sort: "speed" }),
      words("note", "Why", cardNotes),
      ...(app.me.actions ? [{ name: "act", label: "Actions", silent: true, make: () => drainButton(app), fill: fillDrain }] : []),
    ],
    row: (element, card) => attribute(element, "data-closed", lends(card) ? null : "true"),
  };
  return new Table(spec, () => ledger.now(), (params) => app.router.params("cards", params));
}

export function cardHref(card) {
  return `#/card/${encodeURIComponent(card.uuid)}`;
}

/** "studio-1 · 0", or the UUID of a card that the pool does not know. */
export function cardName(ledger, uuid) {
  const card = ledger.gpus.get(uuid);
  return card ? `${card.host} · ${card.index}` : uuid;
}

function memoryColumn() {
  return {
    name: "memory", label: "Memory", sort: "leased",
    make: () => el("div", { class: "lines" }, memoryBar(), el("span", { class: "second" })),
    fill: (cell, card) => {
      const memory = memoryOf(card);
      fillMemory(cell.firstChild.firstChild, memory);
      text(cell.firstChild.lastChild, memoryLine(memory));
    },
  };
}

function drainButton(app) {
  const button = el("button", { type: "button", class: "small" });
  button.addEventListener("click", () => app.actions.drainCard(button.card));
  return button;
}

function fillDrain(cell, card) {
  const button = cell.firstChild;
  button.card = card;
  const drained = String(card.drained_by ?? "").split(",").includes("gpu");
  text(button, drained ? "Undrain" : "Drain");
  attribute(button, "aria-label", `${drained ? "Undrain" : "Drain"} card ${card.index} of ${card.host}`);
}

/** The heading over a host's cards: how it is, in a line. */
function hostGroup(app) {
  const { ledger } = app;
  const summary = (name) => {
    const cards = ledger.cardsOf(name);
    const host = ledger.hosts.get(name) ?? {};
    const sum = (field) => cards.reduce((all, card) => all + (number(card[field]) ?? 0), 0);
    const parts = [`${count(cards.length, "card")}, ${cards.filter(lends).length} lending`, `${gib(sum("leased_bytes"))} of ${gib(sum("capacity_bytes"))} GiB leased`];
    if (known(host.cpu_percent)) parts.push(`CPU ${host.cpu_percent} %`);
    if (known(host.memory_used_bytes)) parts.push(`memory ${gib(host.memory_used_bytes)} of ${gib(host.memory_bytes)} GiB`);
    if (host.sampled_at && isSilent(host, ledger.now())) parts.push(`silent for ${duration(ledger.now() - host.sampled_at)}`);
    if (host.drained === "1" || host.drained === true) parts.push("drained");
    return parts.join(" · ");
  };
  return {
    by: "host",
    key: (card) => card.host,
    make: () => el("div", { class: "host-line" }, el("a", { class: "host-name" }), el("span", { class: "second" })),
    fill: (element, name) => {
      const parts = once(element, () => ({ name: element.firstChild, line: element.lastChild }));
      text(parts.name, name);
      attribute(parts.name, "href", `#/hosts?q=${encodeURIComponent(name)}`);
      text(parts.line, summary(name));
    },
  };
}
