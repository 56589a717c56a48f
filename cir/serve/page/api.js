// @ts-check
// Requests to the server this page came from, and to no other.

import { encodePath } from "./state.js";

/** @typedef {import("./types.js").Image} Image */

const API = "/api/v1";
const MOST_WAIT = 30; // seconds that a busy server may ask for before its refusal is shown
const TRIES = 4;

/** What went wrong, in one line for a person. */
export class Problem extends Error {
  /**
   * @param {string} detail
   * @param {number} status  of the response; 0 where there was none
   */
  constructor(detail, status) {
    super(detail);
    this.status = status;
  }
}

/** @type {(wrong: boolean) => Promise<string>} */
let askToken = () => Promise.reject(new Problem("the server needs its token", 401));
/** @type {Promise<void> | null} */
let asking = null;

/**
 * Sets who is asked where the server wants its token.
 * @param {(wrong: boolean) => Promise<string>} ask
 */
export function onToken(ask) {
  askToken = ask;
}

/**
 * Exchanges the token for a cookie that scripts cannot read. Rejects with a Problem if it is another one.
 * @param {string} token
 */
export async function openSession(token) {
  const response = await fetch(`${API}/session`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ token }),
  });
  if (!response.ok) throw new Problem(await detailOf(response), response.status);
}

/** All requests that were refused wait for one answer. */
function session() {
  asking ??= (async () => {
    for (let wrong = false; ; wrong = true) {
      try {
        await openSession(await askToken(wrong));
        return;
      } catch (error) {
        if (!(error instanceof Problem) || error.status !== 401) throw error;
      }
    }
  })().finally(() => (asking = null));
  return asking;
}

/**
 * A request; its answer as JSON. Waits where the server is busy, and for the token where it wants one.
 * @param {string} method
 * @param {string} path  below /api/v1
 * @param {{json?: any, form?: FormData, signal?: AbortSignal}} [options]
 * @returns {Promise<any>}
 */
export async function request(method, path, { json, form, signal } = {}) {
  for (let tries = 1; ; tries++) {
    /** @type {RequestInit} */
    const options = { method, signal };
    if (json !== undefined) {
      options.body = JSON.stringify(json);
      options.headers = { "content-type": "application/json" };
    } else if (form) options.body = form;
    /** @type {Response} */
    let response;
    try {
      response = await fetch(API + path, options);
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Problem("The server cannot be reached. Does it still run?", 0);
    }
    if (response.ok) return response.status === 204 ? null : response.json();
    if (response.status === 401) {
      await session();
      continue;
    }
    const wait = Number(response.headers.get("retry-after") ?? NaN);
    if ((response.status !== 429 && response.status !== 503) || !(wait <= MOST_WAIT) || tries >= TRIES) {
      throw new Problem(await detailOf(response), response.status);
    }
    await pause(wait * 1000, signal);
  }
}

/** @param {Response} response */
async function detailOf(response) {
  try {
    const problem = await response.json();
    if (typeof problem.detail === "string") return problem.detail;
  } catch {
    // not a problem document: a proxy in between
  }
  return `The server answered ${response.status} ${response.statusText}.`;
}

/**
 * @param {number} milliseconds
 * @param {AbortSignal} [signal]
 */
function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds, undefined);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

/** @param {unknown} error */
export const isAbort = (error) => error instanceof DOMException && error.name === "AbortError";

/** @type {Map<string, Image | Promise<Image>>} */
const known = new Map();

/**
 * Remembers images that came in an answer.
 * @param {Image[]} images
 */
export function remember(images) {
  for (const image of images) known.set(image.id, image);
}

/**
 * An image by its id: as it came in an answer, else from the server. The address of its picture is never made here.
 * @param {string} id
 * @returns {Promise<Image>}
 */
export async function imageOf(id) {
  let found = known.get(id);
  if (!found) {
    const asked = request("GET", `/metadata/${encodePath(id)}`);
    asked.catch(() => known.delete(id));
    known.set(id, asked);
    found = asked;
  }
  return found;
}
