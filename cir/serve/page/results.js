// @ts-check
// The answer to a search, with what is to be said about it.

import { announce, at, fill, h, icon, toast } from "./dom.js";
import { Listing } from "./listing.js";
import { current, hasUpload } from "./state.js";
import { beginning, count, counted, queryWords } from "./words.js";

/** @typedef {import("./types.js").Answer} Answer */

const KEPT = 12; // searches whose hits stay, for the way back

export class Results {
  /** @param {import("./main.js").App} app */
  constructor(app) {
    this.app = app;
    this.element = at("results");
    /** @type {Map<string, Listing>} */
    this.kept = new Map();
    /** @type {Listing | null} */
    this.listing = null;
  }

  get grid() {
    return this.listing?.grid ?? null;
  }

  async show() {
    const query = current(this.app.place);
    const key = JSON.stringify(query);
    this.element.hidden = false;
    const kept = this.kept.get(key);
    if (kept && kept === this.listing) return;
    this.#leave();
    const listing = kept ?? this.#make(query);
    this.kept.delete(key);
    this.kept.set(key, listing);
    for (const old of [...this.kept.keys()].slice(0, -KEPT)) this.kept.delete(old);
    this.listing = listing;
    fill(this.element, listing.element);
    if (kept?.answer) {
      listing.refreshMarks();
      scrollTo(0, listing.scrolled);
      announce(`${queryWords(query)}: shown again`);
    } else {
      scrollTo(0, 0);
      await listing.load();
    }
  }

  hide() {
    this.#leave();
    this.element.hidden = true;
  }

  /** Forgets what was found, so that it is searched for again. */
  forget() {
    this.kept.clear();
    this.#leave();
  }

  refreshMarks() {
    this.listing?.refreshMarks();
  }

  #leave() {
    if (!this.listing) return;
    this.listing.scrolled = scrollY;
    this.listing.stop();
    this.listing = null;
  }

  /** @param {import("./types.js").Query} query */
  #make(query) {
    const listing = new Listing(this.app, query, { label: "Results", judged: [], origin: this.app.info.replaced });
    let said = false;
    listing.onAnswer = async () => {
      if (said || !listing.answer) return;
      said = true;
      this.#introduce(listing, listing.answer);
      const before = this.app.olderGeneration();
      await this.app.noticeGeneration(listing.answer.generation);
      // Another model may have taken over: then hits are to say who made them, and old and new can be compared.
      if (before === this.app.olderGeneration() || this.listing !== listing) return;
      this.forget();
      this.show();
    };
    return listing;
  }

  /**
   * @param {Listing} listing
   * @param {Answer} answer
   */
  #introduce(listing, answer) {
    const words = queryWords(listing.query);
    const order = answer.hits.length > 1 ? ", best first" : "";
    const legend =
      answer.floor !== null &&
      answer.confident &&
      h(
        "span",
        { class: "legend" },
        h("span", { class: "dot" }),
        "scores as right answers usually do",
        h("span", { class: "dot weak" }),
        "lower",
      );
    const compare =
      this.app.olderGeneration() !== null &&
      action("compare", "Old and new", () => this.app.compare());
    const link = action("link", "Copy link", () => copyLink(this.app));
    fill(
      listing.head,
      h(
        "div",
        { class: "bar" },
        h("h2", {}, "Results"),
        h("p", { class: "summary" }, `${counted(answer.searched, "picture")} searched${order}`, legend),
        h("div", { class: "actions" }, compare, link),
      ),
      nothingFits(answer, listing.query),
      ...notes(answer).map((note) => h("p", { class: "notice" }, note)),
    );
    const found = answer.hits.length;
    if (!found) announce(`${noneWords(answer, listing.query)}.`);
    else if (answer.confident === false) announce(`Nothing fits ${words}. The nearest pictures are shown.`);
    else announce(`${words}: ${counted(answer.searched, "picture")} searched, the best ${count(found)} are shown`);
  }
}

/**
 * @param {"compare" | "link"} sign
 * @param {string} name
 * @param {() => void} onclick
 */
function action(sign, name, onclick) {
  return h("button", { type: "button", class: "quiet", onclick }, icon(sign), name);
}

/**
 * Why there is no hit at all: of an index without pictures nobody chose a filter.
 * @param {Answer} answer
 * @param {import("./types.js").Query} query
 */
function noneWords(answer, query) {
  if (answer.coverage < 1) return "No picture was found in the part that was searched";
  return query.where.length ? "No picture meets these filters" : "There is no picture to be found";
}

/**
 * @param {Answer} answer
 * @param {import("./types.js").Query} query
 */
function nothingFits(answer, query) {
  if (!answer.hits.length) {
    const filtered = query.where.length > 0 && answer.coverage === 1;
    return h(
      "div",
      { class: "banner" },
      h("h3", {}, noneWords(answer, query)),
      filtered && h("p", {}, "Remove one of them above, and the search is done again."),
    );
  }
  if (answer.confident !== false) return null;
  return h(
    "div",
    { class: "banner" },
    h("h3", {}, "Nothing fits"),
    h("p", {}, "No picture scores as high as right answers usually do. These are the nearest ones; all may be wrong."),
  );
}

/**
 * What was left out of a search; nothing is dropped without a word.
 * @param {Answer} answer
 */
export function notes(answer) {
  const lines = [];
  for (const end of answer.unread) {
    lines.push(`The text is too long. The model does not read its end, from here on: “${beginning(end, 80)}”`);
  };
  if (answer.unsearched) {
    lines.push(
      `${counted(answer.unsearched, "picture was", "pictures were")} left out: an earlier model made their vectors, ` +
        "and the present model cannot search those. `cir info` on the server says more.",
    );
  }
  if (answer.damaged) {
    lines.push(`${counted(answer.damaged, "picture was", "pictures were")} left out: a part of the index is damaged.`);
  }
  if (answer.coverage < 1) {
    const share = Math.min(99, Math.floor(100 * answer.coverage));
    lines.push(
      `Only ${share} % of the gallery was searched: the rest did not answer in time. Search again in a moment.`,
    );
  }
  return lines;
}

/** @param {import("./main.js").App} app */
async function copyLink(app) {
  const lost = app.place.steps.some(hasUpload)
    ? " The picture that you added is not in it: it is kept here for a while only."
    : "";
  try {
    await navigator.clipboard.writeText(location.href);
    toast(`Link copied.${lost}`);
  } catch {
    toast(`Copy the address of this page.${lost}`);
  }
}
