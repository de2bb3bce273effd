/** From being in the room to having used a coupon, as bars. */

import {h} from './dom.js';
import {count, percent, yuan} from './format.js';
import {refusal} from './i18n.js';
import {openSheet} from './sheet.js';

const STEPS = ['in_room', 'in_range', 'offered', 'issued', 'seen', 'visited', 'redeemed'];

/** @param {Record<string, number>} funnel  counts per step, money in fen */
export function funnelBars(funnel) {
  const most = Math.max(1, ...STEPS.map((step) => funnel[step] ?? 0));
  return h('ol', {class: 'funnel'}, ...STEPS.map((step, place) => {
    const value = funnel[step] ?? 0;
    const before = place ? funnel[STEPS[place - 1]] ?? 0 : 0;
    const warm = 12 + place * 3;
    return h('li', {'data-step': step}, h('span', {t: `step_${step}`}),
      h('span', {class: 'track', style: `--part: ${value / most}; --from: hsl(${warm} 62% ${80 - place * 4}%); --to: hsl(${warm - 4} 66% ${72 - place * 4}%)`}, h('i'), h('b', {class: 'num'}, count(value))),
      h('span', {class: 'rate num'}, place ? percent(value, before) : ''));
  }));
}

/** @param {Record<string, number>} funnel */
export function funnelSums(funnel) {
  return h('dl', {class: 'sums'},
    h('div', {}, h('dt', {t: 'turnover'}), h('dd', {class: 'num'}, yuan(funnel.amount_fen ?? 0))),
    h('div', {}, h('dt', {t: 'discounts'}), h('dd', {class: 'num'}, yuan(funnel.discount_fen ?? 0))));
}

/** The results of a room in a sheet. @param {import('./login.js').Session} session @param {string} room */
export async function openResults(session, room, title = 'results') {
  const {body} = openSheet({title, content: [h('div', {class: 'empty'}, h('span', {class: 'spinner'}))]});
  try {
    const found = await session.call('GET', `/v1/rooms/${room}/funnel`);
    body.replaceChildren(funnelBars(found), h('p', {class: 'small faint', t: ['heldOut', {n: count(found.held_out ?? 0)}]}), funnelSums(found));
  } catch (error) {
    body.replaceChildren(h('div', {class: 'empty', role: 'alert'}, refusal(error)));
  }
}
