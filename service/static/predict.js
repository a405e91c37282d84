// The label of an image, from what lies near it.

import { quality } from "./quality.js";
import { ask } from "./service.js";

const VOTERS = 10;
const AROUND = 100; // neighbours of an unlabelled image among which labelled ones are looked for

let guesses = new Map(); // id of an unlabelled image -> promise of its predicted label

/**
 * The label that the nearest labelled results speak for, and how sure one may be: {label, confidence}, or null
 * where nothing is measured or nothing near has a label.
 *
 * results: [{label, distance}] from near to far; worth: for each distance the calibrated precision p, the share of
 * the images so far from a query that have its label. Of the nearest VOTERS results with a label each votes with
 * its p. The confidence of a label is the mean of p over all votes, weighted by p, where votes for other labels
 * count 0: Σ_own p² / Σ_all p. So it never exceeds the p of the nearest vote, however many agree, all labels
 * together have at most 1, and what is far away convinces nobody.
 */
export function predict(results, worth) {
  if (worth === null) return null;
  const votes = results.filter(({ label }) => label !== null).slice(0, VOTERS);
  const all = votes.reduce((sum, { distance }) => sum + worth[distance], 0);
  if (all === 0) return null;
  const confidences = new Map();
  for (const { label, distance } of votes) {
    confidences.set(label, (confidences.get(label) ?? 0) + worth[distance] ** 2 / all);
  }
  const [label, confidence] = [...confidences].reduce((best, each) => (each[1] > best[1] ? each : best));
  return { label, confidence };
}

/** The label that an unlabelled image's own neighbours speak for; null: nobody knows. */
export function guess(id) {
  if (quality.worth === null) return Promise.resolve(null);
  if (!guesses.has(id)) {
    guesses.set(
      id,
      ask(`images/${id}/similar?k=${AROUND}`).then(
        ({ results }) => predict(results, quality.worth),
        () => null,
      ),
    );
  }
  return guesses.get(id);
}

addEventListener("measured", () => (guesses = new Map()));

/** What most of the nearest are that have a label; the labels of all, null where there is none. */
export function inWords(labels) {
  const counts = new Map();
  for (const label of labels) if (label !== null) counts.set(label, (counts.get(label) ?? 0) + 1);
  if (counts.size === 0) return "Nearest images";
  const [label, count] = [...counts].reduce((most, each) => (each[1] > most[1] ? each : most));
  const labelled = labels.filter((each) => each !== null).length;
  if (2 * count <= labelled) return `${counts.size} different labels`;
  const all = labelled === labels.length;
  if (count < labelled) return `Mostly “${label}”: ${count} of ${labelled}${all ? "" : " with a label"}`;
  if (count === 1) return all ? `The nearest is “${label}”` : `One has a label: “${label}”`;
  return all ? `All of them “${label}”` : `All ${count} with a label: “${label}”`;
}
