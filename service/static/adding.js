// Adding images: what was chosen, dropped or pasted waits for its label, then goes to the service in small requests.

import { $, alertIn, element, number, plural, sentence } from "./dom.js";
import { isHidden, pathOf } from "./files.js";
import { checkLabel, labelOf, refusal } from "./labels.js";
import { askPatiently, pieceOfWork } from "./service.js";

const AT_ONCE = 2; // requests: the service decodes one while it writes the other
const TOGETHER = 16; // images of a request; halved where the service takes less
const TOGETHER_BYTES = 8_000_000;
const LARGEST = 200_000_000; // bytes of a file that is sent at all
const ONE_BY_ONE = [undefined, 400, 408, 413, 415, 422, 500]; // statuses that may be the fault of one image alone
const SHOWN = 4; // folders that are named before anything is sent
const panel = $("adding");

let staged = []; // files that wait for their label
let reading = 0; // folders that are still being read
let job = null; // what is being sent, or was; first: the lowest id of what was added since it was last told

// --- what waits ---------------------------------------------------------------------------------

/** Take files, one after the other, without sending any yet. */
export async function stage(files) {
  const mine = staged;
  reading += 1;
  alertIn(panel);
  for await (const file of files) {
    if (mine !== staged) break; // what was staged is sent or let go
    if (isHidden(pathOf(file))) continue;
    staged.push(file);
    if (staged.length % TOGETHER === 0) showStaged();
  }
  reading -= 1;
  if (mine === staged && staged.length === 0) {
    alertIn(panel, "There is no file in that. Save the image first, then choose it.");
  }
  showStaged();
}

function unstage() {
  const gone = staged;
  staged = [];
  showStaged();
  return gone;
}

function showStaged() {
  const any = staged.length > 0;
  const byFolder = $("labelling").value === "folder" && reading === 0;
  $("staged").hidden = !any;
  const files = plural(staged.length, "file");
  $("staged-count").textContent = reading > 0 ? `Reading: ${files} …` : files;
  $("label-of-all").hidden = $("labelling").value !== "one";
  $("label-of-all").required = $("labelling").value === "one";
  checkLabel($("label-of-all"), $("labelling").value === "one");
  $("staged-labels").textContent = byFolder ? labelsInWords() : "";
  $("add").textContent = `Add ${plural(staged.length, "image")}`;
  $("add").disabled = reading > 0;
  if (job !== null && (job.running || !any)) showProgress();
  else $("adding-status").textContent = any && reading === 0 ? `${files} chosen, not sent yet.` : "";
}

function labelsInWords() {
  const counts = new Map();
  for (const label of staged.map(classByFolder(staged))) counts.set(label, (counts.get(label) ?? 0) + 1);
  const words = [...counts].map(([label, count]) => `${label || "no label"} (${number.format(count)})`);
  const more = words.length > SHOWN ? [`${number.format(words.length - SHOWN)} more`] : [];
  return [...words.slice(0, SHOWN), ...more].join(", ");
}

const foldersOf = (file) => pathOf(file).split("/").slice(0, -1);

/**
 * The class of each of the files, as `hebbsearch add --label-folders` has it: the folder below the one that was
 * chosen, or, where that has none, its own name. Empty: the file was given alone or lies beside such folders.
 */
function classByFolder(files) {
  const parents = new Set(
    files
      .map(foldersOf)
      .filter((folders) => folders.length > 1)
      .map(([chosen]) => chosen),
  );
  return (file) => {
    const [chosen = "", below = ""] = foldersOf(file);
    return labelOf(parents.has(chosen) ? below : chosen);
  };
}

/** The label of each of the files, as was chosen. */
function labelsOf(files) {
  const kind = $("labelling").value;
  const label = kind === "one" ? labelOf($("label-of-all").value) : "";
  return kind === "folder" ? classByFolder(files) : () => label;
}

// --- what is sent -------------------------------------------------------------------------------

/** The files in requests of a modest size, of one label and one folder each. */
function* batches(files) {
  let batch = null;
  let bytes = 0;
  const labelFor = labelsOf(files);
  for (const file of files) {
    const [label, folder] = [labelFor(file), foldersOf(file)[0] ?? ""];
    bytes += file.size;
    const full = batch?.files.length === TOGETHER || bytes > TOGETHER_BYTES;
    if (batch === null || full || batch.label !== label || batch.folder !== folder) {
      if (batch !== null) yield batch;
      batch = { files: [], label, folder };
      bytes = file.size;
    }
    batch.files.push(file);
  }
  if (batch !== null) yield batch;
}

function begin(files) {
  if (job === null || (!job.running && job.queue.length === 0)) {
    job = {
      queue: [],
      total: 0,
      added: 0,
      restored: 0,
      exists: 0,
      refused: 0,
      keeping: 0,
      first: null,
      work: pieceOfWork(),
      running: false,
    };
    $("refusals").replaceChildren();
  }
  job.total += files.length;
  for (const batch of batches(files)) job.queue.push(batch); // a spread of 130,000 exceeds the stack
  if (!job.running) run();
}

/** Send what is in the queue, until it is empty or somebody or something stops it. */
async function run() {
  Object.assign(job, { running: true, waiting: "", stopped: new AbortController() });
  alertIn(panel);
  showProgress();
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  job.running = false;
  showProgress();
  if (job.first !== null) dispatchEvent(new CustomEvent("added", { detail: job.first }));
  job.first = null;
}

async function work() {
  while (job.queue.length > 0 && !job.stopped.signal.aborted) {
    const batch = job.queue.shift();
    const left = new Set(batch.files);
    try {
      await send(batch, left);
    } catch (error) {
      job.queue.unshift({ ...batch, files: [...left] });
      if (!job.stopped.signal.aborted) alertIn(panel, error.message);
      job.stopped.abort();
    }
  }
}

