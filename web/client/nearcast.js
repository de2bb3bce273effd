/**
 * The Nearcast client: one room socket that lives through bad networks, and a small REST helper.
 *
 * No dependencies, no DOM: it runs in browsers, in Node, and (given another `open`) in a mini-program, where
 * `wx.connectSocket` is wrapped into an object with `send`, `close` and the four `on…` handlers of a WebSocket.
 * Frames are those of `live/wire.py`: JSON text, the field `t` names the type, times in ms, money in fen.
 *
 *     const room = connect({room: id, sockets: ['wss://live-1.example'], token: jwt});
 *     room.on('comment', (comment) => show(comment));
 *     await room.comment('好看!');          // resolves with the ack, rejects with a Refused
 *
 * What it promises: events arrive in order; every certain event arrives even over a reconnect (the server is told
 * the last position); a comment is never shown twice; a command is carried out at most once, since a resend after a
 * reconnect carries the same id.
 */

/** @typedef {{epoch: string, seq: number}} Position  a place in the room's log */
/** @typedef {'connecting'|'open'|'waiting'|'closed'} State */
/**
 * @typedef {object} Options
 * @property {string} room  the room's id
 * @property {string[] | (() => string[] | Promise<string[]>)} sockets  base addresses (`ws://host:port`) of gateways;
 *   a function is asked again before every attempt, since gateways come and go
 * @property {string | ((expired: boolean) => string | Promise<string>)} token  the bearer token; a function is asked
 *   before every attempt and is told when the server called the last one expired
 * @property {(url: string) => Socket} [open]  makes a socket; default `new WebSocket(url)`
 * @property {() => number} [clock]  ms since 1970
 * @property {() => number} [random]  0 ≤ x < 1
 * @property {{set: (fn: () => void, ms: number) => any, clear: (timer: any) => void}} [timers]
 */
/**
 * @typedef {object} Socket  what is used of a WebSocket
 * @property {(text: string) => void} send
 * @property {(code?: number) => void} close
 * @property {(() => void)|null} onopen
 * @property {((message: {data: string}) => void)|null} onmessage
 * @property {((end: {code: number, reason?: string}) => void)|null} onclose
 * @property {(() => void)|null} onerror
 */

import {newId, Refused} from './rest.js';

export {newId, Refused, rest} from './rest.js';

/** Close codes that mean something to a client; 4000–4499 come back, 4500–4999 do not. */
export const Close = Object.freeze({
  DRAINING: 4001, SLOW: 4002, SILENT: 4003, UNAVAILABLE: 4004, TOKEN_EXPIRED: 4100,
  HELLO_TIMEOUT: 4500, BAD_FRAME: 4501, TOKEN_INVALID: 4502, ROOM_UNKNOWN: 4503, ROOM_ENDED: 4504,
  FLOOD: 4505, REPLACED: 4506, VERSION: 4507, KICKED: 4508, BANNED: 4509,
});

const PENDING_MAX = 50; // commands waiting for their answer, sent or not
const SEEN_MAX = 100;
const KNOWN_COMMENTS_MAX = 600;
const LIKES_MAX = 100; // a like frame's largest n
const LIKE_EVERY_MS = 400;
const ANSWER_MS = 20_000;
const WELCOME_MS = 10_000;
const PING_EVERY_MS = 20_000;
const SILENCE_MS = 10_000;
const BACKOFF_MS = 500;
const BACKOFF_MAX_MS = 15_000;
const STEADY_MS = 5_000; // a connection that lasted this long was a good one: backoff starts anew

/**
 * Join a room. Returns at once; listen to `state` and `welcome`.
 * @param {Options} options
 * @returns {Room}
 */
export function connect(options) {
  const room = new Room(options);
  room.retryNow();
  return room;
}

/**
 * One room's connection. Types of `on`: `state` ({state, delay?, code?, reason?}), `welcome` (the snapshot; its `recent`
 * holds only comments not shown before), each event's `t` (`pin`, `unpin`, `announce`, `room`, `mute`, `delete`, `drop`,
 * `drop_end`, `counts`, `drop_stock`, `comment`, `join`), `coupon` (a CouponCard), `shed`, `bye`.
 */
export class Room {
  /** @type {State} */
  state = 'waiting';
  /** @type {Position|null} */
  position = null;

