// The part of the view Images that cleans up: pictures that are there more than once. Of each group of copies one
// stays, which gets the label that the others agree on, and the others go into the trash.

import { imageLink } from "./cards.js";
import { $, alertIn, element, number, plural } from "./dom.js";
import { paged, saidWhenLate } from "./panels.js";
import { ask, relabelAll } from "./service.js";
import { deleteAll } from "./undoing.js";

const GROUPS = 50; // at a time
const MEMBERS = 60; // pictures of a group that are shown

const place = $("copies");
const list = $("copies-groups");
const kept = new Set(); // ids of those that somebody keeps rather than what the service proposes
const chosen = new Map(); // id -> whether it goes, of those that somebody ticked or unticked

let groups = []; // {size, labels, images, keep, row} of those that are listed; keep: the image that stays
let total = { groups: 0, images: 0, plain: 0 };
let days = null; // that deleted images lie in the trash
let asking = null; // AbortController of the latest question
let working = false;

const showGroups = paged(list, $("more-copies"), place, page, ({ found }) => {
  const rows = found.map(row);
  tell();
  return rows;
});

/** Ask for the groups: the service compares again only where the index has changed. */
export async function showCopies() {
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  const get = (address) => ask(address, { signal });
  place.setAttribute("aria-busy", "true");
  try {
    const both = Promise.all([page(get), get("stats")]);
    const [found, stats] = await saidWhenLate($("copies-status"), "Pictures are being compared …", both);
    if (signal.aborted) return;
    alertIn(place);
    days = stats.trash_days;
    draw(found);
  } catch (error) {
    if (signal.aborted) return;
    draw({ groups: 0, images: 0, plain: 0, found: [], next: null });
    $("copies-status").textContent = "";
    alertIn(place, error.message);
  }
  place.removeAttribute("aria-busy");
}

function page(get, after = null) {
  const wanted = new URLSearchParams({ by: "picture", limit: GROUPS, members: MEMBERS });
  if (after !== null) wanted.set("after", after);
  return get(`duplicates?${wanted}`);
}

function draw(found) {
  groups = [];
  total = found;
  showGroups(found);
}

// --- a group ------------------------------------------------------------------------------------

function row({ size, labels, images, best }) {
  const keep = images.find(({ id }) => kept.has(id)) ?? images.find(({ id }) => id === best) ?? bestOf(images);
  const group = { size, labels, images, keep };
  group.row = element(
    "li",
    {},
    element("p"),
    element("ul", { className: "cards" }, ...images.map((image) => card(group, image))),
  );
  group.row.querySelector("ul").setAttribute("aria-label", `Copies of image ${images[0].id}`);
  groups.push(group);
  describe(group);
  return group.row;
}

/** As the service chooses: the one of most pixels, then one with a label, then the one of the lowest id. */
function bestOf(images) {
  const worth = ({ width, height, label }) => 2 * width * height + (label !== null);
  return images.reduce((best, each) => (worth(each) > worth(best) ? each : best));
}

/** A group whose labels differ is left alone, unless somebody ticks some. */
const goes = ({ keep, labels }, { id }) => id !== keep.id && (chosen.get(id) ?? labels <= 1);
const going = (group) => group.images.filter((image) => goes(group, image));

/** The label that the picture which stays gets from those that go; null: none. */
function gift(group) {
  if (group.keep.label !== null || group.labels !== 1 || going(group).length === 0) return null;
  return group.images.find(({ label }) => label !== null)?.label ?? null;
}

function card(group, image) {
  const { id, width, height, path } = image;
  const link = imageLink(
    image,
    "",
    { title: path ?? "" },
    element("strong", { textContent: `${number.format(width)} × ${number.format(height)}` }),
    element("small", { className: "label" }),
    element("small", { className: "path", textContent: path }),
  );
  const name = `keep-${group.images[0].id}`;
  const keep = element("input", { type: "radio", name, value: id, autocomplete: "off" });
  const go = element("input", { type: "checkbox", value: id, autocomplete: "off" });
  keep.addEventListener("change", () => keepInstead(group, image));
  go.addEventListener("change", () => {
    chosen.set(id, go.checked);
    describe(group);
    tell();
  });
  return element(
    "li",
    {},
    link,
    element("div", { className: "fate" }, named("Keep", id, keep), named("Trash", id, go)),
  );
}

function named(word, id, field) {
  field.setAttribute("aria-label", `${word} image ${id}`);
  return element("label", {}, field, element("span", { textContent: word }));
}

function keepInstead(group, image) {
  for (const { id } of group.images) kept.delete(id);
  kept.add(image.id);
  group.keep = image;
  describe(group);
  tell();
}

