// The view in which labels are given: one image after the other, the most telling first, by keys. In doubtful.js they
// are looked at again, in accepting.js whole groups get theirs, in learning.js they teach.

import { showAccepting } from "./accepting.js";
import { imageLink, strip } from "./cards.js";
import { $, alertIn, element, markPixels, number, percent, plural, sentence } from "./dom.js";
import { showDoubtful } from "./doubtful.js";
import { checkLabel, labelOf } from "./labels.js";
import { showLearning, stopWatching } from "./learning.js";
import { quality } from "./quality.js";
import { ask, relabel, showPicture } from "./service.js";
import { lookAt } from "./viewer.js";

const KEYS = 9; // labels that have one
const TOGETHER = 30; // images that are asked for
const MOST = 200; // that the service suggests at all
const LEFT = 10; // images left, below which more are asked for
const AHEAD = 2; // images whose pictures are fetched before they are seen
const AROUND = 100; // neighbours among which labelled ones are looked for
const NEAREST = 8; // of them that are shown

/** Of an image that is asked about: {image, label, near, picture}; label: what was given here, null: nothing yet. */
let line = [];
let at = 0; // place in the line
let given = []; // entries in the order in which they were labelled here
let loading = null; // promise of more, while it is asked for
let after = 0; // cursor, where the service suggests nothing and all come in their order
let suggested = null; // whether it does; null: not known
let exhausted = false;
let writing = Promise.resolve(); // one label after the other
let fresh = []; // labels that were given here and that nothing had before
let left = null; // images without a label; null: not known
let changed = false; // whether others must count anew

const view = $("label-view");

const PARTS = { queue: showQueue, accepting: showAccepting, doubtful: showDoubtful, learning: showLearning };

