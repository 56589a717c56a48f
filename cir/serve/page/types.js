// @ts-check
// The shapes that the modules of the page pass to each other; comments only, read by editors and type checkers.

/**
 * A picture that was added from this device; the server keeps it for a while.
 * @typedef {{upload: string}} Upload
 */

/**
 * An image of the gallery, or a picture that was added.
 * @typedef {string | Upload} Reference
 */

/**
 * What a metadata column must be; `in` has several values.
 * @typedef {{column: string, operator: "in" | ">=" | "<=" | "~", value: string | string[]}} Condition
 */

/**
 * What is searched for.
 * @typedef {{references: Reference[], text: string, negatives: string[], where: Condition[]}} Query
 */

/**
 * Where the page is, all of which stands in its address.
 * @typedef {Object} Place
 * @property {Query[]} steps  the chain of searches; empty on the start page
 * @property {number} at  which of them is shown
 * @property {string | null} show  the image that is open
 * @property {number | null} old  the generation whose answers stand beside those of the live one
 * @property {"" | "pool" | "pools"} judge  whether hits are judged without their ranks, and which
 */

/**
 * @typedef {Object} Image
 * @property {string} id
 * @property {Object<string, string>} metadata
 * @property {boolean} photo
 * @property {string | null} image
 * @property {string | null} thumbnail
 */

/**
 * An image of a ranking.
 * @typedef {Object} Ranked
 * @property {number} rank
 * @property {number} score
 * @property {boolean | null} confident
 * @property {string} model
 * @property {boolean} older
 * @property {string | null} route
 * @property {number} generation
 */

/** @typedef {Image & Ranked} Hit */

/**
 * @typedef {Object} Answer
 * @property {Hit[]} hits
 * @property {boolean | null} confident
 * @property {number | null} floor
 * @property {boolean} more
 * @property {number} searched
 * @property {number} unsearched
 * @property {number} damaged
 * @property {number} coverage
 * @property {string[]} unread
 * @property {string} model
 * @property {number} generation
 * @property {number} seconds
 */

/** @typedef {{generation: number, created: string, model: string, images: number, live: boolean,
 *   same_model: boolean}} Generation */

/**
 * @typedef {Object} Info
 * @property {string} name
 * @property {number} generation
 * @property {number} images
 * @property {boolean} queries
 * @property {boolean} replaced
 * @property {boolean} explain
 * @property {boolean} pools
 * @property {string} problem
 * @property {{name: string}} model
 * @property {Generation[]} generations
 * @property {Object<string, number>} limits
 */

/** @typedef {{marks: number, queries: number, answered: number, gone: number, needed: number,
 *   good_for: string}} Counts */

/** @typedef {{name: string, kind: "values" | "numbers" | "texts", images: number, missing: number,
 *   distinct: number | null, values: {value: string, count: number}[], more: number, minimum: number | null,
 *   maximum: number | null}} Column */

/** @typedef {"right" | "wrong" | null} Mark */

export {};
