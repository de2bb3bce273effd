/** Coupons under review: to whom they would go, why the location looks implausible, and the decision. */

import {by, during, h} from './dom.js';
import {clock, distance} from './format.js';
import {t} from './i18n.js';
import {all} from './login.js';
import {complain, toast} from './sheet.js';
import {steady} from './steady.js';

const SHOWN = 100;

export class Reviews {
  #session;

  /** @param {import('./login.js').Session} session */
  constructor(session) {
    this.#session = session;
  }

  async refresh() {
    const items = await all(this.#session.call, `/v1/ops/reviews?limit=${SHOWN}`, SHOWN);
    steady(by('reviews'), items, () => items.length ? items.map((one) => this.#row(one)) : [h('li', {class: 'faint', t: 'noReviews'})]);
  }

  #row({id, title, viewer_name: name, store_name: store, within_m: within, expires_at: until, signs}) {
    return h('li', {class: 'case', 'data-review': id},
      h('p', {}, h('b', {class: 'clip'}, name), ` · ${title}`),
      h('p', {class: 'small dim', t: ['reviewAt', {store, distance: distance(within), time: clock(until)}]}),
      h('p', {class: 'why'}, ...signs.map(({sign, strong}) => h('span', {class: `badge ${strong ? 'live' : 'gold'}`, t: `sign_${sign}`}))),
      h('div', {class: 'row decide'}, this.#decision(id, 'approve', 'reviewApprove', ''), this.#decision(id, 'refuse', 'reviewRefuse', 'no')));
  }

  #decision(id, verb, words, look) {
    return h('button', {class: `button ${look}`, type: 'button', 'data-decision': verb, t: words,
      onclick: ({currentTarget: button}) => during(button, async () => {
        await this.#session.call('POST', `/v1/ops/reviews/${id}/${verb}`);
        toast(t(`reviewed_${verb}`), 'yes');
        await this.refresh();
      }).catch(complain)});
  }
}
