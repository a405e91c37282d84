// The view that looks after the images: browse them, change their labels, remove some. adding.js adds others.

import { stage } from "./adding.js";
import { imageLink, similarLink, tick } from "./cards.js";
import { closed } from "./dialogs.js";
import { $, alertIn, element, number, plural, sentence } from "./dom.js";
import { checkLabel, labelOf } from "./labels.js";
import { refreshQuality } from "./quality.js";
import { ask, askPatiently, relabelAll, saveFile } from "./service.js";
import { deleteAll, offerUndo, restoreAll } from "./undoing.js";

const PAGE = 60; // images that are asked for together
const AHEAD = "600px"; // so far before its end comes into sight the list grows
const LABEL = "label:"; // before the label in a filter's value
const TRASH = "trash"; // a filter's value
const browse = $("browse");
const list = $("images-list");
const filter = $("images-filter");

let stats = null; // what the service counts; null: not known
let loading = null; // promise of the page that is being loaded
let asking = null; // its AbortController
let next = 0; // cursor of the page after the last that is shown; null: there is none
let last = 0; // the highest id that is shown
let newest = null; // the lowest id of the images that were added from here
let happened = ""; // what the status says beside the count
let changing = false;
let scrolled = 0; // how far, when the view was left
let followed = null; // the link by which it was left
const shown = new Map(); // id -> {image, card}, in their order
const selected = new Set(); // ids

export const take = stage;

/** Show the images; what was shown before is as it was left. */
export function open(_id, _state, elsewhere) {
  if (shown.size === 0) begin();
  else if (elsewhere) {
    followed?.focus({ preventScroll: true });
    followed = null;
    scrollTo(0, scrolled);
  }
}

addEventListener("scroll", () => {
  if (browse.offsetParent !== null) scrolled = scrollY;
});

// --- browsing -----------------------------------------------------------------------------------

/** Show the first images under the filter. */
function begin() {
  asking?.abort();
  loading = null;
  select([...selected], false);
  showFailures([]);
  shown.clear();
  list.replaceChildren();
  happened = "";
  const inTrash = filter.value === TRASH;
  $("trash-meaning").hidden = $("restore-selected").hidden = $("forget-selected").hidden = !inTrash;
  $("label-selected").hidden = $("delete-selected").hidden = inTrash;
  last = next = filter.value === "newest" ? newest - 1 : 0;
  count();
  return more();
}

/** Append the next page: once, however often it is called meanwhile. */
function more() {
  loading ??= next === null ? null : load();
  return loading;
}

async function load() {
  asking = new AbortController();
  const { signal } = asking;
  list.setAttribute("aria-busy", "true");
  try {
    const page = await (filter.value === TRASH ? thrown(signal) : listed(signal));
    alertIn(browse);
    page.images.forEach(show);
    dispatchEvent(new CustomEvent("grown", { detail: list }));
    last = page.images.at(-1)?.id ?? last;
    next = page.next;
  } catch (error) {
    if (signal.aborted) return; // another filter was chosen
    alertIn(browse, error.message);
  }
  loading = null;
  list.removeAttribute("aria-busy");
  if (next === null && document.activeElement === $("more"))
    [...shown.values()].at(-1)?.card.querySelector("a").focus();
  $("more").hidden = next === null;
  tell();
  end.unobserve($("more")); // so that it tells again if the end is still in sight
  end.observe($("more"));
}

function listed(signal) {
  const asked = new URLSearchParams({ limit: PAGE, after: next });
  if (filter.value === "none") asked.append("unlabelled", "true");
  if (filter.value.startsWith(LABEL)) asked.append("label", filter.value.slice(LABEL.length));
  return ask(`images?${asked}`, { signal });
}

/** What lies in the trash has no cursor: what was deleted last comes first. */
async function thrown(signal) {
  const offset = shown.size;
  const { images, total, days } = await ask(`trash?${new URLSearchParams({ limit: PAGE, offset })}`, { signal });
  $("trash-days").textContent = `Each image leaves the trash for good after ${plural(days, "day")}.`;
  $("empty-trash").hidden = total === 0;
  return { images, next: offset + images.length < total && images.length > 0 ? offset + images.length : null };
}