/** Have a group say what becomes of its pictures. */
function describe(group) {
  const { size, labels, images, keep } = group;
  for (const [index, each] of [...group.row.querySelector("ul").children].entries()) {
    const image = images[index];
    const name = image.label ?? "no label";
    const [radio, box] = each.querySelectorAll("input");
    radio.checked = image === keep;
    box.checked = goes(group, image);
    box.parentElement.hidden = image === keep;
    each.className = image === keep ? "kept" : box.checked ? "gone" : "";
    each.querySelector(".label").textContent = name;
    const fate = image === keep ? "stays" : box.checked ? "goes" : "stays too";
    each
      .querySelector("a")
      .setAttribute("aria-label", `Image ${image.id}, ${image.width} × ${image.height} pixels, ${name}, ${fate}`);
  }
  const label = gift(group);
  const notes = [
    size > images.length && `${number.format(images.length)} of them shown`,
    label !== null && `image ${keep.id} gets the label “${label}”`,
  ];
  group.row
    .querySelector("p")
    .replaceChildren(
      element("strong", { textContent: plural(size, "picture") }),
      ...notes.filter(Boolean).map((text) => `, ${text}`),
      ...(labels > 1 ? [element("span", { className: "mixed", textContent: `${number.format(labels)} labels` })] : []),
      ...(labels > 1 ? [" Tick those of the wrong label, if they are to go."] : []),
    );
}

// --- all of them --------------------------------------------------------------------------------

function tell() {
  const [some, ids] = [groups.filter((group) => going(group).length > 0), groups.flatMap(going)];
  $("copies-bar").hidden = $("copies-meaning").hidden = groups.length === 0;
  const what = `${plural(ids.length, "picture")} of ${plural(some.length, "group")}`;
  $("move-copies").textContent = days === 0 ? `Delete ${what} for good …` : `Move ${what} to the trash`;
  $("move-copies").setAttribute("aria-disabled", working || ids.length === 0);
  $("copies-status").textContent = [counted(), plain()].filter(Boolean).join(" ");
}

function counted() {
  if (total.groups === 0) return "No picture is here twice.";
  const listed =
    groups.length < total.groups ? ` The first ${plural(groups.length, "group is", "groups are")} listed.` : "";
  const often = plural(total.groups, "picture is", "pictures are");
  return `${often} here more than once, in ${plural(total.images, "image")}.${listed}`;
}

function plain() {
  if (total.plain === 0) return "";
  return `${plural(total.plain, "picture has", "pictures have")} too little detail to be compared.`;
}

async function move() {
  const ids = groups.flatMap((group) => going(group).map(({ id }) => id));
  if (working || ids.length === 0) return;
  const gifts = Map.groupBy(
    groups.filter((group) => gift(group) !== null),
    gift,
  );
  working = true;
  tell();
  let fault = "";
  try {
    const result = await deleteAll(ids, { first: (work) => giveLabels(gifts, work) });
    if (result === null) return; // it was called off
    const [stays] = result.left;
    if (stays !== undefined) fault = `${plural(result.left.length, "image")} left as they are: ${stays.reason}`;
  } catch (error) {
    fault = error.message;
  } finally {
    working = false;
    tell();
  }
  dispatchEvent(new Event("cleaned"));
  await showCopies();
  if (fault) alertIn(place, fault);
  if (document.activeElement?.offsetParent == null) $("images-title").focus();
}

/** Before anything goes: what stays has the label that is told by those that go, or all is left as it is. */
async function giveLabels(gifts, work) {
  for (const [label, some] of gifts) {
    const ids = some.map(({ keep }) => keep.id);
    // Nobody looked at each of them: nothing is to be measured with such labels.
    await relabelAll(ids, label, { source: "group", was: "", work }, ({ left: [refused] }) => {
      if (refused !== undefined) throw new Error(`image ${refused.id}: ${refused.reason}`);
    });
  }
}

// --- what people do -----------------------------------------------------------------------------

$("move-copies").addEventListener("click", move);

// What is done in the viewer, above the groups, and elsewhere.
addEventListener("relabelled", ({ detail: { id, label } }) => {
  for (const group of groups) {
    const image = group.images.find((each) => each.id === id);
    if (image === undefined) continue;
    image.label = label;
    if (group.size === group.images.length)
      group.labels = new Set(group.images.map((each) => each.label).filter((each) => each !== null)).size;
    describe(group);
    tell();
  }
});
addEventListener("removed", ({ detail: id }) => {
  const group = groups.find(({ images }) => images.some((image) => image.id === id));
  if (group === undefined) return;
  group.row.querySelector(`a[data-image="${id}"]`).closest("li").remove();
  group.images = group.images.filter((image) => image.id !== id);
  group.size -= 1;
  total.images -= 1;
  if (group.size === 1) {
    group.row.remove();
    groups = groups.filter((each) => each !== group);
    total.groups -= 1;
    total.images -= 1;
  } else {
    if (group.keep.id === id) group.keep = bestOf(group.images);
    describe(group);
  }
  tell();
});
for (const event of ["undone", "added"]) addEventListener(event, () => place.offsetParent !== null && showCopies());
