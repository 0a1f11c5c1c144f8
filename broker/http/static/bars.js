// A card's memory as a stack against its total, and its temperature against its thresholds.

import { el, once, text, attribute } from "./dom.js";
import { gib, known, number, size } from "./format.js";

const PARTS = ["leased", "unmanaged", "reserved"];
const COLDEST_C = 30;
const HOTTEST_C = 100;
const LIMITS = ["temp_optimal", "temp_normal", "temp_throttle", "temp_critical"];

/** Bytes of a card: what is leased, unmanaged, reserved (never lent) and free, and what NVML sees in use. */
export function memoryOf(card) {
  const total = number(card.memory_total_bytes);
  const leased = number(card.leased_bytes) ?? 0;
  const unmanaged = number(card.unmanaged_bytes);
  const reserved = total === null ? null : Math.max(0, total - (number(card.capacity_bytes) ?? 0));
  return { total, leased, unmanaged, reserved, free: number(card.free_bytes), used: number(card.memory_used_bytes) };
}

/** An empty bar for `fillMemory`. */
export function memoryBar() {
  return el("span", { class: "bar", role: "img" }, ...PARTS.map((name) => el("i", { class: name })), el("b", { class: "used" }));
}

/** Draw a card's memory. Where leases exceed a budget that shrank, the stack is wider than the card and fills the bar. */
export function fillMemory(bar, memory) {
  const all = Math.max(memory.total ?? 0, PARTS.reduce((sum, name) => sum + (memory[name] ?? 0), 0), 1);
  PARTS.forEach((name, at) => {
    bar.children[at].style.width = `${(100 * (memory[name] ?? 0)) / all}%`;
  });
  bar.lastChild.style.width = `${(100 * Math.min(memory.used ?? 0, all)) / all}%`;
  attribute(bar, "aria-label", memoryWords(memory));
}

export function memoryWords({ total, leased, unmanaged, reserved, free, used }) {
  return `of ${size(total)}: ${size(leased)} leased, ${size(unmanaged)} unmanaged, ${size(reserved)} reserved, ${size(free)} free; ${size(used)} used`;
}

/** The line under the bar. */
export function memoryLine({ total, leased, used, free }) {
  return `${gib(leased)} leased · ${gib(used)} used · ${gib(free)} free of ${size(total)}`;
}

/** What was asked for as the track, what is used in it, and the most that was. */
export function useBar() {
  return el("span", { class: "bar use", role: "img" }, el("i", { class: "leased" }), el("i", { class: "over" }), el("b", { class: "peak" }));
}

export function fillUse(bar, asked, used, peak) {
  const all = Math.max(asked, used ?? 0, peak ?? 0, 1);
  bar.children[0].style.width = `${(100 * Math.min(used ?? 0, asked)) / all}%`;
  bar.children[1].style.width = `${(100 * Math.max(0, (used ?? 0) - asked)) / all}%`;
  bar.lastChild.style.left = `${(100 * (peak ?? 0)) / all}%`;
  bar.lastChild.hidden = !known(peak);
  attribute(bar, "aria-label", `${size(used)} used of ${size(asked)} asked for, ${size(peak)} at most`);
}

/** A temperature with the four thresholds as marks on its scale. */
export function gauge() {
  return el("span", { class: "gauge" }, el("span", { class: "degrees" }),
    el("span", { class: "scale", "aria-hidden": "true" }, el("b"), ...LIMITS.map(() => el("i"))), el("span", { class: "hidden-words" }));
}

export function fillGauge(made, degrees, limits) {
  const parts = once(made, () => ({ degrees: made.firstChild, scale: made.children[1], words: made.lastChild }));
  text(parts.degrees, known(degrees) ? `${degrees} °C` : "–");
  parts.scale.firstChild.style.width = `${known(degrees) ? place(degrees) : 0}%`;
  attribute(made, "data-band", known(degrees) && limits ? String(LIMITS.filter((name, at) => (at === 2 ? degrees > limits[name] : degrees >= limits[name])).length) : null);
  LIMITS.forEach((name, at) => {
    const mark = parts.scale.children[at + 1];
    mark.hidden = !limits;
    if (limits) mark.style.left = `${place(limits[name])}%`;
  });
  text(parts.words, limits && known(degrees) ? `, thresholds ${LIMITS.map((name) => limits[name]).join(", ")} °C` : "");
}

function place(degrees) {
  return Math.max(0, Math.min(100, (100 * (degrees - COLDEST_C)) / (HOTTEST_C - COLDEST_C)));
}
