// A table of one noun: columns, search, filter, sort; a thousand rows of which only the visible ones are there.

import { attribute, el, text } from "./dom.js";
import { Rows } from "./rows.js";

/** Values change every second; the order follows them only so often, and not while somebody is in the list. */
const REORDER_MS = 4000;

/**
 * `spec`: {name, label, noun, columns, key(item), words(item), shows: {word: {label, test(item, now)}}, sorts: {word:
 * {label, by(item), down}}, group?: {by: word, key(item), item(key), make(), fill(element, item)}, empty}. A column:
 * {name, label, make?(), fill(cell, item, now), sort?: word, num?: true}.
 */
export class Table {
  constructor(spec, now, onParams) {
    this.spec = spec;
    this.now = now;
    this.onParams = onParams;
    this.items = [];
    this.known = new Set();
    this.params = { q: "", show: "", sort: "" };
    this.orderedAt = 0;
    this.element = el("div", { class: "listing" }, this.toolbar(), this.table());
    this.rows = new Rows(this.body, {
      make: (kind) => this.make(kind),
      fill: (element, item) => this.fillRow(element, item),
      index: (element, at) => attribute(element, "aria-rowindex", String(at + 2)),
    });
    this.body.addEventListener("keydown", (event) => this.walk(event));
  }

  // -- what stands over the rows -------------------------------------------------------------------------------------

  toolbar() {
    const change = () => this.changed();
    this.search = el("input", { type: "search", placeholder: "Search", "aria-label": `Search ${this.spec.noun}s`, autocomplete: "off",
      spellcheck: "false", oninput: change, "data-search": true });
    this.show = choice(`Show`, { "": { label: `All ${this.spec.noun}s` }, ...this.spec.shows }, change);
    this.sort = choice(`Sort`, this.spec.sorts, change);
    this.told = el("p", { class: "told" });
    return el("form", { class: "toolbar", role: "search", "aria-label": this.spec.label, onsubmit: (event) => event.preventDefault() },
      this.search, this.show, this.sort, this.told);
  }

  table() {
    this.heads = this.spec.columns.map((column) => this.head(column));
    this.body = el("div", { role: "rowgroup", class: "rows" });
    this.none = el("p", { class: "none", hidden: true });
    this.grid = el("div", { role: "table", class: `table ${this.spec.name}`, "aria-label": this.spec.label },
      el("div", { role: "rowgroup", class: "heads" }, el("div", { role: "row", class: "row" }, ...this.heads)), this.body);
    return el("div", {}, this.grid, this.none);
  }

  head(column) {
    const inside = column.sort
      ? el("button", { type: "button", onclick: () => this.sortBy(column.sort) }, column.label)
      : el("span", { class: column.silent ? "hidden-words" : null }, column.label);
    return el("div", { role: "columnheader", class: cellClass(column) }, inside);
  }

  sortBy(word) {
    // The same head again turns the order around.
    this.sort.lastChild.value = this.params.sort === word && Object.hasOwn(this.spec.sorts, `-${word}`) ? `-${word}` : word;
    this.changed();
  }

  changed() {
    this.take({ q: this.search.value, show: this.show.lastChild.value, sort: this.sort.lastChild.value });
    this.onParams(Object.fromEntries(Object.entries(this.params).filter(([name, value]) => value && value !== this.standard(name))));
  }

  standard(name) {
    return name === "sort" ? Object.keys(this.spec.sorts)[0] : "";
  }

  /** Take what the address says: search, filter and order. */
  take({ q = "", show = "", sort = "" }) {
    this.params = { q, show: Object.hasOwn(this.spec.shows, show) ? show : "", sort: Object.hasOwn(this.spec.sorts, sort) ? sort : this.standard("sort") };
    if (this.search.value !== q) this.search.value = q;
    this.show.lastChild.value = this.params.show;
    this.sort.lastChild.value = this.params.sort;
    this.spec.columns.forEach((column, at) => attribute(this.heads[at], "aria-sort", this.direction(column)));
    this.order();
  }

  direction(column) {
    const word = this.params.sort.replace(/^-/, "");
    if (!column.sort || word !== column.sort) return null;
    return this.spec.sorts[this.params.sort].down ? "descending" : "ascending";
  }

  // -- what the rows are ---------------------------------------------------------------------------------------------

  /** Show what the ledger says now. `keys` are those that changed, or "all". */
  update(items, keys) {
    const known = new Set(items.map(this.spec.key));
    const same = keys !== "all" && known.size === this.known.size && [...known].every((key) => this.known.has(key));
    this.items = items;
    this.known = known;
    if (!same || this.mayReorder()) this.order();
    this.rows.refresh(keys);
  }

  mayReorder() {
    const pointed = matchMedia("(hover: hover)").matches && this.body.matches(":hover");
    const busy = pointed || this.body.contains(document.activeElement);
    return !busy && performance.now() - this.orderedAt > REORDER_MS;
  }

