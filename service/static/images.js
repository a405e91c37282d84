// The view that looks after the images: browse them, change their labels, remove some. adding.js adds others, copies.js
// cleans up.

import { stage } from "./adding.js";
import { imageLink, similarLink, tick } from "./cards.js";
import { showCopies } from "./copies.js";
import { closed } from "./dialogs.js";
import { $, alertIn, element, number, percent, plural, sentence } from "./dom.js";
import { addressOf, filtersIn, listing, offer, showFilters } from "./filters.js";
import { markFolder, renewFolders } from "./folders.js";
import { Grid } from "./grid.js";
import { checkLabel, labelOf } from "./labels.js";
import { refreshQuality } from "./quality.js";
import { scrub } from "./scrubber.js";
import { Selection } from "./selecting.js";
import { ask, askPatiently, pieceOfWork, relabelAll, saveFile } from "./service.js";
import { deleteAll, offerUndo, restoreAll } from "./undoing.js";
import { lookThroughAll } from "./viewer.js";

const EDGE = 12; // pixels between the window's upper edge, or the selection's buttons, and a card
const BEGINNING = 16; // characters of a file's path that the slider says
const TOLD = ["confidence", "doubt"]; // orders by what a card does not say otherwise
const MONTH = new Intl.DateTimeFormat("en", { month: "long", year: "numeric" });
const browse = $("browse");
const list = $("images-list");

let filters = filtersIn(); // of what is listed
let begun = false; // whether anything is listed yet
let stats = null; // what the service counts; null: not known
let newest = null; // the lowest id of the images that were added from here
let happened = ""; // what the status says beside the count
let changing = false;
let scrolled = 0; // how far, when the view was left
let followed = null; // the link by which it was left
const places = new Map(); // address -> index of the first card in sight
const grid = new Grid(list, draw, () => $("selection").offsetHeight + EDGE);
const selection = new Selection(list, grid, source, tellSelection);

export const take = stage;

