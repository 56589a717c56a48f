// @ts-check
// Where the page is, as its address says: the chain of searches, the step that is shown, the image that is open.
//
// All of it stands after the # of the address. Browsers send that part nowhere, so that what people search for is in
// no log of a server or proxy.

/** @typedef {import("./types.js").Place} Place */
/** @typedef {import("./types.js").Query} Query */
/** @typedef {import("./types.js").Condition} Condition */

const MOST_STEPS = 50;
const OPERATORS = ["in", ">=", "<=", "~"];

/** @returns {Query} */
export const emptyQuery = () => ({ references: [], text: "", negatives: [], where: [] });

/** @returns {Place} */
export const startPlace = () => ({ steps: [], at: 0, show: null, old: null, judge: "" });

/**
 * The query that is shown; an empty one on the start page.
 * @param {Place} place
 */
export const current = (place) => place.steps[place.at] ?? emptyQuery();

/** @param {Query} query */
export const isEmpty = (query) => !query.references.length && !query.text.trim() && !query.negatives.length;

/**
 * Whether two queries ask the same, but for their filters.
 * @param {Query} one
 * @param {Query} other
 */
export function asksTheSame(one, other) {
  return JSON.stringify({ ...one, where: [] }) === JSON.stringify({ ...other, where: [] });
}

/**
 * A query as the API takes it.
 * @param {Query} query
 */
export function bodyOf(query) {
  /** @type {Object<string, any>[]} */
  const where = query.where.map(({ column, operator, value }) => ({ [column]: { [operator]: value } }));
  return { references: query.references, text: query.text.trim(), negatives: query.negatives, where };
}

/** @param {Query} query */
export const hasUpload = (query) => query.references.some((each) => typeof each !== "string");

/**
 * A text in an address. Ids of files need not be valid Unicode: bytes that are none come as lone surrogates (Python's
 * surrogateescape), which encodeURIComponent refuses, and go as the bytes that they are.
 * @param {string} text
 */
export function encode(text) {
  let encoded = "";
  for (const letter of text) {
    const code = /** @type {number} */ (letter.codePointAt(0));
    if (code >= 0xdc80 && code <= 0xdcff) encoded += `%${(code - 0xdc00).toString(16).toUpperCase()}`;
    else if (code >= 0xd800 && code <= 0xdfff) encoded += "%EF%BF%BD";
    else encoded += encodeURIComponent(letter);
  }
  return encoded;
}

/** @param {string} encoded */
export function decode(encoded) {
  const spaced = encoded.replace(/\+/g, "%20");
  try {
    return decodeURIComponent(spaced);
  } catch {
    // Not UTF-8 as a whole: what can be decoded is, and each byte that cannot becomes the surrogate it came as.
    return spaced.replace(/(%[0-9a-f]{2})+/gi, (run) => {
      const bytes = run.slice(1).split("%");
      let text = "";
      while (bytes.length) {
        const size = [1, 2, 3, 4].find((each) => isText(bytes.slice(0, each)));
        text += size
          ? decodeURIComponent(`%${bytes.splice(0, size).join("%")}`)
          : String.fromCharCode(0xdc00 + parseInt(/** @type {string} */ (bytes.shift()), 16));
      }
      return text;
    });
  }
}

/** @param {string[]} bytes */
function isText(bytes) {
  try {
    decodeURIComponent(`%${bytes.join("%")}`);
    return true;
  } catch {
    return false;
  }
}

/**
 * An id in a path of the API: slashes stay, but nothing on the way may take a part for "." or "..".
 * @param {string} id
 */
export const encodePath = (id) => encode(id).replace(/\./g, "%2E");

/**
 * @param {Place} place
 * @returns {string} the address, from its #
 */
export function toHash(place) {
  /** @type {string[]} */
  const parts = [];
  for (const query of place.steps) {
    parts.push(`q=${encode(query.text)}`);
    for (const each of query.references) {
      parts.push(typeof each === "string" ? `ref=${encode(each)}` : `up=${each.upload}`);
    }
    for (const each of query.negatives) parts.push(`not=${encode(each)}`);
    for (const { column, operator, value } of query.where) {
      parts.push(`where=${encode(JSON.stringify([column, operator, value]))}`);
    }
  }
  if (place.at < place.steps.length - 1) parts.push(`at=${place.at}`);
  if (place.old !== null) parts.push(`old=${place.old}`);
  if (place.judge) parts.push(`judge=${place.judge}`);
  if (place.show !== null) parts.push(`show=${encode(place.show)}`);
  return parts.length ? `#${parts.join("&")}` : "";
}

/**
 * The place that an address says. It may come from anybody: what makes no sense is left out.
 * @param {string} hash
 * @returns {Place}
 */
export function fromHash(hash) {
  const place = startPlace();
  place.at = Infinity;
  for (const part of hash.replace(/^#/, "").split("&")) {
    const name = part.slice(0, part.indexOf("="));
    const value = decode(part.slice(name.length + 1));
    const query = place.steps[place.steps.length - 1];
    if (name === "q" && place.steps.length < MOST_STEPS) place.steps.push({ ...emptyQuery(), text: value });
    else if (name === "show") place.show = value;
    else if (name === "at" || name === "old") {
      if (/^\d{1,9}$/.test(value)) place[name] = Number(value);
    } else if (name === "judge" && (value === "pool" || value === "pools")) place.judge = value;
    else if (!query) continue;
    else if (name === "ref") query.references.push(value);
    else if (name === "up" && /^[0-9a-f]{64}$/.test(value)) query.references.push({ upload: value });
    else if (name === "not" && value.trim()) query.negatives.push(value);
    else if (name === "where") query.where.push(...conditionOf(value));
  }
  place.steps = place.steps.filter((query) => !isEmpty(query));
  place.at = Math.max(0, Math.min(place.at, place.steps.length - 1));
  return place;
}

/**
 * @param {string} text
 * @returns {Condition[]}
 */
function conditionOf(text) {
  let given;
  try {
    given = JSON.parse(text);
  } catch {
    return [];
  }
  if (!Array.isArray(given) || given.length !== 3) return [];
  const [column, operator, value] = given;
  const fits = operator === "in" ? Array.isArray(value) && value.every(isString) : isString(value);
  return isString(column) && column && OPERATORS.includes(operator) && fits ? [{ column, operator, value }] : [];
}

/** @param {unknown} value */
const isString = (value) => typeof value === "string";
