/** When to come back, and to which gateway: soon for one viewer, spread out for thousands that fell at once. */

/** The first wait is up to this; the next ones double. */
const FIRST_MS = 2_000;
const LONGEST_MS = 8_000;
/** With somebody looking: only so much that a crowd whose network came back does not arrive in one instant. */
const SOON_MS = 300;

export class Retry {
  #clock;
  #random;
  #attempt = 0;
  #notBefore = 0;
  #base = '';
  /** @type {Set<string>} */
  #failed = new Set();

  /** @param {() => number} clock  ms since 1970 @param {() => number} random  0 ≤ x < 1 */
  constructor(clock, random) {
    this.#clock = clock;
    this.#random = random;
  }

  /**
   * The address to try: one that has not failed since the last good connection, while there is one; by chance, so that
   * the viewers of a dead gateway spread over all others.
   * @param {string[]} bases
   */
  choose(bases) {
    let left = bases.filter((base) => !this.#failed.has(base));
    if (!left.length) {
      this.#failed.clear();
      left = bases.filter((base) => base !== this.#base);
      if (!left.length) left = bases;
    }
    this.#base = left[Math.floor(this.#random() * left.length)];
    return this.#base;
  }

  /** The chosen one ended a connection, or never gave one. */
  failed() {
    this.#failed.add(this.#base);
  }

  /** There was a good connection: begin anew. */
  steady() {
    this.#attempt = 0;
    this.#failed.clear();
  }

  /**
   * How long to wait before the next attempt, ms.
   * @param {number} [retryAfter]  s, as the server asked
   */
  wait(retryAfter) {
    const ceiling = Math.min(LONGEST_MS, FIRST_MS * 2 ** this.#attempt);
    this.#attempt += 1;
    this.#notBefore = retryAfter === undefined ? 0 : this.#clock() + retryAfter * 1000;
    return retryAfter === undefined ? ceiling * (0.1 + 0.9 * this.#random()) : retryAfter * 1000 * (1 + 0.3 * this.#random());
  }

  /** The same where somebody is waiting for it, ms: almost none, unless the server asked to be left alone. */
  soon() {
    return Math.max(SOON_MS * this.#random(), this.#notBefore - this.#clock());
  }
}
