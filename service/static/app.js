// The page: which view its address shows, and the ways in for images.

import * as codes from "./codes.js";
import { $ } from "./dom.js";
import * as evaluation from "./evaluation.js";
import { dropped } from "./files.js";
import * as images from "./images.js";
import * as label from "./labelling.js";
import { refreshQuality } from "./quality.js";
import * as search from "./search.js";
import * as viewer from "./viewer.js";

const views = { search, images, label, evaluation, codes };
let shown = null; // {name, address, state} of what the page shows

/** Show what the address and its history entry stand for: a view, or an image above the one that is shown. */
function route() {
  const [path, query] = location.hash.slice(1).split(/\?(.*)/s);
  const [name, rest] = path.split("/");
  if (name === "image" && rest) {
    const entered = shown !== null; // the entry before this one is that of the view
    if (!entered) show({ name: "search", address: "#search", state: null });
    return viewer.open(decoded(rest), { address: shown.address, entered });
  }
  viewer.leave();
  show(
    { name: Object.hasOwn(views, name) ? name : "search", address: location.hash, state: history.state },
    rest,
    query,
  );
  Object.assign(shown, { address: location.hash, state: history.state }); // the view may have named itself
}

function show(now, rest, query) {
  if (shown !== null && shown.address === now.address && shown.state === now.state) return;
  const elsewhere = shown !== null && shown.name !== now.name;
  if (elsewhere) views[shown.name].leave?.();
  shown = now;
  for (const each of Object.keys(views)) {
    $(`${each}-view`).hidden = each !== now.name;
    const link = document.querySelector(`nav a[href="#${each}"]`);
    if (each === now.name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = now.name === "search" ? "hebbsearch" : `${now.name} · hebbsearch`;
  if (elsewhere) {
    scrollTo(0, 0);
    $(`${now.name}-view`).querySelector("h2[tabindex]").focus({ preventScroll: true });
  }
  views[now.name].open(rest && decoded(rest), now.state, elsewhere, query);
}

/** A part of an address; one that cannot be decoded stands for itself. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Dropped, pasted and chosen files go to the view that takes some; elsewhere they are searched with. */
async function take(files) {
  await (views[shown.name].take ?? search.take)(files);
  route();
}

$("file").addEventListener("change", () => {
  const files = [...$("file").files];
  $("file").value = ""; // so that the same file can be chosen again
  if (files.length > 0) take(files);
});

document.addEventListener("paste", ({ clipboardData, target }) => {
  if (clipboardData.files.length > 0 || !target.closest("input")) take([...clipboardData.files]);
});

document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", ({ relatedTarget }) => {
  if (relatedTarget === null) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  take(dropped(event.dataTransfer));
});

addEventListener("popstate", route);
addEventListener("hashchange", route);
route();
refreshQuality();
