// @ts-check
// The hits of one search by one generation, page by page as far as somebody scrolls.

import { isAbort, remember, request } from "./api.js";
import { announce, fill, h } from "./dom.js";
import { Grid } from "./grid.js";
import { withUploads } from "./pictures.js";
import { bodyOf } from "./state.js";
import { count, counted } from "./words.js";

/** @typedef {import("./types.js").Answer} Answer */
/** @typedef {import("./types.js").Hit} Hit */
/** @typedef {import("./types.js").Query} Query */

const PAGE = 40;
const AHEAD = "900px"; // how far below the window more is asked for

export class Listing {
  /**
   * @param {import("./main.js").App} app
   * @param {Query} query
   * @param {{label: string, generation?: number, judged: number[], origin: boolean}} options  generation: which one
   *   answers, if not the live one; judged: those whose hits are seen, for marks
   */
  constructor(app, query, { label, generation, judged, origin }) {
    this.app = app;
    this.query = query;
    this.generation = generation;
    this.judged = judged;
    /** The answer to the first page. @type {Answer | null} */
    this.answer = null;
    this.scrolled = 0;
    this.onAnswer = () => {};
    this.grid = new Grid(
      label,
      {
        onOpen: (image) => app.open(image.id),
        onPick: (image) => app.form.addReference(image.id),
        onMark: (image, mark) => app.marks.say(query, image, mark, { generations: this.#seen() }),
      },
      { origin },
    );
    this.foot = h("div", { class: "foot" });
    this.head = h("div", { class: "head" });
    this.element = h("div", { class: "listing" }, this.head, this.grid.element, this.foot);
    this.more = h("button", { type: "button", class: "quiet", onclick: () => this.load() }, "More");
    this.observer = new IntersectionObserver(
      (entries) => entries.some((entry) => entry.isIntersecting) && this.load(),
      { rootMargin: AHEAD },
    );
    /** @type {AbortController | null} */
    this.running = null;
    this.ended = false;
  }

  /**
   * Loads the next page; the first time the first one.
   * @returns {Promise<void>}
   */
  async load() {
    if (this.running || this.ended) return;
    const running = (this.running = new AbortController());
    const offset = this.grid.cards.length;
    fill(this.foot, h("p", { class: "busy" }, offset ? "more …" : "searching …"));
    try {
      const answer = await this.#ask(offset, running.signal);
      if (this.answer && answer.generation !== this.answer.generation) {
        // The index was changed meanwhile: ranks of two generations are not to be mixed.
        this.#restart();
        this.running = null;
        announce("The index has changed; the search begins again.");
        return await this.load();
      }
      await this.app.marks.load(this.query);
      this.#add(answer, offset);
    } catch (error) {
      if (!isAbort(error)) this.app.complain(error, this.foot, () => this.load());
      else fill(this.foot);
    } finally {
      if (this.running === running) this.running = null;
    }
  }

  /** Gives up what is being loaded. */
  stop() {
    this.running?.abort();
    this.running = null;
  }

  refreshMarks() {
    this.grid.refreshMarks((id) => this.app.marks.of(this.query, id));
  }

  #seen() {
    return this.judged.length ? this.judged : this.answer ? [this.answer.generation] : [];
  }

  #restart() {
    this.answer = null;
    this.grid.clear();
  }

  /**
   * @param {number} offset
   * @param {AbortSignal} signal
   * @returns {Promise<Answer>}
   */
  #ask(offset, signal) {
    const k = Math.min(PAGE, this.app.info.limits.depth - offset);
    const json = { ...bodyOf(this.query), k, offset, generation: this.generation };
    return withUploads(this.query.references, () => request("POST", "/search", { json, signal }));
  }

  /**
   * @param {Answer} answer
   * @param {number} offset
   */
  #add(answer, offset) {
    const first = !this.answer;
    this.answer ??= answer;
    remember(answer.hits);
    const marks = (/** @type {string} */ id) => this.app.marks.of(this.query, id);
    const last = this.grid.cards[offset - 1]?.image;
    const before = last && "confident" in last ? last.confident : (answer.hits[0]?.confident ?? null);
    const turn = before ? answer.hits.findIndex((hit) => hit.confident === false) : -1;
    if (turn >= 0) {
      // Ranks say nothing of how good hits are; this line does.
      this.grid.add(answer.hits.slice(0, turn), marks);
      this.grid.addLine("From here on scores are lower than right answers usually have");
      this.grid.add(answer.hits.slice(turn), marks);
    } else this.grid.add(answer.hits, marks);
    const shown = this.grid.cards.length;
    this.ended = !answer.more || shown >= this.app.info.limits.depth || !answer.hits.length;
    this.observer.disconnect();
    if (this.ended) fill(this.foot, shown > 0 && h("p", {}, endWords(answer, shown)));
    else {
      fill(this.foot, this.more);
      this.observer.observe(this.more);
    }
    if (!first && answer.hits.length) announce(`${count(answer.hits.length)} more`);
    this.onAnswer();
  }
}

/**
 * @param {Answer} answer
 * @param {number} shown
 */
function endWords(answer, shown) {
  if (!answer.more) return `That is all: ${counted(shown, "picture")}.`;
  return `These are the first ${count(shown)}. Filters or another sentence lead further.`;
}
