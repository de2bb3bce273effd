/**
 * The Nearcast client: one room socket that lives through bad networks, and a small REST helper.
 *
 * No dependencies, no DOM: it runs in browsers (`browser.js` wakes it with the page), in WeChat mini-programs
 * (`wechat.js` wraps `wx`) and in Node. Frames are those of `live/wire.py`, typed in `wire.d.ts`: JSON text, the field
 * `t` names the type, times in ms, money in fen.
 *
 *     const room = connect({room: id, sockets: ['wss://live-1.example'], token: () => session.token});
 *     room.on('comment', (comment) => show(comment));
 *     await room.comment('好看!');          // resolves with the ack, rejects with a Refused
 *
 * What it promises: events arrive in order; every certain event arrives even over a reconnect (the server is told
 * the last position); a comment is never shown twice; a command is carried out at most once, since a resend after a
 * reconnect carries the same id.
 */

/** @typedef {import('./wire.js').Position} Position  a place in the room's log */
/** @typedef {import('./wire.js').Ack} Ack */
/** @typedef {'connecting'|'open'|'waiting'|'closed'} State */
/** @typedef {{state: State, delay?: number, code?: number, reason?: string}} StateChange  `delay` in ms till the next attempt */
/** @typedef {Required<Omit<import('./wire.js').Welcome, 't'|'muted_until'|'pin'>> & Pick<import('./wire.js').Welcome, 'muted_until'> & {pin: import('./wire.js').PinState|null}} Snapshot */
/**
 * What `on` may listen to: the events of the room, and those of the connection. `recent` of a `welcome` holds only
 * comments not shown before.
 * @typedef {import('./wire.js').RoomEvents & {
 *   state: StateChange, welcome: Snapshot, coupon: import('./wire.js').CouponCard,
 *   review: import('./wire.js').Review,
 *   shed: import('./wire.js').Shed, bye: import('./wire.js').Bye,
 * }} Events
 */
/**
 * Why a token is asked for: `false` before an ordinary attempt; `expired` when the server refused the last one for its
 * age; `expiring` while the connection is open and should outlive its token.
 * @typedef {false|'expired'|'expiring'} Why
 */
/**
 * @typedef {object} Options
 * @property {string} room  the room's id
 * @property {string[] | (() => string[] | Promise<string[]>)} sockets  base addresses (`ws://host:port`) of gateways;
 *   a function is asked again before every attempt, since gateways come and go
 * @property {string | ((why: Why) => string | Promise<string>)} token  the bearer token; a function is asked before every
 *   attempt, and for a fresh one while there is time (see Why)
 * @property {(url: string) => Socket} [open]  makes a socket; default `new WebSocket(url)`; needed before Node 22
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

import {ServerClock} from './clock.js';
import {Outbox} from './outbox.js';
import {newId, Refused} from './rest.js';
import {Retry} from './retry.js';

export {newId, Refused, rest} from './rest.js';

/** Close codes that mean something to a client; 4000–4499 come back, 4500–4999 do not. */
export const Close = Object.freeze({
  DRAINING: 4001, SLOW: 4002, SILENT: 4003, UNAVAILABLE: 4004, TOKEN_EXPIRED: 4100,
  HELLO_TIMEOUT: 4500, BAD_FRAME: 4501, TOKEN_INVALID: 4502, ROOM_UNKNOWN: 4503, ROOM_ENDED: 4504,
  FLOOD: 4505, REPLACED: 4506, VERSION: 4507, KICKED: 4508, BANNED: 4509, ERASED: 4510,
});

const SEEN_MAX = 100;
const KNOWN_COMMENTS_MAX = 600;
const LIKES_MAX = 100; // a like frame's largest n
const LIKE_EVERY_MS = 400;
const WELCOME_MS = 10_000;
const PING_EVERY_MS = 20_000;
const CLOCK_EVERY_MS = 120_000; // in a busy room, where nothing else asks for a ping
const SILENCE_MS = 10_000;
const WAKE_SILENCE_MS = 3_000; // somebody is looking: do not let them look at a dead line for long
const STEADY_MS = 5_000; // a connection that lasted this long was a good one: backoff starts anew
const RENEW_AGAIN_MS = 15_000;

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

/** One room's connection; see Events for what it tells. */
export class Room {
  /** @type {State} */
  state = 'waiting';
  /** @type {Position|null} */
  position = null;

