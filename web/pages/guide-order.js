/** Order in the room: everybody silent but those invited, or one comment every so often. */

import {during, h, icon} from './dom.js';
import {complain, openSheet, toast} from './sheet.js';
import {t} from './i18n.js';

const SLOW = [0, 5, 10, 30, 60, 120];

/** @param {import('./guide-person.js').Desk} desk */
export function openOrder({room, card, names}) {
  const {hushed, allow, slow_seconds: slow} = card();
  const hush = h('button', {class: 'switch', type: 'button', id: 'hush', role: 'switch', 'aria-checked': String(hushed), label: 'hush',
    onclick: () => during(hush, () => room.hush(!hushed, allow)).then(() => sheet.close(), complain)});
  const chips = SLOW.map((n) => h('button', {class: 'chip', type: 'button', 'data-slow': n, 'aria-pressed': String(n === slow), t: n ? ['slowN', {n}] : 'off',
    onclick: (event) => during(event.currentTarget, () => room.slow(n)).then(() => sheet.close(), complain)}));
  const invited = allow.map((id) => {
    const take = h('button', {class: 'button', type: 'button', t: 'disallow', onclick: () => during(
      take, () => room.hush(true, card().allow.filter((one) => one !== id))).then(() => { take.closest('li').remove(); toast(t('disallowed'), 'yes'); }, complain)});
    return h('li', {class: 'row'}, h('span', {class: 'grow clip'}, names.get(id) ?? t('someone', {id: id.slice(-4)})), take);
  });
  const sheet = openSheet({title: 'order', content: [
    h('div', {class: 'row'}, h('div', {class: 'grow'}, h('b', {t: 'hush'}), h('p', {class: 'small dim', t: 'hushWhat'})), hush),
    hushed && h('div', {class: 'field'}, h('span', {class: 'label', t: 'mayspeak'}),
      invited.length ? h('ul', {class: 'stack'}, ...invited) : h('p', {class: 'small dim', t: 'nobodyYet'})),
    h('div', {class: 'field'}, h('span', {class: 'label row'}, icon('clock'), h('span', {t: 'slow'})),
      h('p', {class: 'small dim', t: 'slowWhat'}), h('div', {class: 'chips thirds'}, ...chips)),
  ].filter(Boolean)});
}
