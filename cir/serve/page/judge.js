// @ts-check
// Pooled judging: the first tens of two models, shuffled, so that nobody sees which found what.

import { isAbort, remember, request } from "./api.js";
import { announce, at, fill, h, icon } from "./dom.js";
import { Grid } from "./grid.js";
import { referencePicture } from "./pictures.js";
import { bodyOf, current, emptyQuery } from "./state.js";
import { count, counted } from "./words.js";

/** @typedef {import("./types.js").Image} Image */
/** @typedef {import("./types.js").Query} Query */
/** @typedef {import("./types.js").Mark} Mark */

export class Judge {
  /** @param {import("./main.js").App} app */
  constructor(app) {
    this.app = app;
    this.element = at("judge");
    this.shown = "";
    /** @type {Query} */
    this.query = emptyQuery();
    /** What is said of each mark: whose hits were seen. @type {{generations?: number[], pool?: boolean}} */
    this.seen = {};
    /** @type {Grid | null} */
    this.grid = null;
    this.progress = h("p", { class: "progress" });
    this.left = 0;
  }

  async show() {
    this.element.hidden = false;
    const { place } = this.app;
    const key = JSON.stringify([place.judge, place.judge === "pool" ? [current(place), place.old] : null]);
    if (key === this.shown) return;
    this.shown = key;
    await this.#load();
  }

  hide() {
    this.element.hidden = true;
    this.shown = "";
  }

  refreshMarks() {
    this.grid?.refreshMarks((id) => this.app.marks.of(this.query, id));
    this.#count();
  }

  async #load() {
    fill(this.element, h("p", { class: "busy" }, "searching …"));
    this.left = 0;
    try {
      if (this.app.place.judge === "pool") await this.#loadPool();
      else await this.#loadNext();
    } catch (error) {
      if (isAbort(error)) return;
      fill(this.element, this.#bar());
      this.app.complain(error, this.element, () => this.#load());
    }
  }

  /** The hits of two generations for the search that is shown. */
  async #loadPool() {
    const { place, info } = this.app;
    const generations = [place.old ?? this.app.olderGeneration() ?? info.generation, info.generation];
    this.query = current(place);
    this.seen = { generations: [...new Set(generations)] };
    const { references, text } = bodyOf(this.query);
    const json = { references, text, generations: this.seen.generations };
    const { images, judged } = await request("POST", "/pool", { json });
    this.#render(images, judged ? `${counted(judged, "picture is", "pictures are")} judged already.` : "");
  }

  /** The next marked search whose hits by a new model wait for a judgement. */
  async #loadNext() {
    const { state, detail, pools, left, model } = await request("GET", "/pools");
    const pool = pools[0];
    if (state !== "ready" || !pool) {
      const words = state === "computing" ? "Both models are still searching; look again in a while." : detail;
      const said = words || `All that ${model} needs is judged. Thank you.`;
      fill(this.element, this.#bar(), h("p", { class: "notice" }, said));
      announce(said);
      return;
    }
    this.query = { ...emptyQuery(), references: pool.references, text: pool.text };
    this.seen = { pool: true };
    this.left = left;
    this.#render(pool.images, "");
  }

  /**
   * @param {Image[]} images
   * @param {string} note
   */
  #render(images, note) {
    remember(images);
    const grid = (this.grid = new Grid(
      "Pictures to judge",
      { onOpen: (image) => this.app.open(image.id), onMark: (image, mark) => this.mark(image, mark) },
      { judging: true },
    ));
    grid.add(images);
    fill(
      this.element,
      this.#bar(),
      h(
        "div",
        { class: "question" },
        ...this.query.references.map((each) => referencePicture(each, 320)),
        h("p", {}, `“${this.query.text}”`),
      ),
      h(
        "p",
        {},
        "Which of these are right? They are the first ten of two models, shuffled; which found what is not shown. ",
        h("kbd", {}, "y"),
        " right, ",
        h("kbd", {}, "n"),
        " wrong. ",
        note,
      ),
      this.progress,
      grid.element,
    );
    this.#count();
    announce(`${counted(images.length, "picture")} to judge for: ${this.query.text}`);
    scrollTo(0, 0);
    grid.focus();
  }

  /**
   * @param {Image} image
   * @param {Mark} mark
   */
  async mark(image, mark) {
    const said = this.app.marks.say(this.query, image, mark, this.seen);
    // On to the next one at once: a second key may follow before the server has answered.
    const next = this.grid?.cards.find((card) => !card.mark);
    if (mark && next && !at("detail").open) next.button.focus();
    await said;
  }

  #count() {
    const all = this.grid?.cards.length ?? 0;
    const done = this.grid?.cards.filter((card) => card.mark).length ?? 0;
    const rest = this.left ? `, ${count(Math.max(0, this.left - done))} left in all` : "";
    const next =
      done === all &&
      this.app.place.judge === "pools" &&
      h("button", { type: "button", class: "primary", onclick: () => this.#load() }, "Next search");
    const words = all ? `${count(done)} of ${count(all)} judged${rest}` : "All of them are judged. Thank you.";
    fill(this.progress, words, next);
  }

  #bar() {
    const leave = () => this.app.go({ ...this.app.place, judge: "", show: null });
    const back = h("button", { type: "button", class: "quiet", onclick: leave }, icon("left"), "Back");
    return h("div", { class: "bar" }, h("h2", {}, "Judge"), h("div", { class: "actions" }, back));
  }
}
