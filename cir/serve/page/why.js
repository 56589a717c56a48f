// @ts-check
// Why an image is a hit: what its score reacts to, as heat over the pictures, and what the parts of the search do.

import { imageOf, isAbort, request } from "./api.js";
import { announce, at, fill, h } from "./dom.js";
import { withUploads } from "./pictures.js";
import { bodyOf } from "./state.js";
import { percent, score } from "./words.js";

/** @typedef {import("./types.js").Image} Image */
/** @typedef {import("./types.js").Query} Query */

const WEAK = 0.01; // a map whose strongest reaction is less reacts to hardly anything

/** @typedef {{strongest: number} | null} HeatMap */

export class Why {
  /** @param {import("./main.js").App} app */
  constructor(app) {
    this.app = app;
    this.box = at("why");
    /** @type {AbortController | null} */
    this.running = null;
  }

  clear() {
    this.running?.abort();
    this.running = null;
    fill(this.box);
    this.box.hidden = true;
    warm(at("stage").querySelector(".framed"), null);
  }

  /**
   * @param {Image} image
   * @param {Query} query
   */
  offer(image, query) {
    const asked = query.references.length > 0 || query.text.trim() !== "";
    this.box.hidden = !asked || !this.app.info.explain || !this.app.info.queries;
    const button = h(
      "button",
      { type: "button", class: "wide", onclick: () => this.#load(image, query) },
      "Why is it here?",
    );
    fill(this.box, button);
  }

  /**
   * @param {Image} image
   * @param {Query} query
   */
  async #load(image, query) {
    const running = (this.running = new AbortController());
    const title = h("h3", { tabindex: -1 }, "What the score reacts to");
    fill(this.box, title, h("p", { class: "busy" }, "covering parts of the pictures and searching again …"));
    title.focus({ preventScroll: true });
    announce("looking at what the score reacts to; this takes some seconds");
    try {
      const { references, text, negatives } = bodyOf(query);
      const json = { references, text, negatives, hit: image.id };
      const explained = await withUploads(query.references, () =>
        request("POST", "/explain", { json, signal: running.signal }),
      );
      const pictures = await Promise.all(query.references.map(addressOf));
      if (running.signal.aborted) return;
      fill(this.box, title, ...figures(explained, pictures, image), table(explained), ...remarks(explained));
      announce("What the score reacts to is shown.");
    } catch (error) {
      if (isAbort(error)) return;
      fill(this.box, title);
      this.app.complain(error, this.box, () => this.#load(image, query));
    }
  }
}

/** @param {import("./types.js").Reference} reference */
async function addressOf(reference) {
  if (typeof reference !== "string") return `/api/v1/uploads/${reference.upload}`;
  const image = await imageOf(reference).catch(() => null);
  return image?.thumbnail ? `${image.thumbnail}&size=640` : null;
}

/**
 * Lays heat over a picture, or takes it away.
 * @param {Element | null} frame
 * @param {{src: string, weak: boolean} | null} heat
 */
function warm(frame, heat) {
  if (!frame) return;
  frame.querySelector(".heat")?.remove();
  frame.classList.toggle("hot", heat !== null);
  if (heat) frame.append(h("img", { src: heat.src, alt: "", class: heat.weak ? "heat weak" : "heat" }));
}

/**
 * The pictures with heat over them, and a switch that takes it away.
 * @param {any} explained
 * @param {(string | null)[]} pictures  of the references
 * @param {Image} image
 */
function figures(explained, pictures, image) {
  const { maps, overlays } = explained;
  const own = image.thumbnail ? `${image.thumbnail}&size=640` : null;
  const several = pictures.length > 1;
  const shown = [
    ...pictures.map((address, place) => {
      const label = several ? `Reference ${place + 1}` : "The reference";
      return figure(label, address, overlays.references[place], maps.references[place]);
    }),
    figure("This picture", own, overlays.hit, maps.hit),
    maps.words && figure("This picture, for the words alone", own, overlays.words, maps.words),
  ].filter(Boolean);
  const large = at("stage").querySelector(".framed");
  const heats = [...shown, { frame: large, heat: heatOf(overlays.hit, maps.hit) }].filter((each) => each.heat);
  if (!heats.length) return [];
  const show = () => heats.forEach(({ frame, heat }) => warm(frame, box.checked ? heat : null));
  const box = h("input", { type: "checkbox", checked: true, onchange: show });
  show();
  return [
    h("label", { class: "switch" }, box, "show the heat"),
    h("div", { class: "figures" }, ...shown.map((each) => each.element)),
  ];
}

/**
 * @param {string | null} src
 * @param {HeatMap} map
 */
const heatOf = (src, map) => (src && map ? { src, weak: map.strongest < WEAK } : null);

/**
 * @param {string} label
 * @param {string | null} address
 * @param {string | null} overlay
 * @param {HeatMap} map
 */
function figure(label, address, overlay, map) {
  if (!address) return null;
  const heat = heatOf(overlay, map);
  const alt = heat ? `${label}, with heat where the score reacts` : label;
  const frame = h("span", { class: "framed" }, h("img", { src: address, alt }));
  const note = !heat ? "no map" : heat.weak ? "reacts to hardly anything here" : "";
  return { frame, heat, element: h("figure", {}, frame, h("figcaption", {}, label, note && h("small", {}, note))) };
}

/**
 * What the image scores with parts of the search left out. They are scores of other searches and need not add up, so
 * they are never drawn as shares.
 * @param {any} explained
 */
function table(explained) {
  /** @param {string} label @param {{score: number, above: number}} measured @param {string} change */
  const row = (label, measured, change) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, label),
      h("td", {}, percent(measured.above)),
      h("td", {}, score(measured.score)),
      h("td", {}, change.replace("-", "−")),
    );
  return h(
    "table",
    { class: "parts" },
    h("caption", {}, "What the parts of the search do"),
    h(
      "thead",
      {},
      h("tr", {}, h("td", {}), ...["ahead of", "score", "change"].map((name) => h("th", { scope: "col" }, name))),
    ),
    h(
      "tbody",
      {},
      row("the whole search", explained, ""),
      ...explained.lines.map((/** @type {any} */ line) => row(line.label, line, line.change)),
    ),
  );
}

/** @param {any} explained */
function remarks(explained) {
  const made = explained.method === "gradients" ? "from gradients of the score" : "by covering one part after another";
  return [
    h("p", { class: "note" }, "“Ahead of” is the share of the gallery that scores lower. ", explained.honest),
    explained.method && h("p", { class: "note" }, `The heat was measured ${made}.`),
    ...explained.notes.map((/** @type {string} */ note) => h("p", { class: "note" }, note)),
  ];
}
