/** Drops in the room: count down, grab, see what is left. */

import {isOurs, turnOf} from '/client/opening.js';

import {h} from './dom.js';
import {clock, count, countdown, distance} from './format.js';
import {onLanguage, say, t} from './i18n.js';
import {complain, toast} from './sheet.js';

/** @typedef {import('/client/wire.js').DropCard} DropCard */

const MINE_SHOWN_MS = 4000;
const EARLY_S = 2;
const LOCATE_FIRST = ['location_missing', 'location_stale', 'consent_missing', 'location_uncertain'];

export class Drops {
  /** @type {Map<string, {drop: DropCard, element: HTMLElement, tick: () => void, mineAt?: number, reviewed?: string}>} */
  #shown = new Map();
  #place;
  #room;
  #stores;
  #wallet;
  #session;
  /** @type {Promise<string>|null} */
  #key = null;

  /**
   * @param {import('./login.js').Session} session
   * @param {HTMLElement} place
   * @param {import('/client/nearcast.js').Room} room
   * @param {import('./stores.js').Stores} stores
   * @param {import('./wallet.js').Wallet} wallet
   */
  constructor(session, place, room, stores, wallet) {
    this.#session = session;
    this.#place = place;
    this.#room = room;
    this.#stores = stores;
    this.#wallet = wallet;
    setInterval(() => this.#tick(), 250);
    onLanguage(() => this.#tick());
  }

  /** @param {DropCard[]} drops */
  replace(drops) {
    for (const id of [...this.#shown.keys()]) if (!drops.some((drop) => drop.id === id)) this.#remove(id);
    for (const drop of drops) this.open(drop);
  }

  /** @param {DropCard} drop */
  open(drop) {
    this.#remove(drop.id);
    if (drop.ends_at <= this.#room.now()) return;
    const entry = drop.mode === 'claim' ? this.#claim(drop) : this.#push(drop);
    this.#shown.set(drop.id, {drop: {...drop}, ...entry});
    this.#place.append(entry.element);
    entry.tick();
    if (drop.signature && drop.opens_at > this.#room.now()) void this.#verify(drop);
  }

  /** A countdown that the server did not announce is not shown. @param {DropCard} drop */
  async #verify(drop) {
    this.#key ??= this.#session.call('GET', '/v1/coupon-key').then(({key}) => key);
    const ours = await this.#key.then((key) => isOurs(drop, key), () => { this.#key = null; });
    if (ours === false) this.#remove(drop.id);
  }

  /** @param {string} id @param {number} left */
  stock(id, left) {
    const entry = this.#shown.get(id);
    if (!entry) return;
    entry.drop.left = left;
    entry.tick();
  }

  /** Somebody looks at it first, or has decided. The coupon itself arrives by itself. @param {import('/client/wire.js').Review} review */
  review({drop, title, state}) {
    const entry = this.#shown.get(drop);
    if (entry) entry.reviewed = state;
    entry?.tick();
    if (state === 'open') {
      if (entry?.drop.mode !== 'claim') toast(t('reviewOpen', {title})); // a claim's answer says it too
    } else if (state !== 'granted') toast(t('reviewNo', {title}));
  }

  /** @param {string} id @param {string} reason */
  end(id, reason) {
    const entry = this.#shown.get(id);
    if (!entry) return;
    this.#remove(id);
    if (reason === 'sold_out' && entry.drop.mode === 'claim' && !this.#wallet.has(id)) toast(t('dropSoldOut', {title: entry.drop.title}));
  }

  #remove(id) {
    this.#shown.get(id)?.element.remove();
    this.#shown.delete(id);
  }

  #tick() {
    const now = this.#room.now();
    for (const [id, entry] of this.#shown) {
      if (this.#wallet.has(id)) entry.mineAt ??= now;
      // Mine: the picture is worth more than a banner that has done its work.
      if (entry.drop.ends_at <= now || now - entry.mineAt > MINE_SHOWN_MS) this.#remove(id);
      else entry.tick();
    }
  }

  #claim(drop) {
    const grab = h('button', {class: 'grab', type: 'button', onclick: () => this.#grab(drop.id, grab)});
    const left = h('span', {class: 'left'}, h('span'), h('i'));
    const element = h('article', {class: 'drop', 'data-drop': drop.id, 'data-mode': 'claim'},
      h('b', {}, drop.title), h('p', {}, drop.terms), left, h('div', {class: 'act'}, grab));
    const opens = drop.opens_at + turnOf(drop.id, this.#session.me.id, drop.spread);
    let shown = '';
    const tick = () => {
      const entry = this.#shown.get(drop.id);
      const now = this.#room.now();
      const {left: rest, stock, ends_at: ends} = entry.drop;
      const have = this.#wallet.has(drop.id);
      say(left.firstChild, 'leftOf', {left: count(rest), time: countdown(ends - now)});
      left.style.setProperty('--part', String(stock ? rest / stock : 0));
      const phase = have ? 'have' : entry.reviewed === 'open' ? 'reviewed' : opens > now ? countdown(opens - now) : rest <= 0 ? 'gone' : 'open';
      if (grab.getAttribute('aria-busy') === 'true') return;
      grab.disabled = phase !== 'open';
      if (phase === shown && grab.lang === document.documentElement.lang) return;
      [shown, grab.lang] = [phase, document.documentElement.lang];
      if (phase === 'open') grab.replaceChildren(h('b', {t: 'grab'}));
      else if (phase === 'have') say(grab, 'granted');
      else if (phase === 'reviewed') say(grab, 'underReview');
      else if (phase === 'gone') say(grab, 'gone');
      else grab.replaceChildren(h('span', {class: 'num'}, phase));
    };
    return {element, tick};
  }

  async #grab(id, button) {
    button.setAttribute('aria-busy', 'true');
    button.disabled = true;
    button.replaceChildren(h('span', {class: 'spinner', style: 'margin: auto'}));
    try {
      const answer = await this.#inTurn(() => this.#room.claim(id));
      if (answer.coupon) this.#wallet.arrive(answer.coupon);
    } catch (error) {
      complain(error);
      if (LOCATE_FIRST.includes(error.code)) this.#stores.open();
    }
    button.removeAttribute('aria-busy');
    button.replaceChildren(h('b', {t: 'grab'}));
    this.#shown.get(id)?.tick();
  }

  /** Once more if the clock was a little fast: the server says when our turn comes. */
  async #inTurn(claim) {
    try {
      return await claim();
    } catch (error) {
      if (error.code !== 'not_started' || !(error.retryAfter <= EARLY_S)) throw error;
      await new Promise((done) => setTimeout(done, error.retryAfter * 1000));
      return claim();
    }
  }

  #push(drop) {
    const told = h('p');
    const act = h('button', {class: 'button', type: 'button', t: 'shareLocation', onclick: () => this.#stores.open()});
    const element = h('article', {class: 'drop', 'data-drop': drop.id, 'data-mode': 'push'},
      h('b', {}, drop.title), told, h('div', {class: 'act'}, act));
    const tick = () => {
      const have = this.#wallet.has(drop.id);
      act.hidden = have || this.#stores.located;
      const held = drop.held_until > this.#room.now();
      say(told, have ? 'granted' : held ? 'pushHeld' : 'pushing', {distance: distance(drop.radius_m), time: held && clock(drop.held_until)});
    };
    return {element, tick};
  }
}
