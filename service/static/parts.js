// A long list of images in parts: those in sight are asked for, few are kept, and what was scrolled past is let go.

const SIZE = 100; // images of a part
const MOST = 30; // parts that are kept
const PASSING = 20; // milliseconds that a part is in sight before it is asked for

export class Parts {
  total = null; // images of the list; null: the service has not said yet
  #ask;
  #heard;
  #kept = new Map(); // number of a part -> {images, current}
  #asked = new Map(); // number of a part -> AbortController
  #failed = new Set(); // numbers of parts

  /**
   * `ask({offset, limit, signal})` resolves to {images, total}; `heard` is called after each answer, with an Error
   * where there was none.
   */
  constructor(ask, heard) {
    this.#ask = ask;
    this.#heard = heard;
  }

  at(index) {
    return this.#kept.get(Math.floor(index / SIZE))?.images[index % SIZE];
  }

  /** [index, image] of all that are known, or only of those that are surely there. */
  *known(surely = false) {
    for (const [number, { images, current }] of this.#kept) {
      if (surely && !current) continue;
      for (const [at, image] of images.entries()) yield [number * SIZE + at, image];
    }
  }

  /** Where an image is, if it is among the known; else -1. */
  indexOf(id) {
    for (const [index, image] of this.known()) if (image.id === id) return index;
    return -1;
  }

  replace(index, image) {
    this.#kept.get(Math.floor(index / SIZE)).images[index % SIZE] = image;
  }

  /** Have the images from one index up to another, and ask for no others any more. */
  want(first, last) {
    const wanted = new Set();
    for (let number = Math.floor(first / SIZE); number * SIZE <= last; number += 1) wanted.add(number);
    for (const number of this.#asked.keys()) if (!wanted.has(number)) this.#letGo(number);
    for (const number of wanted) {
      const isHere = this.#kept.get(number)?.current || this.#asked.has(number) || this.#failed.has(number);
      if (!isHere) this.#fetch(number);
    }
  }

  /** Whether all that was wanted is here, or has failed. */
  get isSettled() {
    return this.#asked.size === 0;
  }

  /** What is known may have changed; it stands until it is wanted again and has come. */
  outdate() {
    for (const part of this.#kept.values()) part.current = false;
    this.tryAgain();
    this.stop();
  }

  get hasFailed() {
    return this.#failed.size > 0;
  }

  tryAgain() {
    this.#failed.clear();
  }

  stop() {
    for (const number of this.#asked.keys()) this.#letGo(number);
  }

  #letGo(number) {
    this.#asked.get(number).abort();
    this.#asked.delete(number);
  }

  async #fetch(number) {
    const asking = new AbortController();
    const { signal } = asking;
    this.#asked.set(number, asking);
    let fault;
    try {
      if (this.total !== null) await new Promise((resolve) => setTimeout(resolve, PASSING));
      signal.throwIfAborted();
      const answer = await this.#ask({ offset: number * SIZE, limit: SIZE, signal });
      signal.throwIfAborted();
      this.#keep(number, answer);
    } catch (error) {
      if (signal.aborted) return;
      this.#failed.add(number);
      fault = error;
    }
    this.#asked.delete(number);
    this.#heard(fault);
  }

  #keep(number, { images, total }) {
    const before = this.total;
    this.total = total;
    if (before !== null && before !== total) this.outdate(); // all others may have moved up or down
    this.#kept.set(number, { images, current: true });
    while (this.#kept.size > MOST) {
      const farthest = [...this.#kept.keys()].reduce((far, each) =>
        Math.abs(each - number) > Math.abs(far - number) ? each : far,
      );
      this.#kept.delete(farthest);
    }
  }
}
