// @ts-check
// Filters from the columns of the index as they are: values with counts, ranges of numbers, parts of texts.

import { at, debounced, fill, h, icon } from "./dom.js";
import { count } from "./words.js";

/** @typedef {import("./types.js").Column} Column */
/** @typedef {import("./types.js").Condition} Condition */

const FEW = 8; // values that are shown at once
const MANY = 12; // from which on they can be looked for by letters
const WAIT = 400; // milliseconds after the last key

export class Filters {
  /**
   * @param {Column[]} columns
   * @param {(where: Condition[]) => void} onChange
   */
  constructor(columns, onChange) {
    this.panel = at("filters");
    this.button = at("filters-open");
    this.button.addEventListener("click", () => this.#toggle());
    this.panel.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Escape") return;
      event.preventDefault();
      this.#toggle();
      this.button.focus();
    });
    /** @type {Condition[]} */
    this.where = [];
    /** @type {Field[]} */
    this.fields = [];
    /** @type {Condition[]} conditions of a link on columns that this index does not have; removable as chips */
    this.others = [];
    this.onChange = onChange;
    this.show(columns);
  }

  /**
   * Shows the columns of the index; again where it has changed.
   * @param {Column[]} columns
   */
  show(columns) {
    this.button.hidden = !columns.length;
    this.fields = columns.map((column) => makeField(column, () => this.#read(), debounced(() => this.#read(), WAIT)));
    fill(this.panel, h("div", { class: "columns" }, ...this.fields.map((field) => field.element)));
    this.set(this.where);
  }

  /** @param {Condition[]} where */
  set(where) {
    this.where = where;
    const names = new Set(this.fields.map((field) => field.name));
    this.others = where.filter((each) => !names.has(each.column));
    for (const field of this.fields) field.set(where.filter((each) => each.column === field.name));
  }

  #toggle() {
    const open = this.panel.hidden;
    this.panel.hidden = !open;
    this.button.setAttribute("aria-expanded", String(open));
    if (open) this.panel.querySelector("input")?.focus();
  }

  #read() {
    const where = [...this.fields.flatMap((field) => field.read()), ...this.others];
    if (JSON.stringify(where) === JSON.stringify(this.where)) return;
    this.where = where;
    this.onChange(where);
  }
}

/**
 * @typedef {Object} Field
 * @property {string} name
 * @property {HTMLElement} element
 * @property {(where: Condition[]) => void} set
 * @property {() => Condition[]} read
 */

/**
 * @param {Column} column
 * @param {() => void} onChoice
 * @param {() => void} onKey
 * @returns {Field}
 */
function makeField(column, onChoice, onKey) {
  // Names and titles, of which nearly every image has its own, are looked for, not chosen from a list.
  const own = (column.distinct ?? 0) > MANY && (column.distinct ?? 0) * 2 > column.images;
  if (column.kind === "values" && !own) return valuesField(column, onChoice);
  return column.kind === "numbers" ? numbersField(column, onKey) : textField(column, onKey);
}

/**
 * @param {Column} column
 * @param {() => void} onChoice
 * @returns {Field}
 */
