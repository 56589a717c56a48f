// @ts-check
// The search field: references and negatives as chips, the sentence, and what is chosen in the filters.

import { isAbort } from "./api.js";
import { announce, at, fill, h, icon, signButton, toast } from "./dom.js";
import { Filters } from "./filters.js";
import { addPicture, listenForPictures, referenceName, referencePicture } from "./pictures.js";
import { asksTheSame, current, emptyQuery, isEmpty } from "./state.js";
import { conditionWords, counted } from "./words.js";

/** @typedef {import("./types.js").Query} Query */
/** @typedef {import("./types.js").Reference} Reference */

export class Form {
  /** @param {import("./main.js").App} app */
  constructor(app) {
    this.app = app;
    /** What stands in the field, searched for or not. @type {Query} */
    this.draft = emptyQuery();
    this.text = at("text");
    this.filters = new Filters(app.columns, (where) => this.#filtered(where));
    at("form").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#submit();
    });
    this.text.addEventListener("input", () => {
      this.draft.text = this.text.value;
      this.#showButton();
    });
    at("not-open").addEventListener("click", () => this.#askNegative());
    at("not-text").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#typeNegative(event));
    at("not-text").addEventListener("blur", () => this.#endNegative());
    at("pick").addEventListener("click", () => at("picker").click());
    listenForPictures(
      (files) => this.addFiles(files),
      (id) => this.addReference(id),
    );
    this.text.maxLength = app.info.limits.text;
    at("not-text").maxLength = app.info.limits.text;
    // Until now nothing that is typed would be heard.
    at("go").disabled = false;
    this.text.disabled = !app.info.queries;
    if (!app.info.queries) {
      this.text.placeholder = "this index can be searched by its own pictures only";
      at("pick").hidden = true;
      at("not-open").hidden = true;
    }
  }

  /**
   * Shows a query that was searched for.
   * @param {Query} query
   */
  set(query) {
    this.draft = structuredClone(query);
    this.text.value = query.text;
    this.filters.set(query.where);
    this.#render();
  }

  /** @param {File[]} files */
  async addFiles(files) {
    const room = this.app.info.limits.references - this.draft.references.length;
    if (files.length > room) toast(`A search takes at most ${this.app.info.limits.references} pictures.`);
    const busy = h("span", { class: "mini busy" });
    at("references").append(busy);
    for (const file of files.slice(0, Math.max(0, room))) {
      try {
        this.addReference(await addPicture(file, this.app.info.limits.upload_bytes));
      } catch (error) {
        if (!isAbort(error)) toast(problemOf(error, file));
      }
    }
    busy.remove();
  }

  /** @param {Reference} reference */
  addReference(reference) {
    const same = this.draft.references.some((each) => JSON.stringify(each) === JSON.stringify(reference));
    if (same) {
      toast(`${referenceName(reference)} is a reference already.`);
    } else if (this.draft.references.length >= this.app.info.limits.references) {
      toast(`A search takes at most ${this.app.info.limits.references} pictures.`);
      return;
    } else {
      this.draft.references.push(reference);
      this.#render();
      announce(`${referenceName(reference)} added as a reference. Write what should be different, or search.`);
    }
    // A finger would call up the keyboard over the pictures it points at.
    if (matchMedia("(hover: hover)").matches && !this.text.disabled) this.text.focus({ preventScroll: false });
  }

  focus() {
    this.text.focus();
  }

  #submit() {
    const query = structuredClone(this.draft);
    query.text = query.text.trim();
    if (isEmpty(query)) {
      toast("Write something, or add a picture.");
      this.text.focus();
      return;
    }
    this.app.search(query);
  }

  /**
   * Searches again after a chip was removed or a filter chosen, if something was searched for.
   */
  #again() {
    this.#render();
    if (!this.app.place.steps.length) return;
    if (isEmpty(this.draft)) this.text.focus();
    else this.app.search(structuredClone(this.draft));
  }

  /** @param {import("./types.js").Condition[]} where */
  #filtered(where) {
    this.draft.where = where;
    this.#again();
    if (isEmpty(this.draft)) announce("Filters are used with the next search.");
  }

  #render() {
    const { references, negatives, where } = this.draft;
    fill(at("references"), ...references.map((each, place) => this.#referenceChip(each, place)));
    fill(
      at("chips"),
      ...negatives.map((each, place) =>
        this.#chip(`not: ${each}`, "not", () => {
          negatives.splice(place, 1);
          announce(`removed: not ${each}`);
          this.#again();
          at("not-open").focus();
        }),
      ),
      ...where.map((each, place) =>
        this.#chip(conditionWords(each), "filter", () => {
          where.splice(place, 1);
          this.filters.set(where);
          announce(`filter removed: ${conditionWords(each)}`);
          this.#again();
          at("filters-open").focus();
        }),
      ),
    );
    fill(at("filters-count"), where.length || "");
    this.text.placeholder = this.text.disabled
      ? this.text.placeholder
      : references.length
        ? "like this, but …"
        : "what to find, such as “a striped summer dress”";
    this.#showButton();
  }

  /** The button is full of colour where it would do something new. */
  #showButton() {
    const shown = current(this.app.place);
    const other = !asksTheSame({ ...this.draft, text: this.draft.text.trim() }, { ...shown, text: shown.text.trim() });
    at("go").classList.toggle("primary", other && !isEmpty(this.draft));
  }

  /**
   * @param {Reference} reference
   * @param {number} place
   */
  #referenceChip(reference, place) {
    const name = referenceName(reference);
    const remove = signButton("close", `Remove the reference ${name}`, () => {
      this.draft.references.splice(place, 1);
      announce(`reference ${name} removed`);
      this.#again();
      this.text.focus();
    });
    return h("li", { class: "reference", title: name }, referencePicture(reference), remove);
  }

  /**
   * @param {string} words
   * @param {string} kind
   * @param {() => void} onRemove
   */
  #chip(words, kind, onRemove) {
    const remove = signButton("close", `Remove ${words}`, onRemove);
    return h("li", { class: `chip ${kind}`, title: words }, h("span", {}, words), remove);
  }

  #askNegative() {
    if (this.draft.negatives.length >= this.app.info.limits.negatives) {
      toast(`A search takes at most ${counted(this.app.info.limits.negatives, "“not”", "“not”s")}.`);
      return;
    }
    at("not-open").hidden = true;
    at("not").hidden = false;
    at("not-text").focus();
  }

  /** @param {KeyboardEvent} event */
  #typeNegative(event) {
    if (event.key === "Escape") {
      at("not-text").value = "";
      event.stopPropagation();
    }
    if (event.key !== "Enter" && event.key !== "Escape") return;
    event.preventDefault();
    this.#endNegative();
    at("not-open").focus();
  }

  #endNegative() {
    const words = at("not-text").value.trim();
    at("not-text").value = "";
    at("not").hidden = true;
    at("not-open").hidden = false;
    if (!words || this.draft.negatives.includes(words)) return;
    this.draft.negatives.push(words);
    this.#again();
  }
}

/**
 * What is wrong with a file of this device, which people know by its name.
 * @param {unknown} error
 * @param {File} file
 */
function problemOf(error, file) {
  const words = error instanceof Error ? error.message : String(error);
  return words.replace(/^a reference of [\d,]+ bytes(?=:)/, () => file.name || "your picture");
}

/** The signs of buttons that stand in index.html. */
export function drawSigns() {
  for (const element of document.querySelectorAll("[data-sign]")) {
    element.prepend(icon(/** @type {any} */ (element).dataset.sign));
  }
}
