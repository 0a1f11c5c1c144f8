// Names and values in two columns, and headed sections: what the views of one card, lease or waiter are made of.

import { attribute, el, text } from "./dom.js";

/** A list of names and values that is filled again and again: {element, fill([[name, words]])}. */
export function facts() {
  const element = el("dl", { class: "facts" });
  const rows = new Map();
  return {
    element,
    fill(pairs) {
      const wanted = new Set(pairs.map(([name]) => name));
      for (const [name, row] of rows) {
        if (wanted.has(name)) continue;
        row.remove();
        rows.delete(name);
      }
      for (const [name, words] of pairs) {
        if (!rows.has(name)) {
          rows.set(name, el("div", {}, el("dt", {}, name), el("dd")));
          element.append(rows.get(name));
        }
        text(rows.get(name).lastChild, words);
      }
    },
  };
}

export function section(title, ...children) {
  return el("section", { "aria-label": title }, el("h3", {}, title), ...children);
}

/** A small table of plain cells: {element, fill(rows)}; a cell is words, a number, or an element. */
export function plainTable(label, heads, none) {
  const body = el("tbody");
  const table = el("table", { class: "plain", "aria-label": label }, el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))), body);
  const empty = el("p", { class: "none" }, none);
  return {
    element: el("div", { class: "plain-box" }, table, empty),
    fill(rows) {
      table.hidden = !rows.length;
      empty.hidden = rows.length > 0;
      rows.forEach((cells, at) => fillRow((body.children[at] ?? body.appendChild(row(heads))), cells));
      while (body.children.length > rows.length) body.lastChild.remove();
    },
  };
}

function row(heads) {
  return el("tr", {}, ...heads.map((head) => el("td", { "data-label": head })));
}

function fillRow(element, cells) {
  cells.forEach((cell, at) => {
    const place = element.children[at];
    const link = cell?.href ? cell : null;
    if (!link) return text(place, String(cell ?? "–"));
    const a = place.firstElementChild ?? place.appendChild(el("a"));
    if (place.firstChild !== a) place.replaceChildren(a);
    text(a, link.words);
    return attribute(a, "href", link.href);
  });
}