function valuesField(column, onChoice) {
  const listed = [...column.values];
  if (column.missing) listed.push({ value: "", count: column.missing });
  const list = h("div", { class: "values" });
  /** @type {{value: string, input: HTMLInputElement, row: HTMLElement}[]} */
  const rows = [];
  /** @param {string} value @param {number | null} number */
  const add = (value, number) => {
    const input = h("input", { type: "checkbox", onchange: onChoice });
    const row = h(
      "label",
      {},
      input,
      h("span", { title: value }, value || h("em", {}, "no value")),
      number !== null && h("small", {}, count(number)),
    );
    rows.push({ value, input, row });
    list.append(row);
  };
  for (const { value, count: number } of listed) add(value, number);
  let all = listed.length <= FEW + 2; // a button for one or two more is more than they are
  const letters = h("input", {
    type: "search",
    "aria-label": `Look for a value of ${column.name}`,
    placeholder: "look for …",
    oninput: () => show(),
  });
  const more = h(
    "button",
    {
      type: "button",
      class: "link",
      onclick: () => {
        all = true;
        show();
        rows[FEW].input.focus();
      },
    },
    `all ${count(listed.length)}`,
  );
  const show = () => {
    const part = letters.value.trim().toLowerCase();
    rows.forEach(({ value, input, row }, place) => {
      const wanted = part ? value.toLowerCase().includes(part) : all || place < FEW;
      row.hidden = !wanted && !input.checked;
    });
    more.hidden = all || Boolean(part);
  };
  show();
  const rest = column.more > 0 && h("p", { class: "note" }, `and ${count(column.more)} rarer values`);
  return {
    name: column.name,
    element: h(
      "fieldset",
      {},
      h("legend", {}, column.name),
      listed.length > MANY && letters,
      list,
      more,
      rest,
    ),
    set(where) {
      const chosen = where.flatMap(({ operator, value }) => (operator === "in" ? value : []));
      for (const value of chosen) if (!rows.some((row) => row.value === value)) add(value, null);
      for (const { value, input } of rows) input.checked = chosen.includes(value);
      show();
    },
    read() {
      const value = rows.filter((row) => row.input.checked).map((row) => row.value);
      return value.length ? [{ column: column.name, operator: "in", value }] : [];
    },
  };
}

/**
 * @param {Column} column
 * @param {() => void} onKey
 * @returns {Field}
 */
function numbersField(column, onKey) {
  /** @param {string} label @param {number | null} bound */
  const field = (label, bound) =>
    h("input", {
      inputmode: "decimal",
      autocomplete: "off",
      "aria-label": `${column.name} ${label}`,
      placeholder: bound === null ? "" : String(bound),
      oninput: onKey,
      onchange: onKey,
    });
  const least = field("from", column.minimum);
  const most = field("up to", column.maximum);
  const problem = h("p", { class: "note wrong", hidden: true }, "write a number, such as 50 or 49.90");
  return {
    name: column.name,
    element: h(
      "fieldset",
      {},
      h("legend", {}, column.name),
      h("div", { class: "range" }, least, h("span", {}, "to"), most),
      problem,
    ),
    set(where) {
      /** @param {string} operator */
      const bound = (operator) => String(where.find((each) => each.operator === operator)?.value ?? "");
      put(least, bound(">="));
      put(most, bound("<="));
      problem.hidden = true;
    },
    read() {
      const bounds = [numberOf(least.value), numberOf(most.value)];
      problem.hidden = !bounds.includes(null);
      return bounds.flatMap((value, place) =>
        value ? [{ column: column.name, operator: place ? "<=" : ">=", value }] : [],
      );
    },
  };
}

/**
 * Fills a field, unless somebody is typing in it.
 * @param {HTMLInputElement} input
 * @param {string} value
 */
function put(input, value) {
  if (input !== document.activeElement) input.value = value;
}

/**
 * A number as the index compares it; "" for nothing, null for what is none.
 * @param {string} typed
 */
function numberOf(typed) {
  const text = typed.trim().replace(",", ".");
  if (!text) return "";
  return /^-?(0|[1-9]\d*)(\.\d+)?$/.test(text) ? text : null;
}

/**
 * @param {Column} column
 * @param {() => void} onKey
 * @returns {Field}
 */
function textField(column, onKey) {
  const input = h("input", { type: "search", "aria-label": `${column.name} contains`, oninput: onKey });
  return {
    name: column.name,
    element: h(
      "fieldset",
      {},
      h("legend", {}, column.name, " contains"),
      h("div", { class: "contains" }, icon("search"), input),
    ),
    set(where) {
      put(input, String(where.find((each) => each.operator === "~")?.value ?? ""));
    },
    read() {
      const value = input.value.trim();
      return value ? [{ column: column.name, operator: "~", value }] : [];
    },
  };
}
