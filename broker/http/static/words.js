// The words of the pool, the same as in the terminal: DESIGN's states, marks and reasons.

import { count, duration, known, number, size } from "./format.js";
import { uuids } from "./ledger.js";

export const STATES = ["OPTIMAL", "NORMAL", "THROTTLED", "CRITICAL", "UNAVAILABLE"];

const DRAINED = {
  gpu: "drained",
  host: "drained with its host",
  health: "drained for its health",
  people: "drained for people",
};

/** From 0 for OPTIMAL to 4 for UNAVAILABLE; what is no state is as bad as the worst. */
export function rank(state) {
  const at = STATES.indexOf(state);
  return at < 0 ? STATES.length : at;
}

/** The state as a sign: one that the page has no sign for is UNAVAILABLE's. */
export function sign(state) {
  return STATES.includes(state) ? state : "UNAVAILABLE";
}

/** Whether a grant on this card is possible, given room. */
export function lends(card) {
  return rank(card.state) < rank("CRITICAL") && !card.drained;
}

export function isSilent(told, now) {
  return number(told.fresh_until) < now;
}

/** What is to be said of a card beside its numbers, as `gpubroker status` says it. */
export function cardNotes(card, now) {
  const marks = String(card.drained_by ?? "").split(",");
  const notes = Object.keys(DRAINED).filter((mark) => marks.includes(mark)).map((mark) => DRAINED[mark]);
  if (card.drained && !notes.length) notes.push("drained");
  if (card.reserved_for) notes.push(`kept for ${card.reserved_for}`);
  notes.push(isSilent(card, now) ? `no sample for ${duration(now - card.sampled_at)}` : card.reason);
  if (card.short_bytes) notes.push(`leases exceed the budget by ${size(card.short_bytes)}`);
  return notes.filter(Boolean).join("; ");
}

/** What is special about a lease, beside its state. */
export function leaseMarks(lease) {
  const marks = [];
  if (known(lease.revoke_at) && lease.state !== "reclaiming") marks.push("revoked");
  if (lease.adopted) marks.push("adopted");
  if (lease.registered) marks.push("registered");
  if (lease.over_bytes > 0) marks.push("overused");
  if (lease.idle_seconds > 0) marks.push("idle");
  return marks;
}

/** Its state and what is special about it, with figures, in a line. */
export function leaseNotes(lease, now) {
  const notes = [];
  if (lease.over_bytes > 0) notes.push(`takes ${size(lease.over_bytes)} more than it borrowed`);
  if (lease.idle_seconds > 0) notes.push(`idle for ${duration(lease.idle_seconds * 1000)}`);
  if (known(lease.revoke_at)) {
    const left = lease.revoke_at - now;
    notes.push(`revoked${lease.revoke_reason ? `: ${lease.revoke_reason}` : ""}, ${left > 0 ? `ends in ${duration(left)}` : "over"}`);
  }
  if (lease.state === "reclaiming") notes.push("its time is over, its bytes still count");
  if (lease.state === "granted") notes.push("not claimed yet");
  return notes.join("; ");
}

/** "2x4.0 GiB": a lease's bytes on each of its cards. */
export function asked(lease) {
  const cards = uuids(lease).length;
  return (cards > 1 ? `${cards}x` : "") + size(lease.memory_bytes);
}

/** What a waiter wants: "16.0 GiB or 2x8.0 GiB". */
export function wanted(waiter) {
  const asks = waiter.asks || `${waiter.gpus ?? 1}x${waiter.memory_bytes}`;
  return String(asks).split(",").map((ask) => {
    const [bytes, cards] = ask.split("x").reverse();
    if (!known(bytes)) return ask;
    return (cards && cards !== "1" ? `${cards}x` : "") + size(Number(bytes));
  }).join(" or ");
}

/** Where a waiter would go. */
export function where(waiter) {
  const parts = [waiter.host && `host ${waiter.host}`, waiter.gpu && `GPU ${waiter.gpu}`, waiter.labels,
    waiter.capability && `capability ${waiter.capability}`, waiter.mig && `MIG ${waiter.mig}`,
    waiter.host_memory_bytes > 0 && `${size(waiter.host_memory_bytes)} of the host`,
    waiter.cpus_milli > 0 && `${waiter.cpus_milli / 1000} processors`, waiter.grows && `grows ${waiter.grows}`];
  return parts.filter(Boolean).join(", ") || "anywhere";
}

/** Who asked: the job where there is one, else the owner. */
export function holder(record) {
  return [record.job_id ? `job ${record.job_id}` : record.owner, record.function].filter(Boolean).join(" · ");
}

const BYTES = /_bytes$/;

/** An event's fields as [name, words] pairs: cards by host and index, bytes as sizes, the rest as it stands. */
export function eventWords(event, nameOf = (uuid) => uuid) {
  const said = [];
  for (const [name, raw] of Object.entries(event.fields ?? {})) {
    const value = String(raw ?? "");
    if (value === "" || name === "token") continue; // a token is its holder's secret
    if (name === "gpu" || name === "gpu_uuids") said.push(["card", value.split(",").map(nameOf).join(", ")]);
    else if (name === "asks") said.push([name, wanted({ asks: value })]);
    else if (BYTES.test(name) && known(value)) said.push([name.replace(BYTES, ""), size(Number(value))]);
    else said.push([name, value]);
  }
  return said;
}

/** How bad an event is, for its sign: "bad", "look" or "". */
export function eventLevel(event) {
  const to = event.kind === "state" ? rank(event.fields?.to) : -1;
  if (to >= rank("CRITICAL") || ["short", "expired", "epoch", "overuse", "gap"].includes(event.kind)) return "bad";
  return to === rank("THROTTLED") || ["xid", "warning", "revoked", "dropped", "idle", "drained", "left"].includes(event.kind) ? "look" : "";
}

/** The trend as a sentence. */
export function trendWords(trend) {
  if (!known(trend.temperature_c) || !known(trend.slope_c_per_minute)) return `Nobody can tell where its temperature goes: ${trend.reason}.`;
  if (trend.direction === "steady") return `At ${trend.temperature_c} °C and steady.`;
  const verb = trend.direction === "rising" ? "rising" : "falling";
  const told = `At ${trend.temperature_c} °C and ${verb} by ${Math.abs(trend.slope_c_per_minute).toFixed(1)} °C a minute`;
  if (!trend.next_threshold) return `${told}; no threshold is in its way.`;
  const target = `${trend.next_threshold}, ${trend.threshold_c} °C`;
  if (!known(trend.seconds_to_threshold)) return `${told}; ${target}, is more than an hour away.`;
  return `${told}; it crosses ${target}, in ${duration(trend.seconds_to_threshold * 1000)}.`;
}

/** "3 cards of 2 hosts". */
export function cardsOfHosts(cards) {
  const hosts = new Set(cards.map((card) => card.host));
  return `${count(cards.length, "card")} of ${hosts.size === 1 ? [...hosts][0] : count(hosts.size, "host")}`;
}
