// @ts-check
// One image, large: what is known about it, why it is a hit, and "like this, but …".

import { imageOf } from "./api.js";
import { missing } from "./card.js";
import { at, fill, h, toast } from "./dom.js";
import { current, emptyQuery } from "./state.js";
import { Why } from "./why.js";
import { confidenceWords, count, originWords, score, shortName } from "./words.js";

/** @typedef {import("./types.js").Image} Image */
/** @typedef {import("./types.js").Hit} Hit */

export class Detail {
  /** @param {import("./main.js").App} app */
  constructor(app) {
    this.app = app;
    this.dialog = at("detail");
    /** @type {Image | null} */
    this.image = null;
    this.why = new Why(app);
    this.dialog.addEventListener("cancel", (/** @type {Event} */ event) => {
      event.preventDefault(); // the address says what is open; see App.close
      app.close();
    });
    this.dialog.addEventListener("click", (/** @type {Event} */ event) => {
      if (event.target === this.dialog) app.close(); // beside it
    });
    this.dialog.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#press(event));
    at("detail-close").addEventListener("click", () => app.close());
    at("detail-before").addEventListener("click", () => this.#step(-1));
    at("detail-after").addEventListener("click", () => this.#step(1));
    at("like").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#compose();
    });
    at("detail-pick").addEventListener("click", () => {
      const { image } = this;
      app.close();
      if (image) app.form.addReference(image.id);
    });
    for (const mark of /** @type {const} */ (["right", "wrong"])) {
      at(`detail-${mark}`).addEventListener("click", () => this.#mark(mark));
    }
  }

  /** @param {string} id */
  async show(id) {
    if (this.dialog.open && this.image?.id === id) return;
    this.why.clear();
    this.image = this.app.view.grid?.cards.find((each) => each.image.id === id)?.image ?? null;
    if (!this.image) {
      try {
        this.image = await imageOf(id);
      } catch (error) {
        this.app.close(); // which shows the place anew, without what was said there
        toast(error instanceof Error ? error.message : String(error));
        return;
      }
      if (this.app.place.show !== id) return;
    }
    this.#render(this.image);
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.scrollTop = 0;
    at("detail-side").scrollTop = 0;
    at("detail-title").focus({ preventScroll: true });
  }

  /** @returns {string | null} the id of the image that was open */
  hide() {
    const id = this.image?.id ?? null;
    this.why.clear();
    this.image = null;
    if (this.dialog.open) this.dialog.close();
    return id;
  }

  refreshMarks() {
    if (!this.image) return;
    const mark = this.app.marks.of(this.#query(), this.image.id);
    at("detail-right").setAttribute("aria-pressed", String(mark === "right"));
    at("detail-wrong").setAttribute("aria-pressed", String(mark === "wrong"));
  }

  #query() {
    const { place, judge } = this.app;
    return place.judge ? judge.query : current(place);
  }

  /** @param {Image} image */
  #render(image) {
    const hit = /** @type {Hit | null} */ ("rank" in image ? image : null);
    const { judge } = this.app.place;
    const searched = this.app.place.steps.length > 0 || judge !== "";
    at("detail-title").textContent = shortName(image.id);
    fill(at("detail-rank"), hit && rankLine(hit));
    at("detail-rank").hidden = !hit;
    const original = image.image && h("p", {}, opening(image.image));
    fill(
      at("stage"),
      stage(image, () => original && original.remove()),
    );
    at("like-text").value = "";
    at("like").hidden = !this.app.info.queries;
    at("detail-marks").hidden = !searched;
    at("detail-marks-note").textContent = searched ? this.app.marks.reason(this.#query()) : "";
    at("detail-before").disabled = !this.app.view.grid?.beside(image.id, -1);
    at("detail-after").disabled = !this.app.view.grid?.beside(image.id, 1);
    const rows = Object.entries(image.metadata).filter(([, value]) => value);
    fill(at("detail-metadata"), ...rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
    fill(
      at("detail-origin"),
      h("p", { class: "id" }, image.id),
      hit && h("p", {}, originWords(hit)),
      original,
    );
    if (judge) this.why.clear(); // where nobody is to see which model found what
    else this.why.offer(image, this.#query());
    this.refreshMarks();
  }

  #compose() {
    const text = at("like-text").value.trim();
    if (!this.image) return;
    const { where, negatives } = this.app.form.draft;
    // What somebody does not want, and the filters, stay until they are removed; they can be seen above the hits.
    this.app.search({ ...emptyQuery(), references: [this.image.id], text, where, negatives }, { focusHits: true });
  }

  /** @param {"right" | "wrong"} mark */
  #mark(mark) {
    if (!this.image) return;
    const query = this.#query();
    const now = this.app.marks.of(query, this.image.id);
    this.app.mark(this.image, now === mark ? null : mark);
  }

  /** @param {number} step */
  #step(step) {
    const next = this.image && this.app.view.grid?.beside(this.image.id, step);
    if (next) this.app.go({ ...this.app.place, show: next.id }, { replace: true });
  }

  /** @param {KeyboardEvent} event */
  #press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target instanceof HTMLInputElement && event.target.type !== "checkbox") return;
    const key = event.key.toLowerCase();
    if (key === "arrowleft") this.#step(-1);
    else if (key === "arrowright") this.#step(1);
    else if (key === "y" && !at("detail-marks").hidden) this.#mark("right");
    else if (key === "n" && !at("detail-marks").hidden) this.#mark("wrong");
    else return;
    event.preventDefault();
  }
}

/** @param {Hit} hit */
function rankLine(hit) {
  const words = confidenceWords(hit);
  const dot = words && h("span", { class: hit.confident ? "dot" : "dot weak" });
  const rank = h("b", {}, count(hit.rank));
  return h("span", {}, "Rank ", rank, ` · score ${score(hit.score)} `, dot, words && ` ${words}`);
}

/** @param {string} href */
const opening = (href) => h("a", { href, target: "_blank", rel: "noopener" }, "Open the original");

/**
 * @param {Image} image
 * @param {() => void} onGone  called where the photo cannot be had
 */
function stage(image, onGone) {
  if (!image.thumbnail) return missing(image);
  const frame = h("span", { class: "framed" });
  const picture = h("img", {
    alt: shortName(image.id),
    onload: () => {
      frame.style.setProperty("--ratio", String(picture.naturalWidth / picture.naturalHeight));
      frame.style.setProperty("--wide", String(picture.naturalWidth));
    },
    onerror: () => {
      frame.replaceWith(missing(image));
      onGone();
    },
    src: `${image.thumbnail}&size=1280`,
  });
  frame.append(picture);
  return frame;
}

