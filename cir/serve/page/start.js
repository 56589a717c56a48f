// @ts-check
// The start page: a random handful of the gallery, to point at.

import { isAbort, remember, request } from "./api.js";
import { announce, at, fill, h, icon } from "./dom.js";
import { Grid } from "./grid.js";
import { counted } from "./words.js";

const HANDFUL = 24;

export class Start {
  /** @param {import("./main.js").App} app */
  constructor(app) {
    this.app = app;
    this.element = at("start");
    /** @type {number | null} */
    this.seed = null;
    this.grid = new Grid("Some pictures of the gallery", {
      onOpen: (image) => app.open(image.id),
      onPick: (image) => app.form.addReference(image.id),
    });
    this.loaded = false;
  }

  async show() {
    this.element.hidden = false;
    if (!this.loaded) await this.load();
  }

  hide() {
    this.element.hidden = true;
  }

  /** Draws others. */
  async load() {
    this.loaded = true;
    try {
      const { images } = await request("GET", `/random?n=${HANDFUL}`);
      remember(images);
      this.grid.clear();
      this.grid.add(images);
      const others = h(
        "button",
        { type: "button", class: "quiet", onclick: () => this.load() },
        icon("shuffle"),
        "Show others",
      );
      if (!images.length) {
        fill(this.element, h("p", { class: "notice" }, "This index holds no pictures yet."));
        return;
      }
      const bar = h("div", { class: "bar" }, h("h2", {}, "Some to start from"), others);
      fill(this.element, bar, this.grid.element);
      announce(`${counted(images.length, "picture")} of the gallery`);
    } catch (error) {
      this.loaded = false;
      if (!isAbort(error)) this.app.complain(error, this.element, () => this.load());
    }
  }
}
