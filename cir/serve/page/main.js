// @ts-check
// The page: what is shown follows from its address, and whatever somebody does leads to another address.

import { Problem, request } from "./api.js";
import { Compare } from "./compare.js";
import { Detail } from "./detail.js";
import { at, fill, h } from "./dom.js";
import { Form, drawSigns } from "./form.js";
import { Judge } from "./judge.js";
import { Marks, describeMarks } from "./marks.js";
import { Results } from "./results.js";
import { Start } from "./start.js";
import { asksTheSame, current, emptyQuery, fromHash, startPlace, toHash } from "./state.js";
import { showSteps } from "./steps.js";
import { takeToken } from "./token.js";
import { counted, queryWords } from "./words.js";

/** @typedef {import("./types.js").Place} Place */
/** @typedef {import("./types.js").Query} Query */
/** @typedef {import("./types.js").Image} Image */
/** @typedef {import("./types.js").Mark} Mark */

const COLUMNS = "/columns?values=200";

export class App {
  /**
   * @param {import("./types.js").Info} info
   * @param {import("./types.js").Column[]} columns
   */
  constructor(info, columns) {
    this.info = info;
    this.columns = columns;
    this.place = startPlace();
    this.marks = new Marks(() => this.#refreshMarks());
    this.form = new Form(this);
    this.start = new Start(this);
    this.results = new Results(this);
    this.compared = new Compare(this);
    this.judge = new Judge(this);
    /** What is shown below the search field. @type {Start | Results | Compare | Judge} */
    this.view = this.start;
    this.detail = new Detail(this);
    this.shownQuery = "";
    addEventListener("popstate", () => this.#render(fromHash(location.hash)));
    at("home").addEventListener("click", () => this.#startAgain());
    at("marks-open").addEventListener("click", () => {
      describeMarks(this);
      at("marks").showModal();
    });
    at("marks-close").addEventListener("click", () => at("marks").close());
    at("skip").addEventListener("click", (/** @type {Event} */ event) => {
      event.preventDefault(); // what stands after the # is the search
      if (!this.view.grid?.focus()) at("main").focus();
    });
    document.addEventListener("keydown", (event) => this.#press(event));
    this.#describe();
  }

  /**
   * Goes to another place: a new entry of the browser's history, or the same one changed.
   * @param {Place} place
   * @param {{replace?: boolean, opened?: boolean}} [options]  opened: an image was opened from the place before
   */
  go(place, { replace = false, opened = false } = {}) {
    const address = location.pathname + toHash(place);
    const kept = replace ? history.state : { opened };
    if (replace) history.replaceState(kept, "", address);
    else history.pushState(kept, "", address);
    return this.#render(place);
  }

  /**
   * Searches: a further step of the chain, or the same one with other filters.
   * @param {Query} query
   * @param {{focusHits?: boolean}} [options]
   */
  async search(query, { focusHits = false } = {}) {
    const { steps, at: here } = this.place;
    const again = steps.length > 0 && asksTheSame(query, current(this.place));
    const kept = steps.slice(0, again ? here : here + 1);
    /** @type {Place} */
    const place = { ...this.place, steps: [...kept, query], at: kept.length, show: null, judge: "" };
    if (JSON.stringify(query) === JSON.stringify(current(this.place)) && !this.place.judge) {
      this.results.forget(); // somebody wants it done again
      this.compared.hide();
      this.go({ ...place, steps }, { replace: true });
      return;
    }
    await this.go(place);
    if (focusHits && this.place.steps === place.steps) this.view.grid?.focus();
  }

  /** @param {string} id */
  open(id) {
    this.go({ ...this.place, show: id }, { opened: true });
  }

  /** Closes the image that is open: back where it was opened from, so that the back button does not open it again. */
  close() {
    if (history.state?.opened) history.back();
    else this.go({ ...this.place, show: null }, { replace: true });
  }

  /** Shows old and new answers side by side. */
  compare() {
    this.go({ ...this.place, old: this.olderGeneration(), show: null });
  }

  /**
   * Keeps what somebody says of an image in the view.
   * @param {Image} image
   * @param {Mark} mark
   */
  mark(image, mark) {
    const grid = this.view.grid;
    if (grid?.actions.onMark) grid.actions.onMark(image, mark);
    else this.marks.say(current(this.place), image, mark, { generations: [this.info.generation] });
  }

  /** The latest generation of another model, else the one before; null where nothing else can be searched. */
  olderGeneration() {
    const others = this.info.generations.filter((each) => !each.live);
    const other = others.find((each) => !each.same_model) ?? others[0];
    return other?.generation ?? null;
  }

  /**
   * Looks at the index again where an answer came from another generation than the one that is known.
   * @param {number} generation
   */
  async noticeGeneration(generation) {
    if (generation === this.info.generation) return;
    try {
      this.info = await request("GET", "/info");
      this.#describe();
      this.form.filters.show((await request("GET", COLUMNS)).columns);
    } catch (error) {
      if (!(error instanceof Problem)) throw error; // the answer itself is there
    }
  }

  /**
   * Says what went wrong, in the words of the server.
   * @param {unknown} error
   * @param {Element} where
   * @param {() => void} [retry]
   */
  complain(error, where, retry) {
    const words = error instanceof Error ? error.message : String(error);
    if (!(error instanceof Problem)) console.error(error);
    const box = h("div", { class: "notice error", role: "alert" }, h("p", {}, words));
    const gone = () => box.remove();
    // What makes no sense makes none the next time either.
    const passing = !(error instanceof Problem) || error.status === 0 || error.status === 429 || error.status >= 500;
    if (retry && passing) {
      const again = () => {
        gone();
        retry();
      };
      box.append(h("button", { type: "button", class: "quiet", onclick: again }, "Try again"));
    }
    for (const old of where.querySelectorAll(".error, .busy")) old.remove();
    where.append(box);
  }

  /**
   * Shows a place.
   * @param {Place} place
   */
  #render(place) {
    const before = this.place;
    this.place = place;
    const key = JSON.stringify([place.steps, place.at]);
    if (key !== this.shownQuery) this.form.set(current(place));
    this.shownQuery = key;
    fill(at("notices"));
    this.#describe();
    showSteps(this);
    const view = this.#viewOf(place);
    for (const other of [this.start, this.results, this.compared, this.judge]) if (other !== view) other.hide();
    this.view = view;
    document.body.dataset.mode = view === this.start ? "start" : "results";
    document.title = [queryWords(current(place)), this.info.name].filter(Boolean).join(" · ");
    const shown = view.show();
    if (place.show !== null) this.#openOnce(place.show, shown);
    else if (before.show !== null) {
      const id = this.detail.hide();
      if (id !== null && place.steps === before.steps) view.grid?.focus(id);
      else if (id !== null && JSON.stringify(place.steps) === JSON.stringify(before.steps)) view.grid?.focus(id);
    }
    return shown;
  }

  /**
   * Opens an image: at once if it is among the hits that are shown, else when they are there, with its rank.
   * @param {string} id
   * @param {Promise<unknown> | void} shown
   */
  async #openOnce(id, shown) {
    if (!this.view.grid?.cards.some((card) => card.image.id === id)) await shown;
    if (this.place.show === id) await this.detail.show(id);
  }

  /** @param {Place} place */
  #viewOf(place) {
    if (place.judge === "pools" || (place.judge && place.steps.length)) return this.judge;
    if (!place.steps.length) return this.start;
    return place.old === null ? this.results : this.compared;
  }

  #startAgain() {
    this.form.set(emptyQuery());
    this.shownQuery = "";
    if (this.place.steps.length || this.place.judge) this.go(startPlace());
    scrollTo(0, 0);
    this.form.focus();
  }