/** The list grows by itself, but not where that has just failed: then somebody presses the button. */
const end = new IntersectionObserver(
  (entries) => entries.at(-1).isIntersecting && browse.querySelector(".error").hidden && more(),
  { rootMargin: AHEAD },
);

/** Let the service count the images, and offer the labels there are. */
async function count() {
  stats = await ask("stats").catch(() => null); // the list says why
  if (stats === null) return;
  const chosen = filter.value;
  const labels = stats.classes.filter(({ label, items }) => items > 0 || LABEL + label === chosen);
  const option = (value, name, items) =>
    element("option", { value, textContent: items === undefined ? name : `${name} (${number.format(items)})` });
  filter.replaceChildren(
    option("all", "All images", stats.items),
    option("none", "No label", stats.unlabelled),
    ...(newest === null ? [] : [option("newest", "Added just now")]),
    ...labels.map(({ label, items }) => option(LABEL + label, label, items)),
    ...(stats.trash > 0 || chosen === TRASH ? [option(TRASH, "Trash", stats.trash)] : []),
  );
  filter.value = chosen;
  if (filter.value !== chosen) return restart(); // nobody knows that label any more
  tell();
}

/** Without a filter. */
function restart() {
  filter.value = "all";
  return begin();
}

/** How many images the filter has; undefined: nobody knows. */
function counted() {
  if (filter.value === "all") return stats?.items;
  if (filter.value === "none") return stats?.unlabelled;
  if (filter.value === TRASH) return stats?.trash;
  return stats?.classes.find(({ label }) => LABEL + label === filter.value)?.items;
}

/** Say what has happened, if anything, and how many images there are. */
function tell(message = happened) {
  happened = message;
  const items = counted() ?? (next === null ? shown.size : undefined);
  const counts =
    items === 0
      ? filter.value === "all"
        ? "The index is empty."
        : filter.value === TRASH
          ? "The trash is empty."
          : "No image."
      : items === shown.size
        ? `${plural(items, "image")}.`
        : `${number.format(shown.size)}${items === undefined ? "" : ` of ${number.format(items)}`} images shown.`;
  $("images-status").textContent = [happened, counts].filter(Boolean).join(" ");
}

/** Append an image, or say what is known of it now. */
function show(image) {
  const card = shown.get(image.id)?.card ?? list.appendChild(cardOf(image));
  shown.set(image.id, { image, card });
  const name = image.label ?? "no label";
  const words = card.querySelector(".about strong");
  Object.assign(words, { textContent: name, title: name, className: image.label === null ? "none" : "" });
  card.querySelector("a").setAttribute("aria-label", `Image ${image.id}, ${name}`);
  card.querySelector("input").setAttribute("aria-label", `Select image ${image.id}, ${name}`);
}

/** Without what may change, which `show` says. */
function cardOf(image) {
  const { id } = image;
  const link = imageLink(
    image,
    "",
    {},
    element("strong"),
    element("small", {}, element("span", { className: "word", textContent: "image " }), String(id)),
  );
  if (image.trashed !== null) return element("li", {}, link, tick(id)); // nothing is like what cannot be found
  const similar = similarLink(id);
  similar.addEventListener("click", () => (followed = similar));
  return element("li", {}, link, tick(id), similar);
}

// --- selecting ----------------------------------------------------------------------------------

function select(ids, yes = true) {
  for (const id of ids) {
    if (yes) selected.add(id);
    else selected.delete(id);
    const box = shown.get(id)?.card.querySelector("input");
    if (box) box.checked = yes;
  }
  $("selection").hidden = selected.size === 0;
  $("selection-count").textContent = `${number.format(selected.size)} selected`;
}

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
    select(result.done, false);
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
  const batches = [];
  await toAll(ids, doing, done, async (send) => {
    const hear = ({ changed, left }) => {
      for (const id of changed) if (shown.has(id)) show({ ...shown.get(id).image, label: text });
      result.done.push(...changed);
      result.left.push(...left);
    };
    await relabelAll(ids, text, { batches }, hear, send);
    return result;
  });
  if (batches.length > 0) offerUndo(`${plural(result.done.length, "image")} ${done}.`, batches);
  refocus(ids[0]);
}

