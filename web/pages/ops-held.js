/** Who may not speak, who may not come in, since when and until when; each can be lifted. */

import {avatar, by, during, h} from './dom.js';
import {clock, day} from './format.js';
import {t} from './i18n.js';
import {all} from './login.js';
import {complain, toast} from './sheet.js';
import {steady} from './steady.js';

const SHOWN = 200;
const GOOD_MS = 365 * 86_400_000; // what outlasts a year was meant for good

/** What is the same about mutes and bans: where they are listed, and which command of a room lifts one of its own. */
export const MUTES = {place: 'mutes', path: '/v1/ops/mutes', verb: 'mute', none: 'noMutes'};
export const BANS = {place: 'bans', path: '/v1/ops/bans', verb: 'ban', none: 'noBans'};

export class Held {
  #session;
  #kind;
  #titles;

  /** @param {import('./login.js').Session} session @param {typeof MUTES} kind @param {Map<string, string>} titles  of rooms */
  constructor(session, kind, titles) {
    this.#session = session;
    this.#kind = kind;
    this.#titles = titles;
  }

  async refresh() {
    const items = await all(this.#session.call, `${this.#kind.path}?limit=100`, SHOWN);
    steady(by(this.#kind.place), items, () => items.length ? items.map((one) => this.#row(one)) : [h('li', {class: 'faint', t: this.#kind.none})]);
  }

  #row({viewer, name, scope, room, until}) {
    const where = scope === 'brand' ? t('reach_brand') : this.#titles.get(room) ?? t('oneRoom');
    const when = Date.parse(until) - Date.now() > GOOD_MS ? t('holdsForGood') : t('holdsUntil', {until: `${day(until)} ${clock(until)}`});
    const known = name ?? t('someone', {id: viewer.slice(-4)});
    return h('li', {class: 'row', 'data-viewer': viewer}, avatar({id: viewer, name: known}),
      h('div', {class: 'grow'}, h('b', {class: 'clip'}, known), h('p', {class: 'small dim'}, `${where} · ${when}`)),
      h('button', {class: 'button', type: 'button', t: 'lift', onclick: ({currentTarget: button}) => during(button, async () => {
        await this.#session.call('POST', scope === 'brand' ? this.#kind.path : `/v1/rooms/${room}/${this.#kind.verb}`, {body: {viewer, seconds: 0}});
        toast(t('unmuted'), 'yes');
        await this.refresh();
      }).catch(complain)}));
  }
}