/** Show the part that the address asks for: the copies, or all images. */
export function open(part, _state, elsewhere, query) {
  history.scrollRestoration = "manual"; // a browser does not know where cards will be
  const name = part === "copies" ? "copies" : "browse";
  const apart = elsewhere || $(name).hidden;
  for (const link of $("images-parts").children) {
    $(link.dataset.part).hidden = link.dataset.part !== name;
    if (link.dataset.part === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (name === "browse") openList(apart, query);
  else showCopies();
}

/** Show what the address asks for, from where it was left. */
function openList(elsewhere, query) {
  const asked = filtersIn(query);
  if (!begun || String(asked) !== String(filters)) {
    filters = asked;
    begin(places.get(addressOf(filters)));
  } else if (elsewhere) {
    scrollTo(0, scrolled);
    grid.render();
    followed?.focus({ preventScroll: true });
    followed = null;
  }
}

export function leave() {
  scrolled = scrollY; // a scroll of which nobody was told yet, too
  history.scrollRestoration = "auto";
}

addEventListener("scroll", () => {
  if (browse.offsetParent === null) return;
  scrolled = scrollY;
  if (grid.total !== null) places.set(addressOf(filters), grid.first);
});

// --- browsing -----------------------------------------------------------------------------------

/** Show the images under the filter. */
function begin(from = 0) {
  begun = true;
  selection.clear();
  showFailures([]);
  alertIn(browse);
  $("retry").hidden = true;
  const inTrash = filters.has("trash");
  $("trash-meaning").hidden = $("restore-selected").hidden = $("forget-selected").hidden = !inTrash;
  $("label-selected").hidden = $("delete-selected").hidden = inTrash;
  $("empty-trash").hidden = true; // until it is known what lies there
  showFilters(filters);
  markFolder(filters.get("under"));
  grid.begin(source(), from);
  tell("");
  count();
}

/** What asks for a part of what is listed. */
function source() {
  return filters.has("trash") ? thrown : listing(filters);
}

async function thrown({ signal, ...part }) {
  const { images, total, days } = await ask(`trash?${new URLSearchParams(part)}`, { signal });
  $("trash-days").textContent = `Each image leaves the trash for good after ${plural(days, "day")}.`;
  $("empty-trash").hidden = total === 0;
  return { images, total };
}

/** What is listed may be another by now. */
function renew() {
  selection.clear();
  if (begun) grid.refresh();
}

list.addEventListener("counted", () => {
  if (!grid.hasFailed) alertIn(browse);
  $("retry").hidden = !grid.hasFailed;
  $("select-all").textContent = `Select all ${number.format(grid.total)}`;
  if (grid.total === 0 && list.contains(document.activeElement)) $("images-title").focus();
  tell();
});
list.addEventListener("failed", ({ detail }) => {
  alertIn(browse, detail.message);
  $("retry").hidden = false;
});
$("retry").addEventListener("click", () => {
  alertIn(browse);
  $("retry").hidden = true;
  if (grid.total === null) $("images-title").focus();
  else grid.focus(grid.first); // when it has come
  grid.tryAgain();
});

/** Let the service count the images, and offer the labels there are. */
async function count() {
  const asked = [ask("stats"), ask("labels/predictions")];
  const [counted, guessed] = await Promise.all(asked).catch(() => [null]); // the list says why
  const before = stats;
  stats = counted;
  if (stats !== null && (before?.items !== stats.items || before.trash !== stats.trash)) renewFolders();
  if (stats !== null) offer(stats, guessed.predictions, newest);
}

/** Say what has happened, if anything, and how many images there are. */
function tell(message = happened) {
  happened = message;
  $("images-status").textContent = [happened, counts()].filter(Boolean).join(" ");
}

function counts() {
  if (grid.total === null) return "";
  if (grid.total > 0) return `${plural(grid.total, "image")}.`;
  return filters.size === 0 ? "The index is empty." : filters.has("trash") ? "The trash is empty." : "No image.";
}

/** Make a card, or have it say what is known of its image now. */
function draw(card, image) {
  const { id } = image;
  const said = TOLD.includes(filters.get("sort")) ? describe(image) : "";
  if (card.querySelector("a[data-image]")?.dataset.image !== String(id)) card.replaceChildren(...elementsOf(image));
  const name = image.label ?? "no label";
  const words = card.querySelector(".about strong");
  Object.assign(words, { textContent: name, title: name, className: image.label === null ? "none" : "" });
  card.querySelector("a").setAttribute("aria-label", `Image ${id}, ${[name, said].filter(Boolean).join(", ")}`);
  const word = element("span", { className: "word", textContent: "image " });
  card.querySelector(".about small").replaceChildren(...(said === "" ? [word, String(id)] : [said]));
  const box = card.querySelector("input");
  box.setAttribute("aria-label", `Select image ${id}, ${name}`);
  box.checked = selection.ids.has(id);
}

/** Without what may change, which `draw` says. */
function elementsOf(image) {
  const { id } = image;
  const link = imageLink(image, "", {}, element("strong"), element("small"));
  link.addEventListener("click", () => lookThroughAll(list, everything));
  if (image.trashed !== null) return [link, tick(id)]; // nothing is like what cannot be found
  const similar = similarLink(id);
  similar.addEventListener("click", () => (followed = similar));
  return [link, tick(id), similar];
}

/** What the viewer leads through: a place for each image, filled where it is known. */
function everything() {
  const items = Array(grid.total);
  for (const [index, { id }] of grid.known()) {
    items[index] = { key: String(id), picture: grid.cardAt(index)?.querySelector("img"), distance: null };
  }
  return items;
}
list.addEventListener("turned", ({ detail }) => grid.reveal(detail));

/** What the slider says of a place. */
function describe(image) {
  const sort = filters.get("sort");
  if (sort === "time" && image.added !== null) return MONTH.format(new Date(1000 * image.added));
  if (sort === "name") return image.path.slice(0, BEGINNING);
  if (sort === "label") return image.label ?? "no label";
  if (sort === "confidence" && image.confidence !== null) return `${percent(image.confidence)} ${image.predicted}`;
  if (sort === "doubt" && image.doubt !== null) return image.doubt > 0 ? `rather ${image.rival}` : "no doubt";
  return "";
}
scrub($("scrubber"), $("scrubber-words"), list, grid, describe);

// --- selecting ----------------------------------------------------------------------------------

/** How many are selected, and what else is to be said of it: a text, or an Error. */
function tellSelection(message) {
  const { size } = selection.ids;
  $("selection").hidden = size === 0;
  $("selection-count").textContent = `${number.format(size)} selected`;
  if (message instanceof Error) alertIn(browse, message.message);
  else if (message !== undefined) tell(message);
}

/** The keyboard above the view: in the list and where nothing has the focus. */
document.addEventListener("keydown", (event) => {
  const elsewhere = browse.offsetParent === null || document.querySelector("dialog[open]") !== null;
  if (elsewhere || event.target.matches("input:not([type=checkbox]), select, textarea")) return;
  if (event.key === "a" && (event.ctrlKey || event.metaKey) && !event.shiftKey && grid.total > 0) {
    event.preventDefault();
    selection.all();
  }
  if (event.key === "Escape") selection.clear();
});
list.addEventListener("keydown", ({ key, target }) => {
  if (key !== "Delete" || changing) return;
  if (selection.ids.size === 0) selection.set([grid.imageAt(grid.indexOfCard(target)).id]);
  $(filters.has("trash") ? "forget-selected" : "delete-selected").click();
});

// --- changing -----------------------------------------------------------------------------------

/**
 * Do something to these images while nothing else is done. What fails is named with its reason and stays selected.
 * `work` gets a function to ask with, which waits for a service that is full, and resolves to {done, left} of them, or
 * null where it was called off.
 */
async function toAll(ids, doing, done, work) {
  const patience = { signal: new AbortController().signal, say: tell };
  const send = (address, options) => askPatiently(address, options, patience);
  changing = true;
  showFailures([]);
  tell(`${doing}: ${plural(ids.length, "image")} …`);
  try {
    const result = await work(send);
    if (result === null) return tell("");
    selection.set(result.done, false);
    showFailures(result.left.map(({ id, reason }) => `Image ${id}: ${reason}`));
    tell(`${plural(result.done.length, "image")} ${done}.`);
  } catch (error) {
    showFailures([`${plural(ids.length, "image")} not changed: ${error.message}`]);
    tell("");
  } finally {
    changing = false;
  }
  afterwards();
}

/** The index has changed: what other views say of it is of yesterday. */
async function afterwards() {
  await count();
  dispatchEvent(new CustomEvent("changed", { detail: stats?.items ?? null }));
  refreshQuality();
}

function showFailures(texts) {
  $("failures").replaceChildren(...texts.map((text) => element("li", { textContent: sentence(text) })));
  $("failed").hidden = texts.length === 0;
}

async function label(ids, text) {
  const [doing, done] = text === null ? ["Removing labels", "without a label now"] : ["Labelling", "labelled"];
  const result = { done: [], left: [] };
  const work = pieceOfWork();
  await toAll(ids, doing, done, async (send) => {
    const hear = ({ changed, left }) => {
      for (const id of changed) grid.change(id, { label: text });
      result.done.push(...changed);
      result.left.push(...left);
    };
    await relabelAll(ids, text, { work }, hear, send);
    return result;
  });
  if (work.names.length > 0) offerUndo(`${plural(result.done.length, "image")} ${done}.`, work.names);
  if (filters.size > 0) grid.refresh(); // some may belong elsewhere now
  refocus(grid.indexOf(ids[0]));
}

/** Do something to images by which they leave the list; what cannot be done to one was done by somebody else. */
async function takeAway(ids, doing, done, work) {
  const at = grid.indexOf(ids[0]);
  await toAll(ids, doing, done, async (send) => {
    const result = await work(send);
    if (result === null) return null;
    selection.set(
      result.left.map(({ id }) => id),
      false,
    );
    grid.refresh();
    return result;
  });
  refocus(at);
}

async function emptyTrash() {
  const ids = await selection.idsBetween(0, grid.total - 1);
  tell("");
  if (ids.length > 0)
    await takeAway(ids, "Deleting", "gone for good", (send) => deleteAll(ids, { send, forever: true }));
}

/** The keyboard goes on at this place, if what it was at is gone: then nothing visible has the focus. */
function refocus(index) {
  if (document.activeElement?.offsetParent) return;
  if (grid.total > 0) grid.focus(index < 0 ? grid.first : index);
  else $("images-title").focus();
}

// --- dialogs ------------------------------------------------------------------------------------

const dialogs = ["labelling-dialog", "deleting", "history"].map($);

async function labelSelected() {
  const ids = [...selection.ids];
  $("labelling-title").textContent = `Label of ${plural(ids.length, "image")}`;
  $("new-label").value = "";
  checkLabel($("new-label"));
  const answer = await closed($("labelling-dialog"));
  if (answer === "set") label(ids, labelOf($("new-label").value));
  if (answer === "remove") label(ids, null);
}

// --- what people do -----------------------------------------------------------------------------

$("select-all").addEventListener("click", () => selection.all());
$("select-none").addEventListener("click", () => {
  const [first] = selection.ids;
  selection.clear();
  refocus(grid.indexOf(first));
});
$("label-selected").addEventListener("click", () => changing || labelSelected());
for (const [button, doing, done, work] of [
  ["delete-selected", "Deleting", "deleted", deleteAll],
  ["restore-selected", "Restoring", "restored", restoreAll],
  ["forget-selected", "Deleting", "gone for good", (ids, { send }) => deleteAll(ids, { send, forever: true })],
]) {
  $(button).addEventListener("click", () => {
    const ids = [...selection.ids];
    if (!changing) takeAway(ids, doing, done, (send) => work(ids, { send }));
  });
}
$("empty-trash").addEventListener("click", () => {
  if (!changing) emptyTrash().catch((error) => alertIn(browse, error.message));
});
$("dismiss-failures").addEventListener("click", () => {
  showFailures([]);
  $("images-title").focus();
});

for (const dialog of dialogs) {
  dialog.addEventListener("click", ({ target: { dataset } }) => "close" in dataset && dialog.close(dataset.close));
}
$("new-label").addEventListener("input", () => checkLabel($("new-label")));
$("labelling-form").addEventListener("submit", (event) => {
  event.preventDefault();
  $("labelling-dialog").close("set");
});
for (const event of ["popstate", "hashchange"]) {
  addEventListener(event, () => {
    for (const dialog of dialogs) if (dialog.open) dialog.close("");
  });
}

$("labels-file").addEventListener("click", () =>
  saveFile("labels.csv", "labels.csv").catch((error) => alertIn(browse, error.message)),
);

// What the viewer does, above whatever view is shown, and what it looks through.
addEventListener("relabelled", ({ detail: image }) => {
  grid.change(image.id, image);
  tell(image.label === null ? `Image ${image.id} has no label now.` : `Image ${image.id} labelled.`);
  afterwards();
});
addEventListener("removed", ({ detail: id }) => {
  selection.set([id], false);
  if (begun) grid.refresh();
  tell(filters.has("trash") ? "" : "1 image deleted.");
  afterwards();
});
addEventListener("undone", () => {
  renew();
  dispatchEvent(new CustomEvent("reconsidered", { detail: [] }));
  afterwards();
});
for (const event of ["labelled", "cleaned"]) {
  addEventListener(event, () => {
    renew();
    afterwards();
  });
}
addEventListener("added", ({ detail: first }) => {
  newest = Math.min(newest ?? first, first);
  if (begun) grid.refresh();
  afterwards();
});
