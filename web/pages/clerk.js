/** The till: a code in, a clear yes or no out; today's list, where a yes can be taken back. */

import {newId, Refused} from '/client/nearcast.js';
import {by, during, h, hangIcons, icon} from './dom.js';
import {clock, day, grouped, yuan} from './format.js';
import {adopt, onLanguage, refusal, t} from './i18n.js';
import {all, brand, signIn} from './login.js';
import {canScan, Scanner} from './scanner.js';
import {askTwice, complain, toast} from './sheet.js';
import {ticket} from './ticket.js';
import {Attempt} from './attempt.js';
import {saveClosing} from './clerk-closing.js';
import {codeIn, Keys} from './clerk-keys.js';
import {Queue} from './clerk-queue.js';
import {attend} from './clerk-waiting.js';
import {verdict} from './verdict.js';

const MEMBER = 'NM1.';
const COUPON = 'NC1.';
const PLACE = 'nearcast.till.place';
const KEYS_EVERY_MS = 600_000;
/** What a coupon is once its redemption was taken back. */
const AFTER_REVERSAL = {usable: 'reversedUsable', expired: 'reversedExpired', ownerless: 'reversedOwnerless'};

adopt();
hangIcons();
const session = await signIn('clerk', 'clerk-01');
const attempt = new Attempt(session);
const keys = new Keys(session.call);
/** What was redeemed without a network; null until we know which store this is. @type {Queue|null} */
let queue = null;
/** @type {{show: () => void, tell: () => Promise<void>}|null} */
let waiting = null;
const scanner = new Scanner(by('camera'), (text) => take(text));
await open();

async function open() {
  by('till').hidden = false;
  by('scan').hidden = !canScan();
  by('scan').parentElement.className = canScan() ? 'split' : 'stack';
  by('scan').addEventListener('click', () => scanner.start().catch((error) => toast(refusal({code: error.code ?? 'camera_failed'}), 'no')));
  by('find').addEventListener('submit', (event) => {
    event.preventDefault();
    void take(by('code').value);
  });
  for (const [tab, panel] of [['tabRedeem', 'redeem'], ['tabToday', 'today']]) {
    by(tab).addEventListener('click', () => {
      for (const [other, its] of [['tabRedeem', 'redeem'], ['tabToday', 'today']]) {
        by(other).setAttribute('aria-selected', String(other === tab));
        by(its).hidden = its !== panel;
      }
      if (panel === 'today') void today();
      else ready();
    });
  }
  // A handheld scanner types: whatever is typed at the page, without a field chosen, is meant for the code.
  document.addEventListener('keydown', (event) => {
    if (event.key.length === 1 && document.activeElement === document.body && !by('redeem').hidden) by('code').focus();
  });
  by('closing').addEventListener('click', () => during(by('closing'), () => saveClosing(session)).catch(complain));
  onLanguage(() => by('today').hidden || today());
  ready();
  by('clerk').textContent = session.me.name;
  await stand();
  const learn = () => keys.refresh().catch(() => {});
  void learn();
  setInterval(learn, KEYS_EVERY_MS);
  addEventListener('online', learn);
  const left = attempt.unfinished();
  if (left) confirm(left.what, left.found);
}

/** Whose till this is: as the server says, or as it said before the network was lost. */
async function stand() {
  try {
    const {store} = await session.call('GET', '/v1/me');
    sessionStorage.setItem(PLACE, JSON.stringify(store));
  } catch (error) {
    complain(error);
  }
  const store = JSON.parse(sessionStorage.getItem(PLACE) ?? 'null');
  by('store').textContent = store?.name ?? '';
  if (!store) return;
  queue = new Queue(session, `${brand}/${store.code}`);
  waiting = attend(queue);
}

function ready() {
  by('code').value = '';
  by('found').replaceChildren();
  by('code').focus({preventScroll: true});
}

/** What the API should be told about this text. */
function meaning(text) {
  const trimmed = text.trim();
  return trimmed.toUpperCase().startsWith(COUPON) ? {qr: trimmed} : {code: trimmed};
}

