// @ts-check
// The answers of two generations side by side, where the model behind the index was replaced.

import { announce, at, fill, h, icon } from "./dom.js";
import { Listing } from "./listing.js";
import { notes } from "./results.js";
import { current } from "./state.js";
import { count, counted, queryWords } from "./words.js";

/** @typedef {import("./types.js").Generation} Generation */

export class Compare {
  /** @param {import("./main.js").App} app */
  constructor(app) {
    this.app = app;
    this.element = at("compare");
    this.shown = "";
    /** @type {Listing[]} old and new */
    this.listings = [];
    this.side = 1; // where somebody is
  }

  get grid() {
    return this.listings[this.side]?.grid ?? null;
  }

  async show() {
    this.element.hidden = false;
    const { place, info } = this.app;
    const query = current(place);
    const old = info.generations.find((each) => each.generation === place.old);
    const live = info.generations.find((each) => each.live);
    const key = JSON.stringify([query, place.old, live?.generation]);
    if (key === this.shown) return;
    this.#stop();
    this.shown = key;
    if (!old || !live) {
      this.app.complain(new Error(`Generation ${place.old} is not kept.`), this.element);
      return;
    }
    const judged = [old.generation, live.generation];
    this.listings = [old, live].map(
      (each) =>
        new Listing(this.app, query, {
          label: each.live ? "Now" : "Before",
          generation: each.live ? undefined : each.generation,
          judged,
          origin: true,
        }),
    );
    this.listings.forEach((listing, side) => {
      listing.onAnswer = () => this.#answered(listing, side ? live : old, side);
    });
    const enter = (/** @type {number} */ side) => (this.side = side);
    const judge = h(
      "button",
      { type: "button", class: "quiet", onclick: () => this.app.go({ ...place, judge: "pool", show: null }) },
      icon("mark"),
      "Judge without seeing which",
    );
    const back = h(
      "button",
      { type: "button", class: "quiet", onclick: () => this.app.go({ ...place, old: null, show: null }) },
      icon("left"),
      "One list",
    );
    fill(
      this.element,
      h(
        "div",
        { class: "bar" },
        h("h2", {}, "Old and new"),
        h("p", { class: "summary" }, this.#choice(old)),
        h("div", { class: "actions" }, this.app.marks.reason(query) ? null : judge, back),
      ),
      h(
        "div",
        { class: "sides" },
        ...this.listings.map((listing, side) =>
          h(
            "section",
            { "aria-label": side ? "Now" : "Before", onfocusin: () => enter(side), onpointerdown: () => enter(side) },
            heading(side ? live : old, side, old.images !== live.images),
            listing.element,
          ),
        ),
      ),
    );
    scrollTo(0, 0);
    await Promise.all(this.listings.map((listing) => listing.load()));
  }

  hide() {
    this.element.hidden = true;
    this.#stop();
  }

  refreshMarks() {
    for (const listing of this.listings) listing.refreshMarks();
  }

  #stop() {
    for (const listing of this.listings) listing.stop();
    this.listings = [];
    this.shown = "";
    fill(this.element);
  }

  /** @param {Generation} old */
  #choice(old) {
    const others = this.app.info.generations.filter((each) => !each.live);
    if (others.length < 2) return null;
    const select = h(
      "select",
      {
        "aria-label": "The generation to compare with",
        onchange: () => this.app.go({ ...this.app.place, old: Number(select.value), show: null }),
      },
      ...others.map((each) =>
        h(
          "option",
          { value: each.generation, selected: each.generation === old.generation },
          `generation ${each.generation} · ${each.model}`,
        ),
      ),
    );
    return select;
  }

  /**
   * @param {Listing} listing
   * @param {Generation} generation
   * @param {number} side
   */
  #answered(listing, generation, side) {
    const { answer } = listing;
    if (!answer) return;
    const weak = answer.confident === false && h("p", { class: "notice" }, "Nothing fits; these are the nearest ones.");
    fill(listing.head, weak, ...notes(answer).map((note) => h("p", { class: "notice" }, note)));
    const [before, now] = this.listings;
    if (!before.answer || !now.answer) return;
    const ranks = new Map(before.grid.cards.map((card, place) => [card.image.id, place + 1]));
    now.grid.cards.forEach((card, place) => {
      const rank = ranks.get(card.image.id);
      if (rank === undefined) card.setNote(`not among the first ${count(ranks.size)} before`, "new");
      else card.setNote(rank === place + 1 ? "same rank as before" : `was ${count(rank)}`, `was ${count(rank)}`);
    });
    if (now.grid.cards.length <= answer.hits.length && side) {
      const words = queryWords(current(this.app.place));
      announce(`${words}: answers of ${this.app.info.model.name} beside those of generation ${this.app.place.old}`);
    }
    this.app.noticeGeneration(now.answer.generation);
  }
}

/**
 * @param {Generation} generation
 * @param {number} side
 * @param {boolean} differ  whether the two hold different numbers of pictures
 */
function heading({ model, generation: number, images }, side, differ) {
  return h(
    "header",
    {},
    h("h3", {}, side ? "Now" : "Before"),
    h("p", {}, `${model} · generation ${number}${differ ? ` · ${counted(images, "picture")}` : ""}`),
  );
}