  order() {
    this.orderedAt = performance.now();
    const now = this.now();
    const chosen = this.chosen(now);
    const { by, down } = this.spec.sorts[this.params.sort || this.standard("sort")];
    const keyed = chosen.map((item) => ({ item, value: by(item, now) }));
    keyed.sort((a, b) => (down ? -1 : 1) * compare(a.value, b.value) || compare(this.spec.key(a.item), this.spec.key(b.item)));
    const rows = keyed.map(({ item }) => ({ key: this.spec.key(item), kind: this.spec.name, item }));
    const shown = this.grouped(rows);
    attribute(this.grid, "aria-rowcount", String(shown.length + 1));
    this.rows.set(shown);
    this.tell(chosen.length);
  }

  chosen(now) {
    const words = this.params.q.toLowerCase().split(/\s+/).filter(Boolean);
    const test = this.spec.shows[this.params.show]?.test;
    return this.items.filter((item) => {
      if (test && !test(item, now)) return false;
      if (!words.length) return true;
      const all = this.spec.words(item).join(" ").toLowerCase();
      return words.every((word) => all.includes(word));
    });
  }

  /** With a heading before the rows of each group, where the order is the group's. */
  grouped(rows) {
    const group = this.spec.group;
    if (!group || this.params.sort !== group.by) return rows;
    const shown = [];
    let last = null;
    for (const row of rows) {
      const key = group.key(row.item);
      if (key !== last) shown.push({ key: `group ${key}`, kind: "group", item: key });
      last = key;
      shown.push(row);
    }
    return shown;
  }

  tell(chosen) {
    const all = this.items.length;
    text(this.told, chosen === all ? `${all} ${this.spec.noun}${all === 1 ? "" : "s"}` : `${chosen} of ${all}`);
    this.none.hidden = chosen > 0;
    text(this.none, chosen ? "" : all ? `No ${this.spec.noun} is like that.` : this.spec.empty);
  }

  // -- rows ----------------------------------------------------------------------------------------------------------

  make(kind) {
    if (kind === "group") return el("div", { role: "row", class: "row group" }, el("div", { role: "cell", class: "group-cell" }, this.spec.group.make()));
    const cells = this.spec.columns.map((column) =>
      el("div", { role: "cell", class: cellClass(column), "data-label": column.silent ? null : column.label }, column.make?.() ?? null));
    return el("div", { role: "row", class: "row" }, ...cells);
  }

  fillRow(element, { kind, item }) {
    if (kind === "group") return this.spec.group.fill(element.firstChild.firstChild, item);
    const now = this.now();
    const newest = this.spec.newest?.(item) ?? item;
    this.spec.columns.forEach((column, at) => column.fill(element.children[at], newest, now));
    return this.spec.row?.(element, newest, now);
  }

  /** Up and down, page and ends: the focus goes along the rows. */
  walk(event) {
    const at = this.rows.at(event.target);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
    if (at < 0 || !Object.hasOwn(steps, event.key) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const last = this.rows.items.length - 1;
    this.rows.focus(Math.max(0, Math.min(last, at + steps[event.key])));
  }
}

/** Text is compared as people count (gpu2 before gpu10); what is not known comes last. */
const natural = new Intl.Collator("en", { numeric: true });

export function compare(a, b) {
  if (Array.isArray(a)) return a.reduce((found, value, at) => found || compare(value, b[at]), 0);
  const missing = (a == null || a === "") - (b == null || b === "");
  if (missing || a == null) return missing;
  return typeof a === "number" && typeof b === "number" ? a - b : natural.compare(String(a), String(b));
}

function choice(label, options, onchange) {
  const select = el("select", { onchange }, ...Object.entries(options).map(([value, { label: words }]) => el("option", { value }, words)));
  return el("label", { class: "choice" }, el("span", {}, label), select);
}

function cellClass(column) {
  return `cell c-${column.name}${column.num ? " num" : ""}`;
}

/** A cell of plain words, with the whole of them at hand where they are cut. */
export function words(name, label, say, more = {}) {
  return { name, label, ...more, fill: (cell, item, now) => setWords(cell, say(item, now)) };
}

export function setWords(cell, value) {
  text(cell, value);
  attribute(cell, "title", value.length > 12 ? value : null);
}

/** A cell of two lines: a link or words, and smaller words beneath. */
export function twoLines(name, label, first, second, more = {}) {
  return {
    name, label, ...more,
    make: () => el("div", { class: "lines" }, more.href ? el("a", { class: "first" }) : el("span", { class: "first" }), el("span", { class: "second" })),
    fill: (cell, item, now) => {
      const [one, two] = cell.firstChild.children;
      setWords(one, first(item, now));
      setWords(two, second(item, now));
      if (more.href) attribute(one, "href", more.href(item));
    },
  };
}
