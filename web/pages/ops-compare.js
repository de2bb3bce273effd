/** Rooms, stores and guides beside each other: how far people came, and how many more than without a coupon. */

import {Refused} from '/client/nearcast.js';
import {by, during, h} from './dom.js';
import {count} from './format.js';
import {funnelPicture, liftPicture, reach, signed, stepNames} from './figures.js';
import {onLanguage} from './i18n.js';
import {complain} from './sheet.js';

const EVERY_MS = 15_000; // a comparison of all rooms is not what one watches second by second
const ROWS = 12;

export class Compare {
  #session;
  #by = 'room';
  #asked = -Infinity;
  #items = null;

  /** @param {import('./login.js').Session} session */
  constructor(session) {
    this.#session = session;
    for (const chip of by('compareBy').children) chip.addEventListener('click', () => this.#turn(chip));
    for (const form of ['csv', 'json']) by(`save_${form}`).addEventListener('click', ({currentTarget}) => during(currentTarget, () => this.#save(form)).catch(complain));
    onLanguage(() => this.#draw());
  }

  async refresh() {
    if (performance.now() - this.#asked < EVERY_MS) return;
    this.#asked = performance.now();
    const what = this.#by;
    try {
      const {items} = await this.#session.call('GET', `/v1/ops/conversion?by=${what}`);
      if (what !== this.#by) return;
      this.#items = items;
      this.#draw();
    } catch (error) {
      this.#asked = -Infinity;
      throw error;
    }
  }

  #turn(chosen) {
    for (const chip of by('compareBy').children) chip.setAttribute('aria-checked', String(chip === chosen));
    this.#by = chosen.dataset.by;
    this.#asked = -Infinity;
    this.refresh().catch(complain);
  }

  #draw() {
    if (!this.#items) return;
    const rows = this.#items.slice(0, ROWS);
    const lifts = rows.flatMap(({lift}) => lift ?? []);
    const most = reach(lifts);
    by('compare').replaceChildren(...rows.length ? [head(lifts.length ? most : null), ...rows.map((row) => line(row, most))] : [h('li', {class: 'faint', t: 'compareEmpty'})]);
  }

  async #save(form) {
    const answer = await fetch(`/v1/ops/conversion?by=${this.#by}&format=${form}&limit=5000`, {headers: {Authorization: `Bearer ${await this.#session.token(false)}`}}).catch(() => {
      throw new Refused('offline');
    });
    if (!answer.ok) throw new Refused((await answer.json().catch(() => null))?.code ?? 'unavailable', '', {status: answer.status});
    const address = URL.createObjectURL(await answer.blob());
    h('a', {href: address, download: `conversion-${this.#by}.${form}`}).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  }
}

function head(most) {
  return h('li', {class: 'head small dim'}, h('span'), stepNames(),
    most !== null && h('span', {class: 'axis'}, h('span', {class: 'num'}, signed(-most)), h('span', {t: 'liftAxis'}), h('span', {class: 'num'}, signed(most))));
}

function line(row, most) {
  const {lift} = row;
  const verdict = lift
    ? [liftPicture(lift, most), h('span', {class: 'small num', title: ['liftSaid', {points: signed(lift.lift_points), low: signed(lift.low_points), high: signed(lift.high_points)}]},
      h('b', {}, signed(lift.lift_points)), ` (${signed(lift.low_points)} … ${signed(lift.high_points)})`), h('span', {class: 'small faint', t: ['liftOf', {n: count(lift.held_out)}]})]
    : [h('span', {class: 'small faint', t: 'noHoldout'})];
  return h('li', {'data-spot': row.id}, h('b', {class: 'name'}, row.name), funnelPicture(row), h('div', {class: 'lift', 'data-lift': lift ? lift.lift_points : false}, ...verdict));
}
