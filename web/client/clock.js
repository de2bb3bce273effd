/** The server's clock, as well as it can be known over a network: for countdowns that end together on all screens. */

/** By how much the doubt about a guess grows while it ages, ms per ms: far more than a device's clock drifts. */
const DOUBT = 0.001;
/** A guess that is this much later than a better one was not rounding: the clock is corrected, even backwards. */
const HOLD_MS = 1_000;

export class ServerClock {
  #clock;
  #offset = 0;
  #doubt = Infinity; // the true offset lies this near, ms
  #at = 0;
  #told = -Infinity;

  /** @param {() => number} clock  the device's, ms since 1970 */
  constructor(clock) {
    this.#clock = clock;
  }

  /**
   * The server's clock, ms since 1970. Better guesses do not run it backwards: what has opened does not close again.
   * @returns {number}
   */
  now() {
    const now = Math.round(this.#clock() + this.#offset);
    if (now < this.#told && this.#told - now < HOLD_MS) return this.#told;
    this.#told = now;
    return now;
  }

  /**
   * What an answer tells: the server read its clock at some moment between the question and now. A guess is kept until
   * a new one is surer, or contradicts it: then the device's clock was set, or another server answered.
   * @param {number} serverNow
   * @param {number} askedAt  by the device's clock
   */
  learn(serverNow, askedAt) {
    const heardAt = this.#clock();
    const doubt = (heardAt - askedAt) / 2;
    const offset = serverNow - (askedAt + heardAt) / 2;
    if (doubt < 0) return; // the device's clock was set back meanwhile: this says nothing
    const age = heardAt - this.#at;
    const aged = age < 0 ? Infinity : this.#doubt + age * DOUBT;
    if (doubt > aged && Math.abs(offset - this.#offset) <= doubt + aged) return;
    this.#offset = offset;
    this.#doubt = doubt;
    this.#at = heardAt;
  }

  /** Whether the last guess that was kept is older than `ms`. @param {number} ms */
  olderThan(ms) {
    const age = this.#clock() - this.#at;
    return age < 0 || age > ms;
  }
}
