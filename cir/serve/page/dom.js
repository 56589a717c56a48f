// @ts-check
// Elements without HTML: whatever comes from people or from an index becomes text nodes and attributes only.

/** @typedef {Node | string | number | null | undefined | false} Child */

/** Addresses that a picture may have: those the server hands out, and what this page made itself. */
const ADDRESS = /^(\/api\/v1\/|blob:|data:image\/png;base64,)/;

/**
 * An element. Names that begin with `on` are listeners; attributes that are null or false are left out.
 * @param {string} tag
 * @param {Object<string, any>} [attributes]
 * @param {...Child} children
 * @returns {any}
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "src" || name === "href") element.setAttribute(name, address(value));
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  fill(element, ...children);
  return element;
}

/**
 * Replaces what is in an element.
 * @param {Element} element
 * @param {...Child} children
 */
export function fill(element, ...children) {
  const kept = children.filter((child) => child !== null && child !== undefined && child !== false);
  element.replaceChildren(...kept.map((child) => (child instanceof Node ? child : String(child))));
}

/** @param {string} value */
function address(value) {
  if (!ADDRESS.test(value)) throw new Error("not an address of this page");
  return value;
}

/**
 * The element of an id, which is in index.html.
 * @param {string} id
 * @returns {any}
 */
export function at(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`no element ${id}`);
  return element;
}

// Strokes on a field of 24 x 24.
const STROKES = {
  add: "M12 5v14M5 12h14",
  check: "M5 12.5l4.5 4.5L19 7.5",
  close: "M6 6l12 12M18 6L6 18",
  compare: "M4 5h6v14H4zM14 5h6v14h-6z",
  filter: "M4 6h16M7 12h10M10 18h4",
  left: "M15 5l-7 7 7 7",
  link: "M10 14l4-4M8.5 11.5l-2 2a3.5 3.5 0 005 5l2-2M15.5 12.5l2-2a3.5 3.5 0 00-5-5l-2 2",
  mark: "M4 12.5l3.5 3.5L14 8M14 15.5l1 1 5.5-7",
  minus: "M6 12h12",
  picture: "M4 5h16v14H4zM4 16l4.5-4.5L14 17M12.5 15.5L16 12l4 4M9 9.2v.01",
  right: "M9 5l7 7-7 7",
  search: "M10.5 17a6.5 6.5 0 100-13 6.5 6.5 0 000 13zM15.5 15.5L20 20",
  shuffle: "M4 7h3l9 10h4M4 17h3l2.5-2.8M13.5 9.8L16 7h4M17.5 4.5L20 7l-2.5 2.5M17.5 14.5L20 17l-2.5 2.5",
};

/**
 * A drawn sign, hidden from screen readers: the words beside it are what is read.
 * @param {keyof typeof STROKES} name
 */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", STROKES[name]);
  svg.append(path);
  return svg;
}

/**
 * A button with a sign alone; its name is read, and shown while the pointer rests on it.
 * @param {keyof typeof STROKES} sign
 * @param {string} name
 * @param {(event: Event) => void} onclick
 * @param {Object<string, any>} [attributes]
 */
export function signButton(sign, name, onclick, attributes = {}) {
  return h("button", { type: "button", "aria-label": name, title: name, onclick, ...attributes }, icon(sign));
}

/**
 * Says something to those who cannot see that the page has changed.
 * @param {string} words
 */
export function announce(words) {
  // All but the dialog is inert while one is open, live regions too.
  const live = document.querySelector("dialog[open] [data-live]") ?? at("live");
  live.textContent = "";
  // A region that is filled in the same turn as it is emptied is not read again if the words are the same.
  setTimeout(() => (live.textContent = words), 50);
}

/** @type {ReturnType<typeof setTimeout> | undefined} */
let hiding;

/**
 * Shows a line for some seconds, and says it.
 * @param {string} words
 */
export function toast(words) {
  const box = at("toast");
  box.textContent = words;
  box.hidden = false;
  // A modal dialog covers everything but what is in it and popovers opened after it.
  if (box.showPopover) {
    if (box.matches(":popover-open")) box.hidePopover();
    box.showPopover();
  }
  announce(words);
  clearTimeout(hiding);
  hiding = setTimeout(() => {
    if (box.hidePopover && box.matches(":popover-open")) box.hidePopover();
    box.hidden = true;
  }, 5000);
}

/**
 * Calls a function once nothing has happened for a while.
 * @template {any[]} A
 * @param {(...values: A) => void} work
 * @param {number} wait
 * @returns {(...values: A) => void}
 */
export function debounced(work, wait) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...values), wait);
  };
}
