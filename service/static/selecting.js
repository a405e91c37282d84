// Which images of a grid are selected, also those whose cards are not elements now.

import { number } from "./dom.js";

const TOGETHER = 1000; // images whose ids are asked for at once

export class Selection {
  ids = new Set();
  #list;
  #grid;
  #ask;
  #tell;
  #anchor = null; // index of the card from which a range goes
  #ranging = false; // whether Shift is held
  #asking = null; // AbortController, while ids are asked for

  /**
   * `ask` gives what asks for a part of the list, as Parts has it; `tell` hears of each change, and how far it is while
   * ids are asked for: a text, or an Error.
   */
  constructor(list, grid, ask, tell) {
    this.#list = list;
    this.#grid = grid;
    this.#ask = ask;
    this.#tell = tell;
    for (const kind of ["pointerdown", "keydown"]) {
      list.addEventListener(kind, ({ shiftKey }) => (this.#ranging = shiftKey), { capture: true });
    }
    list.addEventListener("change", ({ target }) => this.#toggle(grid.indexOfCard(target), target.checked));
    list.addEventListener("click", (event) => this.#click(event));
    list.addEventListener("keydown", (event) => this.#press(event));
  }

  set(ids, yes = true) {
    for (const id of ids) {
      if (yes) this.ids.add(id);
      else this.ids.delete(id);
    }
    for (const box of this.#list.querySelectorAll("input")) box.checked = this.ids.has(Number(box.value));
    this.#tell();
  }

  /** None, also where many are being selected. */
  clear() {
    this.#asking?.abort();
    this.#anchor = null;
    this.set([...this.ids], false);
  }

  all() {
    return this.#setRange(0, this.#grid.total - 1, true);
  }

  /** The ids of all images from one place to another. */
  async idsBetween(first, last, signal) {
    const known = Array.from({ length: Math.min(TOGETHER, last - first + 1) }, (_, at) =>
      this.#grid.imageAt(first + at),
    );
    if (last - first < TOGETHER && known.every(Boolean)) return known.map(({ id }) => id);
    const ids = [];
    const ask = this.#ask();
    while (first + ids.length <= last) {
      const offset = first + ids.length;
      const { images } = await ask({ offset, limit: Math.min(TOGETHER, last + 1 - offset), signal });
      if (images.length === 0) break; // there are fewer by now
      ids.push(...images.map(({ id }) => id));
      this.#tell(`Selecting: ${number.format(ids.length)} of ${number.format(last + 1 - first)} …`);
    }
    return ids;
  }

  async #setRange(from, to, yes) {
    this.#asking?.abort();
    const asking = new AbortController();
    this.#asking = asking;
    try {
      const ids = await this.idsBetween(Math.min(from, to), Math.max(from, to), asking.signal);
      if (asking.signal.aborted) return;
      this.#tell("");
      this.set(ids, yes);
    } catch (error) {
      if (!asking.signal.aborted) this.#tell(error);
    } finally {
      if (this.#asking === asking) this.#asking = null;
    }
  }

  /** One card, or all from the one before to this one. */
  #toggle(index, yes) {
    const from = this.#ranging ? (this.#anchor ?? index) : index;
    this.#anchor = index;
    return this.#setRange(from, index, yes);
  }

  #click(event) {
    if (!event.shiftKey || event.target.closest("a[data-image]") === null) return;
    event.preventDefault(); // no other window
    this.#toggle(this.#grid.indexOfCard(event.target), true);
  }

  #press(event) {
    if (event.key !== " " || !event.target.matches("a")) return; // a box does so by itself
    event.preventDefault();
    const index = this.#grid.indexOfCard(event.target);
    const id = this.#grid.imageAt(index)?.id;
    if (id !== undefined) this.#toggle(index, event.shiftKey || !this.ids.has(id));
  }
}