export function open(part) {
  stopWatching();
  const name = { accept: "accepting", doubtful: "doubtful", learn: "learning" }[part] ?? "queue";
  for (const each of Object.keys(PARTS)) $(each).hidden = each !== name;
  for (const link of view.querySelectorAll(".parts a")) {
    if (link.dataset.part === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  writing.then(PARTS[name]); // what was labelled before is there then
}

function showQueue() {
  if (line[at] === undefined) begin();
  else count();
}

async function count() {
  const before = writing;
  const stats = await ask("stats").catch(() => null); // what it is about says why
  if (writing !== before) return writing.then(count); // somebody labelled meanwhile
  left = stats?.unlabelled ?? null;
  tell();
}

/** Where images without a label got one, or lost it again, the line begins anew. */
addEventListener("reconsidered", ({ detail: ids }) => {
  changed = true;
  if (ids) [line, at, left] = [[], 0, null];
});

/** What was labelled here is told once, not after each label: to measure takes a while. */
export async function leave() {
  stopWatching();
  if (!changed) return;
  changed = false;
  await writing;
  dispatchEvent(new Event("labelled"));
}

function begin() {
  [line, at, after, exhausted, loading] = [[], 0, 0, false, null];
  alertIn($("queue"));
  say("Looking for the most telling images …");
  more();
}

// --- the line -----------------------------------------------------------------------------------

/** Ask for more images: once, however often it is called meanwhile. */
function more() {
  loading ??= load();
}

async function load() {
  const mine = line;
  let found = [];
  try {
    const images = await next();
    if (mine !== line) return; // another line has begun
    const known = new Set(line.map(({ image }) => image.id));
    found = images.filter(({ id }) => !known.has(id));
    exhausted = found.length === 0;
  } catch (error) {
    if (mine !== line) return;
    exhausted = true;
    alertIn($("queue"), error.message);
  }
  loading = null;
  const waiting = line[at] === undefined;
  line.push(...found.map((image) => ({ image, label: null, near: null, picture: null })));
  if (waiting) show();
  else tell(); // somebody may be typing
}

/** Images without a label: the most telling ones, or, where nobody can tell, in their order. */
async function next() {
  await writing; // what was labelled here is not suggested again
  if (left === null || suggested === null) {
    const stats = await ask("stats");
    [left, suggested] = [stats.unlabelled, stats.embeddings];
  }
  if (suggested) {
    const pending = line.filter(({ label }) => label === null).length;
    return (await ask(`labels/suggestions?limit=${Math.min(MOST, TOGETHER + pending)}`)).images;
  }
  const page = await ask(`images?unlabelled=true&limit=${TOGETHER}&after=${after}`);
  after = page.images.at(-1)?.id ?? after;
  return page.images;
}

function go(to) {
  at = Math.max(0, Math.min(to, line.length));
  show();
  if (line.length - at <= LEFT && !exhausted) more();
}

// --- what is shown ------------------------------------------------------------------------------

function show() {
  const entry = line[at];
  $("asked").hidden = entry === undefined;
  $("label-again").hidden = entry !== undefined || loading !== null || !line.some(({ label }) => label === null);
  tell();
  if (entry === undefined) return;
  for (const each of line.slice(at, at + 1 + AHEAD)) fetchAll(each);
  $("asked-picture").replaceChildren(entry.picture);
  $("asked-name").textContent = entry.image.path;
  $("asked-name").title = entry.image.path;
  $("asked-enlarge").href = `#image/${entry.image.id}`;
  $("asked-other").value = "";
  checkLabel($("asked-other"));
  $("asked-back").disabled = at === 0;
  $("asked-undo").disabled = given.length === 0;
  $("asked-near").replaceChildren();
  offer(entry, []);
  entry.near.then((near) => {
    if (entry !== line[at]) return;
    offer(entry, near);
    $("asked-near").replaceChildren(...(near.length > 0 ? [strip("Nearest with a label", near.map(neighbour))] : []));
    $("asked-near-title").hidden = near.length === 0;
  });
}

function fetchAll(entry) {
  const { id, preview } = entry.image;
  entry.near ??= ask(`images/${id}/similar?k=${AROUND}`).then(
    ({ results }) => results.filter(({ label }) => label !== null).slice(0, NEAREST),
    () => [], // the image can be labelled all the same
  );
  if (entry.picture !== null) return;
  const picture = element("img", { alt: "The image to label", draggable: false });
  picture.addEventListener("load", () => markPixels(picture));
  entry.picture = picture;
  showPicture(picture, preview);
}

function neighbour(result) {
  const { id, label } = result;
  return imageLink(result, `Image ${id}, ${label}`, { title: label }, element("strong", { textContent: label }));
}

/**
 * Buttons for labels, with their keys. So few that all have a key keep their places, so that a hand finds them; of
 * more there are the likeliest: the predicted one, those of the neighbours, then those that most images have.
 */
function offer(entry, near) {
  const all = [...new Set([...quality.labels, ...fresh])];
  const { predicted, confidence } = entry.image;
  const votes = new Map();
  for (const { label } of near) votes.set(label, (votes.get(label) ?? 0) + 1);
  const voted = [...votes].sort((a, b) => b[1] - a[1]).map(([label]) => label);
  const likely = [...new Set([...(predicted === null ? [] : [predicted]), ...voted])];
  const offered = all.length <= KEYS ? all : [...new Set([...likely, ...quality.common, ...all])].slice(0, KEYS);
  const chosen = entry.label ?? entry.image.label;
  $("asked-choices").replaceChildren(
    ...offered.map((label, row) => {
      const sure = label === predicted && confidence !== null ? percent(confidence) : "";
      const button = element(
        "button",
        { type: "button", title: label, className: label === likely[0] ? "button likely" : "button" },
        element("kbd", { textContent: row + 1 }),
        element("span", { textContent: label }),
        element("small", { textContent: sure }),
      );
      button.setAttribute("aria-pressed", label === chosen);
      button.addEventListener("click", () => choose(label));
      return element("li", {}, button);
    }),
  );
}

function tell() {
  const done = given.length > 0 ? `${plural(given.length, "image")} labelled here. ` : "";
  if (line[at] === undefined) {
    if (loading !== null || !exhausted) return;
    const skipped = line.filter(({ label }) => label === null).length;
    const end =
      skipped > 0 ? `${plural(skipped, "image was", "images were")} skipped.` : "No image is without a label.";
    return say(done + end);
  }
  const order = suggested ? "The most telling come first." : "They come in their order.";
  say(`${done}${left === null ? "" : `${number.format(left)} without a label. `}${order}`);
}

const say = (text) => ($("label-status").textContent = text);

// --- labelling ----------------------------------------------------------------------------------

/** Give the image this label; the next one is there at once, the service hears of it meanwhile. */
function choose(label) {
  const entry = line[at];
  const before = entry.label;
  entry.label = label;
  if (!quality.labels.includes(label) && !fresh.includes(label)) fresh.push(label);
  given = [...given.filter((each) => each !== entry), entry];
  alertIn($("queue"));
  if (left !== null && before === null) left -= 1;
  write(entry, before, label, entry.image.predicted === label ? "accepted" : "given");
  go(at + 1);
}

function undo() {
  const entry = given.pop();
  if (entry === undefined) return;
  const before = entry.label;
  entry.label = null;
  if (left !== null) left += 1;
  write(entry, before, null);
  returnTo(entry);
}

/** Ask about an image again. */
function returnTo(entry) {
  if (!line.includes(entry)) line.splice(at, 0, entry); // of a line before this one
  go(line.indexOf(entry));
}

/** Tell the service; if it refuses, the image waits for its label again. */
function write(entry, before, label, source) {
  const { id } = entry.image;
  changed = true;
  writing = writing.then(async () => {
    try {
      await relabel(id, label, { source, was: before ?? "" });
    } catch (error) {
      entry.label = before;
      given = given.filter((each) => each !== entry);
      count();
      alertIn($("queue"), `Image ${id}: ${sentence(error.message)}`);
      returnTo(entry);
    }
  });
}

$("asked-enlarge").addEventListener("click", () => {
  const { image, picture } = line[at];
  lookAt({ key: String(image.id), picture, distance: null });
});
$("asked-skip").addEventListener("click", () => go(at + 1));
$("asked-back").addEventListener("click", () => go(at - 1));
$("asked-undo").addEventListener("click", undo);
$("label-again").addEventListener("click", begin);
$("asked-other").addEventListener("input", () => checkLabel($("asked-other")));
$("asked-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const label = labelOf($("asked-other").value);
  $("label-title").focus(); // the keys are for the next image
  if (label) choose(label);
});

document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (view.hidden || $("queue").hidden || line[at] === undefined || document.querySelector("dialog[open]") !== null)
    return;
  if (target.matches("input, select")) {
    if (key === "Escape") $("label-title").focus();
    return;
  }
  if ((event.ctrlKey || event.metaKey) && key === "z") undo();
  else if (event.ctrlKey || event.metaKey || event.altKey) return;
  else if (key === "ArrowRight") go(at + 1);
  else if (key === "ArrowLeft") go(at - 1);
  else if (/^[1-9]$/.test(key)) $("asked-choices").querySelectorAll("button")[Number(key) - 1]?.click();
  else {
    if (/^\p{L}$/u.test(key)) $("asked-other").focus(); // it is the first letter of a label
    return;
  }
  event.preventDefault();
});

addEventListener("counted", () => {
  fresh = fresh.filter((label) => !quality.labels.includes(label));
  if (!view.hidden && line[at]) line[at].near?.then((near) => line[at]?.near && offer(line[at], near));
});
addEventListener("relabelled", ({ detail: { id, label } }) => {
  const entry = line.find(({ image }) => image.id === id);
  if (entry !== undefined) Object.assign(entry, { label, image: { ...entry.image, label } });
});