async function take(text) {
  if (!text.trim()) return void by('code').focus();
  scanner.stop();
  if (text.trim().toUpperCase().startsWith(MEMBER)) return visit(text.trim());
  const what = meaning(text);
  const at = keys.now();
  await during(by('look'), async () => {
    by('found').replaceChildren(h('div', {class: 'empty'}, h('span', {class: 'spinner'})));
    try {
      // A network that is known to be gone need not be waited for.
      if (!navigator.onLine) throw new Refused('offline');
      confirm(what, {...await session.call('POST', '/v1/redemptions/check', {body: what}), scanned_at: at});
    } catch (error) {
      by('found').replaceChildren();
      if (error.code === 'offline') await alone(what, at);
      else no(error);
    }
  });
}

/** Without a network: a QR code can be checked by itself, a typed code cannot. */
async function alone(what, at) {
  try {
    if (!what.qr) throw new Refused('typed_offline');
    await keys.check(what.qr, at);
    if (!queue) throw new Refused('cannot_check');
    if (queue.waiting().some(({qr}) => codeIn(qr) === codeIn(what.qr))) throw new Refused('queued_already');
    confirmAlone(what.qr, at);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    no(error);
  }
}

/** The order's amount and name, as both forms ask for them. */
function orderFields(threshold = 0) {
  const amount = h('input', {class: 'input', id: 'amount', inputmode: 'decimal', placeholder: 'optional', autocomplete: 'off', pattern: '[0-9]{1,7}([.][0-9]{1,2})?'});
  const order = h('input', {class: 'input', id: 'order', maxlength: 64, autocomplete: 'off', placeholder: 'orderHint'});
  // A named order is held against what it comes to.
  order.addEventListener('input', () => { amount.required = order.value.trim() !== ''; });
  const fields = [
    h('div', {class: 'field'}, h('label', {for: 'amount', t: 'orderAmount'}), h('div', {class: 'amount'}, h('span', {}, '¥'), amount),
      threshold > 0 && h('p', {class: 'small dim', t: ['needs', {amount: yuan(threshold)}]})),
    h('div', {class: 'field'}, h('label', {for: 'order', t: 'orderName'}), order),
  ];
  const read = () => ({
    ...(amount.value.trim() && {order_fen: Math.round(Number(amount.value.trim()) * 100)}),
    ...(order.value.trim() && {order: order.value.trim()}),
  });
  return {fields, read, amount};
}

function confirmAlone(qr, at) {
  const {fields, read, amount} = orderFields();
  const form = h('form', {class: 'card stack'},
    h('span', {class: 'badge', t: 'offline'}),
    h('h2', {t: 'offlineGenuine'}), h('p', {class: 'num'}, grouped(codeIn(qr))), h('p', {class: 'small dim', t: 'offlineUnknown'}),
    ...fields, h('button', {class: 'button main wide tall', id: 'confirmAlone'}, icon('check'), h('span', {t: 'redeemOffline'})),
    h('button', {class: 'button quiet wide', type: 'button', t: 'cancel', onclick: ready}));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    keep({key: newId(), qr, at, ...read()});
  });
  by('found').replaceChildren(form);
  amount.focus({preventScroll: true});
}

/** Note a redemption that the server is told later. @param {import('./clerk-queue.js').Sale} sale */
function keep(sale) {
  queue?.put(sale);
  waiting?.show();
  verdict('yes', 'queuedYes', [t('queuedNote')], [['code', grouped(codeIn(sale.qr))], sale.order_fen != null && ['orderAmount', yuan(sale.order_fen)]], ready);
}

/** The coupon as it is, the order's amount, and the button that counts. */
function confirm(what, found) {
  const coupon = found.coupon ?? found;
  const {fields, read, amount} = orderFields(found.threshold_fen);
  const go = h('button', {class: 'button main wide tall', id: 'confirm'}, icon('check'), h('span', {t: 'confirmRedeem'}));
  const form = h('form', {class: 'card stack'},
    ticket({...coupon, store_name: found.store?.name ?? coupon.store_name}),
    h('dl', {class: 'facts', style: 'display: grid; grid-template-columns: auto 1fr; gap: .25rem 1rem'},
      coupon.viewer_name && h('dt', {class: 'faint', t: 'customer'}), coupon.viewer_name && h('dd', {}, coupon.viewer_name),
      h('dt', {class: 'faint', t: 'code'}), h('dd', {class: 'num'}, grouped(coupon.code))),
    ...fields, go, h('button', {class: 'button quiet wide', type: 'button', t: 'cancel', onclick: () => { attempt.forget(); ready(); }}));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    void during(go, () => use({...what, ...read()}, found));
  });
  by('found').replaceChildren(form);
  amount.focus({preventScroll: true});
  form.scrollIntoView({block: 'nearest', behavior: 'smooth'});
}

