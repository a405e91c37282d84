// The view that searches: an image goes to the service, its neighbours become a grid.

import { imageLink, similarLink } from "./cards.js";
import { $, alertIn, bitCount, element, markPixels, number, onceInSight, percent, plural } from "./dom.js";
import { pathOf } from "./files.js";
import { likeness, SAME, UNSURE } from "./likeness.js";
import { guess, inWords, predict } from "./predict.js";
import { nearnessOf, quality, worthOf } from "./quality.js";
import { ask, showPicture } from "./service.js";
import { lookAt } from "./viewer.js";

const SAMPLES = 18;
const ROUNDS = 4; // of drawing them, as some are drawn twice
const FOLDER = " Only the first image of the folder was searched with; the Images view adds whole folders.";
const view = $("search-view");

let by = "content"; // what is compared: what a picture shows, or "picture", its pixels
let current = null; // the image asked about: {name} with an indexed image's id, or a blob and its history state
let asking = null; // AbortController of the running search
let answer = null; // to `current`
let cards = []; // of the answer's results, in their order
let items = null; // number of indexed images
const visited = new Map(); // history state -> query whose image only this tab has

/** Show what an address stands for: an indexed image's id, an image of this tab, or the start. */
export function open(id, state, elsewhere, query) {
  const nameless = !id && !visited.has(state);
  if (nameless && elsewhere && current !== null) {
    return history.replaceState(current.state ?? null, "", addressOf(current.id)); // as it was left
  }
  by = new URLSearchParams(query).get("by") === "picture" ? "picture" : "content";
  for (const radio of $("by").elements) radio.checked = radio.value === by;
  if (nameless) start();
  else begin(id ? { id, name: `image ${id}` } : visited.get(state));
}

const addressOf = (id) => `#search${id ? `/${id}` : ""}${by === "picture" ? "?by=picture" : ""}`;

/** Compare by something else, so that "back" leads to what was compared before. */
function compareBy(other) {
  by = other;
  history.pushState(current?.state ?? null, "", addressOf(current?.id));
  dispatchEvent(new Event("hashchange"));
}

/** Search with the first of these files and remember it, so that "back" leads to the image before. */
export async function take(files) {
  const blob = await firstImage(files);
  if (blob === null) {
    return alertIn(view, "There is no image file in that. Save the image first, then choose it.");
  }
  const state = `${Date.now()}-${visited.size}`;
  visited.set(state, { blob, name: blob.name, state });
  history.pushState(state, "", addressOf());
}

/** A file that was given alone is sent whatever it is: the service says what is wrong with it. */
async function firstImage(files) {
  for await (const file of files) if (!pathOf(file) || file.type.startsWith("image/")) return file;
  return null;
}

