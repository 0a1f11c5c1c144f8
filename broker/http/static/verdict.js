// Whether all is well, in one word and the few lines that say why not. Pure: the ledger in, a verdict out.

import { count, duration, number, size } from "./format.js";
import { cardsOfHosts, isSilent, lends, sign } from "./words.js";

/** From the worst; a note worries nobody. */
const LEVELS = ["bad", "look", "note"];
/** A wait that is longer is worth a look. */
const LONG_WAIT_MS = 10 * 60_000;

/**
 * {level, headline, findings: [{level, text, href}]}, the worst first. Levels: "bad", "look", "well", and "unknown"
 * where nobody can say: what is old is never called well.
 */
export function verdict(ledger, link, now) {
  if (!link.live) return unknown(ledger, link);
  const findings = [...ofCards(ledger, now), ...ofHosts(ledger, now), ...ofLeases(ledger), ...ofWaiters(ledger, now)];
  findings.sort((a, b) => LEVELS.indexOf(a.level) - LEVELS.indexOf(b.level));
  const level = findings.some((one) => one.level === "bad") ? "bad" : findings.some((one) => one.level === "look") ? "look" : "well";
  return { level, headline: headline(level, ledger, findings), findings };
}

function unknown(ledger, link) {
  const first = !ledger.known;
  const headline = link.away ? "The ledger is away" : first ? "Asking…" : "No news";
  const text = link.away ? "No Redis answers: nothing is lent until it is back" : first ? "" : "What is shown here is old";
  return { level: first && !link.away && link.word === "connecting" ? "asking" : "unknown", headline, findings: text ? [{ level: "bad", text }] : [] };
}

function headline(level, ledger, findings) {
  if (level === "bad") return "Needs you";
  if (level === "look") return "Worth a look";
  if (!ledger.gpus.size) return "No card yet";
  return findings.length ? "All is well, but note" : "All is well";
}

function ofCards(ledger, now) {
  const cards = [...ledger.gpus.values()];
  if (!cards.length) return [{ level: "look", text: "The pool has no card: start `gpubroker agent` on a machine with GPUs" }];
  const found = [];
  const tell = (level, some, words, show) => some.length && found.push({ level, text: `${cardsOfHosts(some)} ${words}`, href: `#/cards?show=${show}` });
  const silent = cards.filter((card) => isSilent(card, now));
  tell("bad", silent, `silent: no sample for ${duration(now - Math.min(...silent.map((card) => card.sampled_at)))}`, "UNAVAILABLE");
  // A state that this page does not know is as bad as the worst.
  tell("bad", cards.filter((card) => sign(card.state) === "UNAVAILABLE" && !isSilent(card, now)), "UNAVAILABLE", "closed");
  tell("bad", cards.filter((card) => hot(card, "CRITICAL")), "CRITICAL: nothing is lent there, jobs pause", "CRITICAL");
  tell("look", cards.filter((card) => card.state === "CRITICAL" && !hot(card, "CRITICAL")), "full: nothing more is lent there", "CRITICAL");
  tell("bad", cards.filter((card) => card.short_bytes > 0), "lent beyond a budget that shrank", "short");
  tell("look", cards.filter((card) => card.drained && marked(card, "health")), "drained for health", "drained");
  tell("look", cards.filter((card) => hot(card, "THROTTLED")), "THROTTLED: half speed", "THROTTLED");
  tell("note", cards.filter((card) => card.drained && !marked(card, "health")), "drained", "drained");
  if (!cards.some(lends)) found.unshift({ level: "bad", text: "No card lends", href: "#/cards?show=closed" });
  return found;
}

/** In that state by its heat or health, which jobs feel too. A card that is THROTTLED by its memory is only well used. */
function hot(card, state) {
  return (card.job_state ?? card.state) === state;
}

function marked(card, mark) {
  return String(card.drained_by ?? "").split(",").includes(mark);
}

function ofHosts(ledger, now) {
  const bare = new Set([...ledger.hosts.values()].filter((host) => isSilent(host, now)).map((host) => host.host));
  for (const card of ledger.gpus.values()) bare.delete(card.host); // told with its cards
  return bare.size ? [{ level: "bad", text: `${count(bare.size, "host")} silent: ${[...bare].slice(0, 3).join(", ")}`, href: "#/hosts" }] : [];
}

function ofLeases(ledger) {
  const leases = [...ledger.leases.values()];
  const found = [];
  const over = leases.filter((lease) => lease.over_bytes > 0);
  if (over.length) {
    const most = Math.max(...over.map((lease) => lease.over_bytes));
    found.push({ level: "look", text: `${count(over.length, "lease")} over what was borrowed, by ${size(most)} at most`, href: "#/leases?show=overused" });
  }
  const idle = leases.filter((lease) => lease.idle_seconds > 0);
  if (idle.length) found.push({ level: "look", text: `${count(idle.length, "lease")} idle`, href: "#/leases?show=idle" });
  return found;
}

function ofWaiters(ledger, now) {
  const longest = Math.max(0, ...[...ledger.waiters.values()].map((waiter) => now - waiter.since));
  return longest > LONG_WAIT_MS ? [{ level: "look", text: `A request waits for ${duration(longest)}`, href: "#/waiters" }] : [];
}

/** The pool in numbers: cards, bytes, leases, waiters. */
export function totals(ledger, now) {
  const sum = { cards: 0, lending: 0, total: 0, leased: 0, free: 0, budget: 0, unmanaged: 0, reserved: 0, longest: 0 };
  for (const card of ledger.gpus.values()) {
    sum.cards++;
    if (lends(card)) {
      sum.lending++;
      sum.free += number(card.free_bytes) ?? 0;
    }
    const total = number(card.memory_total_bytes) ?? 0;
    sum.total += total;
    sum.leased += number(card.leased_bytes) ?? 0;
    sum.budget += number(card.budget_bytes) ?? 0;
    sum.unmanaged += number(card.unmanaged_bytes) ?? 0;
    sum.reserved += Math.max(0, total - (number(card.capacity_bytes) ?? 0));
  }
  for (const waiter of ledger.waiters.values()) sum.longest = Math.max(sum.longest, now - waiter.since);
  return { ...sum, leases: ledger.leases.size, waiters: ledger.waiters.size };
}
