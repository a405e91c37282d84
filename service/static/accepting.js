// The part of the view Label in which whole groups are accepted: all images for which one label is predicted, and surely
// enough, but those that a person unticks.

import { imageLink, tick } from "./cards.js";
import { $, alertIn, element, number, onceInSight, percent, plural } from "./dom.js";
import { ask, relabelAll } from "./service.js";

const PAGE = 60; // images that are shown together
const TOGETHER = 1000; // images whose ids are asked for together
const AHEAD = "600px"; // so far before its end comes into sight the list grows

let groups = []; // {label, images}, the largest first
let group = null; // {label, total, loading} of the one that is shown
let asking = null; // AbortController of the latest question about groups
let taken = null; // {label, ids} of what was accepted last, and can be given back
let working = false;
const unticked = new Map(); // id -> image, of those that are not to be accepted

const place = $("accepting");
const list = $("group-images");
const whenSeen = onceInSight(AHEAD);

/** Show the groups there are, and again the one that was shown. */
export function showAccepting() {
  alertIn(place);
  const { label } = group ?? {};
  return refresh((each) => each.label === label);
}

/** Ask which groups there are, and show the first to which `fits` applies, or the largest. */
async function refresh(fits) {
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  try {
    const sure = await ask(`labels/predictions?min_confidence=${share()}`, { signal });
    const any = sure.predictions.length > 0 ? sure : await ask("labels/predictions", { signal });
    if (signal.aborted) return;
    groups = sure.predictions;
    tell(any);
  } catch (error) {
    if (!signal.aborted) alertIn(place, error.message);
    return;
  }
  await show(groups.find(fits) ?? groups[0] ?? null);
}

/** Say how many groups there are; where there is none, why. `any`: what is predicted at all. */
function tell({ predictions, unlabelled }) {
  const none = predictions.length === 0;
  $("unpredicted").hidden = !none || unlabelled === 0;
  $("sureness").hidden = none;
  const images = groups.reduce((sum, each) => sum + each.images, 0);
  $("accepting-status").textContent =
    groups.length > 0
      ? `${plural(images, "image")} in ${plural(groups.length, "group")}, of ${number.format(unlabelled)} without a label.`
      : !none
        ? "No predicted label is so sure. Move the slider to the left."
        : unlabelled === 0
          ? "No image is without a label."
          : "";
}

const share = () => Number($("sure").value) / 100;

function tellSureness() {
  const text = `${$("sure").value} % sure`;
  $("sure-output").textContent = text;
  $("sure").setAttribute("aria-valuetext", text);
}

// --- one group ----------------------------------------------------------------------------------

async function show(chosen) {
  group = chosen && { label: chosen.label, total: chosen.images, loading: null };
  list.replaceChildren();
  $("predicted-groups").replaceChildren(...groups.map(choice));
  $("group").hidden = group === null;
  if (group === null) return;
  tellGroup();
  await more();
}

function choice(each) {
  const { label, images } = each;
  const button = element(
    "button",
    { type: "button", className: "button", title: label },
    element("span", { textContent: label }),
    element("small", { textContent: ` · ${number.format(images)}` }),
  );
  button.setAttribute("aria-pressed", label === group?.label);
  button.addEventListener("click", () => {
    alertIn(place);
    show(each);
    $("group-title").focus();
  });
  return element("li", {}, button);
}

/** Of the group that is shown, those that are not to be accepted. */
const leftOut = () =>
  [...unticked.values()].filter(({ predicted, confidence }) => predicted === group.label && confidence >= share());

function tellGroup() {
  $("accepted-undo").disabled = working;
  if (group === null) return;
  const { label, total } = group;
  const out = leftOut().length;
  const count = Math.max(0, total - out);
  $("group-title").textContent = `Probably “${label}”`;
  $("group-count").textContent = `${plural(total, "image")}${out > 0 ? `, ${number.format(out)} left out` : ""}`;
  $("accept").textContent = `Accept ${number.format(count)} as “${label}”`;
  $("accept").disabled = working || count === 0;
}

/** Append the next images, the surest first: once, however often it is called meanwhile. */
function more() {
  if (group !== null) group.loading ??= load(group);
  return group?.loading;
}

