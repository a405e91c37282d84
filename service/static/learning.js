// The part of the view Label in which labels become better answers: learn, compare, take or let go.

import { $, alertIn, element, number, plural, sentence } from "./dom.js";
import { ask, askPatiently, json } from "./service.js";

const EVERY = 1000; // milliseconds between two looks at a job

const place = $("learning");
let watching = null; // timer of the next look
let latest = null; // the job that is shown

/** Show what there is to learn from, and the latest job. */
export async function showLearning() {
  alertIn(place);
  try {
    const [stats, { jobs }] = await Promise.all([ask("stats"), ask("jobs")]);
    const learned = stats.learned_from;
    const before =
      learned === null
        ? ""
        : learned === 0
          ? "It has learned from none yet."
          : `It has learned from ${number.format(learned)}.`;
    $("learning-status").textContent = `This index has ${plural(stats.labelled, "label")}. ${before}`;
    $("learn").textContent = `Learn from ${plural(stats.labelled, "label")}`;
    $("learn").hidden = stats.labelled === 0;
    show(jobs[0] ?? null);
  } catch (error) {
    alertIn(place, error.message);
  }
}

/** Nobody looks any more. */
export function stopWatching() {
  clearTimeout(watching);
  watching = null;
}

function show(job) {
  stopWatching();
  latest = job;
  const running = job?.status === "running";
  $("learn").disabled = running;
  $("job").hidden = job === null;
  if (job === null) return;
  $("job-title").textContent = titleOf(job);
  $("job-step").textContent = running
    ? [sentence(job.step), leftOf(job)].filter(Boolean).join(" · ")
    : (job.error ?? "");
  $("job-progress").hidden = !running;
  $("job-compared").replaceChildren(...(job.result === null ? [] : compared(job.result)));
  const open = job.status === "done" && !job.in_use;
  $("job-take").hidden = !open;
  $("job-force").hidden = true;
  $("job-end").hidden = job.in_use;
  $("job-end").textContent = running ? "Cancel" : open ? "Let it go" : "Close";
  if (running) watching = setTimeout(look, EVERY);
}

function titleOf({ status, in_use }) {
  if (in_use) return "Learned, and served";
  return { running: "Learning …", done: "Learned", failed: "That went wrong", cancelled: "Cancelled" }[status];
}

function leftOf({ seconds_left: seconds }) {
  if (seconds === null) return "";
  return seconds < 60
    ? `about ${Math.ceil(seconds)} s left`
    : `about ${plural(Math.ceil(seconds / 60), "minute")} left`;
}

/** How good the answers were and are, side by side. */
function compared({ before, after, held_out, learned_from, only_class: only }) {
  const alone = only === null ? "" : ` All of these are “${only}”: no label is predicted until there is a second one.`;
  const facts = [element("p", { textContent: `From ${plural(learned_from, "label")}.${alone}` })];
  if (before === null || after === null) {
    const few = `${plural(held_out, "label is", "labels are")} held out to measure with, too few to judge. It is for you to decide.`;
    return [...facts, element("p", { textContent: few })];
  }
  const row = (name, of) =>
    element(
      "tr",
      {},
      element("th", { scope: "row", textContent: name }),
      ...[before, after].map((quality) => element("td", { textContent: of(quality) })),
    );
  const head = ["", "now served", "learned"].map((textContent) => element("th", { scope: "col", textContent }));
  const table = element(
    "table",
    {},
    element("caption", { textContent: `By ${plural(after.images, "label")} that nothing learned from` }),
    element("thead", {}, element("tr", {}, ...head)),
    element(
      "tbody",
      {},
      row("mAP", ({ map }) => map.toFixed(3)),
      row("the nearest image has the right label", ({ top1 }) => `${(100 * top1).toFixed(1)} %`),
    ),
  );
  return [...facts, table];
}

async function look() {
  try {
    const patience = { signal: AbortSignal.timeout(600_000), say: (text) => ($("job-step").textContent = text) };
    const job = await askPatiently(`jobs/${latest.id}`, {}, patience);
    if (!place.hidden && job.id === latest.id) show(job);
  } catch (error) {
    alertIn(place, error.message);
  }
}

async function begin() {
  alertIn(place);
  try {
    show(await ask("labels/learn", { method: "POST" }));
  } catch (error) {
    alertIn(place, error.message);
    if (error.status === 409) showLatest();
  }
}

async function showLatest() {
  const { jobs } = await ask("jobs").catch(() => ({ jobs: [latest] }));
  show(jobs[0] ?? null);
}

/** Serve what was learned. Images may have other ids then: the page begins anew. */
async function take(force) {
  alertIn(place);
  $("job-take").disabled = true;
  try {
    await ask("admin/reload", json("POST", { artifact: latest.target, force }));
    location.reload();
  } catch (error) {
    alertIn(place, error.message);
    $("job-force").hidden = error.status !== 409;
  }
  $("job-take").disabled = false;
}

async function end() {
  alertIn(place);
  try {
    await ask(`jobs/${latest.id}`, { method: "DELETE" });
  } catch (error) {
    if (error.status !== 404) alertIn(place, error.message); // else somebody was faster
  }
  await showLatest();
  $("label-title").focus();
}

$("learn").addEventListener("click", begin);
$("job-take").addEventListener("click", () => take(false));
$("job-force").addEventListener("click", () => take(true));
$("job-end").addEventListener("click", end);
