/** The viewer's page: choose a room, be in it. Each part of the screen has its own module; here they are joined. */

import {Close} from '/client/nearcast.js';
import {Comments} from './comments.js';
import {Cover} from './cover.js';
import {Curtain} from './curtain.js';
import {avatar, by, h, hangIcons, redraw} from './dom.js';
import {Drops} from './drops.js';
import {clock, count, day} from './format.js';
import {Hearts} from './hearts.js';
import {adopt, onLanguage, refusal, say, t} from './i18n.js';
import {joinRoom} from './join.js';
import {play} from './player.js';
import {showLine} from './line.js';
import {all, brand, signIn} from './login.js';
import {reportByPress} from './report.js';
import {badgeOf, filled, fromRest} from './room-card.js';
import {openMyData} from './mydata.js';
import {paint} from './scene.js';
import {complain} from './sheet.js';
import {Shelf} from './shelf.js';
import {Stores} from './stores.js';
import {Voice} from './voice.js';
import {Wallet} from './wallet.js';

adopt();
hangIcons();
const query = new URLSearchParams(location.search);
const session = await signIn('viewer', t('guestName', {n: String(Date.now()).slice(-4)}));

const wanted = query.get('room');
if (wanted) {
  await enter(wanted).catch((error) => {
    complain(error);
    by('room').hidden = true;
    return lobby();
  });
} else await lobby();

/** The list of rooms, live ones first. */
async function lobby() {
  by('lobby').hidden = false;
  by('openMyData').addEventListener('click', () => openMyData(session));
  session.call('GET', `/v1/brands/${brand}`).then((found) => { by('brand').textContent = found.name; }, () => {});
  const draw = async () => {
    const [live, soon] = await Promise.all(['live', 'scheduled'].map((state) => all(session.call, `/v1/rooms?state=${state}`, 60)));
    redraw(by('rooms'), [...live, ...soon].map(card));
    if (!live.length && !soon.length) by('rooms').append(h('li', {class: 'empty', t: 'noRooms'}));
  };
  await draw().catch((error) => by('rooms').replaceChildren(h('li', {class: 'empty', role: 'alert'}, refusal(error))));
  setInterval(() => document.hidden || draw().catch(() => {}), 10_000);
}

function card(room) {
  const live = room.state === 'live';
  const {key, look} = badgeOf(room);
  const at = room.scheduled_at;
  const here = new URLSearchParams(location.search);
  here.set('room', room.id);
  const picture = h('img', {alt: ''});
  paint(picture, room.id).catch(() => {});
  return h('li', {}, h('a', {class: 'roomcard', href: `/watch?${here}`, 'data-room': room.id}, picture,
    h('span', {class: `${look} corner`, t: !live && at ? ['startsAt', {day: day(at), time: clock(at)}] : key}),
    h('span', {class: 'caption'}, h('b', {class: 'serif'}, room.title),
      h('span', {class: 'row small dim'}, h('span', {class: 'clip'}, [room.guide.name, room.store?.name].filter(Boolean).join(' · ')),
        h('span', {class: 'grow'}), live && h('span', {t: ['nWatching', {n: count(room.viewers)}]})))));
}

async function enter(id) {
  const found = await session.call('GET', `/v1/rooms/${id}`);
  by('room').hidden = false;
  paint(document.querySelector('.scene'), id).catch(() => {});
  query.delete('room');
  for (const link of ['leave', 'overRooms']) by(link).href = `/watch?${query}`;
  const card = fromRest(found);
  const room = joinRoom(session, found);
  const me = session.me;
  const comments = new Comments(by('comments'), me);
  const wallet = new Wallet(session, room);
  play(document.querySelector('.stage'), found.playback, room);
  const stores = new Stores(session, room);
  const shelf = new Shelf(room, found.shelf);
  const drops = new Drops(session, by('drops'), room, stores, wallet);
  const hearts = new Hearts(by('hearts'));
  const cover = new Cover(session, room, found, card);
  const curtain = new Curtain();
  const voice = new Voice(room, me, card);
  reportByPress(by('comments'), room);
  follow(card);

  function follow(fresh) {
    showRoom(fresh);
    cover.show(fresh);
    voice.follow(fresh);
    if (fresh.state === 'ended') curtain.draw(Close.ROOM_ENDED);
  }
  room.on('state', (change) => {
    const over = change.state === 'closed' && curtain.draw(change.code);
    showLine(by('line'), over ? {state: 'open'} : change);
  });
  room.on('welcome', (snapshot) => {
    follow(filled(snapshot.room));
    voice.muted(snapshot.muted_until);
    announce(snapshot.announcement);
    shelf.pin(snapshot.pin);
    drops.replace(snapshot.drops);
    wallet.replace(snapshot.coupons);
    for (const comment of snapshot.recent) comments.add(comment);
    counts(snapshot.counts);
    stores.rejoin();
  });
  room.on('room', (event) => follow(filled(event.room)));
  room.on('announce', ({text}) => announce(text));
  room.on('pin', (event) => shelf.pin(event));
  room.on('unpin', () => shelf.pin(null));
  room.on('comment', (comment) => comments.add(comment));
  room.on('join', ({by: person}) => comments.join(person));
  room.on('delete', ({comment}) => comments.remove(comment));
  room.on('mute', (event) => voice.heard(event));
  room.on('counts', (event) => counts(event.counts));
  room.on('drop', ({drop}) => drops.open(drop));
  room.on('drop_stock', ({drop, left}) => drops.stock(drop, left));
  room.on('drop_end', ({drop, reason}) => drops.end(drop, reason));
  room.on('coupon', (coupon) => wallet.arrive(coupon));
  room.on('review', (review) => drops.review(review));

  let likes = 0;
  let figures = {};
  function counts(fresh) {
    figures = fresh;
    curtain.figures = fresh;
    by('viewers').textContent = count(fresh.viewers ?? 0);
    // Others' taps rise too, a few of them: the room should feel the warmth, not count it.
    const more = (fresh.likes ?? 0) - likes;
    if (likes && more > 0) hearts.rise(Math.min(3, more));
    likes = Math.max(likes, fresh.likes ?? 0);
    by('likes').hidden = !likes;
    by('likes').textContent = count(likes);
  }
  onLanguage(() => counts(figures));

  by('heart').addEventListener('click', () => {
    room.like();
    hearts.rise(1);
    likes += 1;
    by('likes').hidden = false;
    by('likes').textContent = count(likes);
  });
  by('overAgain').addEventListener('click', () => location.reload());
  by('openShelf').addEventListener('click', () => shelf.open());
  by('openStores').addEventListener('click', () => stores.open());
  for (const button of ['openWallet', 'overWallet']) by(button).addEventListener('click', () => wallet.open());
  by('say').addEventListener('submit', async (event) => {
    event.preventDefault();
    const text = by('text').value.trim();
    if (!text) return;
    by('text').value = '';
    try {
      await room.comment(text);
      comments.toEnd();
    } catch (error) {
      // Give the words back, unless something new was begun meanwhile.
      by('text').value ||= text;
      complain(error);
    }
  });
}

function showRoom(room) {
  document.title = `${room.title} · Nearcast`;
  by('title').textContent = room.title;
  by('guide').textContent = room.guide.name;
  by('store').textContent = room.store ?? '';
  by('avatar').replaceChildren(avatar(room.guide));
  const {key, look} = badgeOf(room);
  by('badge').className = look;
  say(by('badge'), key);
}

function announce(text) {
  by('announcement').hidden = !text;
  by('announcement').lastElementChild.textContent = text;
}
