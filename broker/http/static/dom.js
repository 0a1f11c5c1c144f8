// Elements, made and changed without a word of HTML: what others wrote into the ledger is text, and only text.

const SVG = "http://www.w3.org/2000/svg";

/** An element with properties of `attributes` and the given children; strings become text. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Set an element's text if it is another one: the browser then has nothing to do for what stayed the same. */
export function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

/** Set or, with null, remove an attribute, if that changes anything. */
export function attribute(element, name, value) {
  if (value === null) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/** One of the signs in the page's sheet of symbols; hidden from screen readers, for a word stands beside each. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** Show another sign in an icon. */
export function setIcon(svg, name) {
  attribute(svg.firstChild, "href", `#i-${name}`);
}

/** Exchange the children of an element. */
export function fill(element, ...children) {
  element.replaceChildren(...children.filter((child) => child !== null && child !== undefined));
}

/** What has been made once for an element that is filled again and again. */
export function once(element, make) {
  return (element.parts ??= make(element));
}
