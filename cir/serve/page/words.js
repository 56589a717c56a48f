// @ts-check
// Numbers and names as people read them.

/** @typedef {import("./types.js").Condition} Condition */
/** @typedef {import("./types.js").Query} Query */
/** @typedef {import("./types.js").Hit} Hit */

const whole = new Intl.NumberFormat("en");

/** @param {number} value */
export const count = (value) => whole.format(value);

/**
 * "1 picture", "2 pictures".
 * @param {number} value
 * @param {string} one
 * @param {string} [several]
 */
export const counted = (value, one, several = `${one}s`) => `${count(value)} ${value === 1 ? one : several}`;

/** @param {number} value */
export const score = (value) => value.toFixed(2).replace(/^-0\.00$/, "0.00");

/**
 * A share, rounded down: nothing but all is 100 %.
 * @param {number} share
 */
export const percent = (share) => (share < 1 ? `${(Math.floor(1000 * share + 1e-9) / 10).toFixed(1)} %` : "100 %");

/**
 * The end of an id, which people recognise.
 * @param {string} id
 */
export const shortName = (id) => id.slice(id.lastIndexOf("/") + 1) || id;

/**
 * The beginning of a long text; what is cut off is never the half of a letter.
 * @param {string} text
 * @param {number} most
 */
export function beginning(text, most) {
  const letters = [...text];
  return letters.length > most ? `${letters.slice(0, most - 1).join("")}…` : text;
}

/** @param {Condition} condition */
export function conditionWords({ column, operator, value }) {
  const values = (Array.isArray(value) ? value : [value]).map((each) => each || "no value");
  if (operator === "in") return `${column}: ${values.join(" or ")}`;
  if (operator === "~") return `${column} contains “${values[0]}”`;
  return `${column} ${operator === ">=" ? "from" : "up to"} ${values[0]}`;
}

/**
 * A search in a few words, for titles, steps and announcements.
 * @param {Query} query
 */
export function queryWords(query) {
  const words = query.text.trim();
  const negatives = query.negatives.map((each) => `not ${each}`).join(", ");
  if (words || negatives) return [words, negatives].filter(Boolean).join(", ");
  return query.references.length ? "more like this" : "";
}

/**
 * What is known about how good a hit is, in words: ranks are always relative, the floor of the model is not.
 * @param {{confident: boolean | null}} hit
 */
export function confidenceWords(hit) {
  if (hit.confident === null) return "";
  return hit.confident ? "scores as right answers usually do" : "scores lower than right answers usually do";
}

/**
 * Which model and generation made the vector of a hit.
 * @param {Hit} hit
 */
export function originWords(hit) {
  const reached = hit.older ? `, an earlier model${hit.route ? ` (searched through “${hit.route}”)` : ""}` : "";
  return `Indexed with ${hit.model}${reached}, in generation ${hit.generation} of the index.`;
}
