/** The viewer's coupons: arriving, kept, shown at the till. */

import {by, h, icon} from './dom.js';
import {day, distance, grouped} from './format.js';
import {say, t} from './i18n.js';
import {all} from './login.js';
import {openMyData} from './mydata.js';
import {QrImage} from './qr.js';
import {complain, openSheet} from './sheet.js';
import {ticket} from './ticket.js';

/** @typedef {{id: string, title: string, terms: string, code: string, store: string, store_name: string, store_address?: string,
 *   valid_until: number, valid_from?: number, state: string, distance_m?: number, drop?: string}} CouponCard */

export class Wallet {
  /** @type {Map<string, CouponCard>} */
  #coupons = new Map();
  #arriving = [];
  #shown = new Set();
  #showing = false;
  #welcomed = false;
  #session;
  #room;

  /** @param {import('./login.js').Session} session @param {import('/client/nearcast.js').Room} room */
  constructor(session, room) {
    this.#session = session;
    this.#room = room;
  }

  /** What the snapshot knows. Coupons that were granted while nobody looked arrive now. @param {CouponCard[]} coupons */
  replace(coupons) {
    const first = !this.#welcomed;
    this.#welcomed = true;
    for (const coupon of coupons) {
      if (first) {
        this.#shown.add(coupon.id);
        this.#coupons.set(coupon.id, coupon);
      } else this.arrive(coupon);
    }
    this.#count();
  }

  /** @param {CouponCard} coupon */
  arrive(coupon) {
    this.#coupons.set(coupon.id, coupon);
    this.#count();
    // A claim's answer and the room's own message tell of the same coupon.
    if (this.#shown.has(coupon.id)) return;
    this.#shown.add(coupon.id);
    if (coupon.state !== 'issued' && coupon.state !== undefined) return;
    this.#arriving.push(coupon);
    this.#next();
  }

  /** @param {string} drop  do I have a coupon of it? */
  has(drop) {
    return [...this.#coupons.values()].some((coupon) => coupon.drop === drop);
  }

  #count() {
    const usable = [...this.#coupons.values()].filter(({state}) => !state || state === 'issued').length;
    by('walletCount').hidden = !usable;
    by('walletCount').textContent = usable;
  }

  #next() {
    if (this.#showing || !this.#arriving.length) return;
    this.#showing = true;
    const coupon = this.#arriving.shift();
    const told = coupon.distance_m
      ? ['couponNear', {store: coupon.store_name, distance: distance(coupon.distance_m)}] : ['couponFrom', {store: coupon.store_name}];
    const heading = h('h2', {t: 'couponArrived'});
    const look = h('button', {class: 'button main', type: 'button', t: 'showCode', onclick: () => { element.close(); this.show(coupon); }});
    const element = /** @type {HTMLDialogElement} */ (h('dialog', {class: 'arrival', label: 'couponArrived', 'data-coupon': coupon.id},
      h('div', {class: 'inner'}, heading, ticket(coupon), h('p', {t: told}),
        h('div', {class: 'row'}, h('button', {class: 'button', type: 'button', t: 'keep', onclick: () => element.close()}), look))));
    element.addEventListener('click', (event) => event.target === element && element.close());
    element.addEventListener('close', () => {
      element.remove();
      this.#showing = false;
      this.#next();
    });
    document.body.append(element);
    element.showModal();
    by('spoken').textContent = `${t('couponArrived')} ${coupon.title} ${t(...told)}`;
    this.#room.seen(coupon.id);
  }

  /** The list, near expiry first. */
  async open() {
    const list = h('div', {class: 'stack'});
    const member = h('button', {class: 'button wide', type: 'button', onclick: () => this.#member()}, icon('user'), h('span', {t: 'memberCode'}));
    const mine = h('button', {class: 'button quiet wide', type: 'button', id: 'myData', onclick: () => { sheet.close(); openMyData(this.#session); }}, icon('shield'), h('span', {t: 'myData'}));
    const sheet = openSheet({title: 'wallet', class: 'wallet', content: [list, member, mine]});
    const draw = () => {
      const order = {issued: 0, redeemed: 1, expired: 2, voided: 3};
      const coupons = [...this.#coupons.values()].sort(
        (a, b) => (order[a.state] ?? 0) - (order[b.state] ?? 0) || a.valid_until - b.valid_until);
      list.replaceChildren(...coupons.map((coupon) => ticket(
        coupon, {tag: 'button', type: 'button', 'data-coupon': coupon.id, onclick: () => this.show(coupon)})));
      if (!coupons.length) list.append(h('div', {class: 'empty'}, icon('ticket'), h('p', {t: 'walletEmpty'}), h('p', {class: 'small', t: 'walletHint'})));
    };
    draw();
    try {
      for (const coupon of await all(this.#session.call, '/v1/me/coupons', 200)) {
        this.#coupons.set(coupon.id, coupon);
        this.#shown.add(coupon.id);
      }
      this.#count();
      if (sheet.element.open) draw();
    } catch (error) {
      complain(error);
    }
  }

  /** One coupon with its code for the till. @param {CouponCard} coupon */
  show(coupon) {
    const usable = !coupon.state || coupon.state === 'issued';
    const qr = usable ? new QrImage(() => this.#session.call('GET', `/v1/me/coupons/${coupon.id}/qr`)) : null;
    openSheet({title: 'coupon', class: 'couponSheet', onclose: () => qr?.stop(), content: [
      ticket(coupon),
      usable && h('div', {class: 'pass'}, qr.element, h('p', {class: 'code', label: 'code'}, grouped(coupon.code)), h('p', {class: 'small', t: 'showAtTill'})),
      h('dl', {class: 'facts'},
        h('dt', {t: 'store'}), h('dd', {}, coupon.store_name),
        ...(coupon.store_address ? [h('dt', {t: 'address'}), h('dd', {}, coupon.store_address)] : []),
        h('dt', {t: 'validity'}), h('dd', {}, [coupon.valid_from && day(coupon.valid_from), day(coupon.valid_until)].filter(Boolean).join(' – '))),
    ].filter(Boolean)});
    this.#room.seen(coupon.id);
  }

  #member() {
    const qr = new QrImage(() => this.#session.call('GET', '/v1/me/qr'));
    const name = h('p', {class: 'code'}, this.#session.me.name);
    openSheet({title: 'memberCode', onclose: () => qr.stop(), content: [
      h('div', {class: 'pass'}, qr.element, name, h('p', {class: 'small', t: 'memberHint'}))]});
    say(qr.picture, 'memberCode', {}, 'alt');
  }
}
