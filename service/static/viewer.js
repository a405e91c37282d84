// One image large, above whatever view is shown: its picture to look into, what is known of it, what can be done
// with it. PhotoSwipe moves and zooms the picture; all else is here.

import { $, alertIn, bitCount, fact, markPixels, number, percent, sentence } from "./dom.js";
import { checkLabel, labelOf } from "./labels.js";
import { likeness } from "./likeness.js";
import { guess } from "./predict.js";
import { nearnessOf } from "./quality.js";
import { ask, blobAddress, hasKey, relabel, saveFile } from "./service.js";
import { deleteAll, restoreAll } from "./undoing.js";

const SIDE = 4096; // pixels that the longer side is said to have: whatever the picture has, it fills the stage
const CLOSER = 2.5; // times, by a click or a double tap
const CLOSEST = 8;
const NEAR = [-2, -1, 0, 1, 2]; // slides beside the one that is shown which PhotoSwipe may have made already
const AHEAD = 10; // images before the last at which a list that is not complete is asked for more

/**
 * What is looked through: {key, name, thumbnail, picture, source, distance, by}. `key`: the id as its address has it;
 * `picture`: an <img> that may show it already, which tells its shape; `source`: where a picture that is not indexed
 * can be had; `distance`: to what was searched with, `by` what.
 */
let among = () => [];
let list = null; // the element in which they are, if any
let items = []; // one that is not known yet is undefined
let shown = null; // {key, image} of what is shown; image: what the service knows of it, null until that is here
let swipe = null; // PhotoSwipe
let cameFrom = null; // the state of the view below, whose address is shown again at the end

const viewer = $("viewer");
const stage = $("stage");

/** To be called when a link is followed: the images of its list are those that the arrow keys lead through. */
export function lookThrough(link) {
  list = link.closest("ul, ol");
  among = () =>
    [...list.querySelectorAll("a[data-image]")].filter((each) => each.closest("[hidden]") === null).map(itemOf);
}

/** The same of a list whose elements are not all there: `all` gives what is known of its items, each at its place. */
export function lookThroughAll(of, all) {
  list = of;
  among = all;
}

/** The same of a picture that is not indexed. */
export function lookAt(item) {
  list = null;
  among = () => [item];
}

function itemOf(link) {
  const { image: key, distance, by } = link.dataset;
  return { key, by, picture: link.querySelector("img"), distance: distance === undefined ? null : Number(distance) };
}

/** Show the image of this key; `below`: {address, entered}, of the view that is seen again when it is closed. */
export async function open(key, below) {
  if (viewer.open && shown?.key === key) return;
  shown = { key, image: null }; // at once: a browser tells of one step in two ways
  cameFrom ??= below;
  items = among();
  let at = items.findIndex((item) => item?.key === key);
  if (at < 0) {
    list = null;
    items = [{ key, picture: null, distance: null }];
    at = 0;
  }
  if (!viewer.open) viewer.showModal();
  await show(at);
}

/** Close it; the address is another already. */
export function leave() {
  if (!viewer.open) return;
  const key = shown?.key ?? "";
  viewer.close();
  swipe?.destroy();
  swipe = shown = cameFrom = null;
  const link = list?.querySelector(`a[data-image="${CSS.escape(key)}"]`);
  link?.focus({ preventScroll: true });
  link?.scrollIntoView({ block: "nearest" });
}

/** Back to the view below. */
function close() {
  if (cameFrom.entered) return history.back();
  history.replaceState(null, "", cameFrom.address || location.pathname + location.search);
  dispatchEvent(new Event("hashchange"));
}

// --- the picture --------------------------------------------------------------------------------

async function show(at) {
  const { default: PhotoSwipe } = await import("./vendor/photoswipe/photoswipe.esm.min.js");
  if (!viewer.open) return; // it was closed meanwhile
  swipe?.destroy();
  swipe = new PhotoSwipe({
    index: at,
    appendToEl: stage,
    getViewportSizeFn: () => ({ x: stage.clientWidth, y: stage.clientHeight }),
    initialZoomLevel: "fit",
    secondaryZoomLevel: ({ fit }) => CLOSER * fit,
    maxZoomLevel: ({ fit }) => CLOSEST * fit,
    wheelToZoom: true,
    imageClickAction: "zoom",
    bgClickAction: "none",
    tapAction: "toggle-controls",
    pinchToClose: false,
    closeOnVerticalDrag: false,
    loop: false,
    bgOpacity: 1,
    showHideAnimationType: "none",
    close: false, // what would only close PhotoSwipe, not the dialog around it
    escKey: false, // as before
    trapFocus: false, // as dialogs do
    returnFocus: false,
  });
  swipe.addFilter("numItems", () => items.length);
  swipe.addFilter("itemData", (_, index) => slideOf(items[index]));
  swipe.on("contentLoadImage", fetchWithKey);
  swipe.on("loadComplete", fit);
  swipe.on("change", () => turnTo(swipe.currIndex));
  swipe.on("keydown", (event) => {
    if (event.originalEvent.target.matches("input") || $("deleting").open || $("key").open) event.preventDefault();
  });
  swipe.on("uiRegister", () => swipe.ui.registerElement({ ...CLOSE, onClick: close }));
  swipe.init();
  swipe.element.setAttribute("role", "group"); // it says that it is a dialog, which the one around it is
  swipe.element.setAttribute("aria-label", "Picture");
  if (items[at] !== undefined) describe(items[at]);
}

