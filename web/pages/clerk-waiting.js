/** What a till redeemed without a network, as the clerk sees it: what waits, and what the server did not accept. */

import {by, during, h, icon} from './dom.js';
import {clock, day, grouped, yuan} from './format.js';
import {refusal, t} from './i18n.js';
import {codeIn} from './clerk-keys.js';
import {toast} from './sheet.js';

const AGAIN_MS = 15_000;

/** Show the queue, and tell it whenever the network is back. @param {import('./clerk-queue.js').Queue} queue */
export function attend(queue) {
  const show = () => draw(queue, tell);
  const tell = async () => {
    try {
      const stand = queue.waiting().length ? await queue.tell() : 0;
      if (stand) toast(t('toldDone', {n: stand}), 'yes');
    } catch {
      // No network yet, or nobody there: it waits.
    }
    show();
  };
  addEventListener('online', tell);
  addEventListener('storage', show);
  setInterval(() => queue.waiting().length && navigator.onLine && tell(), AGAIN_MS);
  void tell();
  show();
  return {show, tell};
}

function draw(queue, tell) {
  const sales = queue.all();
  const waiting = sales.filter((sale) => !sale.refusal);
  const place = by('waiting');
  place.hidden = !sales.length;
  if (!sales.length) return void place.replaceChildren();
  const button = h('button', {class: 'button', type: 'button', id: 'tellNow', onclick: () => during(button, tell)}, icon('send'), h('span', {t: 'tellNow'}));
  const refused = sales.filter((sale) => sale.refusal).map((sale) => conflict(sale, () => { queue.drop(sale.key); draw(queue, tell); }));
  // Folded: an evening without a network must not push the next customer's form off the screen.
  const list = h('details', {open: Boolean(place.querySelector('details')?.open)}, h('summary', {class: 'small', id: 'waitingCount', t: ['nToTell', {n: waiting.length}]}),
    h('ul', {class: 'stack'}, ...waiting.map((sale) => row(sale, h('span', {class: 'badge', t: 'waits'})))));
  place.replaceChildren(...[
    refused.length > 0 && h('p', {class: 'small', role: 'alert', style: 'color: var(--no)', t: ['nConflicts', {n: refused.length}]}),
    refused.length > 0 && h('ul', {class: 'stack'}, ...refused),
    waiting.length > 0 && list,
    waiting.length > 0 && button,
  ].filter((child) => child instanceof Node));
}

function row(sale, act, ...more) {
  return h('li', {class: 'done', 'data-sale': sale.key},
    h('b', {class: 'num'}, grouped(codeIn(sale.qr))),
    h('span', {class: 'small dim num'}, [`${day(sale.at)} ${clock(sale.at)}`, sale.order_fen != null && yuan(sale.order_fen), sale.order].filter(Boolean).join(' · ')),
    ...more, h('span', {class: 'act'}, act));
}

/** The server's no, in full: the goods are gone, and somebody has to settle it. */
function conflict(sale, dismiss) {
  const {code, redeemed_at: at, store, threshold_fen: threshold} = sale.refusal ?? {code: ''};
  const facts = [
    at && `${t('usedAt')} ${day(at)} ${clock(at)}`,
    store?.name && `${t(code === 'wrong_store' ? 'belongsTo' : 'usedWhere')} ${store.name}`,
    threshold > 0 && t('needs', {amount: yuan(threshold)}),
  ].filter(Boolean).join(' · ');
  const seen = h('button', {class: 'button', type: 'button', 'data-dismiss': sale.key, t: 'conflictSeen', onclick: dismiss});
  return row(sale, seen, h('span', {class: 'small', style: 'color: var(--no)', 'data-conflict': code}, [refusal({code}), facts].filter(Boolean).join(' · ')));
}
