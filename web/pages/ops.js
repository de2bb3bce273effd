/** The desk of operations: will it hold, and did it work. Refreshes itself while it is looked at. */

import {by, h, hangIcons, s} from './dom.js';
import {count, yuan} from './format.js';
import {funnelBars, funnelSums} from './funnel.js';
import {adopt, onLanguage, refusal, say, t} from './i18n.js';
import {all, brand, signIn} from './login.js';
import {Compare} from './ops-compare.js';
import {BANS, Held, MUTES} from './ops-held.js';
import {Eyes} from './ops-eyes.js';
import {StoreMap} from './ops-map.js';
import {Reports} from './ops-reports.js';
import {Reviews} from './ops-reviews.js';
import {showRooms} from './ops-rooms.js';
import {offerVoid} from './ops-void.js';
import {Words} from './ops-words.js';

const EVERY_MS = 3000;
const FIGURES_EVERY_MS = 10_000; // sums over all rooms there ever were are not what one watches second by second
const SLOW_MS = 250; // the budget of a certain event's p99

adopt();
hangIcons();
const session = remembering(await signIn('ops', 'ops-01'));
const map = new StoreMap(by('map'));
let chosen = null; // the room whose funnel is shown, null: all together
let stores = [];
const titles = new Map(); // rooms by id
const reports = new Reports(session);
const held = [new Held(session, MUTES, titles), new Held(session, BANS, titles)];
const reviews = new Reviews(session);
const words = new Words(session);
const compare = new Compare(session);
offerVoid(session);
const eyes = new Eyes(session);
const everything = seldom(() => session.call('GET', '/v1/ops/funnel/all'));
const allStores = seldom(() => all(session.call, '/v1/ops/stores?limit=500', 30_000));
by('desk').hidden = false;
for (const tab of ['tabOverview', 'tabSafety']) by(tab).addEventListener('click', () => turnTo(tab));
session.call('GET', `/v1/brands/${brand}`).then((found) => { by('brand').textContent = found.name; }, () => {});
by('city').addEventListener('change', () => map.show(stores, by('city').value));
by('funnelAll').addEventListener('click', () => choose(null));
onLanguage(async () => {
  await session.again(refresh);
  await refresh();
});
await refresh();
tick();

/** A session that knows what it was answered: after a switch of language all of it is said again at once, whatever the network does. */
function remembering(session) {
  const answers = new Map(); // by path
  let repeating = false;
  return Object.assign(Object.create(session), {
    async call(method, path, options) {
      if (repeating && method === 'GET' && answers.has(path)) return answers.get(path);
      const answer = await session.call(method, path, options);
      if (method === 'GET') answers.set(path, answer);
      return answer;
    },
    async again(work) {
      repeating = true;
      await work().finally(() => { repeating = false; });
    },
  });
}

function tick() {
  setTimeout(async () => {
    if (!document.hidden) await refresh();
    tick();
  }, EVERY_MS);
}

function turnTo(tab) {
  for (const one of ['tabOverview', 'tabSafety']) {
    by(one).setAttribute('aria-selected', String(one === tab));
    by(by(one).getAttribute('aria-controls')).hidden = one !== tab;
  }
  void refresh();
}

/** Each part on its own: a figure that cannot be had must not hide the others. What is not looked at is not asked for. */
async function refresh() {
  const overview = [rooms, () => eyes.refresh(), gateways, funnel, shops, () => compare.refresh()];
  const safety = [reviews, ...held, words].map((part) => () => part.refresh());
  const parts = await Promise.allSettled([() => reports.refresh(), ...(by('overview').hidden ? safety : overview)].map((part) => part()));
  const failed = parts.find(({status}) => status === 'rejected');
  by('fresh').textContent = failed ? refusal(failed.reason) : t('freshAt', {time: new Date().toLocaleTimeString('en-GB')});
  by('fresh').classList.toggle('warn', Boolean(failed));
  if (failed && !failed.reason?.code) (globalThis.reportError ?? console.error)(failed.reason);
}

async function rooms() {
  for (const {id, title} of await showRooms(session, chosen?.id, choose)) titles.set(id, title);
}

