// @ts-check
// The server's token: from the address that `cir serve` printed, or typed.

import { Problem, onToken, openSession } from "./api.js";
import { at } from "./dom.js";
import { decode } from "./state.js";

/**
 * Takes the token out of the address, so that it is in no bookmark and in nobody's sight, and exchanges it for a
 * cookie.
 */
export async function takeToken() {
  let refused = false;
  onToken((wrong) => ask(wrong || refused));
  const parts = location.hash.replace(/^#/, "").split("&");
  const token = parts.find((part) => part.startsWith("token="));
  if (!token) return;
  const rest = parts.filter((part) => part !== token).join("&");
  history.replaceState(history.state, "", location.pathname + (rest ? `#${rest}` : ""));
  // A wrong or old token is asked for at the first request that is refused.
  await openSession(decode(token.slice("token=".length))).catch((error) => {
    refused = error instanceof Problem && error.status === 401;
  });
}

/**
 * @param {boolean} wrong  whether another one was refused
 * @returns {Promise<string>}
 */
function ask(wrong) {
  const dialog = at("token");
  const input = at("token-text");
  input.value = "";
  at("token-wrong").hidden = !wrong;
  if (!dialog.open) dialog.showModal();
  input.focus();
  return new Promise((resolve) => {
    /** @param {Event} event */
    const prevent = (event) => event.preventDefault(); // without the token there is nothing to go back to
    dialog.addEventListener("cancel", prevent);
    at("token-form").addEventListener(
      "submit",
      (/** @type {Event} */ event) => {
        event.preventDefault();
        dialog.removeEventListener("cancel", prevent);
        dialog.close();
        resolve(input.value.trim());
      },
      { once: true },
    );
  });
}
