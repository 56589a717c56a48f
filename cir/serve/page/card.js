// @ts-check
// One picture of a grid.

import { h, icon, signButton } from "./dom.js";
import { DRAGGED } from "./pictures.js";
import { confidenceWords, score, shortName } from "./words.js";

/** @typedef {import("./types.js").Image} Image */
/** @typedef {import("./types.js").Hit} Hit */
/** @typedef {import("./types.js").Mark} Mark */

/**
 * @typedef {Object} Card
 * @property {Image} image
 * @property {HTMLElement} element
 * @property {HTMLButtonElement} button  which opens it
 * @property {Mark} mark
 * @property {(mark: Mark) => void} setMark
 * @property {(words: string, short?: string) => void} setNote  a few words below it, and shorter ones to be seen
 * @property {(reachable: boolean) => void} reachable  whether the Tab key stops here
 */

/**
 * @param {Image | Hit} image
 * @param {import("./grid.js").Actions} actions
 * @param {{origin?: boolean, judging?: boolean}} options
 * @returns {Card}
 */
export function makeCard(image, { onOpen, onPick, onMark }, { origin, judging }) {
  const hit = "rank" in image ? image : null;
  const button = h(
    "button",
    { type: "button", class: "open", onclick: () => onOpen?.(image) },
    picture(image),
  );
  button.addEventListener("dragstart", (/** @type {DragEvent} */ event) => {
    event.dataTransfer?.setData(DRAGGED, image.id);
  });
  button.draggable = Boolean(onPick);
  const name = shortName(image.id);
  const pick = onPick && signButton("add", `Use ${name} as a reference`, () => onPick(image), { class: "pick" });
  /** @param {"right" | "wrong"} said */
  const markButton = (said) =>
    onMark &&
    signButton(
      said === "right" ? "check" : "close",
      said === "right" ? "Right" : "Wrong",
      () => onMark(image, card.mark === said ? null : said),
      { class: `mark ${said}`, "aria-pressed": "false" },
    );
  const right = markButton("right");
  const wrong = markButton("wrong");
  const note = h("span", { class: "moved" });
  const element = h(
    "li",
    { class: "card" },
    h("div", { class: "tile" }, button, pick, onMark && h("div", { class: "marks" }, right, wrong)),
    hit && caption(hit, Boolean(origin), note),
  );
  /** @type {Card} */
  const card = {
    image,
    element,
    button,
    mark: null,
    setMark(mark) {
      card.mark = mark;
      element.classList.toggle("is-right", mark === "right");
      element.classList.toggle("is-wrong", mark === "wrong");
      right?.setAttribute("aria-pressed", String(mark === "right"));
      wrong?.setAttribute("aria-pressed", String(mark === "wrong"));
      button.setAttribute("aria-label", labelOf(image, hit, mark, note.title));
    },
    setNote(words, short = words) {
      note.textContent = short;
      note.title = words;
      card.setMark(card.mark);
    },
    reachable(reachable) {
      for (const each of element.querySelectorAll("button")) each.tabIndex = reachable ? 0 : -1;
    },
  };
  if (judging) element.classList.add("to-judge");
  card.setMark(null);
  return card;
}

/**
 * @param {Image} image
 * @param {Hit | null} hit
 * @param {Mark} mark
 * @param {string} note
 */
function labelOf(image, hit, mark, note) {
  const parts = [shortName(image.id)];
  if (hit) parts.unshift(`Rank ${hit.rank}`);
  if (hit) parts.push(`score ${score(hit.score)}`, confidenceWords(hit));
  if (!image.photo) parts.push("no photo");
  parts.push(note);
  if (mark) parts.push(`marked ${mark}`);
  return parts.filter(Boolean).join(", ");
}

/**
 * A thumbnail that appears once it has loaded, in a size that fits the screen.
 * @param {Image} image
 */
function picture(image) {
  if (!image.thumbnail) return missing(image);
  const address = image.thumbnail;
  const thumbnail = h("img", {
    loading: "lazy", // before the address, at which loading would begin
    src: `${address}&size=320`,
    srcset: [160, 320, 640].map((size) => `${address}&size=${size} ${size}w`).join(", "),
    sizes: "(max-width: 480px) 44vw, 200px",
    alt: "",
    decoding: "async",
    draggable: "false",
    onload: () => thumbnail.classList.add("loaded"),
    onerror: () => thumbnail.replaceWith(missing(image)),
  });
  return thumbnail;
}

/** @param {Image} image */
export function missing(image) {
  return h("span", { class: "missing" }, icon("picture"), h("span", {}, "no photo"), h("small", {}, image.id));
}

/**
 * @param {Hit} hit
 * @param {boolean} origin
 * @param {HTMLElement} note
 */
function caption(hit, origin, note) {
  const words = confidenceWords(hit);
  const dot = words && h("span", { class: hit.confident ? "dot" : "dot weak", title: words });
  return h(
    "p",
    { class: "caption", "aria-hidden": "true" },
    h("b", {}, hit.rank),
    note,
    h("span", { class: "score", title: words }, dot, score(hit.score)),
    origin && h("span", { class: "origin" }, `${hit.model} · generation\u00a0${hit.generation}`),
  );
}
