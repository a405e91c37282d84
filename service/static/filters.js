// Which images are listed and in which order: as the address has it, as the form has it, as the service is asked.

import { $, element, number } from "./dom.js";
import { ask } from "./service.js";

const WHICH = ["label", "predicted", "unlabelled", "added", "trash"]; // one of these at most
const NAMES = [...WHICH, "name", "folder", "under", "sort", "descending"];
const BYTE = /\/\/[89a-f][0-9a-f]/g; // of a path, where it is no character
const form = $("images-filters");
const which = $("images-filter");
const FIELDS = { name: $("name-filter"), order: $("images-order") };

// Nothing in the form says these but a button that takes them away.
let folder = null; // name that images were sent with
let under = null; // path of a folder in the tree

/** What an address asks for, in one order: two that ask for the same are equal. */
export function filtersIn(query = "") {
  const asked = new URLSearchParams(query);
  return new URLSearchParams(NAMES.filter((name) => asked.get(name)).map((name) => [name, asked.get(name)]));
}

export const addressOf = (filters) => (filters.size === 0 ? "#images" : `#images?${filters}`);

/** What the form asks for. */
export function filtersChosen() {
  const [name, ...value] = which.value.split(":");
  const [sort, descending] = FIELDS.order.value.split(" ");
  const chosen = { [name]: value.join(":"), name: FIELDS.name.value, folder, under, sort, descending };
  if (sort === "id") chosen.sort = "";
  if (descending) chosen.descending = "true";
  for (const [key, given] of Object.entries(chosen)) if (!given) delete chosen[key];
  return filtersIn(new URLSearchParams(chosen));
}

const chosenIn = (filters) => {
  const name = WHICH.find((each) => filters.has(each));
  return name === undefined ? "" : `${name}:${filters.get(name)}`;
};

/** Have the form say what is listed. */
export function showFilters(filters) {
  const chosen = chosenIn(filters);
  if (![...which.options].some(({ value }) => value === chosen)) which.append(option(chosen, nameOf(chosen)));
  which.value = chosen;
  FIELDS.name.value = filters.get("name") ?? "";
  FIELDS.order.value = `${filters.get("sort") ?? "id"}${filters.has("descending") ? " descending" : ""}`;
  FIELDS.name.disabled = filters.has("trash");
  FIELDS.order.disabled = filters.has("trash") || filters.has("added");
  folder = filters.get("folder");
  under = filters.get("under");
  $("folder-filter").hidden = folder === null && under === null;
  $("folder-filter").textContent = `Folder “${under?.replace(BYTE, "\ufffd") ?? folder}” ×`;
}

/** Offer the labels there are, the predicted ones, and what was added from here: `newest` is its lowest id, or null. */
export function offer({ items, unlabelled, classes, trash, embeddings }, predictions, newest) {
  const chosen = which.value;
  // Without embeddings nobody can tell which labels are doubtful.
  for (const each of FIELDS.order.options) if (each.value === "doubt") each.disabled = !embeddings;
  const given = classes.filter(({ label, items: some }) => some > 0 || chosen === `label:${label}`);
  const guessed = predictions.map(({ label, images }) => option(`predicted:${label}`, label, images));
  which.replaceChildren(
    option("", "All images", items),
    option("unlabelled:true", "No label", unlabelled),
    ...(newest === null ? [] : [option(`added:${newest}`, "Added just now")]),
    ...(trash > 0 ? [option("trash:true", "Trash", trash)] : []),
    group(
      "Label",
      given.map(({ label, items: some }) => option(`label:${label}`, label, some)),
    ),
    group("Predicted label", guessed),
  );
  if (![...which.options].some(({ value }) => value === chosen)) which.append(option(chosen, nameOf(chosen)));
  which.value = chosen;
}

function option(value, name, items) {
  const textContent = items === undefined ? name : `${name} (${number.format(items)})`;
  return element("option", { value, textContent });
}

function group(label, options) {
  return options.length === 0 ? "" : element("optgroup", { label }, ...options);
}

function nameOf(chosen) {
  const [name, ...value] = chosen.split(":");
  const names = { unlabelled: "No label", added: "Added since", trash: "Trash" };
  return names[name] ?? value.join(":");
}

// --- as the service is asked --------------------------------------------------------------------

/** What asks for a part of this list, as Parts needs it. */
export function listing(filters) {
  const asked = new URLSearchParams(filters);
  for (const name of ["added", "trash"]) asked.delete(name);
  if (filters.has("added")) asked.delete("sort");
  const address = (part) => `images?${new URLSearchParams([...asked, ...Object.entries(part)])}`;
  const all = ({ signal, ...part }) => ask(address(part), { signal });
  return filters.has("added") ? since(Number(filters.get("added")), all) : all;
}

/** The same of a list by id, from an id on. */
function since(id, all) {
  let known = { total: null, skipped: 0 };
  return async ({ offset, ...rest }) => {
    for (;;) {
      const { images, total } = await all({ ...rest, offset: known.skipped + offset });
      if (total === known.total) return { images, total: total - known.skipped };
      known = { total, skipped: await placeOf(id, total, all) };
    }
  };
}

/** How many images of a list by id come before an id. */
async function placeOf(id, total, all) {
  let [low, high] = [0, total];
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    const { images } = await all({ offset: middle, limit: 1 });
    if (images.length > 0 && images[0].id < id) low = middle + 1;
    else high = middle;
  }
  return low;
}

// --- what people do -----------------------------------------------------------------------------

const apply = () => {
  const address = addressOf(filtersChosen());
  if (address !== addressOf(filtersIn(location.hash.split(/\?(.*)/s)[1]))) location.hash = address;
};
form.addEventListener("submit", (event) => {
  event.preventDefault();
  apply();
});
form.addEventListener("change", apply);
FIELDS.name.addEventListener("search", apply); // also where it was emptied by its ×
$("folder-filter").addEventListener("click", () => {
  folder = under = null;
  apply();
  which.focus();
});

/** List the images in a folder and below, under the filter that there is; nothing of the trash lies in one. */
export function chooseFolder(path) {
  under = path;
  folder = null;
  if (which.value.startsWith("trash")) which.value = "";
  apply();
}