function begin(query) {
  const other = current === null || current.id !== query.id || current.blob !== query.blob;
  current = query;
  $("invitation").hidden = true;
  $("preview").hidden = false;
  $("preview").classList.remove("blind");
  $("enlarge").href = `#image/${query.id ?? "query"}`;
  if (query.id) describe(query);
  else {
    query.source ??= URL.createObjectURL(query.blob);
    showName(query.name);
    $("picture").src = query.source;
  }
  if (other) scrollTo({ top: 0, behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  search();
}

function showName(name) {
  $("name").textContent = name;
  $("name").title = name;
}

/** The picture and the label of an indexed image. */
async function describe(query) {
  showName(query.name);
  showPicture($("picture"), `images/${encodeURIComponent(query.id)}/thumbnail`);
  const { label } = await ask(`images/${encodeURIComponent(query.id)}`).catch(() => ({ label: null })); // the search says why
  if (current === query && label !== null) showName(`${query.name} · ${label}`);
}

async function search() {
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  const wanted = new URLSearchParams({ k: $("k").value });
  if (by === "picture") wanted.set("by", by);
  for (const label of chosenLabels()) wanted.append("label", label);
  $("results").setAttribute("aria-busy", "true");
  try {
    const found = await (current.blob
      ? ask(`search?${wanted}`, { method: "POST", body: current.blob, signal })
      : ask(`images/${encodeURIComponent(current.id)}/similar?${wanted}`, { signal }));
    if (signal.aborted) return;
    alertIn(view);
    show(found);
  } catch (error) {
    if (signal.aborted) return; // a newer search has taken over
    answer = null;
    $("results").replaceChildren();
    $("title").textContent = "No answer";
    $("status").textContent = "";
    for (const part of ["code", "prediction", "cut-off"]) $(part).hidden = true;
    alertIn(view, error.message);
  }
  $("results").removeAttribute("aria-busy");
}

const chosenLabels = () => [...document.querySelectorAll("#choices input:checked")].map(({ value }) => value);

function show(found) {
  const hadFocus = $("results").contains(document.activeElement);
  answer = found;
  cards = found.results.map(card);
  drawCode(found.code);
  offerDistance(4 * found.code.length);
  cut();
  $("results").replaceChildren(...cards);
  if (hadFocus) $("title").focus();
}

// --- the distance cut-off -----------------------------------------------------------------------

/** The slider reaches from the same code to any distance, and begins there; by picture where all is unlike. */
function offerDistance(bits) {
  const { dataset } = $("distance");
  if (dataset.of !== `${by} ${bits}`) {
    dataset.of = `${by} ${bits}`;
    $("distance").max = bits;
    $("distance").value = by === "picture" ? UNSURE : bits;
  }
  $("cut-off").hidden = false;
}

/**
 * Leave out what lies beyond the slider's distance. Results come from near to far, so that those which stay are
 * what the service would answer with `max_distance`: it need not be asked again.
 */
function cut() {
  const limit = Number($("distance").value);
  const any = $("distance").value === $("distance").max;
  $("reach").textContent = any ? "any" : bitCount(limit);
  $("reach-worth").textContent = any ? "" : meaningOf(limit);
  $("distance").setAttribute(
    "aria-valuetext",
    [$("reach").textContent, $("reach-worth").textContent].filter(Boolean).join(": "),
  );
  const within = answer.results.filter(({ distance }) => distance <= limit);
  for (const [row, each] of cards.entries()) each.hidden = row >= within.length;
  const words = by === "picture" ? { title: copiesFound(), text: likenessOf(within) } : wordsOf(within);
  $("title").textContent = words.title;
  $("status").textContent = words.text + (current.blob && pathOf(current.blob) ? FOLDER : "");
  const predictable = by === "content" && chosenLabels().length === 0;
  showPrediction(predictable ? (learned(answer) ?? predict(within, quality.worth)) : null);
}

/** What lies at the slider's distance. */
function meaningOf(limit) {
  if (by === "picture") return limit <= SAME ? "only the same picture" : `also what is ${likeness(limit)}`;
  const worth = quality.worth?.[limit];
  return worth === undefined ? "" : `${percent(worth)} of the images so far away share the label`;
}

const wordsOf = (results) => ({ title: headline(results), text: summary(results) });

// --- copies -------------------------------------------------------------------------------------

/** How many there are, whether or not the slider lets them be seen. */
function copiesFound() {
  if (answer.plain) return "Too plain to tell";
  const count = answer.results.filter(({ distance }) => distance <= SAME).length;
  if (count === 0) return "No copy found";
  return `${plural(count, "copy", "copies")}${count === Number($("k").value) ? " or more" : ""}`;
}

/** What else is seen, and how far it is from being a copy. */
function likenessOf(results) {
  const nearest = answer.results[0]?.distance;
  if (nearest === undefined) return "No indexed image matches these options.";
  const unsure = results.filter(({ distance }) => distance > SAME && distance <= UNSURE).length;
  const hidden = answer.results.length - results.length;
  const said = [
    answer.plain && "This picture has too little detail to be told from others.",
    !answer.plain &&
      nearest <= SAME &&
      "Copies may be smaller, saved anew, mirrored, turned, with a border, or a part.",
    unsure > 0 && `${plural(unsure, "picture is", "pictures are")} perhaps the same, or a small part: have a look.`,
    nearest > UNSURE && `The nearest pictures are unlike, ${bitCount(nearest)} away and more.`,
    hidden > 0 && `Move the slider to see ${plural(hidden, "picture")} farther away.`,
  ];
  return said.filter(Boolean).join(" ");
}

// --- what shows the like --------------------------------------------------------------------------

function headline(results) {
  if (results.length === 0) return "Nothing found";
  return chosenLabels().length > 0 ? "The nearest with these labels" : inWords(results.map(({ label }) => label));
}

function summary(results) {
  if (results.length === 0) {
    const nearest = answer.results[0]?.distance;
    return nearest === undefined
      ? "No indexed image matches these options."
      : `The nearest image is ${bitCount(nearest)} away. Move the slider to see it.`;
  }
  const of = items === null || chosenLabels().length > 0 ? "" : ` of ${number.format(items)} images`;
  const last = results.at(-1).distance;
  const unseen =
    results.length < answer.results.length
      ? 0 // the slider cut, and all that lies within its distance is there
      : answer.ties_at_cut - results.filter(({ distance }) => distance === last).length;
  const more = unseen > 0 ? `; ${number.format(unseen)} more at the last distance, ${bitCount(last)}` : "";
  return `The ${number.format(results.length)} nearest${of}${answer.exact ? "" : ", approximately"}${more}.`;
}

// --- the predicted label ------------------------------------------------------------------------

/** What the network says of the query, where it learned labels; it needs no neighbours. */
const learned = ({ predicted: label, confidence }) => (label === null ? null : { label, confidence });

function showPrediction(prediction) {
  $("prediction").hidden = prediction === null;
  if (prediction === null) return;
  $("voted").hidden = answer.predicted !== null;
  $("knew").hidden = answer.predicted === null;
  $("predicted").textContent = prediction.label;
  $("confidence").textContent = `confidence ${percent(prediction.confidence)}`;
}

/** Predictions are asked for when their result comes into sight: there may be hundreds. */
const whenSeen = onceInSight();

function showGuess(link, { label, confidence }) {
  const text = `predicted ${label}, ${percent(confidence)}`;
  const textContent = text.replace(/ %$/, "\u00a0%"); // stays with its number
  link.querySelector(".about").append(element("small", { className: "guess", textContent, title: text }));
  link.setAttribute("aria-label", `${link.getAttribute("aria-label")}. Its label is ${text}`);
}

// --- results ------------------------------------------------------------------------------------

function card(result) {
  const { id, label, distance } = result;
  const { said, title, about, className } = by === "picture" ? asCopy(distance) : asNeighbour(distance);
  const name = label ?? "no label";
  const link = imageLink(
    result,
    `${name}, ${said}`,
    { title, className },
    element("strong", { textContent: name, className: label === null ? "none" : "" }),
    ...about,
  );
  Object.assign(link.dataset, { distance, by });
  if (label === null) {
    link.dataset.unlabelled = id;
    whenSeen(link, () => guess(id).then((prediction) => prediction && showGuess(link, prediction)));
  }
  return element("li", {}, link, similarLink(id));
}

/** What a card says of its distance: to a screen reader, to the mouse, below its picture. */
function asNeighbour(distance) {
  const [worth, known, bits] = [worthOf(distance), nearnessOf(distance), bitCount(distance)];
  const percents = element("span", { className: "percent", textContent: worth && ` · ${worth}` });
  const about = [element("small", { textContent: bits }, percents)];
  return { said: `distance ${bits}${known}`, title: `${bits} away${known}`, about, className: "" };
}

function asCopy(distance) {
  const [words, bits] = [likeness(distance), bitCount(distance)];
  const title = `${words}: the hashes differ in ${bits}`;
  const about = [words, bits].map((textContent) => element("small", { textContent }));
  return { said: title, title, about, className: distance > SAME ? "faint" : "" };
}

/** The code as a square of black and empty pixels, one for each bit. */
function drawCode(hex) {
  const bits = [...hex].flatMap((digit) => [8, 4, 2, 1].map((bit) => (parseInt(digit, 16) & bit) > 0));
  const canvas = $("bits");
  canvas.width = canvas.height = Math.ceil(Math.sqrt(bits.length));
  const pen = canvas.getContext("2d");
  for (const [i, on] of bits.entries()) if (on) pen.fillRect(i % canvas.width, Math.floor(i / canvas.width), 1, 1);
  canvas.title = hex;
  $("length").textContent = `${bits.length}-bit code`;
  $("code").hidden = by === "picture"; // which compares something else
}

// --- what the view shows before a search --------------------------------------------------------

function start() {
  asking?.abort();
  current = answer = null;
  $("invitation").hidden = false;
  for (const part of ["preview", "code", "prediction", "cut-off"]) $(part).hidden = true;
  $("title").textContent = by === "picture" ? "Find copies of your image" : "Find images like yours";
  $("results").removeAttribute("aria-busy");
  $("results").replaceChildren();
  alertIn(view);
  showSamples();
}

/** Some indexed images to start from, of the chosen labels. */
async function showSamples() {
  const labels = chosenLabels();
  const overtaken = () => current !== null || String(labels) !== String(chosenLabels());
  let samples;
  try {
    ({ items } = await ask("stats"));
    samples = await drawn(labels);
  } catch (error) {
    if (!overtaken()) alertIn(view, error.message);
    return;
  }
  if (overtaken()) return;
  $("results").replaceChildren(...samples.map(sample));
  $("status").textContent = invitation(labels);
}

function invitation(labels) {
  if (items === 0) return "The index is empty.";
  return labels.length > 0
    ? "Choose an image to find the nearest with these labels, or see what is like one of them (≈)."
    : `Choose an image, or see what is like one of the ${number.format(items)} in the index (≈).`;
}

function pageAfter(after, limit, labels) {
  const wanted = new URLSearchParams({ after, limit });
  for (const label of labels) wanted.append("label", label);
  return ask(`images?${wanted}`);
}

/**
 * Different images at random, SAMPLES or all there are: those that follow random ids, as ids have gaps. The highest
 * is not known; an id that nothing follows says that it is lower.
 */
async function drawn(labels) {
  const { images: first, next } = await pageAfter(0, SAMPLES, labels);
  if (next === null) return first;
  const found = new Map();
  const begin = first[0].id - 1;
  let end = begin + Math.max(items, SAMPLES);
  while ((await pageAfter(end, 1, labels)).images.length > 0) end = begin + 2 * (end - begin);
  for (let round = 0; round < ROUNDS && found.size < SAMPLES; round += 1) {
    const cursors = Array.from(
      { length: SAMPLES - found.size },
      () => begin + Math.floor(Math.random() * (end - begin)),
    );
    const pages = await Promise.all(cursors.map((cursor) => pageAfter(cursor, 1, labels)));
    pages.forEach(({ images: [image] }, i) => {
      if (image) found.set(image.id, image);
      else end = Math.min(end, cursors[i]);
    });
  }
  for (const image of first) if (found.size < SAMPLES) found.set(image.id, image);
  return [...found.values()];
}

function sample(image) {
  const { id, label } = image;
  const link = imageLink(image, `Image ${id}${label === null ? "" : `, ${label}`}`);
  return element("li", {}, link, similarLink(id));
}

function offerLabels() {
  const offered = [...document.querySelectorAll("#choices input")].map(({ value }) => value);
  // Of what stays the same nothing is made anew: somebody may be about to click it.
  if (JSON.stringify(offered) === JSON.stringify(quality.labels)) return;
  const chosen = new Set(chosenLabels());
  $("choices").replaceChildren(
    ...quality.labels.map((label) =>
      element(
        "label",
        { title: label },
        element("input", { type: "checkbox", value: label, checked: chosen.has(label), autocomplete: "off" }),
        element("span", { textContent: label }),
      ),
    ),
  );
  $("labels").hidden = quality.labels.length < 2;
  offerAll();
}

/** Where not all labels are in sight, a button says how many there are and shows them: not every bar is seen. */
function offerAll() {
  const choices = $("choices");
  const all = choices.classList.contains("all");
  const cut = choices.scrollHeight > choices.clientHeight || choices.scrollWidth > choices.clientWidth;
  $("all-labels").hidden = !all && !cut;
  $("all-labels").setAttribute("aria-expanded", all);
  $("all-labels").textContent = all ? "Fewer labels" : `All ${number.format(quality.labels.length)} labels`;
}
$("all-labels").addEventListener("click", () => {
  $("choices").classList.toggle("all");
  offerAll();
});
new ResizeObserver(offerAll).observe($("choices"));

addEventListener("changed", ({ detail }) => {
  items = detail;
  if (current !== null) search();
});
addEventListener("counted", () => {
  const before = chosenLabels().length;
  offerLabels();
  if (chosenLabels().length === before) return; // else no image has one of them any more
  if (current !== null) search();
  else showSamples();
});
addEventListener("measured", () => {
  if (answer !== null) show(answer);
});

$("picture").addEventListener("load", () => markPixels($("picture")));
$("picture").addEventListener("error", () => {
  $("preview").classList.add("blind"); // TIFF and the like: the service reads more than browsers show
});

$("enlarge").addEventListener("click", () => {
  const { blob, name, source } = current;
  if (blob) lookAt({ key: "query", name, source, picture: $("picture"), distance: null });
  else lookAt({ key: String(current.id), picture: $("picture"), distance: null });
});

$("options").addEventListener("submit", (event) => event.preventDefault());
$("options").addEventListener("change", ({ target }) => {
  if (target === $("distance")) return;
  if (current !== null) search();
  else if (target !== $("k")) showSamples();
});
$("distance").addEventListener("input", () => answer !== null && cut());
$("by").addEventListener("change", ({ target }) => compareBy(target.value));
