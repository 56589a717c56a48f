// @ts-check
// A grid of pictures: one stop of the Tab key, with arrow keys inside.

import { makeCard } from "./card.js";
import { h } from "./dom.js";

/** @typedef {import("./types.js").Image} Image */
/** @typedef {import("./types.js").Hit} Hit */
/** @typedef {import("./types.js").Mark} Mark */
/** @typedef {import("./card.js").Card} Card */

/**
 * What a grid does when something happens to a card; without onMark its cards cannot be marked.
 * @typedef {Object} Actions
 * @property {(image: Image) => void} [onOpen]
 * @property {(image: Image) => void} [onPick]
 * @property {(image: Image, mark: Mark) => void} [onMark]
 */

export class Grid {
  /**
   * @param {string} label  what a screen reader calls it
   * @param {Actions} actions
   * @param {{origin?: boolean, judging?: boolean}} [options]  origin: say of each hit which model made its vector
   */
  constructor(label, actions, options = {}) {
    this.actions = actions;
    this.options = options;
    /** @type {Card[]} */
    this.cards = [];
    /** Where the Tab key stops. @type {Card | null} */
    this.reached = null;
    this.element = h("ul", {
      class: options.judging ? "grid judging" : "grid",
      "aria-label": label,
      onkeydown: (/** @type {KeyboardEvent} */ event) => this.#press(event),
      onfocusin: (/** @type {FocusEvent} */ event) => this.#reach(event),
    });
  }

  /**
   * @param {(Image | Hit)[]} images
   * @param {(id: string) => Mark} [markOf]
   */
  add(images, markOf = () => null) {
    for (const image of images) {
      const card = makeCard(image, this.actions, this.options);
      card.setMark(markOf(image.id));
      card.reachable(!this.cards.length);
      if (!this.cards.length) this.reached = card;
      this.cards.push(card);
      this.element.append(card.element);
    }
  }

  /**
   * A line across the grid, behind what was added so far.
   * @param {string} words
   */
  addLine(words) {
    this.element.append(h("li", { class: "line" }, words));
  }

  clear() {
    this.cards = [];
    this.reached = null;
    this.element.replaceChildren();
  }

  /** @param {(id: string) => Mark} markOf */
  refreshMarks(markOf) {
    for (const card of this.cards) card.setMark(markOf(card.image.id));
  }

  /**
   * Moves the focus to an image, or to the first one.
   * @param {string} [id]
   */
  focus(id) {
    const card = this.cards.find((each) => each.image.id === id) ?? this.cards[0];
    card?.button.focus();
    return Boolean(card);
  }

  /**
   * The image before or after another one.
   * @param {string} id
   * @param {number} step
   * @returns {Image | null}
   */
  beside(id, step) {
    const place = this.cards.findIndex((each) => each.image.id === id);
    return place < 0 ? null : (this.cards[place + step]?.image ?? null);
  }

  /** @param {FocusEvent} event */
  #reach(event) {
    const card = this.cards.find((each) => each.element.contains(/** @type {Node} */ (event.target)));
    if (!card || card === this.reached) return;
    this.reached?.reachable(false);
    card.reachable(true);
    this.reached = card;
  }

  /** @param {KeyboardEvent} event */
  #press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const place = this.cards.findIndex((each) => each.element.contains(/** @type {Node} */ (event.target)));
    if (place < 0) return;
    const card = this.cards[place];
    const { onMark, onPick } = this.actions;
    const key = event.key.toLowerCase();
    const target = this.#target(place, event.key);
    if (target !== null) this.cards[target].button.focus();
    else if (key === "y" && onMark) onMark(card.image, card.mark === "right" ? null : "right");
    else if (key === "n" && onMark) onMark(card.image, card.mark === "wrong" ? null : "wrong");
    else if (key === "r" && onPick) onPick(card.image);
    else return;
    event.preventDefault();
  }

  /**
   * The card that a key leads to; null for other keys.
   * @param {number} place
   * @param {string} key
   */
  #target(place, key) {
    const last = this.cards.length - 1;
    if (key === "ArrowRight") return Math.min(place + 1, last);
    if (key === "ArrowLeft") return Math.max(place - 1, 0);
    if (key === "Home") return 0;
    if (key === "End") return last;
    if (key !== "ArrowDown" && key !== "ArrowUp") return null;
    // By where cards are on the screen: the number of columns follows the window, and lines lie between rows.
    const step = key === "ArrowDown" ? 1 : -1;
    const { offsetLeft: left, offsetTop: top } = this.cards[place].element;
    let best = place;
    let row = null;
    for (let next = place + step; next >= 0 && next <= last; next += step) {
      const { offsetLeft, offsetTop } = this.cards[next].element;
      if (offsetTop === top) continue;
      row ??= offsetTop;
      if (offsetTop !== row) break;
      const nearer = Math.abs(offsetLeft - left) < Math.abs(this.cards[best].element.offsetLeft - left);
      if (best === place || nearer) best = next;
    }
    return best;
  }
}
