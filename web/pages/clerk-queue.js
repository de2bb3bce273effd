/** Redemptions that the till made without a network: kept on the device until the server has said what became of each. */

const KEPT = 'nearcast.till.sale';
const AT_ONCE = 100;
const LATER = ['busy', 'unavailable'];

/**
 * `at` in ms of the server's clock. `refusal`: what the server said; `taken_back`: it stood, and was undone since.
 * @typedef {{key: string, qr: string, at: number, order_fen?: number, order?: string, refusal?: {code: string, [field: string]: any}}} Sale
 */

export class Queue {
  #session;
  #prefix;
  #telling = null;

  /** @param {import('./login.js').Session} session @param {string} place  brand and store: another store tells nothing of ours */
  constructor(session, place) {
    this.#session = session;
    this.#prefix = `${KEPT}:${place}:`;
  }

  /** All of them, oldest first. Each is an entry of its own, so that two tabs lose none. @returns {Sale[]} */
  all() {
    return Object.keys(localStorage).filter((name) => name.startsWith(this.#prefix))
      .map((name) => JSON.parse(localStorage.getItem(name) ?? 'null')).filter(Boolean).sort((a, b) => a.at - b.at);
  }

  /** Those the server has not answered. */
  waiting() {
    return this.all().filter((sale) => !sale.refusal);
  }

  /** @param {Sale} sale */
  put(sale) {
    localStorage.setItem(this.#prefix + sale.key, JSON.stringify(sale));
  }

  /** @param {string} key */
  drop(key) {
    localStorage.removeItem(this.#prefix + key);
  }

  /** Tell the server what waits. Two calls at once are one. @returns {Promise<number>} how many stand now */
  tell() {
    this.#telling ??= this.#tell().finally(() => { this.#telling = null; });
    return this.#telling;
  }

  async #tell() {
    let stand = 0;
    for (const seen = new Set(); ;) {
      const some = this.waiting().filter((sale) => !seen.has(sale.key)).slice(0, AT_ONCE);
      if (!some.length) return stand;
      for (const {key} of some) seen.add(key);
      for (const outcome of await this.#outcomes(some)) stand += this.#settle(some.find(({key}) => key === outcome.key), outcome);
    }
  }

  async #outcomes(sales) {
    try {
      return await this.#post(sales);
    } catch (error) {
      if (error.code !== 'invalid') throw error;
      // One that cannot be read must not keep the others back.
      if (sales.length > 1) return [...await this.#outcomes(sales.slice(0, 1)), ...await this.#outcomes(sales.slice(1))];
      return [{key: sales[0].key, redemption: null, refusal: {code: 'invalid'}}];
    }
  }

  async #post(sales) {
    const body = {redemptions: sales.map(({refusal, at, ...sale}) => ({...sale, at: new Date(at).toISOString()}))};
    try {
      return (await this.#session.call('POST', '/v1/till/sync', {body})).outcomes;
    } catch (error) {
      if (error.status !== 401) throw error;
      await this.#session.token(true); // the network was away for longer than a token lives
      return (await this.#session.call('POST', '/v1/till/sync', {body})).outcomes;
    }
  }

  /** @returns {number} 1 if it stands */
  #settle(sale, {redemption, refusal}) {
    if (!sale || LATER.includes(refusal?.code)) return 0;
    if (redemption && !redemption.reversed_at) {
      this.drop(sale.key);
      return 1;
    }
    this.put({...sale, refusal: refusal ?? {code: 'taken_back'}});
    return 0;
  }
}