/** In one request, or in halves where that is too much or all of it is refused; `left` loses what was answered. */
async function send({ files, label, folder }, left) {
  const ofLabel = label && refusal(label);
  const faults = await Promise.all(files.map((file) => ofLabel || faultOf(file)));
  for (const [at, file] of files.entries()) if (faults[at]) settle(file, left, "refused", faults[at]);
  files = files.filter((_, at) => !faults[at]);
  if (files.length === 0) return;
  const form = new FormData();
  for (const file of files) form.append("image", file, nameOf(file));
  if (label) form.append("label", label);
  if (folder) form.append("folder", folder);
  const { stopped, work } = job;
  const { signal } = stopped;
  let answer;
  try {
    answer = await askPatiently("images", { method: "POST", body: form, work }, { signal, say: wait });
  } catch (error) {
    if (signal.aborted || !ONE_BY_ONE.includes(error.status)) throw error;
    const [first] = files;
    if (files.length === 1) return settle(first, left, "refused", error.message.replace(`${nameOf(first)}: `, ""));
    const half = files.length >> 1;
    await send({ files: files.slice(0, half), label, folder }, left);
    return send({ files: files.slice(half), label, folder }, left);
  }
  for (const [at, { status, image, error }] of answer.images.entries()) settle(files[at], left, status, error, image);
}

/** A file's path in its folder, or its name. */
const nameOf = (file) => pathOf(file).split("/").slice(1).join("/") || file.name;

/** Why a file cannot be sent; null: it can. One that is gone would look like a lost connection. */
async function faultOf(file) {
  if (file.fault) return file.fault;
  if (file.size > LARGEST) return `the file has more than ${number.format(LARGEST)} bytes`;
  // Of a file that is gone Chromium says that it is empty, or reads no byte of its beginning without an error.
  const beginning = file.size > 0 ? file.slice(0, 1) : file;
  const read = await beginning.arrayBuffer().catch(() => null);
  const readable = read !== null && read.byteLength === beginning.size;
  return readable ? null : "the file cannot be read; it may be gone, or a folder";
}

function settle(file, left, status, error, image) {
  left.delete(file);
  job[status] += 1;
  job.waiting = "";
  if (["added", "restored"].includes(status) && image !== null) job.first = Math.min(job.first ?? image.id, image.id);
  if (["exists", "restored"].includes(status) && error) job.keeping += 1;
  if (error) {
    const name = element("strong", { textContent: pathOf(file) || file.name });
    $("refusals").append(element("li", {}, name, ` ${sentence(error)}`));
  }
  showProgress();
}

function wait(message) {
  job.waiting = message;
  showProgress();
}

// --- how far it is ------------------------------------------------------------------------------

function showProgress() {
  const { total, added, restored, exists, refused, keeping, queue, running, stopped, waiting } = job;
  const settled = added + restored + exists + refused;
  const done = settled === total;
  const counts = [
    `${number.format(added)} added`,
    ...(restored > 0 ? [`${number.format(restored)} back from the trash`] : []),
    ...(exists > 0 ? [`${number.format(exists)} already there`] : []),
    ...(refused > 0 ? [`${number.format(refused)} refused`] : []),
  ].join(", ");
  $("progress").hidden = false;
  $("progress-bar").hidden = $("progress-counts").hidden = done;
  $("progress-bar").max = total;
  $("progress-bar").value = settled;
  $("progress-counts").textContent = `${counts}, of ${plural(total, "image")}`;
  const named = [
    ...(refused > 0 ? [`${number.format(refused)} refused`] : []),
    ...(keeping > 0 ? [`${number.format(keeping)} already there with another label`] : []),
  ];
  $("refused").hidden = named.length === 0;
  $("refused-count").textContent = named.join(", ");
  // The tenths only: whoever listens need not hear each image.
  $("adding-status").textContent = running
    ? stopped.signal.aborted
      ? "Stopping: what is under way is still answered …"
      : waiting || `Adding: ${10 * Math.floor((10 * settled) / total)} % …`
    : done
      ? `Done: ${counts}.`
      : `Stopped: ${counts}, ${number.format(total - settled)} not sent.`;
  const focused = document.activeElement;
  $("stop").hidden = !running;
  $("stop").setAttribute("aria-disabled", stopped.signal.aborted); // it keeps the focus
  $("go-on").hidden = running || queue.length === 0;
  $("dismiss").hidden = running;
  if (focused === $("stop") && !running) $(queue.length > 0 ? "go-on" : "dismiss").focus();
  if (focused === $("go-on") && running) $("stop").focus();
}

// --- what people do -----------------------------------------------------------------------------

for (const input of [$("add-files"), $("add-folder")]) {
  input.addEventListener("change", () => {
    const files = [...input.files];
    input.value = ""; // so that the same can be chosen again
    if (files.length > 0) stage(files);
  });
}

$("label-of-all").addEventListener("input", ({ target }) => checkLabel(target));
$("adding-form").addEventListener("change", () => staged.length > 0 && showStaged());
$("adding-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (staged.length === 0 || reading > 0) return;
  begin(unstage());
  $("stop").focus();
});
$("unstage").addEventListener("click", () => {
  unstage();
  $("add-files").focus();
});
$("stop").addEventListener("click", () => {
  job.stopped.abort();
  showProgress();
});
$("go-on").addEventListener("click", run);
$("dismiss").addEventListener("click", () => {
  job = null;
  alertIn(panel);
  $("progress").hidden = true;
  showStaged();
  $("add-files").focus();
});
addEventListener("beforeunload", (event) => job?.running && event.preventDefault());
