/** "Stores near you": consent first, then a fix, then the list. Without a usable sensor one stands near a store by choice. */

import {h, icon} from './dom.js';
import {day, distance} from './format.js';
import {refusal, t} from './i18n.js';
import {all} from './login.js';
import {askTwice, complain, openSheet, toast} from './sheet.js';

/** Version of the consent text below; a changed text needs a new version and a new consent. */
const CONSENT = '2026-11';
const FRESH_MS = 8 * 60_000; // the server forgets after ten minutes what it decides by
const STEPS_M = [300, 1500, 2800, 8000];

/** @typedef {{lng: number, lat: number, datum: 'wgs84'|'gcj02'|'bd09', accuracy: number|null}} Fix */

export class Stores {
  #session;
  #room;
  /** @type {{version: string, given_at: string}|null} */
  #consent = null;
  /** @type {Fix|null} */
  #fix = null;
  #fixedAt = 0;
  #sheet = null;

  /** @param {import('./login.js').Session} session @param {import('/client/nearcast.js').Room} room */
  constructor(session, room) {
    this.#session = session;
    this.#room = room;
  }

  /** Does the server have a fix of mine that still decides something? */
  get located() {
    return this.#fix !== null && Date.now() - this.#fixedAt < FRESH_MS;
  }

  /** In the room again: it forgot where I was when I left. */
  rejoin() {
    if (this.located) this.#room.locate(this.#fix).catch(() => {});
  }

  async open() {
    this.#sheet = openSheet({title: 'storesNear', class: 'storesSheet', content: [h('div', {class: 'empty'}, h('span', {class: 'spinner'}))],
      onclose: () => { this.#sheet = null; }});
    try {
      this.#consent ??= await this.#recorded();
      if (this.#consent?.version !== CONSENT) this.#ask();
      else if (this.located) await this.#list();
      else this.#locate();
    } catch (error) {
      this.#show(this.#trouble(error));
    }
  }

  async #recorded() {
    try {
      const found = await this.#session.call('GET', '/v1/me/consents/location');
      return found?.given_at && !found.withdrawn_at ? found : null;
    } catch (error) {
      if (['not_found', 'consent_missing'].includes(error.code)) return null;
      throw error;
    }
  }

  #show(...content) {
    this.#sheet?.body.replaceChildren(...content);
  }