async function load(mine) {
  const asked = { ...filters(mine.label), sort: "confidence", offset: list.children.length, limit: PAGE };
  try {
    const { images, total } = await ask(`images?${new URLSearchParams(asked)}`);
    if (mine !== group) return; // another group was chosen
    mine.total = total;
    const known = new Set([...list.querySelectorAll("input")].map(({ value }) => Number(value)));
    const fresh = images.filter(({ id }) => !known.has(id));
    list.append(...fresh.map(card));
    $("group-more").hidden = fresh.length === 0 || list.children.length >= total;
    dispatchEvent(new CustomEvent("grown", { detail: list }));
    tellGroup();
    if (!$("group-more").hidden) whenSeen($("group-more"), more);
  } catch (error) {
    if (mine === group) alertIn(place, error.message);
  } finally {
    mine.loading = null;
  }
}

const filters = (label) => ({ predicted: label, min_confidence: share() });

function card(image) {
  const { id, path, confidence } = image;
  const words = element(
    "strong",
    {},
    percent(confidence),
    element("span", { className: "word", textContent: " sure" }),
  );
  const link = imageLink(image, `Image ${id}, ${percent(confidence)} sure`, { title: path }, words);
  const box = tick(id, `Accept image ${id}`);
  const input = box.querySelector("input");
  input.checked = !unticked.has(id);
  input.addEventListener("change", () => {
    if (input.checked) unticked.delete(id);
    else unticked.set(id, image);
    tellGroup();
  });
  return element("li", {}, link, box);
}

/** An image has a label now, or is gone. */
function forget(id) {
  unticked.delete(id);
  const link = list.querySelector(`a[data-image="${id}"]`);
  if (link === null) return;
  link.closest("li").remove();
  group.total -= 1;
  tellGroup();
}

// --- accepting ----------------------------------------------------------------------------------

async function accept() {
  const { label, total } = group;
  const wanted = total - leftOut().length;
  const ids = [];
  const done = await alone(async () => {
    const found = (await idsOf(label)).filter((id) => !unticked.has(id));
    if (found.length > wanted) throw new Error(`“${label}” is predicted of more images by now; look at them again`);
    await relabelAll(found, label, { source: "group", was: "" }, ({ changed }) => ids.push(...changed));
  });
  if (ids.length > 0) taken = { label, ids };
  if (done || ids.length > 0)
    say(`${plural(ids.length, "image")} accepted as “${label}”.${done ? meanwhile(wanted - ids.length) : ""}`);
  await settle(ids, done ? (each) => each.label !== label : (each) => each.label === label);
}

async function giveBack() {
  const { label, ids } = taken;
  const back = new Set();
  const done = await alone(() =>
    relabelAll(ids, null, { was: label }, ({ changed }) => {
      for (const id of changed) back.add(id);
    }),
  );
  const rest = ids.filter((id) => !back.has(id));
  taken = done ? null : { label, ids: rest };
  say(`${plural(back.size, "image is", "images are")} without a label again.${done ? meanwhile(rest.length) : ""}`);
  await settle([...back], (each) => each.label === label);
}

/** Do something while nothing else is done; whether it was done, or else what refused it is said. */
async function alone(work) {
  alertIn(place);
  working = true;
  tellGroup();
  try {
    await work();
    return true;
  } catch (error) {
    alertIn(place, error.message);
    return false;
  } finally {
    working = false;
    tellGroup();
  }
}

/** The ids of all images of a group, those that were not shown too. */
async function idsOf(label) {
  const ids = [];
  for (let after = 0; after !== null; ) {
    const asked = new URLSearchParams({ ...filters(label), limit: TOGETHER, after });
    const { images, next } = await ask(`images?${asked}`);
    ids.push(...images.map(({ id }) => id));
    after = next;
  }
  return ids;
}

const meanwhile = (count) =>
  count <= 0 ? "" : ` ${plural(count, "other was", "others were")} labelled or deleted by somebody meanwhile.`;

function say(text) {
  $("accepted-said").textContent = text;
  $("accepted-undo").hidden = taken === null;
}

/** These images have a label now, or have none again. Then go on with the first group to which `fits` applies. */
async function settle(ids, fits) {
  if (ids.length > 0) dispatchEvent(new CustomEvent("reconsidered", { detail: ids }));
  await refresh(fits);
  (group === null ? $("label-title") : $("group-title")).focus();
}

$("sure").addEventListener("input", tellSureness);
$("sure").addEventListener("change", showAccepting);
$("accept").addEventListener("click", accept);
$("accepted-undo").addEventListener("click", giveBack);
$("group-more").addEventListener("click", more);
list.addEventListener("ending", more);
addEventListener("relabelled", ({ detail: { id, label } }) => label !== null && forget(id));
addEventListener("removed", ({ detail: id }) => forget(id));
tellSureness();
