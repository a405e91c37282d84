// A list of any length as rows of equal cards in the page's own scroll. Only the cards around what is in sight are
// elements; where a row lies is arithmetic: its number times the height of one.

import { element } from "./dom.js";
import { Parts } from "./parts.js";

const AROUND = 400; // pixels above and below the window in which cards are elements

const STEPS = {
  ArrowLeft: () => -1,
  ArrowRight: () => 1,
  ArrowUp: ({ columns }) => -columns,
  ArrowDown: ({ columns }) => columns,
  PageUp: ({ columns, rowsInSight }) => -columns * rowsInSight,
  PageDown: ({ columns, rowsInSight }) => columns * rowsInSight,
  Home: () => -Infinity,
  End: () => Infinity,
};

/**
 * It tells its list of events: `counted`, when the number of images is another; `moved`, when others are in sight or
 * known; `failed`, with the Error; `grown` goes to the window, as of any list that is looked through.
 */
export class Grid {
  columns = 1;
  active = 0; // index of the card that Tab leads to
  #list;
  #draw;
  #shade;
  #parts = new Parts();
  #cards = new Map(); // index -> li
  #width = 0; // of the list, when it was measured
  #card = { width: 0, height: 0, across: 0, down: 0 }; // pixels; across and down: from one to the next
  #wanted = null; // index of the card that gets the focus as soon as it is there
  #waiting = null; // frame in which the cards are brought up to date

