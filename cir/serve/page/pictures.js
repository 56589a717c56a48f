// @ts-check
// Pictures from this device: dropped, pasted or picked; and how references are shown.

import { Problem, imageOf, request } from "./api.js";
import { at, h, icon } from "./dom.js";
import { shortName } from "./words.js";

/** @typedef {import("./types.js").Reference} Reference */

/** What cards put on the pointer while they are dragged. */
export const DRAGGED = "application/x-cir-image";

/**
 * What was added since the page was opened: sha256 -> picture. The server keeps uploads for a while only.
 * @type {Map<string, {file: Blob, url: string}>}
 */
const added = new Map();

/**
 * Sends a picture; gives the id of the gallery's image if it has the same one, which can be shared and marked.
 * @param {Blob} file
 * @param {number} mostBytes
 * @returns {Promise<Reference>}
 */
export async function addPicture(file, mostBytes) {
  if (file.size > mostBytes) {
    const size = Math.round(file.size / 1e6);
    throw new Problem(`This picture has ${size} MB; at most ${mostBytes / 1e6} MB are taken.`, 413);
  }
  const form = new FormData();
  form.append("images", file);
  const { uploads } = await request("POST", "/uploads", { form });
  if (uploads[0].same.length) return uploads[0].same[0];
  const sha256 = uploads[0].upload;
  if (!added.has(sha256)) added.set(sha256, { file, url: URL.createObjectURL(file) });
  return { upload: sha256 };
}

/**
 * Does some work with references; sends pictures again that the server no longer keeps, if this page still has them.
 * @template T
 * @param {Reference[]} references
 * @param {() => Promise<T>} work
 * @returns {Promise<T>}
 */
export async function withUploads(references, work) {
  try {
    return await work();
  } catch (error) {
    const uploads = references.flatMap((each) => (typeof each === "string" ? [] : [each.upload]));
    if (!(error instanceof Problem) || error.status !== 404 || !uploads.length) throw error;
    const files = uploads.map((sha256) => added.get(sha256)?.file);
    if (files.includes(undefined)) {
      throw new Problem(
        "This search has a picture that was added from a device. Such pictures are kept for a while only, and no " +
          "link holds them. Remove it, and add it again.",
        404,
      );
    }
    for (const file of files) {
      const form = new FormData();
      form.append("images", /** @type {Blob} */ (file));
      await request("POST", "/uploads", { form });
    }
    return work();
  }
}

/** @param {Reference} reference */
export const referenceName = (reference) => (typeof reference === "string" ? shortName(reference) : "your picture");

/**
 * A small picture of a reference; a sign where there is none to show.
 * @param {Reference} reference
 * @param {number} [size]  160 or more
 */
export function referencePicture(reference, size = 160) {
  const box = h("span", { class: "mini" }, icon("picture"));
  const name = referenceName(reference);
  /** @param {string} src */
  const show = (src) => {
    const image = h("img", { src, alt: name, draggable: "false", onerror: () => image.replaceWith(icon("picture")) });
    box.replaceChildren(image);
  };
  if (typeof reference === "string") {
    imageOf(reference).then(
      (image) => image.thumbnail && show(`${image.thumbnail}&size=${size}`),
      () => box.classList.add("gone"),
    );
  } else show(added.get(reference.upload)?.url ?? `/api/v1/uploads/${reference.upload}`);
  return box;
}

/** @param {DataTransfer | null} data */
const filesOf = (data) => [...(data?.files ?? [])];

/**
 * Listens for pictures that are dropped, pasted or picked anywhere on the page, and for cards that are dragged.
 * @param {(files: File[]) => void} onFiles
 * @param {(id: string) => void} onImage
 */
export function listenForPictures(onFiles, onImage) {
  const picker = at("picker");
  picker.addEventListener("change", () => {
    onFiles([...picker.files]);
    picker.value = ""; // the same file may be picked again
  });
  document.addEventListener("paste", (event) => {
    const files = filesOf(event.clipboardData);
    if (!files.length) return; // a text, which goes where it is pasted
    event.preventDefault();
    onFiles(files);
  });
  let depth = 0; // of the elements that the pointer has entered
  /** @param {DragEvent} event */
  const carries = (event) => {
    const types = event.dataTransfer?.types ?? [];
    return types.includes("Files") || types.includes(DRAGGED);
  };
  /** @param {boolean} shown */
  const veil = (shown) => {
    depth = shown ? depth : 0;
    at("veil").hidden = !shown;
  };
  document.addEventListener("dragenter", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    depth += 1;
    veil(true);
  });
  document.addEventListener("dragleave", (event) => {
    if (carries(event) && --depth <= 0) veil(false);
  });
  document.addEventListener("dragover", (event) => carries(event) && event.preventDefault());
  document.addEventListener("dragend", () => veil(false));
  document.addEventListener("drop", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    veil(false);
    const id = event.dataTransfer?.getData(DRAGGED);
    if (id) onImage(id);
    else onFiles(filesOf(event.dataTransfer));
  });
}
