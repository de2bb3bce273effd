/** Commands on their way: said in order, a few at a time, again after a reconnect, and given up in time. */

import {newId, Refused} from './rest.js';

/** Commands waiting for their answer, said or not. One more is refused at once with `offline`. */
export const WAITING_MAX = 50;
/** How long a command may take, from the call on; waiting for the network counts. */
export const ANSWER_MS = 20_000;
/** Said and unanswered at a time: a gateway refuses more of one person with `busy`. */
const UNANSWERED_MAX = 4;
/** Bytes; a gateway closes for good on a longer frame. */
const FRAME_MAX = 4_096;

/** @typedef {import('./wire.js').Ack} Ack */
/**
 * @typedef {object} Waiting
 * @property {{t: string, id: string}} frame
 * @property {(ack: Ack) => void} resolve
 * @property {(refused: Refused) => void} reject
 * @property {any} timer
 * @property {number} line  the connection it was last said on; 0: never
 */

/**
 * A command is refused with `offline` only while it surely never left this device; one that was said and not answered
 * in time ends in `no_answer`: it may have been carried out.
 */
export class Outbox {
  /** @type {Map<string, Waiting>} */
  #waiting = new Map();
  #timers;
  #say;
  #line = 0;
  #open = false;

  /**
   * @param {{set: (fn: () => void, ms: number) => any, clear: (timer: any) => void}} timers
   * @param {(frame: object) => void} say
   */
  constructor(timers, say) {
    this.#timers = timers;
    this.#say = say;
  }

  /**
   * Say this as soon as possible. With the `id` of a command that ended in `no_answer` the server carries it out once.
   * @param {{t: string, id?: string}} fields
   * @returns {Promise<Ack>}
   */
  add(fields) {
    const frame = {...fields, id: fields.id ?? newId()};
    if (this.#waiting.size >= WAITING_MAX) return Promise.reject(new Refused('offline', 'Too much is waiting for the network.'));
    if (bytes(JSON.stringify(frame)) > FRAME_MAX) return Promise.reject(new Refused('too_long', 'This is too long.'));
    return new Promise((resolve, reject) => {
      const timer = this.#timers.set(() => this.#expire(frame.id), ANSWER_MS);
      this.#waiting.set(frame.id, {frame, resolve, reject, timer, line: 0});
      this.#flush();
    });
  }

  /** There is a connection, a new one: whatever is unanswered is said on it, in order and with the same ids. */
  connected() {
    this.#line += 1;
    this.#open = true;
    this.#flush();
  }

  /** The connection is gone. */
  lost() {
    this.#open = false;
  }

  /** @param {Ack} ack */
  answer(ack) {
    const waiting = this.#take(ack.id);
    if (!waiting) return; // given up, or an answer of the connection before
    if (ack.ok) waiting.resolve(ack);
    else {
      const {code = 'invalid', message, retry_after: retryAfter, ...fields} = ack.error ?? {};
      waiting.reject(new Refused(code, message, {retryAfter, fields}));
    }
    this.#flush();
  }

  /** There will be no connection any more: all are rejected with `closed`. */
  close() {
    this.lost();
    for (const id of [...this.#waiting.keys()]) this.#take(id)?.reject(new Refused('closed', 'This connection is closed.'));
  }

  #flush() {
    const said = [...this.#waiting.values()].filter(({line}) => line === this.#line).length;
    let free = UNANSWERED_MAX - said;
    for (const waiting of this.#waiting.values()) {
      if (!this.#open || free <= 0) return;
      if (waiting.line === this.#line) continue;
      waiting.line = this.#line;
      free -= 1;
      this.#say(waiting.frame);
    }
  }

  #expire(id) {
    const waiting = this.#take(id);
    waiting?.reject(new Refused(waiting.line ? 'no_answer' : 'offline', 'No answer from the server.'));
    this.#flush();
  }

  #take(id) {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (waiting) this.#timers.clear(waiting.timer);
    return waiting;
  }
}

/** At least as many bytes as `text` has in UTF-8; mini-programs have no TextEncoder. @param {string} text */
function bytes(text) {
  return text.replace(/[^\x00-\x7f]/g, '###').length;
}
