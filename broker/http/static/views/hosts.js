// Every machine as its agent tells it.

import { attribute, el, text } from "../dom.js";
import { count, duration, gib, known, number, plain, size } from "../format.js";
import { Table, twoLines, words } from "../table.js";
import { isSilent } from "../words.js";
import { stateCell } from "./cards.js";

export function hostsTable(app) {
  const { ledger } = app;
  const drained = (host) => host.drained === "1" || host.drained === true;
  const state = (host, now) => (isSilent(host, now) ? "UNAVAILABLE" : host.state === "OK" || !host.state ? "OPTIMAL" : host.state);
  const spec = {
    name: "host", label: "Hosts", noun: "host", empty: "The pool has no host: start `gpubroker agent` on a machine with GPUs.",
    key: (host) => host.host,
    newest: (host) => ledger.hosts.get(host.host),
    words: (host) => [host.host, host.labels, host.source, host.state, host.reason],
    shows: {
      silent: { label: "Silent", test: isSilent }, drained: { label: "Drained", test: drained },
    },
    sorts: {
      host: { label: "name", by: (host) => host.host },
      news: { label: "oldest news first", by: (host) => number(host.sampled_at) },
      load: { label: "busiest first", by: (host) => number(host.cpu_percent), down: true },
    },
    columns: [
      hostState(state),
      twoLines("id", "Host", (host) => host.host, (host) => host.labels || "no labels", { href: (host) => `#/cards?q=${encodeURIComponent(host.host)}`, sort: "host" }),
      twoLines("cards", "Cards", (host) => count(ledger.cardsOf(host.host).length, "card"), (host) => `source ${host.source || "–"}`),
      twoLines("news", "Last heard", (host, now) => `${duration(now - number(host.sampled_at))} ago`, (host, now) => (isSilent(host, now) ? "too long" : "fresh"), { sort: "news" }),
      twoLines("load", "Processors", (host) => plain(host.cpu_percent, " %"), (host) => (known(host.load_milli) ? `load ${(host.load_milli / 1000).toFixed(2)}` : "load –"), { sort: "load" }),
      twoLines("memory", "Its memory", (host) => `${gib(host.memory_used_bytes)} of ${size(number(host.memory_bytes))}`, (host) => `${size(number(host.leased_memory_bytes) ?? 0)} leased`),
      words("disk", "Disk free", (host) => size(number(host.disk_free_bytes)), { num: true }),
      words("note", "Why", (host) => [drained(host) ? "drained" : "", host.reason].filter(Boolean).join("; ")),
      ...(app.me.actions ? [{ name: "act", label: "Actions", silent: true, make: () => buttons(app), fill: (cell, host, now) => fillButtons(cell, host, drained(host), isSilent(host, now)) }] : []),
    ],
  };
  return new Table(spec, () => ledger.now(), (params) => app.router.params("hosts", params));
}

/** A host has no temperature: it is fresh, silent, or as its memory makes it. */
function hostState(state) {
  const cell = stateCell(state);
  return {
    ...cell,
    fill: (element, host, now) => {
      cell.fill(element, host, now);
      text(element.firstChild.lastChild, isSilent(host, now) ? "silent" : String(host.state || "OK"));
    },
  };
}

function buttons(app) {
  const drain = el("button", { type: "button", class: "small" });
  drain.addEventListener("click", () => app.actions.drainHost(drain.host, drain.drained));
  const retire = el("button", { type: "button", class: "small" }, "Retire");
  retire.addEventListener("click", () => app.actions.retire(drain.host));
  return el("div", { class: "acts" }, drain, retire);
}

function fillButtons(cell, host, drained, silent) {
  const [drain, retire] = cell.firstChild.children;
  drain.host = host.host;
  drain.drained = drained;
  text(drain, drained ? "Undrain" : "Drain");
  attribute(drain, "aria-label", `${drained ? "Undrain" : "Drain"} host ${host.host}`);
  attribute(retire, "aria-label", `Retire host ${host.host}`);
  retire.hidden = !silent;
}
