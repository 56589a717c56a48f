// @ts-check
// Marks: what people say of hits, kept with the index; and what they are good for.

import { Problem, request } from "./api.js";
import { announce, at, fill, h, toast } from "./dom.js";
import { shortName, count, counted } from "./words.js";

/** @typedef {import("./types.js").Query} Query */
/** @typedef {import("./types.js").Mark} Mark */
/** @typedef {import("./types.js").Counts} Counts */

/** @typedef {{marks: Map<string, Mark>, reason: string}} Judged */

/** @param {Query} query */
const aboutOf = (query) => ({ references: query.references, text: query.text.trim() });

export class Marks {
  /** @param {() => void} onChange  after a mark was made or taken back */
  constructor(onChange) {
    this.onChange = onChange;
    /** @type {Map<string, Judged>} */
    this.judged = new Map();
    /** @type {Counts | null} */
    this.counts = null;
  }

  async start() {
    this.#count(await request("GET", "/marks"));
  }

  /**
   * Loads what was said of the hits of a query.
   * @param {Query} query
   */
  async load(query) {
    const key = JSON.stringify(aboutOf(query));
    if (this.judged.has(key) || reasonAgainst(query)) return;
    try {
      const found = await request("POST", "/marks/of", { json: aboutOf(query) });
      const marks = new Map();
      for (const id of found.right) marks.set(id, "right");
      for (const id of found.wrong) marks.set(id, "wrong");
      const added = query.references.some((each) => typeof each !== "string");
      const reason = added
        ? "The picture that you added is not in this gallery; marks need references that are."
        : found.reason;
      this.judged.set(key, { marks, reason: found.markable ? "" : reason });
    } catch (error) {
      // Hits are shown all the same; a mark that is tried says what is wrong.
      if (!(error instanceof Problem)) throw error;
    }
  }

  /**
   * @param {Query} query
   * @param {string} id
   * @returns {Mark}
   */
  of(query, id) {
    return this.judged.get(JSON.stringify(aboutOf(query)))?.marks.get(id) ?? null;
  }

  /**
   * Why the hits of a query cannot be marked; "" where they can be.
   * @param {Query} query
   */
  reason(query) {
    return reasonAgainst(query) || this.judged.get(JSON.stringify(aboutOf(query)))?.reason || "";
  }

  /**
   * Keeps what somebody says of a hit; null takes it back.
   * @param {Query} query
   * @param {import("./types.js").Image} image
   * @param {Mark} mark
   * @param {{generations?: number[], pool?: boolean}} seen  whose hits were looked at
   * @returns {Promise<boolean>} whether it is kept
   */
  async say(query, image, mark, seen) {
    const reason = this.reason(query);
    if (reason) {
      toast(reason);
      return false;
    }
    const about = aboutOf(query);
    const key = JSON.stringify(about);
    const judged = this.judged.get(key) ?? { marks: new Map(), reason: "" };
    this.judged.set(key, judged);
    const before = judged.marks.get(image.id) ?? null;
    judged.marks.set(image.id, mark); // at once; taken back below if the server refuses
    this.onChange();
    try {
      const json = { ...about, image: image.id, ...seen };
      this.#count(
        mark === null
          ? await request("DELETE", "/marks", { json })
          : await request("PUT", "/marks", { json: { ...json, right: mark === "right" } }),
      );
    } catch (error) {
      judged.marks.set(image.id, before);
      this.onChange();
      toast(error instanceof Error ? error.message : String(error));
      return false;
    }
    announce(mark ? `${shortName(image.id)} marked ${mark}` : `mark of ${shortName(image.id)} taken back`);
    return true;
  }

  /** @param {Counts} counts */
  #count(counts) {
    this.counts = counts;
    fill(at("marks-count"), counts.marks ? count(counts.marks) : "");
  }
}

/** @param {Query} query */
function reasonAgainst(query) {
  if (!query.text.trim()) return "Marks are for searches with a sentence: without one there is no right or wrong.";
  if (query.negatives.length) return "Marks are for searches without “not”.";
  if (query.references.length > 1) return "Marks are for searches with at most one reference.";
  return "";
}

/**
 * Fills the dialog that says how many marks there are and what they are good for.
 * @param {import("./main.js").App} app
 */
export function describeMarks(app) {
  const counts = app.marks.counts;
  if (!counts) return;
  const share = Math.min(counts.answered, counts.needed);
  fill(
    at("marks-body"),
    h(
      "p",
      {},
      counts.marks
        ? `${counted(counts.marks, "mark")} on ${counted(counts.queries, "search", "searches")}; ` +
            `${count(counts.answered)} of them with a right answer.`
        : "Nothing is marked yet.",
    ),
    h("progress", { max: counts.needed, value: share, "aria-label": "searches with a right answer" }),
    h("p", {}, goodFor(counts)),
    counts.gone > 0 && h("p", { class: "note" }, `${counted(counts.gone, "mark")} about pictures that are gone.`),
    app.info.pools && h("div", { id: "pools-offer" }, h("p", { class: "busy" }, "what is left to judge …")),
  );
  if (app.info.pools) offerPools(app);
}

/**
 * The server's words; commands between backquotes are set as such.
 * @param {Counts} counts
 */
function goodFor(counts) {
  const parts = counts.good_for.split("`").map((part, place) => (place % 2 ? h("code", {}, part) : part));
  const first = parts[0];
  if (typeof first === "string") parts[0] = first.charAt(0).toUpperCase() + first.slice(1);
  return h("span", {}, ...parts, ".");
}

/** @param {import("./main.js").App} app */
async function offerPools(app) {
  try {
    const { state, detail, model, left } = await request("GET", "/pools");
    const words =
      state === "computing"
        ? `Both models are searching for what was marked. Look again in a while.`
        : state === "failed"
          ? detail
          : left
            ? `Before marks can decide about ${model}, ${counted(left, "picture is", "pictures are")} left to judge.`
            : `All that ${model} needs is judged.`;
    const begin = () => {
      at("marks").close();
      app.go({ ...app.place, show: null, judge: "pools" });
    };
    fill(
      at("pools-offer"),
      h("h3", {}, "A new model waits"),
      h("p", {}, words),
      state === "ready" && left > 0 && h("button", { type: "button", class: "primary", onclick: begin }, "Judge now"),
    );
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    fill(at("pools-offer"), h("p", { class: "note" }, error.message));
  }
}