const CLOSE = {
  name: "leave",
  order: 20,
  isButton: true,
  title: "Close (Esc)",
  html: {
    isCustomSVG: true,
    inner: '<path d="M24 10l-2-2-6 6-6-6-2 2 6 6-6 6 2 2 6-6 6 6 2-2-6-6z" id="pswp__icn-leave"/>',
    outlineID: "pswp__icn-leave",
  },
};

function slideOf(item) {
  if (item === undefined) return { html: "" }; // it will be known
  const { key, picture, name = `Image ${key}`, source = `images/${key}/preview` } = item;
  const [width, height] = shape(picture);
  // What stands there until it comes. With a key a thumbnail has an address that leads nowhere any more.
  const meanwhile = hasKey() ? undefined : picture?.currentSrc || undefined;
  return { src: source, msrc: meanwhile, width, height, alt: name };
}

/** Width and height as if the picture were large. */
function shape(picture) {
  const { naturalWidth, naturalHeight } = picture ?? {};
  if (!naturalWidth) return [SIDE, SIDE];
  const factor = SIDE / Math.max(naturalWidth, naturalHeight);
  return [Math.max(1, factor * naturalWidth), Math.max(1, factor * naturalHeight)];
}

/** An <img> sends no key: with one its picture is fetched. */
function fetchWithKey(event) {
  const { content } = event;
  if (!hasKey() || content.data.src.startsWith("blob:")) return;
  event.preventDefault();
  const { element: image } = content;
  Object.assign(content, { state: "loading" });
  Object.assign(image, { onload: () => content.onLoaded(), onerror: () => content.onError(), alt: content.data.alt });
  blobAddress(content.data.src).then(
    (source) => {
      image.addEventListener("load", () => URL.revokeObjectURL(source), { once: true });
      image.src = source;
    },
    () => content.onError(),
  );
}

/** Give the picture its own shape, which nobody knew before it came. */
function fit({ slide, content: { element: image }, isError }) {
  if (isError) return;
  markPixels(image);
  const [width, height] = shape(image);
  if (Math.abs(slide.width / slide.height - width / height) < 0.01 * (width / height)) return;
  Object.assign(slide, { width, height });
  slide.resize();
}

/** The picture is another one now. */
function turnTo(at) {
  list?.dispatchEvent(new CustomEvent("turned", { detail: at }));
  const item = items[at];
  if (item === undefined || item.key === shown.key) return;
  history.replaceState(history.state, "", `#image/${item.key}`);
  if (items.length - at <= AHEAD && list !== null) list.dispatchEvent(new Event("ending"));
  describe(item);
}

/** The list has grown while it is looked through, or more of it is known. */
addEventListener("grown", ({ detail }) => {
  if (!viewer.open || detail !== list) return;
  const before = items;
  items = among();
  if (swipe === null) return;
  const { currIndex } = swipe;
  for (const at of NEAR.map((step) => currIndex + step)) {
    if (before[at] === undefined && items[at] !== undefined) swipe.refreshSlideContent(at);
  }
  if (before[currIndex] === undefined) turnTo(currIndex);
});

// --- what is known of it ------------------------------------------------------------------------

async function describe(item) {
  const now = { key: item.key, image: null };
  shown = now;
  const own = item.source !== undefined;
  alertIn(viewer);
  $("details-title").textContent = own ? item.name : `Image ${item.key}`;
  $("details-distance").textContent = own ? "Your image. It is not in the index." : distanceOf(item);
  $("details-facts").replaceChildren();
  $("details-known").hidden = own;
  $("details-form").hidden = $("details-thrown").hidden = true;
  $("details-said").textContent = "";
  $("details-similar").href = `#search/${item.key}`;
  $("details-copies").href = `#search/${item.key}?by=picture`;
  showGuess(null);
  if (own) return;
  let image;
  try {
    image = await ask(`images/${encodeURIComponent(item.key)}?trashed=true`);
  } catch (error) {
    if (shown === now) alertIn(viewer, error.message);
    return;
  }
  if (shown === now) tell(image);
}

function distanceOf({ distance, by }) {
  if (distance === null) return "";
  if (by === "picture") return `${sentence(likeness(distance))}: the hashes differ in ${bitCount(distance)}.`;
  return `${bitCount(distance)} away${nearnessOf(distance)}.`;
}

