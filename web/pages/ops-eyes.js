/** Is all well: the alerts' facts, live, for those without Prometheus. A tile each, red beyond its limit. */

import {by, h} from './dom.js';
import {count} from './format.js';
import {refusal, t} from './i18n.js';

const GAPS_OVER_MS = 600_000;
const TURNED_AWAY = ['busy', 'unavailable'];

const sum = (items, name) => items.reduce((all, one) => all + (one[name] ?? 0), 0);
const worst = (items, name) => items.reduce((most, one) => Math.max(most, one[name] ?? 0), 0);
const ms = (n) => t('ms', {n: n < 10 ? n.toFixed(1) : Math.round(n)});

/** Counters of two answers: what was added in between, by gateways that are in both. */
function added(now, before, read) {
  const then = new Map((before?.gateways ?? []).map((one) => [one.id, one]));
  return now.gateways.reduce((all, one) => all + (then.has(one.id) ? Math.max(0, read(one) - read(then.get(one.id))) : 0), 0);
}

const parts = (counts, wanted) => Object.entries(counts ?? {}).reduce((all, [name, n]) => all + (!wanted || wanted.includes(name) ? n : 0), 0);

/**
 * The tiles of an answer of `/v1/ops/health`.
 * @param {any} now @param {any} before  an earlier answer, null at first @param {any} first  one of ten minutes ago at most
 * @returns {{name: string, value: string, limit?: string, beyond?: boolean, counts?: [string, number][]}[]}
 */
export function facts(now, before, first) {
  const {gateways, limits, outbox} = now;
  const seconds = before ? Math.max(.5, (Date.parse(now.at) - Date.parse(before.at)) / 1000) : 0;
  const rate = (name) => (seconds ? added(now, before, (one) => one[name] ?? 0) / seconds : 0);
  const each = (n) => t('perSecond', {n: n < 10 ? n.toFixed(1) : Math.round(n)});
  const talking = gateways.filter((one) => Date.parse(now.at) - Date.parse(one.at) <= limits.silent_seconds * 1000);
  const ready = talking.filter((one) => one.ready && one.bus_healthy);
  const measured = (key) => (worst(gateways, key) ? ms(worst(gateways, key)) : '–'); // nothing told in the last minute
  const late = (name, key) => { const n = worst(gateways, key); return {name, value: measured(key), limit: ms(limits.delay_ms), beyond: n > limits.delay_ms}; };
  const gaps = added(now, first, (one) => one.bus_gaps);
  const slow = rate('slow_closes');
  const claimed = added(now, before, (one) => parts(one.claims));
  const away = added(now, before, (one) => parts(one.claims, TURNED_AWAY));
  const back = added(now, first, (one) => parts(one.resumes));
  const anew = added(now, first, (one) => parts(one.resumes, ['fresh']));
  const outcomes = new Map();
  for (const {claims} of gateways) for (const [name, n] of Object.entries(claims ?? {})) outcomes.set(name, (outcomes.get(name) ?? 0) + n);
  return [
    {name: 'gateways', value: `${ready.length}/${gateways.length}`, beyond: !gateways.length || ready.length < gateways.length},
    {name: 'viewers', value: count(sum(gateways, 'viewers'))},
    {name: 'joins', value: each(rate('joins'))},
    late('certain', 'delay_ms_p95'),
    {name: 'lossy', value: measured('lossy_ms_p95')},
    {name: 'latest', value: measured('latest_ms_p95')},
    late('bus', 'bus_ms_p95'),
    {name: 'gaps', value: count(gaps), limit: String(limits.bus_gaps), beyond: gaps > limits.bus_gaps},
    {name: 'shed', value: each(rate('shed'))},
    {name: 'slow', value: each(slow), limit: each(limits.slow_closes_per_second), beyond: slow > limits.slow_closes_per_second},
    {name: 'buffers', value: `${(sum(gateways, 'write_buffer_bytes') / 1e6).toFixed(1)} MB`},
    {name: 'outbox', value: t('secondsLong', {n: outbox.oldest_seconds.toFixed(1)}), limit: t('secondsLong', {n: limits.outbox_seconds}), beyond: outbox.oldest_seconds > limits.outbox_seconds},
    {name: 'resumes', value: back ? `${Math.round(100 * (back - anew) / back)}%` : '–', limit: `≥ ${100 - 100 * limits.resumes_missed}%`, beyond: anew > limits.resumes_missed * back},
    late('loop', 'loop_lag_ms'),
    {name: 'claims', value: outcomes.size ? '' : '–', beyond: away > limits.claims_turned_away * claimed, counts: [...outcomes].sort(([, a], [, b]) => b - a)},
  ];
}

function outcome([code, n]) {
  return h('li', {'data-outcome': code}, h('span', {}, code === 'ok' ? t('claimGranted') : refusal({code})), h('b', {class: 'num'}, count(n)));
}

export class Eyes {
  #session;
  #now = null;
  #before = null;
  #earlier = []; // answers of the last ten minutes

  /** @param {import('./login.js').Session} session */
  constructor(session) { this.#session = session; }

  async refresh() {
    const now = await this.#session.call('GET', '/v1/ops/health');
    if (now !== this.#now) { // not only said again in another language
      this.#earlier = [...this.#earlier.filter((one) => Date.parse(now.at) - Date.parse(one.at) < GAPS_OVER_MS), now];
      [this.#before, this.#now] = [this.#now, now];
    }
    const shown = facts(now, this.#before, this.#earlier[0]);
    const wrong = shown.filter(({beyond}) => beyond).length;
    by('eyesState').textContent = wrong ? t('eyesWrong', {n: wrong}) : t('eyesWell');
    by('eyesState').toggleAttribute('data-wrong', wrong > 0);
    by('eyes').replaceChildren(...shown.map(({name, value, limit, beyond, counts}) => h('div', {'data-fact': name, 'data-beyond': beyond, class: counts ? 'list' : null},
      h('dt', {t: `eye_${name}`}), h('dd', {}, value, counts && h('ul', {}, ...counts.map(outcome))), limit && h('dd', {class: 'small', t: ['eyeLimit', {n: limit}]}))));
  }
}