  #trouble(error) {
    return h('div', {class: 'empty', role: 'alert'}, icon('place'), h('p', {}, refusal(error)));
  }

  /** Purpose, what is kept and for how long, and that no is a fine answer: before anything is asked of the sensor. */
  #ask() {
    const point = (name, key) => h('li', {}, icon(name), h('span', {t: key}));
    const agree = h('button', {class: 'button main wide tall', type: 'button', id: 'agree', t: 'agree', onclick: async () => {
      agree.disabled = true;
      try {
        this.#consent = await this.#session.call('PUT', '/v1/me/consents/location', {body: {version: CONSENT}});
        this.#locate();
      } catch (error) {
        agree.disabled = false;
        complain(error);
      }
    }});
    this.#show(
      h('h3', {t: 'consentTitle'}),
      h('ul', {class: 'promise'}, point('ticket', 'consentWhy'), point('clock', 'consentHowLong'), point('place', 'consentKept'), point('undo', 'consentBack')),
      h('p', {class: 'small faint', t: ['consentVersion', {version: CONSENT}]}),
      agree, h('button', {class: 'button quiet wide', type: 'button', t: 'notNow', onclick: () => this.#sheet?.close()}));
  }

  #locate() {
    const status = h('p', {class: 'small dim', role: 'status'});
    const here = h('button', {class: 'button main wide tall', type: 'button', disabled: !navigator.geolocation || !isSecureContext, onclick: async () => {
      here.disabled = true;
      status.textContent = t('locating');
      try {
        await this.#use(await sensor());
      } catch (error) {
        status.textContent = refusal(error);
        here.disabled = false;
      }
    }}, icon('place'), h('span', {t: 'useMyPlace'}));
    const choose = h('div', {class: 'stack'});
    this.#show(here, status, h('p', {class: 'small faint', t: 'orStand'}), choose);
    this.#standNear(choose).catch((error) => choose.replaceChildren(this.#trouble(error)));
  }

  /** For a desk without a sensor, and for trying out: pretend to be so far from a store. */
  async #standNear(place) {
    const stores = await all(this.#session.call, '/v1/stores?limit=200', 600);
    const cities = [...new Set(stores.map((store) => store.city))];
    const city = h('select', {class: 'input', id: 'standCity'}, ...cities.map((name) => h('option', {value: name}, name)));
    const store = h('select', {class: 'input', id: 'standStore'});
    const far = h('select', {class: 'input', id: 'standFar'}, ...STEPS_M.map((metres) => h('option', {value: metres}, distance(metres))));
    const fill = () => store.replaceChildren(...stores.filter((one) => one.city === city.value).map((one) => h('option', {value: one.id}, one.name)));
    city.addEventListener('change', fill);
    fill();
    const go = h('button', {class: 'button wide', type: 'button', id: 'stand', t: 'standHere', onclick: async () => {
      go.disabled = true;
      try {
        await this.#use(near(stores.find((one) => one.id === store.value), Number(far.value)));
      } catch (error) {
        complain(error);
      }
      go.disabled = false;
    }});
    const field = (key, id, input) => h('div', {class: 'field'}, h('label', {for: id, t: key}), input);
    place.replaceChildren(field('city', 'standCity', city), field('store', 'standStore', store), field('howFar', 'standFar', far), go);
  }

  /** @param {Fix} fix */
  async #use(fix) {
    const answer = await this.#room.locate(fix);
    this.#fix = fix;
    this.#fixedAt = Date.now();
    if (answer.stores !== undefined) toast(t('nStoresNear', {n: answer.stores}), 'yes');
    await this.#list();
  }

  async #list() {
    if (!this.#sheet) return;
    const {lng, lat, datum} = this.#fix;
    const {items} = await this.#session.call('GET', `/v1/stores/nearby?lng=${lng}&lat=${lat}&datum=${datum}&limit=12`);
    const withdraw = h('button', {class: 'button no wide', type: 'button', id: 'withdraw'}, h('span', {'data-label': '', t: 'withdraw'}));
    askTwice(withdraw, 'withdrawSure', () => this.#withdraw());
    this.#show(
      h('button', {class: 'button wide', type: 'button', onclick: () => this.#locate()}, icon('place'), h('span', {t: 'locateAgain'})),
      h('ul', {class: 'goods'}, ...items.map((store) => h('li', {class: 'store', 'data-store': store.code},
        h('b', {}, store.name), h('p', {}, store.address),
        store.opens && h('p', {t: ['hours', {from: store.opens.slice(0, 5), to: store.closes?.slice(0, 5) ?? ''}]}),
        h('span', {class: 'far'}, distance(store.distance_m), store.walk_minutes <= 60 && h('small', {t: ['walk', {n: store.walk_minutes}]}))))),
      h('p', {class: 'small faint', t: ['consentGiven', {day: day(this.#consent.given_at)}]}), withdraw);
    if (!items.length) this.#show(h('div', {class: 'empty', t: 'noStores'}), withdraw);
  }

  async #withdraw() {
    try {
      await this.#session.call('DELETE', '/v1/me/consents/location');
      this.#consent = this.#fix = null;
      toast(t('withdrawn'), 'yes');
      this.#sheet?.close();
    } catch (error) {
      complain(error);
    }
  }
}

/** The device's own fix; browsers speak wgs84. @returns {Promise<Fix>} */
function sensor() {
  return new Promise((resolve, reject) => navigator.geolocation.getCurrentPosition(
    ({coords}) => resolve({lng: coords.longitude, lat: coords.latitude, datum: 'wgs84', accuracy: coords.accuracy}),
    (error) => reject({code: error.code === 1 ? 'location_denied' : 'location_failed'}),
    {enableHighAccuracy: true, timeout: 10_000, maximumAge: 60_000}));
}

/** A made fix so many metres from a store, in the store's own datum. @returns {Fix} */
function near(store, metres) {
  const angle = Math.random() * 2 * Math.PI;
  const lat = store.lat + (metres * Math.sin(angle)) / 111_320;
  const lng = store.lng + (metres * Math.cos(angle)) / (111_320 * Math.cos((store.lat * Math.PI) / 180));
  return {lng: Number(lng.toFixed(6)), lat: Number(lat.toFixed(6)), datum: store.datum, accuracy: 20};
}