async function gateways() {
  const items = await all(session.call, '/v1/ops/gateways', 100);
  const worst = Math.max(0, ...items.map((one) => one.delay_ms_p99 ?? 0));
  by('kDelay').replaceChildren(items.length ? String(Math.round(worst)) : '–', items.length ? h('small', {}, 'ms') : '');
  by('kDelay').classList.toggle('warn', worst > SLOW_MS);
  const scale = Math.max(SLOW_MS, worst);
  by('gateways').replaceChildren(...items.map((one) => h('tr', {'data-gateway': one.id},
    h('td', {}, h('b', {}, one.url.replace(/^wss?:\/\//, '')), h('span', {class: 'small faint gatewayid clip'}, one.id)),
    h('td', {class: 'n num'}, count(one.viewers)), h('td', {class: 'n num'}, count(one.frames)),
    h('td', {}, delayBar(one.delay_ms_p50 ?? 0, one.delay_ms_p99 ?? 0, scale),
      h('span', {class: `ends small num ${one.delay_ms_p99 > SLOW_MS ? 'warn' : ''}`}, `${figure(one.delay_ms_p50)} · ${t('ms', {n: figure(one.delay_ms_p99)})}`)),
    h('td', {class: 'n num'}, count(one.shed)))));
  if (!items.length) by('gateways').append(h('tr', {}, h('td', {colspan: 5, class: 'faint', t: 'noGateways'})));
}

function figure(ms) {
  if (ms === null || ms === undefined) return '–';
  return ms < 10 ? ms.toFixed(1) : Math.round(ms);
}

/** From nothing to p99 pale, to p50 dark, and the budget as a line. */
function delayBar(p50, p99, scale) {
  const x = (ms) => Math.min(100, (100 * ms) / scale);
  return s('svg', {class: 'delay', viewBox: '0 0 100 10', preserveAspectRatio: 'none', 'aria-hidden': 'true'},
    s('rect', {width: 100, height: 10, rx: 1, fill: '#f0ebe3'}), s('rect', {width: x(p99), height: 10, fill: p99 > SLOW_MS ? '#e6a190' : '#a9cfc3'}),
    s('rect', {width: x(p50), height: 10, fill: '#1f6f5c'}), s('rect', {x: x(SLOW_MS) - .6, width: .6, height: 10, fill: '#c8371f'}));
}

async function choose(room) {
  chosen = room;
  by('funnelAll').hidden = !room;
  if (room) say(by('funnelTitle'), 'funnelOf', {title: room.title});
  else say(by('funnelTitle'), 'funnelAll');
  for (const row of by('rooms').rows) row.setAttribute('aria-selected', String(row.dataset.room === room?.id));
  await funnel().catch(() => {});
}

/** What was asked for last, as long as that is new enough. */
function seldom(ask) {
  let at = -Infinity;
  let found;
  return async () => {
    if (performance.now() - at > FIGURES_EVERY_MS) [found, at] = [await ask(), performance.now()];
    return found;
  };
}

async function funnel() {
  const asked = chosen;
  const whole = await everything();
  const shown = asked ? await session.call('GET', `/v1/rooms/${asked.id}/funnel`) : whole;
  by('kTurnover').textContent = yuan(whole.amount_fen);
  if (asked === chosen) by('funnel').replaceChildren(funnelBars(shown), h('p', {class: 'small faint', t: ['heldOut', {n: count(shown.held_out ?? 0)}]}), funnelSums(shown));
}

async function shops() {
  stores = await allStores();
  by('kIssued').textContent = count(stores.reduce((sum, {issued}) => sum + issued, 0));
  by('kRedeemed').textContent = count(stores.reduce((sum, {redeemed}) => sum + redeemed, 0));
  const cities = [...new Set(stores.map(({city}) => city))].sort();
  const select = by('city');
  const now = [select.value, cities.length, document.documentElement.lang].join();
  if (select.dataset.drawn !== now) {
    const value = select.value;
    select.replaceChildren(h('option', {value: '', t: ['allCities', {n: stores.length}]}), ...cities.map((city) => h('option', {value: city}, city)));
    select.value = value;
    select.dataset.drawn = [value, cities.length, document.documentElement.lang].join();
  }
  map.show(stores, select.value);
}