  /** Says which index this is, and what is wrong with it. */
  #describe() {
    const { name, images, problem, model, queries } = this.info;
    fill(at("name"), name.replace(/\.index$/, ""));
    fill(at("about"), counted(images, "picture"), h("span", {}, ` · ${model.name}`));
    fill(
      at("lead"),
      queries
        ? `Search ${images ? `${counted(images, "picture")} ` : ""}by a picture, a sentence, or both`
        : `Find more like one of ${counted(images, "picture")}`,
    );
    if (problem) {
      fill(at("notices"), h("p", { class: "notice" }, `The newest state of the index is not used: ${problem}`));
    }
  }

  #refreshMarks() {
    if (!(this.view instanceof Start)) this.view.refreshMarks();
    this.detail.refreshMarks();
  }

  /** @param {KeyboardEvent} event */
  #press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const typing = event.target instanceof HTMLElement && event.target.matches("input, select, textarea");
    if (event.key === "/" && !typing) {
      event.preventDefault();
      this.form.focus();
    } else if (event.key === "ArrowDown" && event.target === at("text")) {
      if (this.view.grid?.focus()) event.preventDefault();
    }
  }

  /** Shows what the address says. */
  async begin() {
    const shown = this.#render(fromHash(location.hash));
    await this.marks.start();
    await shown;
  }
}

async function begin() {
  drawSigns();
  history.scrollRestoration = "manual"; // hits are not there yet when the browser would scroll
  try {
    await takeToken();
    const [info, { columns }] = await Promise.all([request("GET", "/info"), request("GET", COLUMNS)]);
    await new App(info, columns).begin();
  } catch (error) {
    const words = error instanceof Problem ? error.message : "The page could not be started; this is a bug in cir.";
    if (!(error instanceof Problem)) console.error(error);
    const again = h("button", { type: "button", class: "quiet", onclick: () => location.reload() }, "Try again");
    fill(at("notices"), h("div", { class: "notice error", role: "alert" }, h("p", {}, words), again));
  }
}

begin();
