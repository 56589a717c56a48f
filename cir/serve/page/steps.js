// @ts-check
// The chain of searches, each of which can be gone back to.

import { at, fill, h } from "./dom.js";
import { referencePicture } from "./pictures.js";
import { conditionWords, queryWords } from "./words.js";

const PICTURES = 2; // of a step

/** @param {import("./main.js").App} app */
export function showSteps(app) {
  const { steps, at: place } = app.place;
  at("steps").hidden = steps.length < 2;
  const items = steps.map((query, number) => {
    const filters = query.where.map(conditionWords).join(", ");
    const words = queryWords(query);
    const button = h(
      "button",
      {
        type: "button",
        "aria-current": number === place ? "step" : null,
        title: [words, filters].filter(Boolean).join("; "),
        onclick: () => app.go({ ...app.place, at: number, show: null, judge: "" }),
      },
      h("span", { class: "visually-hidden" }, `Step ${number + 1}: `),
      ...query.references.slice(0, PICTURES).map((each) => referencePicture(each)),
      query.references.length > PICTURES && h("small", {}, `+${query.references.length - PICTURES}`),
      h("span", { class: "words" }, words),
    );
    return h("li", {}, button);
  });
  fill(at("steps-list"), ...items);
  const shown = at("steps-list").querySelector("[aria-current]");
  // Along the row alone: the page itself must not move.
  if (shown) at("steps-list").scrollLeft = shown.offsetLeft - at("steps-list").clientWidth / 2;
}
