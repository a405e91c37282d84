// A slider along the right edge that leads to any place of a long grid and says what lies there.

import { number } from "./dom.js";

const WINDOWS = 2; // so many windows full of images need none
const STEPS = 20; // from end to end, by PageDown

/** `describe(image)` is what is said of the image beside its place; empty: nothing. */
export function scrub(slider, words, list, grid, describe) {
  const box = slider.parentElement;
  let held = false; // by a pointer: it is where the pointer is, not where the row begins

  function say(index) {
    const image = grid.imageAt(index);
    const place = `${number.format(index + 1)} of ${number.format(grid.total)}`;
    const text = [place, image && describe(image)].filter(Boolean).join(" · ");
    slider.setAttribute("aria-valuetext", text);
    words.textContent = text;
    const share = index / Math.max(1, grid.total - 1);
    words.style.setProperty("--share", share);
  }

  function follow() {
    box.hidden = !grid.total || grid.total <= WINDOWS * grid.columns * grid.rowsInSight;
    if (box.hidden) return;
    slider.max = grid.total - 1;
    if (!held) slider.value = grid.first;
    say(slider.valueAsNumber);
  }

  function goTo(index) {
    slider.value = index;
    grid.scrollTo(slider.valueAsNumber);
    say(slider.valueAsNumber);
  }

  slider.addEventListener("input", () => goTo(slider.valueAsNumber));
  slider.addEventListener("pointerdown", () => (held = true));
  for (const event of ["change", "pointerup", "pointercancel", "blur"]) {
    slider.addEventListener(event, () => (held = false));
  }
  slider.addEventListener("keydown", (event) => {
    const page = Math.ceil(grid.total / STEPS);
    const step = { ArrowUp: -grid.columns, ArrowDown: grid.columns, PageUp: -page, PageDown: page }[event.key];
    if (step === undefined) return; // the browser knows Home and End
    event.preventDefault(); // of a slider that stands up, it takes down for less
    goTo(slider.valueAsNumber + step);
  });
  addEventListener("scroll", () => grid.total !== null && follow());
  for (const event of ["moved", "counted"]) list.addEventListener(event, follow);
}