function tell(image) {
  shown.image = image;
  $("details-title").textContent = image.path.split("/").at(-1);
  $("details-facts").replaceChildren(...facts(image).map(fact));
  const thrown = image.trashed !== null;
  $("details-form").hidden = thrown;
  $("details-thrown").hidden = !thrown;
  if (thrown) return;
  $("details-label").value = image.label ?? "";
  checkLabel($("details-label"));
  $("details-delete").hidden = image.split === "query"; // what measures the answers stays
  $("details-download").textContent = image.original === null ? "Download preview" : "Download";
  offerGuess(image);
}

/** Of the file that is saved. */
function nameOf({ id, path, original }) {
  const name = path.split("/").at(-1);
  return original === null ? `${name.replace(/\.\w+$/, "") || id}.webp` : name;
}

const SOURCES = { given: "given", accepted: "predicted, then accepted", group: "accepted together with others" };

function facts(image) {
  const { id, path, folder, width, height, added, original, sha256, metadata, source, split, held_out } = image;
  const { rival, doubt } = image;
  const known = {
    Image: String(id),
    File: path,
    Folder: folder,
    "Its label was": SOURCES[source] ?? null,
    "Its label is in doubt": doubt > 0 ? `by the other labels it rather is “${rival}”` : null,
    Measures: split === "query" || held_out ? "held out: the answers are measured with it" : null,
    Size: `${number.format(width)} × ${number.format(height)} pixels`,
    Added: added && new Date(1000 * added).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" }),
    Original: original === null ? "not available" : null,
    "SHA-256": sha256,
  };
  const own = Object.entries(metadata).map(([name, value]) => [
    name,
    typeof value === "string" ? value : JSON.stringify(value),
  ]);
  return [...Object.entries(known).filter(([, value]) => value !== null), ...own];
}

/** Offer an unlabelled image the label that the index predicts, or that its neighbours speak for. */
async function offerGuess(image) {
  if (image.label !== null) return showGuess(null);
  const { predicted: label, confidence } = image;
  const prediction = confidence === null ? await guess(image.id) : { label, confidence };
  if (image === shown?.image) showGuess(prediction);
}

function showGuess(prediction) {
  const { label, confidence } = prediction ?? { label: "", confidence: 0 };
  $("details-guess").textContent = label && `Predicted label “${label}”, confidence ${percent(confidence)}`;
  $("details-accept").value = label;
  $("details-accept").hidden = label === "";
}

// --- what can be done with it -------------------------------------------------------------------

async function saveLabel(text, source = "given") {
  const { key } = shown;
  try {
    const image = await relabel(key, text, { source });
    if (shown?.key === key) {
      alertIn(viewer);
      tell(image);
      $("details-said").textContent = text === null ? "The label is removed." : "The label is saved.";
      $("details-title").focus(); // the arrow keys lead on
    }
    dispatchEvent(new CustomEvent("relabelled", { detail: image }));
  } catch (error) {
    alertIn(viewer, error.message);
  }
}

/** Do something to the image by which it leaves the list, and show the one after it. */
async function leaveWith(work) {
  const { key } = shown;
  let result;
  try {
    result = await work([Number(key)]);
  } catch (error) {
    return alertIn(viewer, error.message);
  }
  if (result === null) return; // it was called off
  if (result.left.length > 0) return alertIn(viewer, result.left[0].reason);
  const at = items.findIndex((item) => item?.key === key);
  items.splice(at, 1);
  dispatchEvent(new CustomEvent("removed", { detail: Number(key) }));
  if (items.length === 0) return close();
  const next = Math.min(at, items.length - 1);
  if (items[next] !== undefined) history.replaceState(history.state, "", `#image/${items[next].key}`);
  await show(next);
}

viewer.addEventListener("cancel", (event) => {
  event.preventDefault();
  close();
});
$("details-label").addEventListener("input", () => {
  $("details-said").textContent = "";
  checkLabel($("details-label"));
});
$("details-form").addEventListener("submit", (event) => {
  event.preventDefault();
  saveLabel(labelOf($("details-label").value) || null);
});
$("details-accept").addEventListener("click", ({ target }) => saveLabel(target.value, "accepted"));
$("details-delete").addEventListener("click", () => leaveWith((ids) => deleteAll(ids)));
$("details-restore").addEventListener("click", () => leaveWith((ids) => restoreAll(ids)));
$("details-forget").addEventListener("click", () => leaveWith((ids) => deleteAll(ids, { forever: true })));
$("details-download").addEventListener("click", () => {
  const { image } = shown;
  saveFile(image.original ?? image.preview, nameOf(image)).catch((error) => alertIn(viewer, error.message));
});
addEventListener("measured", () => viewer.open && shown?.image && offerGuess(shown.image));
