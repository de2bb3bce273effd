/** One try to redeem: its Idempotency-Key lives until an answer came, through lost networks and a reloaded page. */

import {newId} from '/client/nearcast.js';

const KEPT = 'nearcast.attempt';
const UNDECIDED = ['offline', 'unavailable', 'busy'];

export class Attempt {
  #session;

  /** @param {import('./login.js').Session} session */
  constructor(session) {
    this.#session = session;
  }

  /** A try of before whose answer never came. @returns {{what: object, found: object, key: string}|null} */
  unfinished() {
    return JSON.parse(sessionStorage.getItem(KEPT) ?? 'null');
  }

  forget() {
    sessionStorage.removeItem(KEPT);
  }

  /**
   * @param {{code?: string, qr?: string, order_fen?: number}} what
   * @param {object} found  what `check` said, kept to show again after a reload
   * @returns {Promise<any>} the redemption
   */
  async redeem(what, found) {
    const former = this.unfinished();
    // The same question keeps its key; a changed amount is another question.
    const key = former && JSON.stringify(former.what) === JSON.stringify(what) ? former.key : newId();
    sessionStorage.setItem(KEPT, JSON.stringify({what, found, key}));
    try {
      const done = await this.#session.call('POST', '/v1/redemptions', {body: what, key});
      this.forget();
      return done;
    } catch (error) {
      if (!UNDECIDED.includes(error.code)) this.forget();
      throw error;
    }
  }
}