  /**
   * `draw(li, image)` makes a card, or has it say what is known now; `shade()` are the pixels at the window's upper edge
   * that something covers.
   */
  constructor(list, draw, shade) {
    this.#list = list;
    this.#draw = draw;
    this.#shade = shade;
    list.classList.add("grid");
    list.setAttribute("role", "list"); // which some browsers forget where no bullets are
    list.addEventListener("keydown", (event) => this.#step(event));
    list.addEventListener("focusin", ({ target }) => this.#activate(this.indexOfCard(target)));
    document.addEventListener("focusin", () => (this.#wanted = null));
    addEventListener("scroll", () => this.#soon());
    new ResizeObserver(() => this.#soon()).observe(list);
    addEventListener("resize", () => this.#soon());
  }

  // --- what is listed -------------------------------------------------------------------------

  get total() {
    return this.#parts.total;
  }

  /** Show a list from its beginning, or from another place; `ask` as in Parts. */
  begin(ask, from = 0) {
    this.#parts.stop();
    for (const card of this.#cards.values()) card.remove();
    this.#cards.clear();
    this.active = from;
    this.#wanted = null;
    let entered = false;
    const parts = new Parts(ask, (fault) => {
      if (fault) return this.#tell("failed", fault);
      if (!entered && from > 0 && !this.#isHidden) {
        this.#stretch();
        this.scrollTo(from);
      }
      entered = true;
      this.#heard();
    });
    this.#parts = parts;
    this.#stretch();
    this.#busy();
    parts.want(from, from);
  }

  /** Ask again for what is in sight. */
  refresh() {
    this.#parts.outdate();
    this.render();
  }

  tryAgain() {
    this.#parts.tryAgain();
    if (this.total === null) this.#parts.want(this.active, this.active);
    else this.render();
  }

  imageAt(index) {
    return this.#parts.at(index);
  }

  /** Where an image is, if it is known; else -1. */
  indexOf(id) {
    return this.#parts.indexOf(id);
  }

  get hasFailed() {
    return this.#parts.hasFailed;
  }

  /** [index, image] of those that are known to be there. */
  known() {
    return this.#parts.known(true);
  }

  /** The card at a place, if it is an element now. */
  cardAt(index) {
    return this.#cards.get(index);
  }

  /** Something of an image is another now. */
  change(id, known) {
    const index = this.indexOf(id);
    if (index < 0) return;
    this.#parts.replace(index, { ...this.imageAt(index), ...known });
    this.#fill(index);
  }

  #heard() {
    const focused = this.#focused();
    const id = Number(this.#cards.get(focused)?.querySelector("a[data-image]")?.dataset.image);
    this.active = Math.max(0, Math.min(this.active, this.total - 1));
    this.#tell("counted");
    this.render();
    for (const index of this.#cards.keys()) this.#fill(index);
    if (focused !== null) this.#follow(id, focused);
    this.#focusWanted();
    this.#tell("moved");
    dispatchEvent(new CustomEvent("grown", { detail: this.#list }));
  }

  #tell(name, detail) {
    this.#busy();
    this.#list.dispatchEvent(new CustomEvent(name, { detail }));
  }

  #busy() {
    this.#list.setAttribute("aria-busy", !this.#parts.isSettled || this.total === null);
  }

  // --- where it is ----------------------------------------------------------------------------

  get #isHidden() {
    return this.#list.offsetParent === null;
  }

  get rowsInSight() {
    return Math.max(1, Math.floor((innerHeight - this.#shade()) / this.#card.down));
  }

  /** Index of the first card in sight. */
  get first() {
    if (this.#isHidden || this.#card.down === 0) return this.active;
    const { top } = this.#list.getBoundingClientRect();
    const row = Math.max(0, Math.round((this.#shade() - top) / this.#card.down));
    return Math.max(0, Math.min(row * this.columns, (this.total ?? 0) - 1));
  }

  /** Bring the row of a card to the upper edge of the window. */
  scrollTo(index) {
    const { top } = this.#list.getBoundingClientRect();
    scrollTo({ top: scrollY + top + this.#rowOf(index) * this.#card.down - this.#shade(), behavior: "instant" });
    this.render();
  }

  /** Scroll as little as brings the whole row of a card into sight. */
  reveal(index) {
    const top = this.#list.getBoundingClientRect().top + this.#rowOf(index) * this.#card.down;
    const above = Math.min(0, top - this.#shade());
    const below = Math.max(0, top + this.#card.height - innerHeight);
    if (above !== 0 || below !== 0) scrollBy({ top: above || below, behavior: "instant" });
    this.render();
  }

  #rowOf(index) {
    return Math.floor(index / this.columns);
  }

  /** How many columns there are, which the stylesheet decides, and how high a card is. */
  #measure() {
    const { gridTemplateColumns, columnGap, rowGap } = getComputedStyle(this.#list);
    const tracks = gridTemplateColumns.split(" ");
    const width = Number.parseFloat(tracks[0]);
    const probe = this.#list.appendChild(element("li", {}, blank()));
    probe.style.width = `${width}px`;
    const height = Math.ceil(probe.getBoundingClientRect().height);
    probe.remove();
    this.columns = tracks.length;
    this.#width = this.#list.clientWidth;
    this.#card = {
      width,
      height,
      across: width + Number.parseFloat(columnGap),
      down: height + Number.parseFloat(rowGap),
    };
  }

  /** Give the list the height of all its rows. */
  #stretch() {
    if (this.#isHidden) return;
    if (this.#width !== this.#list.clientWidth) this.#measure();
    const rows = Math.ceil((this.total ?? 0) / this.columns);
    this.#list.style.height = `${Math.max(0, rows * this.#card.down - (this.#card.down - this.#card.height))}px`;
  }

  // --- what is in sight -----------------------------------------------------------------------

  #soon() {
    this.#waiting ??= requestAnimationFrame(() => {
      this.#waiting = null;
      this.render();
    });
  }

  /** Have the cards around what is in sight as elements, and the one with the focus. */
  render() {
    if (this.#isHidden || this.total === null) return;
    if (this.#width !== this.#list.clientWidth) this.#widen();
    this.#stretch();
    const [first, last] = this.#range();
    this.#parts.want(first, Math.max(first, last));
    const focused = this.#focused();
    if (focused === null && (this.active < first || this.active > last)) this.active = Math.max(0, this.first);
    const here = new Set();
    if (focused !== null && focused < first) here.add(focused);
    for (let index = first; index <= last; index += 1) here.add(index);
    if (focused !== null && focused > last && focused < this.total) here.add(focused);
    const changed = this.#place(here);
    this.#busy();
    if (changed) this.#tell("moved");
  }

  /** The window has another width: the first card in sight stays so. */
  #widen() {
    const { first } = this;
    const before = this.#card.down;
    this.#measure();
    for (const [index, card] of this.#cards) this.#put(index, card);
    this.#stretch();
    if (first > 0 && before > 0) this.scrollTo(first);
  }

  #range() {
    const { top } = this.#list.getBoundingClientRect();
    const rowAt = (y) => Math.floor((y - top) / this.#card.down);
    const first = Math.max(0, rowAt(-AROUND)) * this.columns;
    const last = (rowAt(innerHeight + AROUND) + 1) * this.columns - 1;
    return [Math.max(0, Math.min(first, this.total - 1)), Math.min(last, this.total - 1)];
  }

  /** Whether any element came or went. They stand in the order of the list, which Tab and screen readers follow. */
  #place(here) {
    let changed = false;
    for (const [index, card] of this.#cards) {
      if (here.has(index)) continue;
      card.remove();
      this.#cards.delete(index);
      changed = true;
    }
    let next = this.#list.firstElementChild;
    for (const index of here) {
      const known = this.#cards.get(index);
      if (known !== undefined) {
        next = known.nextElementSibling;
        continue;
      }
      const card = element("li");
      this.#cards.set(index, card);
      this.#put(index, card);
      this.#list.insertBefore(card, next);
      this.#fill(index);
      changed = true;
    }
    this.#letTab();
    return changed;
  }

  #put(index, card) {
    const { width, height, across, down } = this.#card;
    Object.assign(card.style, {
      width: `${width}px`,
      height: `${height}px`,
      translate: `${(index % this.columns) * across}px ${this.#rowOf(index) * down}px`,
    });
  }

  /** Show the image of a card, or that it is on its way. */
  #fill(index) {
    const card = this.#cards.get(index);
    if (card === undefined) return;
    const image = this.imageAt(index);
    const hadFocus = card.contains(document.activeElement);
    card.setAttribute("aria-setsize", this.total);
    card.setAttribute("aria-posinset", index + 1);
    if (image === undefined) card.replaceChildren(blank());
    else this.#draw(card, image);
    this.#letTabTo(index, card);
    if (hadFocus && !card.contains(document.activeElement))
      card.querySelector("a[href]")?.focus({ preventScroll: true });
  }

  // --- the keyboard ---------------------------------------------------------------------------

  /** Index of the card in which an element is; -1: in none. */
  indexOfCard(within) {
    const card = within.closest("li");
    return Number(card?.getAttribute("aria-posinset") ?? 0) - 1;
  }

  /** Go on at a card with the keyboard: at once, or when it has come. */
  focus(index) {
    const reachable = Math.max(0, Math.min(index, this.total - 1));
    this.#activate(reachable);
    this.reveal(reachable);
    this.#wanted = reachable;
    this.#focusWanted();
  }

  #focusWanted() {
    if (this.#wanted === null) return;
    this.#cards.get(this.#wanted)?.querySelector("a[href]")?.focus({ preventScroll: true }); // then nothing is wanted
  }

  /** The keyboard stays at an image that has moved; at its place, if it is gone. */
  #follow(id, focused) {
    const index = this.indexOf(id);
    if (index >= 0 && index !== focused) this.focus(index);
    else if (focused >= this.total && this.total > 0) this.focus(this.total - 1);
  }

  #focused() {
    const { activeElement } = document;
    return this.#list.contains(activeElement) ? this.indexOfCard(activeElement) : null;
  }

  #activate(index) {
    this.active = index;
    this.#letTab();
  }

  /** Of all cards Tab leads to one, and the arrow keys to the others. */
  #letTab() {
    for (const [index, card] of this.#cards) this.#letTabTo(index, card);
  }

  #letTabTo(index, card) {
    for (const each of card.querySelectorAll("a[href], input")) each.tabIndex = index === this.active ? 0 : -1;
  }

  #step(event) {
    const step = STEPS[event.key];
    if (step === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.focus(this.active + step(this));
  }
}

/** What stands where an image will be, of the same size. */
function blank() {
  const words = element("span", { className: "about" }, element("strong", { textContent: "\u00a0" }));
  words.append(element("small", { textContent: "\u00a0" }));
  return element("a", { className: "blank" }, element("span", { className: "picture" }), words);
}
