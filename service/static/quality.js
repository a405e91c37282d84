// How good the answers are, as every view uses it: the calibrated precision of each distance, and the footer.

import { $, element, number, sentence } from "./dom.js";
import { ask } from "./service.js";

/** worth: for each distance the share of images that have the query's label; null: not measured. */
export const quality = { worth: null, labels: [] };

/** Measure anew: at the start and whenever the index has changed. */
export async function refreshQuality() {
  try {
    const [curve, { map, per_class: classes, definition }] = await Promise.all([ask("eval/curve"), ask("eval/map")]);
    quality.worth = curve.precision_at;
    quality.labels = classes.filter(({ items }) => items > 0).map(({ label }) => label);
    $("score").textContent = `mAP ${map.toFixed(3)}`;
    $("score").hidden = false;
    $("measure").replaceChildren(
      element("strong", { textContent: `mAP ${map.toFixed(3)}` }),
      ` over ${number.format(definition.queries)} held-out queries, ${depth(definition)}.`,
    );
  } catch (error) {
    quality.worth = null;
    quality.labels = [];
    $("score").hidden = true;
    const reason = sentence(error.message);
    $("measure").textContent = error.status === 409 ? `Not measured. ${reason}.` : reason;
  }
  dispatchEvent(new Event("measured"));
}

/** How much of the ranking a measurement looks at. */
export function depth({ k, items }) {
  return `${k === null ? "the whole ranking" : `the first ${number.format(k)}`} of ${number.format(items)} labelled images`;
}