async function use(what, found) {
  try {
    yes(await attempt.redeem(what, found));
  } catch (error) {
    // Nobody knows whether it went through: the same key asks again, and can only ever redeem once. What was scanned
    // asks by itself, when the network is back.
    const left = attempt.unfinished();
    if (error.code === 'offline' && what.qr && queue && left) {
      attempt.forget();
      keep({...what, key: left.key, at: found.scanned_at ?? keys.now()});
    } else if (['offline', 'unavailable', 'busy'].includes(error.code)) complain(error);
    else no(error);
  }
}

function yes({coupon, discount_fen: discount, order_fen: order, reversible_until: until}) {
  verdict('yes', 'redeemedYes', [coupon.title], [
    coupon.viewer_name && ['customer', coupon.viewer_name],
    order != null && ['orderAmount', yuan(order)],
    discount > 0 && ['discount', yuan(discount)],
    order != null && discount > 0 && ['toPay', yuan(Math.max(0, order - discount))],
    ['reversibleUntil', clock(until)],
  ], ready);
}

function no(error) {
  if (error.code === 'too_fast') error = new Refused('too_many_codes', '', {retryAfter: error.retryAfter});
  const {redeemed_at: at, store} = error.fields ?? {};
  const name = store?.name ?? (typeof store === 'string' ? store : '');
  verdict('no', 'redeemedNo', [refusal(error)], [
    at && ['usedAt', `${day(at)} ${clock(at)}`],
    error.retryAfter > 0 && ['tryAgainIn', clock(Date.now() + error.retryAfter * 1000)],
    name && [error.code === 'wrong_store' ? 'belongsTo' : 'usedWhere', name],
  ], ready);
}

async function visit(qr) {
  const key = newId();
  try {
    const {name} = await session.call('POST', '/v1/visits', {body: {qr}, key});
    verdict('yes', 'visitYes', [name], [], ready);
  } catch (error) {
    if (error.code === 'offline') complain(error);
    else no(error);
  }
}

async function today() {
  try {
    const items = await all(session.call, '/v1/redemptions?limit=50', 200);
    by('done').replaceChildren(...items.map(done));
    if (!items.length) by('done').append(h('li', {class: 'empty'}, icon('ticket'), h('p', {t: 'nothingToday'})));
  } catch (error) {
    by('done').replaceChildren(h('li', {class: 'empty', role: 'alert'}, refusal(error)));
  }
}

function done(one) {
  const reversed = Boolean(one.reversed_at);
  const late = Date.parse(one.reversible_until) < Date.now();
  const back = h('button', {class: 'button no', type: 'button', 'data-reverse': one.id}, icon('undo'), h('span', {'data-label': '', t: 'reverse'}));
  askTwice(back, 'reverseSure', () => during(back, async () => {
    const {coupon_now: now} = await session.call('POST', `/v1/redemptions/${one.id}/reverse`, {key: newId()});
    toast(t(AFTER_REVERSAL[now] ?? 'reversed'), now === 'usable' ? 'yes' : 'no');
    await today();
  }).catch(complain));
  const {coupon} = one;
  return h('li', {class: `card done ${reversed ? 'reversed' : ''}`, 'data-redemption': one.id},
    h('b', {}, coupon.title),
    h('span', {class: 'small dim num'}, [clock(one.at), coupon.viewer_name, one.order_fen != null && yuan(one.order_fen), one.discount_fen > 0 && `−${yuan(one.discount_fen)}`, one.order, one.told_at && t('toldLater')].filter(Boolean).join(' · ')),
    h('span', {class: 'small faint num'}, grouped(coupon.code)),
    h('span', {class: 'act'}, reversed ? h('span', {class: 'badge', t: 'reversed'}) : late ? h('span', {class: 'badge yes', t: 'redeemedBadge'}) : back));
}
