// How good the answers are and which labels there are, as every view uses it: the calibrated precision of each
// distance, and the footer.

import { $, element, number, percent, plural, sentence } from "./dom.js";
import { ask } from "./service.js";

/**
 * worth: for each distance the share of images that have the query's label; null: not measured. labels: those that
 * images have; common: the same, those of most images first.
 */
export const quality = { worth: null, labels: [], common: [] };

/** What share of the images so far from a query have its label, in words; empty: nobody knows. */
export function worthOf(distance) {
  const share = quality.worth?.[distance];
  return share === undefined ? "" : percent(share);
}

/** The same as what follows a distance. */
export function nearnessOf(distance) {
  const worth = worthOf(distance);
  return worth && `: of images this near ${worth} share the label`;
}

/** Count and measure anew: at the start and whenever the index has changed. */
export async function refreshQuality() {
  try {
    const stats = await ask("stats");
    const there = stats.classes.filter(({ items }) => items > 0);
    quality.labels = there.map(({ label }) => label);
    quality.common = there.toSorted((a, b) => b.items - a.items).map(({ label }) => label);
    $("known-labels").replaceChildren(...quality.labels.map((label) => element("option", { value: label })));
    dispatchEvent(new Event("counted"));
    refuseUnmeasurable(stats);
    const [curve, { map, chance, definition }] = await Promise.all([ask("eval/curve"), ask("eval/map")]);
    const known = definition.items + definition.grouped_items;
    quality.worth = curve.precision_at;
    $("score").textContent = `mAP ${map.toFixed(3)}`;
    $("score").title = `By chance it would be ${chance.toFixed(3)}`;
    $("score").hidden = false;
    $("measure").replaceChildren(
      element("strong", { textContent: `mAP ${map.toFixed(3)}` }),
      ` over ${number.format(definition.queries)} held-out queries, ${depth(definition)}; by chance ${chance.toFixed(3)}.`,
      ...sinceItLearned(known - (stats.learned_from ?? known)),
    );
  } catch (error) {
    quality.worth = null;
    $("score").hidden = true;
    const reason = sentence(error.message);
    $("measure").textContent = error.status === 409 ? `Not measured. ${reason}.` : reason;
  }
  dispatchEvent(new Event("measured"));
}

/** Why the figure falls where labels come: they count, and the codes do not know them yet. */
function sinceItLearned(labels) {
  if (labels <= 0) return [];
  const link = element("a", { href: "#label/learn", textContent: "Learn from them" });
  return [` It has not learned from ${plural(labels, "label")}, which lowers the figure. `, link, "."];
}

/** Throw what the service would answer where its counts leave nothing to measure: browsers log each refusal. */
export function refuseUnmeasurable({ queries, labelled, classes }) {
  if (classes.some(({ items, queries }) => items > 0 && queries > 0)) return;
  const reason =
    queries === 0
      ? "no image is held out to measure the answers with, as this index was built without labels, or with one of each class; give labels and let it learn from them, which holds some out"
      : `no indexed image has ${labelled === 0 ? "a label" : "the label of any held-out query"}`;
  throw Object.assign(new Error(reason), { status: 409 });
}

/** How much of the ranking a measurement looks at. */
export function depth({ k, items }) {
  return `${k === null ? "the whole ranking" : `the first ${number.format(k)}`} of ${number.format(items)} labelled images`;
}