/** Do something to images by which they leave the list; what cannot be done to one was done by somebody else. */
async function leave(ids, doing, done, work) {
  const order = [...shown.keys()];
  await toAll(ids, doing, done, async (send) => {
    const result = await work(send);
    if (result === null) return null;
    const gone = [...result.done, ...result.left.map(({ id }) => id)];
    gone.forEach(forget);
    select(gone, false);
    return result;
  });
  refocus(order.slice(order.indexOf(ids[0])).find((id) => shown.has(id)) ?? [...shown.keys()].at(-1));
}

async function emptyTrash() {
  const ids = [];
  for (let total = 1; ids.length < total; ) {
    const page = await ask(`trash?${new URLSearchParams({ limit: 1000, offset: ids.length })}`);
    total = page.images.length > 0 ? page.total : 0;
    ids.push(...page.images.map(({ id }) => id));
  }
  if (ids.length > 0) await leave(ids, "Deleting", "gone for good", (send) => deleteAll(ids, { send, forever: true }));
  begin();
}

function forget(id) {
  shown.get(id)?.card.remove();
  shown.delete(id);
}

/** The keyboard goes on at this image, if what it was at is gone: then nothing visible has the focus. */
function refocus(id) {
  if (document.activeElement?.offsetParent) return;
  (shown.get(id)?.card.querySelector("a") ?? $("images-title")).focus();
}

// --- dialogs ------------------------------------------------------------------------------------

const dialogs = ["labelling-dialog", "deleting", "history"].map($);

async function labelSelected() {
  const ids = [...selected];
  $("labelling-title").textContent = `Label of ${plural(ids.length, "image")}`;
  $("new-label").value = "";
  checkLabel($("new-label"));
  const answer = await closed($("labelling-dialog"));
  if (answer === "set") label(ids, labelOf($("new-label").value));
  if (answer === "remove") label(ids, null);
}

// --- what people do -----------------------------------------------------------------------------

filter.addEventListener("change", begin);
$("more").addEventListener("click", async () => {
  const before = last;
  await more();
  const first = [...shown.keys()].find((id) => id > before);
  shown.get(first)?.card.querySelector("a").focus(); // the keyboard goes on with what is new
});

list.addEventListener("change", ({ target }) => select([Number(target.value)], target.checked));
$("select-all").addEventListener("click", () => select(shown.keys()));
$("select-none").addEventListener("click", () => {
  const [first] = selected;
  select([...selected], false);
  refocus(first);
});
$("label-selected").addEventListener("click", () => changing || labelSelected());
for (const [button, doing, done, work] of [
  ["delete-selected", "Deleting", "deleted", deleteAll],
  ["restore-selected", "Restoring", "restored", restoreAll],
  ["forget-selected", "Deleting", "gone for good", (ids, { send }) => deleteAll(ids, { send, forever: true })],
]) {
  $(button).addEventListener("click", () => {
    const ids = [...selected];
    if (!changing) leave(ids, doing, done, (send) => work(ids, { send }));
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
  if (shown.has(image.id)) show(image);
  tell(image.label === null ? `Image ${image.id} has no label now.` : `Image ${image.id} labelled.`);
  afterwards();
});
addEventListener("removed", ({ detail: id }) => {
  select([id], false);
  forget(id);
  tell(filter.value === TRASH ? "" : "1 image deleted.");
  afterwards();
});
addEventListener("undone", () => {
  if (shown.size > 0 || browse.offsetParent !== null) begin();
  dispatchEvent(new CustomEvent("reconsidered", { detail: [] }));
  afterwards();
});
addEventListener("labelled", () => {
  if (shown.size > 0) begin();
  afterwards();
});
list.addEventListener("ending", more);

addEventListener("added", ({ detail: first }) => {
  newest = Math.min(newest ?? first, first);
  if (next === null) {
    next = last; // the list goes on
    more();
  }
  afterwards();
});