  #options;
  #listeners = new Map();
  /** @type {Socket|null} */
  #socket = null;
  #attempt = 0;
  #at = -1; // which of the sockets
  #turn = 0; // an attempt overtaken by a newer one stops at its next await
  #openedAt = 0;
  #expired = false;
  #retryAfter = null;
  #timers = new Map();
  #pending = new Map(); // id → {frame, resolve, reject}
  #seen = new Set();
  #likes = 0;
  #known = new Set();
  #offset = 0;
  #bestTrip = Infinity;
  #pingedAt = 0;

  /** @param {Options} options */
  constructor(options) {
    this.#options = {
      open: (url) => new WebSocket(url),
      clock: () => Date.now(),
      random: Math.random,
      timers: {set: (fn, ms) => setTimeout(fn, ms), clear: (timer) => clearTimeout(timer)},
      ...options,
    };
  }

  /**
   * @param {string} type
   * @param {(value: any) => void} listener
   * @returns {() => void} stops listening
   */
  on(type, listener) {
    if (!this.#listeners.has(type)) this.#listeners.set(type, new Set());
    this.#listeners.get(type).add(listener);
    return () => this.#listeners.get(type).delete(listener);
  }

  /** The server's clock as well as we know it, ms since 1970. */
  now() {
    return this.#options.clock() + this.#offset;
  }

  // ---- what a viewer says --------------------------------------------------------------------------------------
  /** @param {string} text  up to 200 characters */
  comment(text) { return this.#command({t: 'comment', text}); }
  /** @param {{lng: number, lat: number, datum: 'wgs84'|'gcj02'|'bd09', accuracy: number|null}} fix */
  locate(fix) { return this.#command({t: 'locate', ...fix}); }
  /** @param {string} drop */
  claim(drop) { return this.#command({t: 'claim', drop}); }
  /** @param {string} product */
  tap(product) { if (this.state === 'open') this.#send({t: 'tap', product}); }

  /** A tap on the heart; taps are merged into few frames. */
  like(n = 1) {
    this.#likes = Math.min(LIKES_MAX, this.#likes + n);
    if (!this.#timers.has('like')) this.#after('like', LIKE_EVERY_MS, () => this.#sendLikes());
  }

  /** A coupon was shown. Kept until it could be said. @param {string} coupon */
  seen(coupon) {
    if (this.state === 'open') this.#send({t: 'seen', coupon});
    else if (this.#seen.size < SEEN_MAX) this.#seen.add(coupon);
  }

  /** @param {string} comment @param {'spam'|'fraud'|'abuse'|'sexual'|'illegal'|'other'} reason */
  report(comment, reason) { return this.#command({t: 'report', comment, reason}); }

  // ---- what a guide says ---------------------------------------------------------------------------------------
  start() { return this.#command({t: 'start'}); }
  end() { return this.#command({t: 'end'}); }
  /** @param {string} product @param {number} [ttl] seconds */
  pin(product, ttl) { return this.#command({t: 'pin', product, ...(ttl ? {ttl} : {})}); }
  unpin() { return this.#command({t: 'unpin'}); }
  /** @param {string} text  empty takes it down */
  announce(text) { return this.#command({t: 'announce', text}); }
  /** @param {{campaign: string, mode: 'push'|'claim', stock?: number, seconds?: number, delay?: number}} drop */
  drop(drop) { return this.#command({t: 'drop', ...drop}); }
  /** @param {string} viewer @param {number} seconds  0 lifts the mute @param {'room'|'brand'} [scope] */
  mute(viewer, seconds, scope) { return this.#command({t: 'mute', viewer, seconds, ...(scope ? {scope} : {})}); }
  /** @param {string} comment */
  delete(comment) { return this.#command({t: 'delete', comment}); }
  /** @param {boolean} on @param {string[]} [allow]  viewers who may comment all the same */
  hush(on, allow) { return this.#command({t: 'hush', on, ...(allow ? {allow} : {})}); }
  /** @param {number} seconds  0 ends slow mode */
  slow(seconds) { return this.#command({t: 'slow', seconds}); }

  // ---- life of the connection ----------------------------------------------------------------------------------
  /** Leave for good; commands still waiting are rejected with `closed`. */
  close() {
    this.#stop(1000, 'left');
  }

  /** Try at once instead of waiting out the backoff: the network came back, or the page is looked at again. */
  retryNow() {
    if (this.state === 'waiting') void this.#connect();
  }

  async #connect() {
    const {sockets, token, room, open, random} = this.#options;
    const turn = ++this.#turn;
    this.#cancel('retry');
    this.#become('connecting');
    let bases, bearer;
    try {
      bases = typeof sockets === 'function' ? await sockets() : sockets;
      bearer = typeof token === 'function' ? await token(this.#expired) : token;
    } catch (error) {
      if (turn !== this.#turn) return;
      // Signed out or no such room: trying again would be asking the same question for ever.
      if ([401, 403, 404].includes(error?.status)) this.#stop(Close.TOKEN_INVALID, error.code);
      else this.#later();
      return;
    }
    if (turn !== this.#turn) return;
    if (!bases.length) return void this.#later();
    if (this.#at < 0) this.#at = Math.floor(random() * bases.length);
    const socket = open(`${bases[this.#at % bases.length].replace(/\/$/, '')}/v1/rooms/${room}/live`);
    this.#socket = socket;
    this.#openedAt = 0;
    this.#after('silence', WELCOME_MS, () => this.#abandon());
    socket.onopen = () => this.#send({t: 'hello', v: 1, token: bearer, ...(this.position && {resume: this.position})});
    socket.onmessage = (message) => this.#receive(message.data);
    socket.onclose = (end) => this.#lost(end.code, end.reason);
    socket.onerror = () => {}; // `onclose` follows and says more
  }

  #receive(text) {
    let frame;
    try {
      frame = JSON.parse(text);
    } catch {
      return void this.#abandon(); // not our server, or a proxy's page
    }
    // Anything heard proves the line alive: the silence timer runs from a ping to the next frame only.
    if (this.state === 'open') this.#cancel('silence');
    switch (frame.t) {
      case 'welcome': return this.#welcome(frame);
      case 'batch': return this.#batch(frame);
      case 'ack': return this.#ack(frame);
      case 'coupon':
        this.#emit('coupon', frame.coupon);
        return this.#advance(frame.seq);
      case 'pong':
        return this.#learnClock(frame.now, this.#pingedAt);
      case 'bye':
        this.#retryAfter = frame.retry_after ?? null;
        return this.#emit('bye', frame);
      case 'shed':
        return this.#emit('shed', frame);
      default: // a newer server's frame: not for us
    }
  }

  #welcome(frame) {
    this.#cancel('silence');
    this.#openedAt = this.#options.clock();
    this.#expired = false;
    this.#learnClock(frame.now, this.#openedAt);
    // Recovered: the missed events follow in batches and move us on; until they came, our old place stays true.
    const replay = frame.recovered && frame.missed > 0 && this.position;
    this.position = replay ? {epoch: frame.log.epoch, seq: this.position.seq} : {...frame.log};
    const fill = {
      pin: null, announcement: '', drops: [], coupons: [], counts: {}, recovered: false, missed: 0, ...frame,
      recent: (frame.recent ?? []).filter((comment) => this.#isNew(comment.id)),
    };
    this.#become('open');
    this.#emit('welcome', fill);
    for (const {frame: command} of this.#pending.values()) this.#send(command);
    for (const coupon of this.#seen) this.#send({t: 'seen', coupon});
    this.#seen.clear();
    this.#after('ping', PING_EVERY_MS, () => this.#ping());
  }

  #batch(frame) {
    for (const event of frame.e) {
      if (event.t === 'comment' && !this.#isNew(event.id)) continue;
      this.#emit(event.t, event);
    }
    this.#advance(frame.seq);
  }

  #ack(frame) {
    const waiting = this.#pending.get(frame.id);
    if (!waiting) return;
    this.#settle(frame.id);
    if (frame.ok) return waiting.resolve(frame);
    const {code = 'invalid', message, retry_after: retryAfter} = frame.error ?? {};
    waiting.reject(new Refused(code, message, {retryAfter}));
  }

  #command(fields) {
    if (this.state === 'closed') return Promise.reject(new Refused('closed', 'This connection is closed.'));
    if (this.#pending.size >= PENDING_MAX) {
      return Promise.reject(new Refused('offline', 'Too much is waiting for the network.'));
    }
    const id = newId();
    const frame = {...fields, id};
    return new Promise((resolve, reject) => {
      this.#pending.set(id, {frame, resolve, reject});
      this.#after(`answer ${id}`, ANSWER_MS, () => {
        this.#settle(id);
        reject(new Refused(this.state === 'open' ? 'no_answer' : 'offline', 'No answer from the server.'));
      });
      if (this.state === 'open') this.#send(frame);
    });
  }

  #settle(id) {
    this.#pending.delete(id);
    this.#cancel(`answer ${id}`);
  }

  #sendLikes() {
    if (this.state !== 'open' || !this.#likes) return;
    this.#send({t: 'like', n: this.#likes});
    this.#likes = 0;
  }

  #ping() {
    this.#pingedAt = this.#options.clock();
    this.#send({t: 'ping'});
    this.#after('silence', SILENCE_MS, () => this.#abandon());
    this.#after('ping', PING_EVERY_MS, () => this.#ping());
  }

  /** The best guess of the server's clock is the one with the shortest trip. */
  #learnClock(serverNow, askedAt) {
    const heardAt = this.#options.clock();
    const trip = heardAt - askedAt;
    if (trip > this.#bestTrip) return;
    // A welcome's trip is unknown: it serves until the first pong.
    this.#bestTrip = trip > 0 ? trip : Infinity;
    this.#offset = serverNow - (askedAt + heardAt) / 2;
  }

  #isNew(id) {
    if (this.#known.has(id)) return false;
    this.#known.add(id);
    if (this.#known.size > KNOWN_COMMENTS_MAX) this.#known.delete(this.#known.values().next().value);
    return true;
  }

  #advance(seq) {
    if (seq !== undefined && this.position && seq > this.position.seq) this.position = {...this.position, seq};
  }

  /** The socket does not answer: do not wait for its close event, which a dead network delays by minutes. */
  #abandon() {
    const socket = this.#socket;
    this.#lost(1006, 'silent');
    socket?.close();
  }

  #lost(code, reason = '') {
    const steady = this.#openedAt && this.#options.clock() - this.#openedAt >= STEADY_MS;
    this.#detach();
    if (code >= 4500 && code <= 4999) return this.#stop(code, reason);
    if (steady) this.#attempt = 0;
    this.#expired = code === Close.TOKEN_EXPIRED;
    this.#at += 1; // the next gateway may be better off
    this.#later();
  }

  #later() {
    const {random} = this.#options;
    const ceiling = Math.min(BACKOFF_MAX_MS, BACKOFF_MS * 2 ** this.#attempt);
    const delay = this.#retryAfter === null
      ? ceiling * (0.2 + 0.8 * random())
      : this.#retryAfter * 1000 * (1 + 0.3 * random());
    this.#attempt += 1;
    this.#retryAfter = null;
    this.#become('waiting', {delay});
    this.#after('retry', delay, () => this.retryNow());
  }

  #stop(code, reason) {
    if (this.state === 'closed') return;
    const socket = this.#socket;
    this.#turn += 1;
    this.#detach();
    const waiting = [...this.#pending.values()];
    this.#pending.clear();
    for (const key of [...this.#timers.keys()]) this.#cancel(key);
    this.#become('closed', {code, reason});
    socket?.close();
    for (const {reject} of waiting) reject(new Refused('closed', 'This connection is closed.'));
  }

  #detach() {
    const socket = this.#socket;
    this.#socket = null;
    this.#cancel('ping');
    this.#cancel('silence');
    if (socket) socket.onopen = socket.onmessage = socket.onclose = null;
  }

  #send(frame) {
    this.#socket?.send(JSON.stringify(frame));
    if (frame.t !== 'like' && this.#likes && this.state === 'open') this.#sendLikes();
  }

  #become(state, more = {}) {
    this.state = state;
    this.#emit('state', {state, ...more});
  }

  #emit(type, value) {
    for (const listener of this.#listeners.get(type) ?? []) {
      try {
        listener(value);
      } catch (error) {
        // One listener's defect must not keep the others, or the log's position, from moving on.
        (globalThis.reportError ?? console.error)(error);
      }
    }
  }

  #after(key, ms, fn) {
    this.#cancel(key);
    this.#timers.set(key, this.#options.timers.set(() => {
      this.#timers.delete(key);
      fn();
    }, ms));
  }

  #cancel(key) {
    if (this.#timers.has(key)) this.#options.timers.clear(this.#timers.get(key));
    this.#timers.delete(key);
  }
}
