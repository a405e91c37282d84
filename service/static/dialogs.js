// Questions that are asked above everything else.

import { $, plural } from "./dom.js";

/** What a dialog is closed with; empty: with nothing. */
export function closed(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true }));
}

/** Whether these images are to be deleted. */
export async function askToRemove(ids) {
  const what = ids.length === 1 ? `image ${ids[0]}` : plural(ids.length, "image");
  $("deleting-title").textContent = `Delete ${what}?`;
  $("delete").textContent = `Delete ${plural(ids.length, "image")}`;
  return (await closed($("deleting"))) === "delete";
}
