// What is deleted can come back, what is done can be undone: the bar that offers it, and the list of what was changed.

import { askToRemove } from "./dialogs.js";
import { $, alertIn, element, number, plural } from "./dom.js";
import { ask, inParts, json, picture, pieceOfWork } from "./service.js";

const FORGOTTEN = 1000; // images removed for good in one request
const KEPT = 1000; // changes, all that the service keeps
const LISTED = 50; // pieces of work
const PICTURES = 5; // of each

const bar = $("undo-bar");
const past = $("history");
let offered = null; // {batches, back}: what the button undoes; back: whether that is to do something again
let days = null; // that deleted images lie in the trash; null: not known yet

/**
 * Delete these images, after a question where they could not come back; {done, left}: the ids of those that are gone,
 * and {id, reason} of those that stay, or null where it is called off. `send` is `ask`, or like it. `first`, which is
 * given the piece of work, does what is undone together with it.
 */
export async function deleteAll(ids, { send = ask, forever = false, first = async () => {} } = {}) {
  days ??= (await send("stats")).trash_days;
  if ((forever || days === 0) && !(await askToRemove(ids))) return null;
  if (forever) return forget(ids, send);
  const work = pieceOfWork();
  try {
    await first(work);
    const result = await eachPart(ids, (some) => send("trash", { ...json("POST", { ids: some }), work }));
    offerUndo(`${plural(result.done.length, "image")} deleted.`, work.names);
    return result;
  } catch (error) {
    if (work.names.length > 0) offerUndo("Only a part of it was done.", work.names);
    throw error;
  }
}

/** Let these images, which lie in the trash, be found again; the result is as of `deleteAll`. */
export async function restoreAll(ids, { send = ask } = {}) {
  const work = pieceOfWork();
  const result = await eachPart(ids, (some) => send("trash/restore", { ...json("POST", { ids: some }), work }));
  offerUndo(`${plural(result.done.length, "image")} restored.`, work.names);
  return result;
}

async function forget(ids, send) {
  for (let at = 0; at < ids.length; at += FORGOTTEN) {
    const some = ids.slice(at, at + FORGOTTEN).map((id) => ["id", id]);
    await send(`trash?${new URLSearchParams(some)}`, { method: "DELETE" });
  }
  return { done: ids, left: [] };
}

async function eachPart(ids, request) {
  const result = { done: [], left: [] };
  await inParts(ids, request, ({ changed, left }) => {
    result.done.push(...changed);
    result.left.push(...left);
  });
  return result;
}

// --- the bar ------------------------------------------------------------------------------------

/** Say what was done, above whatever is shown, and offer to undo these batches. */
export function offerUndo(text, batches, back = false) {
  offered = batches.length > 0 ? { batches, back } : null;
  (document.querySelector("dialog[open]") ?? document.body).append(bar);
  $("undo-said").textContent = text;
  $("undo").hidden = offered === null;
  $("undo").textContent = back ? "Redo" : "Undo";
}

function dismiss() {
  offered = null;
  $("undo-said").textContent = "";
}

async function undo() {
  if (offered === null) return;
  const { batches, back } = offered;
  offered = null;
  $("undo").hidden = true;
  try {
    const { text, names } = await undoAll(batches, back);
    offerUndo(text, names, !back);
  } catch (error) {
    offerUndo(error.message, batches, back); // it can be tried again
  }
}

/** Undo these, the latest first; what to say then, and the names of what that did. */
async function undoAll(batches, back) {
  const work = pieceOfWork();
  let [count, left] = [0, 0];
  try {
    for (const name of batches.toReversed()) {
      const done = await ask(`changes/${encodeURIComponent(name)}/undo`, { method: "POST", work });
      count += done.changed;
      left += done.left.length;
    }
  } finally {
    dispatchEvent(new Event("undone")); // some may be done where the next failed
  }
  const stays = left > 0 ? ` ${number.format(left)} changed since, and ${left === 1 ? "stays" : "stay"}.` : "";
  const as = back ? "changed again" : "as before";
  return { text: `${plural(count, "image is", "images are")} ${as}.${stays}`, names: count > 0 ? work.names : [] };
}

$("undo").addEventListener("click", undo);
$("undo-dismiss").addEventListener("click", dismiss);
addEventListener("keydown", (event) => {
  const undoing = event.key === "z" && (event.ctrlKey || event.metaKey) && !event.shiftKey && !event.altKey;
  if (
    !undoing ||
    event.repeat ||
    offered === null ||
    offered.back ||
    event.target.matches?.("input:not([type=checkbox]), textarea")
  )
    return;
  event.preventDefault();
  undo();
});
// A dialog lies above all else: what is said while it is open is said in it.
document.addEventListener("close", ({ target }) => target.contains(bar) && document.body.append(bar), true);

// --- the list -----------------------------------------------------------------------------------

async function showHistory() {
  alertIn(past);
  try {
    const { changes } = await ask(`changes?limit=${KEPT}`);
    $("history-none").hidden = changes.length > 0;
    $("changes").replaceChildren(...pieces(changes).slice(0, LISTED).map(entry));
  } catch (error) {
    alertIn(past, error.message);
  }
}

const DONE = { added: "added", changed: "labelled or described", trashed: "deleted", restored: "restored" };

/** Changes by the piece of work that they belong to, the latest first. */
function pieces(changes) {
  return [...Map.groupBy(changes, ({ together, batch }) => together ?? batch).values()];
}

function entry(changes) {
  const counts = {};
  for (const each of changes) {
    for (const [name, count] of Object.entries(each.counts)) counts[name] = (counts[name] ?? 0) + count;
  }
  const what = Object.entries(counts).map(([name, count]) => `${plural(count, "image")} ${DONE[name]}`);
  const said = element("p", { textContent: what.join(", ") });
  const when = new Date(1000 * changes[0].time);
  said.append(element("small", { textContent: when.toLocaleString("en") }));
  const button = element("button", { type: "button", className: "button", textContent: "Undo" });
  button.disabled = changes.every(({ undoable }) => undoable === 0);
  button.title = button.disabled ? "Each image was changed since" : "";
  button.setAttribute("aria-label", `Undo: ${what.join(", ")}, ${when.toLocaleTimeString("en")}`);
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const { text, names } = await undoAll(changes.map(({ batch }) => batch).toReversed(), false);
      offerUndo(text, names, true);
      await showHistory();
      $("history-title").focus();
    } catch (error) {
      alertIn(past, error.message);
    }
  });
  const pictures = changes.flatMap(({ images }) => images).slice(0, PICTURES);
  const shown = pictures.map((id) => picture(`images/${id}/thumbnail`));
  return element("li", {}, element("span", { className: "pictures" }, ...shown), said, button);
}

$("show-history").addEventListener("click", () => {
  past.showModal();
  showHistory();
});
$("history-close").addEventListener("click", () => past.close());
