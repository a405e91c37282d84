// How good the answers are, as every view uses it: the calibrated precision of each distance, and the footer.

import { $, element, fact, number, sentence } from "./dom.js";
import { ask } from "./service.js";

/** worth: for each distance the share of images that have the query's label; null: not measured. */
export const quality = { worth: null, labels: [] };

/** Measure anew: at the start and whenever the index has changed. */
export async function refreshQuality() {
  try {
    const [curve, { map, aps, per_class: classes, definition }] = await Promise.all([ask("eval/curve"), ask("eval/map")]);
    quality.worth = curve.precision_at;
    quality.labels = classes.filter(({ items }) => items > 0).map(({ label }) => label);
    $("score").textContent = `mAP ${map.toFixed(3)}`;
    $("score").hidden = false;
    $("measure").replaceChildren(
      element("strong", { textContent: `mAP ${map.toFixed(3)}` }),
      ` over ${number.format(definition.queries)} held-out queries, ${depth(definition)}.`,
    );
    explain(aps, classes, definition);
  } catch (error) {
    quality.worth = null;
    quality.labels = [];
    $("score").hidden = $("definition").hidden = true;
    const reason = sentence(error.message);
    $("measure").textContent = error.status === 409 ? `Not measured. ${reason}.` : reason;
  }
  dispatchEvent(new Event("measured"));
}

/** How much of the ranking a measurement looks at. */
function depth({ k, items }) {
  return `${k === null ? "the whole ranking" : `the first ${number.format(k)}`} of ${number.format(items)} labelled images`;
}

function explain(aps, classes, definition) {
  $("words").textContent = definition.text;
  const facts = {
    "Median query": aps.median.toFixed(3),
    "Worst tenth below": aps.p10.toFixed(3),
    Images: definition.dataset,
    Labels: definition.labels,
    Backbone: definition.backbone,
    Rule: definition.rule,
    Encoder: definition.encoder_id,
    Made: new Date(definition.created).toLocaleDateString("en", { dateStyle: "medium" }),
  };
  $("facts").replaceChildren(...Object.entries(facts).filter(([, value]) => value !== null).map(fact));
  $("classes").replaceChildren(...classes.map(classScore));
  $("definition").hidden = false;
}

function classScore({ label, aps, queries, items: count }) {
  const bar = element("i");
  bar.style.width = `${100 * (aps ?? 0)}%`;
  return element(
    "li",
    { title: `${label}: ${number.format(queries)} queries, ${number.format(count)} images` },
    element("span", { textContent: label }),
    element("span", { textContent: aps === null ? "–" : aps.toFixed(3) }),
    element("b", {}, bar),
  );
}
