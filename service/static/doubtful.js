// Labels that all others contradict, looked at again: each image between those of its label and those of the other.

import { imageLink, strip } from "./cards.js";
import { $, alertIn, element, onceInSight, percent, plural } from "./dom.js";
import { ask, relabel } from "./service.js";

const NEAREST = 4; // images shown of each label
const LISTED = 20;

const place = $("doubtful");
const whenSeen = onceInSight();
const kept = new Set(); // ids of images whose labels were looked at here and stay

export async function showDoubtful() {
  alertIn(place);
  $("doubtful-status").textContent = "Labels are being compared …";
  try {
    const { embeddings } = await ask("stats");
    if (!embeddings)
      throw new Error("this index keeps no embeddings, by which labels are compared; hebbsearch label makes them");
    const { found } = await ask(`labels/doubtful?limit=${LISTED + kept.size}`);
    $("doubts").replaceChildren(
      ...found
        .filter(({ image }) => !kept.has(image.id))
        .slice(0, LISTED)
        .map(row),
    );
    tell();
  } catch (error) {
    $("doubtful-status").textContent = "";
    $("doubts").replaceChildren();
    alertIn(place, error.message);
  }
}

function tell() {
  const count = $("doubts").children.length;
  $("doubtful-status").textContent =
    count === 0
      ? "No label is contradicted by the others."
      : `${plural(count, "label")} to look at again, the most doubtful first.`;
}

function row({ image, rival, doubt }) {
  const { id, label } = image;
  const one = element("li");
  const settle = () => {
    const next = one.nextElementSibling ?? one.previousElementSibling;
    one.remove();
    tell();
    (next?.querySelector("button") ?? $("label-title")).focus();
  };
  const change = element("button", { type: "button", textContent: `Change to “${rival}”` });
  const keep = element("button", { type: "button", textContent: `Keep “${label}”` });
  change.addEventListener("click", async () => {
    try {
      await relabel(id, rival, { was: label });
      alertIn(place);
      dispatchEvent(new Event("reconsidered"));
      settle();
    } catch (error) {
      alertIn(place, `Image ${id}: ${error.message}`);
    }
  });
  keep.addEventListener("click", () => {
    kept.add(id);
    settle();
  });
  const title = `Image ${id}, labelled ${label}, more like ${rival}`;
  const asked = imageLink(
    image,
    title,
    { className: "asked", title: image.path },
    element("strong", { textContent: label }),
    element("small", { textContent: `doubt ${percent(doubt)}` }),
  );
  const [own, other] = [label, rival].map((name) => compared(id, name));
  one.append(asked, own, other, element("div", { className: "buttons" }, keep, change));
  return one;
}

/** The nearest images with a label, fetched when they come into sight. */
function compared(id, label) {
  const shown = element("div", {}, element("p", { textContent: `Nearest “${label}”` }));
  whenSeen(shown, async () => {
    const asked = new URLSearchParams({ k: NEAREST, label });
    const { results } = await ask(`images/${id}/similar?${asked}`).catch(() => ({ results: [] }));
    const links = results.map((result) => imageLink(result, `Image ${result.id}, ${label}`));
    shown.append(strip(`Nearest with the label ${label}`, links));
  });
  return shown;
}
