/** The guide's page: my rooms, and the console of the one that I run. */

import {newId} from '/client/nearcast.js';
import {by, during, h, hangIcons, icon, redraw} from './dom.js';
import {clock, count, day} from './format.js';
import {runRoom} from './guide-room.js';
import {adopt, refusal, say, t} from './i18n.js';
import {all, brand, signIn} from './login.js';
import {badgeOf} from './room-card.js';
import {complain, openSheet} from './sheet.js';

adopt();
hangIcons();
const query = new URLSearchParams(location.search);
const session = await signIn('guide', 'guide-01');
const room = query.get('room');
if (room) {
  query.delete('room');
  by('back').href = `/guide?${query}`;
  await runRoom(session, room).catch((error) => {
    complain(error);
    if (error.code === 'not_found' || error.code === 'forbidden') void mine();
  });
} else await mine();

async function mine() {
  by('console').hidden = true;
  by('mine').hidden = false;
  say(by('hello'), 'helloName', {name: session.me.name});
  session.call('GET', `/v1/brands/${brand}`).then((found) => { by('brand').textContent = found.name; }, () => {});
  by('newRoom').addEventListener('click', create);
  try {
    await list();
  } catch (error) {
    by('rooms').replaceChildren(h('li', {class: 'empty', role: 'alert'}, refusal(error)));
  }
  setInterval(() => document.hidden || list().catch(() => {}), 10_000);
}

async function list() {
  const states = ['live', 'scheduled', 'ended'];
  const found = await Promise.all(states.map((state) => all(session.call, `/v1/rooms?state=${state}`, state === 'ended' ? 50 : 300)));
  const rooms = found.flat().filter(({guide}) => guide.id === session.me.subject);
  redraw(by('rooms'), rooms.map(row));
  if (!rooms.length) by('rooms').append(h('li', {class: 'empty'}, icon('play'), h('p', {t: 'noOwnRooms'})));
}

function row(one) {
  const live = one.state === 'live';
  const {key, look} = badgeOf(one);
  const at = {live: one.live_at, scheduled: one.scheduled_at, ended: one.ended_at}[one.state];
  return h('li', {}, h('button', {class: 'card roomrow', type: 'button', 'data-room': one.id, onclick: () => go(one.id)},
    h('b', {class: 'serif'}, one.title), h('span', {class: look, t: key}),
    h('span', {class: 'small dim clip'}, [at && `${day(at)} ${clock(at)}`, one.store?.name].filter(Boolean).join(' · ')),
    live ? h('span', {class: 'small dim', t: ['nWatching', {n: count(one.viewers)}]}) : h('span')));
}

function go(id) {
  query.set('room', id);
  location.assign(`/guide?${query}`);
}

async function create() {
  const key = newId(); // one for this sheet: a second tap is the same room
  const title = h('input', {class: 'input', id: 'newTitle', required: true, maxlength: 60, placeholder: 'newTitleHint'});
  const at = h('input', {class: 'input', id: 'newTime', type: 'datetime-local', min: local(new Date())});
  const goods = h('div', {class: 'options'});
  const chosen = new Set();
  const make = h('button', {class: 'button main wide tall', t: 'create'});
  const form = h('form', {class: 'stack'},
    h('div', {class: 'field'}, h('label', {for: 'newTitle', t: 'roomTitle'}), title),
    h('div', {class: 'field'}, h('label', {for: 'newTime', t: 'newTime'}), at),
    h('div', {class: 'field'}, h('span', {class: 'label', t: 'chooseGoods'}), goods), make);
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    await during(make, async () => {
      const {stores} = await session.call('GET', '/v1/me');
      const home = stores?.length ? {store_code: stores[0].code} : {};
      const hour = at.value ? {scheduled_at: new Date(at.value).toISOString()} : {};
      const made = await session.call('POST', '/v1/rooms', {body: {title: title.value.trim(), products: [...chosen], ...home, ...hour}, key});
      go(made.id);
    }).catch(complain);
  });
  openSheet({title: 'newRoom', content: [form]});
  try {
    goods.append(...(await all(session.call, '/v1/products', 100)).map((product) => {
      const button = h('button', {class: 'option', type: 'button', role: 'checkbox', 'aria-checked': 'false', onclick: () => {
        if (!chosen.delete(product.id)) chosen.add(product.id);
        button.setAttribute('aria-checked', String(chosen.has(product.id)));
      }}, h('b', {}, product.title), product.sold_out ? h('span', {class: 'badge'}, t('soldOut')) : h('span'));
      return button;
    }));
  } catch (error) {
    complain(error);
  }
}

/** A moment as its input field takes it: local time, to the minute. @param {Date} moment */
function local(moment) {
  return new Date(moment.getTime() - moment.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}