  #options;
  /** @type {Map<string, Set<(value: any) => void>>} */
  #listeners = new Map();
  /** @type {Socket|null} */
  #socket = null;
  /** @type {Map<string, any>} */
  #timers = new Map();
  #outbox;
  #clock;
  #retry;
  #turn = 0; // an attempt overtaken by a newer one stops at its next await
  #openedAt = 0;
  #saidHelloAt = 0;
  #heardAt = 0;
  #silentAt = 0; // when the line counts as dead
  #retryAt = 0;
  #bearer = '';
  /** @type {{id: string, token: string}|null} */
  #renewal = null;
  #expired = false;
  /** @type {import('./wire.js').Bye|null} */
  #bye = null;
  /** @type {number[]} */
  #pings = []; // when those were sent that are not answered yet
  #seen = new Set();
  #likes = 0;
  #known = new Set();

  /** @param {Options} options */
  constructor(options) {
    if (!options.open && typeof WebSocket === 'undefined') {
      throw new TypeError('no WebSocket here: Node 22 and browsers have one; elsewhere pass `open`');
    }
    /** @type {Required<Options>} */
    this.#options = {
      open: (url) => /** @type {any} */ (new WebSocket(url)),
      clock: () => Date.now(),
      random: Math.random,
      timers: {set: (fn, ms) => setTimeout(fn, ms), clear: (timer) => clearTimeout(timer)},
      ...options,
    };
    this.#clock = new ServerClock(this.#options.clock);
    this.#retry = new Retry(this.#options.clock, this.#options.random);
    this.#outbox = new Outbox(this.#options.timers, (frame) => this.#send(frame));
  }

  /**
   * @template {keyof Events} Type
   * @param {Type} type
   * @param {(value: Events[Type]) => void} listener
   * @returns {() => void} stops listening
   */
  on(type, listener) {
    const listeners = this.#listeners.get(type) ?? new Set();
    this.#listeners.set(type, listeners.add(listener));
    return () => listeners.delete(listener);
  }

  /** The server's clock as well as we know it, ms since 1970: count down to a drop's `opens_at` with it. */
  now() {
    return this.#clock.now();
  }

  // ---- what a viewer says --------------------------------------------------------------------------------------
  /** @param {string} text  up to 200 characters */
  comment(text) { return this.#command({t: 'comment', text}); }
  /** @param {{lng: number, lat: number, datum: 'wgs84'|'gcj02'|'bd09', accuracy: number|null}} fix */
  locate(fix) { return this.#command({t: 'locate', ...fix}); }
  /** @param {string} drop */
  claim(drop) { return this.#command({t: 'claim', drop}); }
  /** The viewer opened a product's card; not said where there is no connection. @param {string} product */
  tap(product) { if (this.state === 'open') this.#send({t: 'tap', product}); }

  /** A tap on the heart; taps are merged into few frames. Without a connection the last hundred are kept. */
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
  pause() { return this.#command({t: 'pause'}); }
  end() { return this.#command({t: 'end'}); }
  /** @param {string} product @param {number} [ttl] seconds */
  pin(product, ttl) { return this.#command({t: 'pin', product, ...(ttl ? {ttl} : {})}); }
  unpin() { return this.#command({t: 'unpin'}); }
  /** @param {string} text  empty takes it down */
  announce(text) { return this.#command({t: 'announce', text}); }
  /**
   * After `no_answer` the same drop with the same `id` is one drop, whatever became of the first try.
   * @param {{campaign: string, mode: 'push'|'claim', stock?: number, seconds?: number, delay?: number, id?: string}} drop
   */
  drop(drop) { return this.#command({t: 'drop', ...drop}); }
  /** @param {string} viewer @param {number} seconds  0 lifts the mute @param {'room'|'brand'} [scope] */
  mute(viewer, seconds, scope) { return this.#command({t: 'mute', viewer, seconds, ...(scope ? {scope} : {})}); }
  /** Out of the room; they may come back only by joining anew. @param {string} viewer */
  kick(viewer) { return this.#command({t: 'kick', viewer}); }
  /** @param {string} viewer @param {number} seconds  0 lifts the ban @param {'room'|'brand'} [scope] */
  ban(viewer, seconds, scope) { return this.#command({t: 'ban', viewer, seconds, ...(scope ? {scope} : {})}); }
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

  /** Try at once instead of waiting out the backoff. */
  retryNow() {
    if (this.state === 'waiting') void this.#connect();
  }

  /**
   * The network came back, or the screen is looked at again. A waiting connection tries now, unless the server asked to
   * be left alone for longer; an open one shows within seconds that it is alive, or is replaced.
   */
  wake() {
    if (this.state === 'waiting') {
      this.#tryIn(Math.min(this.#retryAt - this.#options.clock(), this.#retry.soon()));
    } else if (this.state === 'open') {
      if (!this.#pings.length) this.#ping();
      this.#expectWithin(WAKE_SILENCE_MS, true);
    }
  }

  async #connect() {
    const {sockets, token, room, open} = this.#options;
    const turn = ++this.#turn;
    const why = this.#expired ? 'expired' : false;
    this.#cancel('retry');
    this.#become('connecting');
    let bases, bearer;
    try {
      // The token first: whoever asks REST for the sockets wants it fresh.
      bearer = typeof token === 'function' ? await token(why) : token;
      bases = typeof sockets === 'function' ? await sockets() : sockets;
    } catch (error) {
      if (turn === this.#turn) this.#refused(error, why);
      return;
    }
    if (turn !== this.#turn) return;
    if (!bases.length) return void this.#later();
    /** @type {Socket} */
    let socket;
    try {
      socket = open(`${this.#retry.choose(bases).replace(/\/$/, '')}/v1/rooms/${room}/live`);
    } catch {
      return void this.#lost(1006, 'no socket');
    }
    this.#socket = socket;
    this.#bearer = bearer;
    this.#openedAt = 0;
    this.#after('silence', WELCOME_MS, () => this.#abandon());
    socket.onopen = () => {
      this.#saidHelloAt = this.#options.clock();
      this.#send({t: 'hello', v: 1, token: bearer, ...(this.position && {resume: this.position})});
    };
    socket.onmessage = (message) => this.#receive(message.data);
    socket.onclose = (end) => this.#lost(end.code, end.reason);
    socket.onerror = () => {}; // `onclose` follows and says more
  }

  /** Asking for a token or for the sockets ended in `error`. */
  #refused(error, why) {
    // Signed out or no such room: trying again would be asking the same question for ever.
    if (error?.status === 404) return this.#stop(Close.ROOM_UNKNOWN, error.code);
    if (error?.status === 403 || (error?.status === 401 && why)) return this.#stop(Close.TOKEN_INVALID, error.code);
    if (error?.status === 401) this.#expired = true;
    this.#later(error?.retryAfter);
  }

  #receive(text) {
    let frame;
    try {
      frame = JSON.parse(text);
    } catch {
      return void this.#abandon(); // not our server, or a proxy's page
    }
    this.#heardAt = this.#options.clock();
    // Anything heard proves the line alive: the silence timer runs from a ping to the next frame only.
    if (this.state === 'open') this.#cancel('silence');
    switch (frame.t) {
      case 'welcome': return this.#welcome(frame);
      case 'batch': return this.#batch(frame);
      case 'ack': return this.#ack(frame);
      case 'coupon':
        this.#emit('coupon', frame.coupon);
        return this.#advance(frame.seq);
      case 'review':
        this.#emit('review', frame);
        return this.#advance(frame.seq);
      case 'pong':
        return this.#clock.learn(frame.now, this.#pings.shift() ?? this.#heardAt);
      case 'expiring':
        return void this.#renew(frame.expires_at);
      case 'bye':
        this.#bye = frame;
        return this.#emit('bye', frame);
      case 'shed':
        return this.#emit('shed', frame);
      default: // a newer server's frame: not for us
    }
  }

  #welcome(frame) {
    const first = this.state !== 'open'; // else the room's log began anew under an open socket
    this.#cancel('silence');
    if (first) {
      this.#openedAt = this.#options.clock();
      this.#expired = false;
      this.#clock.learn(frame.now, this.#saidHelloAt);
    }
    // Recovered: the missed events follow in batches and move us on; until they came, our old place stays true.
    const replay = frame.recovered && frame.missed > 0 && this.position;
    this.position = replay ? {epoch: frame.log.epoch, seq: replay.seq} : {...frame.log};
    const fill = {
      pin: null, announcement: '', drops: [], coupons: [], counts: {}, recovered: false, missed: 0, ...frame,
      recent: (frame.recent ?? []).filter((comment) => this.#isNew(comment.id)),
    };
    if (first) this.#become('open');
    this.#emit('welcome', fill);
    if (!first || this.state !== 'open') return; // a listener may have left
    this.#outbox.connected();
    for (const coupon of this.#seen) this.#send({t: 'seen', coupon});
    this.#seen.clear();
    this.#sendLikes();
    this.#beatIn(PING_EVERY_MS);
  }

  #batch(frame) {
    for (const event of frame.e) {
      if (event.t === 'comment' && !this.#isNew(event.id)) continue;
      if (event.t === 'delete') this.#isNew(event.comment); // it may overtake the comment, which is then not new
      this.#emit(event.t, event);
    }
    this.#advance(frame.seq);
  }

  #ack(frame) {
    const renewal = this.#renewal;
    if (!renewal || frame.id !== renewal.id) return this.#outbox.answer(frame);
    if (frame.ok) {
      this.#bearer = renewal.token;
      this.#cancel('renew');
    }
    this.#renewal = null;
  }

  /**
   * The token ends at `expiresAt`: give the server a fresh one on this connection. Tried again while there is time; in
   * the end the server closes with TOKEN_EXPIRED, and the next attempt asks for a token with `expired`.
   */
  async #renew(expiresAt) {
    const turn = this.#turn;
    const ask = this.#options.token;
    if (typeof ask !== 'function') return; // the same token again would change nothing
    if (this.now() + RENEW_AGAIN_MS < expiresAt) this.#after('renew', RENEW_AGAIN_MS, () => this.#renew(expiresAt));
    let token;
    try {
      token = await ask('expiring');
    } catch {
      return;
    }
    if (turn !== this.#turn || this.state !== 'open' || token === this.#bearer) return;
    this.#renewal = {id: newId(), token};
    this.#send({t: 'renew', ...this.#renewal});
  }

  /** @returns {Promise<Ack>} */
  #command(fields) {
    if (this.state === 'closed') return Promise.reject(new Refused('closed', 'This connection is closed.'));
    return this.#outbox.add(fields);
  }

  #sendLikes() {
    if (this.state !== 'open' || !this.#likes) return;
    const n = this.#likes;
    this.#likes = 0;
    this.#send({t: 'like', n});
  }

  /** Ask for a sign of life where none was heard for a while. */
  #beat() {
    const quiet = this.#options.clock() - this.#heardAt;
    if (quiet < PING_EVERY_MS && !this.#clock.olderThan(CLOCK_EVERY_MS)) return this.#beatIn(PING_EVERY_MS - quiet);
    this.#ping();
    this.#expectWithin(SILENCE_MS);
    this.#beatIn(PING_EVERY_MS);
  }

  #beatIn(ms) {
    // A crowd that came back together should not ping together for ever.
    this.#after('ping', ms * (1 + 0.1 * this.#options.random()), () => this.#beat());
  }

  #ping() {
    this.#pings.push(this.#options.clock());
    this.#send({t: 'ping'});
  }

  /** Give the line up unless something is heard within `ms`. */
  #expectWithin(ms, soon = false) {
    const due = this.#options.clock() + ms;
    if (this.#timers.has('silence') && this.#silentAt <= due) return;
    this.#silentAt = due;
    this.#after('silence', ms, () => this.#abandon(soon));
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
  #abandon(soon = false) {
    const socket = this.#socket;
    this.#lost(1006, 'silent', soon);
    socket?.close();
  }

  #lost(code, reason = '', soon = false) {
    const steady = this.#openedAt && this.#options.clock() - this.#openedAt >= STEADY_MS;
    // Some platforms report every end as 1000 or 1006; what the server said before is the better witness.
    const meant = code >= 4000 && code <= 4999 ? code : this.#bye?.code ?? code;
    const retryAfter = this.#bye?.retry_after;
    this.#detach();
    if (meant >= 4500 && meant <= 4999) return this.#stop(meant, reason);
    if (steady) this.#retry.steady();
    this.#expired = meant === Close.TOKEN_EXPIRED;
    if (!this.#expired) this.#retry.failed();
    this.#later(retryAfter, soon);
  }

  /** @param {number} [retryAfter]  s */
  #later(retryAfter, soon = false) {
    const delay = soon ? this.#retry.soon() : this.#retry.wait(retryAfter);
    this.#become('waiting', {delay});
    if (this.state === 'waiting') this.#tryIn(delay); // else a listener has left, or tried at once
  }

  #tryIn(delay) {
    this.#retryAt = this.#options.clock() + delay;
    this.#after('retry', delay, () => this.retryNow());
  }

  #stop(code, reason) {
    if (this.state === 'closed') return;
    const socket = this.#socket;
    this.#turn += 1;
    this.#detach();
    for (const key of [...this.#timers.keys()]) this.#cancel(key);
    this.#become('closed', {code, reason});
    socket?.close();
    this.#outbox.close();
  }

  #detach() {
    const socket = this.#socket;
    this.#socket = null;
    this.#bye = null;
    this.#renewal = null;
    this.#pings = [];
    this.#outbox.lost();
    for (const key of ['ping', 'silence', 'renew']) this.#cancel(key);
    if (socket) socket.onopen = socket.onmessage = socket.onclose = null;
  }

  #send(frame) {
    this.#socket?.send(JSON.stringify(frame, wellFormed));
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

/** Text cut in the middle of an emoji is no valid JSON string to the server, which closes for good on such a frame. */
function wellFormed(_key, value) {
  if (typeof value !== 'string') return value;
  return value.replace(/[\ud800-\udbff][\udc00-\udfff]|[\ud800-\udfff]/g, (one) => (one.length === 2 ? one : '\ufffd'));
}
