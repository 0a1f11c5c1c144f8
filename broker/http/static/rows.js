// A list of which only what can be seen is in the page: a thousand cards cost as much as forty.

const BEYOND_PX = 400;

/**
 * Rows of one list, in the flow of the page. An item is {key, kind, ...}; the height of each kind is the CSS variable
 * `--row-KIND` (rem), so that style sheets and media queries decide it. `make(kind)` gives an element, `fill(element,
 * item)` writes into it; elements are used again for other items of their kind.
 */
export class Rows {
  constructor(body, { make, fill, index }) {
    this.body = body;
    this.make = make;
    this.fill = fill;
    this.index = index ?? (() => {});
    this.items = [];
    this.tops = [0];
    this.shown = new Map();
    this.spare = new Map();
    this.heights = new Map();
    this.stale = new Set();
    this.again = this.again.bind(this);
    addEventListener("scroll", this.again, { passive: true });
    addEventListener("resize", () => this.measure());
  }

  /** Show these items, in this order. */
  set(items) {
    this.items = items;
    this.tops = new Array(items.length + 1);
    this.tops[0] = 0;
    for (let at = 0; at < items.length; at++) this.tops[at + 1] = this.tops[at] + this.height(items[at].kind);
    this.again();
  }

  /** Fill again what is shown of these keys, or all that is shown. */
  refresh(keys = "all") {
    if (keys === "all") this.all = true;
    else for (const key of keys) this.stale.add(key);
    this.again();
  }

  height(kind) {
    if (!this.heights.has(kind)) {
      const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
      this.heights.set(kind, parseFloat(getComputedStyle(this.body).getPropertyValue(`--row-${kind}`)) * rem || 48);
    }
    return this.heights.get(kind);
  }

  measure() {
    this.heights.clear();
    this.set(this.items);
  }

  again() {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => {
      this.due = false;
      if (this.body.checkVisibility?.() ?? true) this.render();
    });
  }

  /** Scroll an item into view and give the focus to its first link or button. */
  focus(at) {
    const top = this.body.getBoundingClientRect().top + scrollY;
    const above = this.above();
    if (this.tops[at] + top < scrollY + above) scrollTo(0, this.tops[at] + top - above);
    if (this.tops[at + 1] + top > scrollY + innerHeight) scrollTo(0, this.tops[at + 1] + top - innerHeight + 8);
    this.render();
    this.shown.get(this.items[at].key)?.querySelector("a, button")?.focus({ preventScroll: true });
  }

  /** What stands fixed over the list's top. */
  above() {
    return parseFloat(getComputedStyle(this.body).scrollMarginTop) || 0;
  }

  /** The place in the list of the row that holds this element, or -1. */
  at(element) {
    const row = element.closest("[data-key]");
    return row ? this.items.findIndex((item) => item.key === row.dataset.key) : -1;
  }

  render() {
    const top = -this.body.getBoundingClientRect().top - BEYOND_PX;
    const first = Math.max(0, this.find(top));
    const last = Math.min(this.items.length, this.find(top + innerHeight + 2 * BEYOND_PX) + 1);
    const wanted = new Map();
    for (let at = first; at < last; at++) wanted.set(this.items[at].key, at);
    for (const [key, element] of this.shown) if (!wanted.has(key)) this.take(key, element);
    let after = null;
    for (const [key, at] of wanted) after = this.place(key, at, after);
    this.body.style.paddingTop = `${this.tops[first] ?? 0}px`;
    this.body.style.paddingBottom = `${this.tops.at(-1) - this.tops[Math.max(first, last)]}px`;
    this.stale.clear();
    this.all = false;
  }

  /** The last item whose top is at or above a height. */
  find(height) {
    let low = 0;
    let high = this.items.length;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.tops[middle] <= height) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  place(key, at, after) {
    const item = this.items[at];
    let element = this.shown.get(key);
    if (element && element.dataset.kind !== item.kind) {
      this.take(key, element);
      element = undefined;
    }
    const fresh = !element;
    if (fresh) {
      element = this.spare.get(item.kind)?.pop() ?? this.made(item.kind);
      element.dataset.key = key;
      this.shown.set(key, element);
    }
    if (fresh || this.all || this.stale.has(key)) this.fill(element, item);
    this.index(element, at);
    const next = after ? after.nextSibling : this.body.firstChild;
    if (element !== next) this.body.insertBefore(element, next);
    return element;
  }

  made(kind) {
    const element = this.make(kind);
    element.dataset.kind = kind;
    return element;
  }

  take(key, element) {
    this.shown.delete(key);
    element.remove();
    const kind = element.dataset.kind;
    if (!this.spare.has(kind)) this.spare.set(kind, []);
    this.spare.get(kind).push(element);
  }
}
