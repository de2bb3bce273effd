/** The console of a live room: figures, comments, shelf and what the thumb can do. */

import {Close} from '/client/nearcast.js';
import {by, during, h, icon} from './dom.js';
import {count, countdown} from './format.js';
import {openResults} from './funnel.js';
import {openDropSheet} from './guide-drop.js';
import {Feed} from './guide-feed.js';
import {onLanguage, say, t} from './i18n.js';
import {joinRoom} from './join.js';
import {showLine} from './line.js';
import {askTwice, complain, openSheet, toast} from './sheet.js';
import {price} from './shelf.js';

const SLOW = [0, 5, 10, 30, 60, 120];
const SHED_SHOWN_MS = 4000;

/** @param {import('./login.js').Session} session @param {string} id  the room */
export async function runRoom(session, id) {
  const found = await session.call('GET', `/v1/rooms/${id}`);
  by('console').hidden = false;
  const post = (verb, body) => session.call('POST', `/v1/rooms/${id}/${verb}`, {body});
  const room = joinRoom(session, found);
  const feed = new Feed(by('feed'), room, session.me);
  const rail = new Rail(by('rail'), room, found.shelf);
  const drops = new OpenDrops(by('drops'), room, session);
  let card = {...found, live_at: found.live_at && Date.parse(found.live_at)};
  let figures = {viewers: found.viewers};
  let announcement = '';
  show();

  room.on('state', (change) => showLine(by('line'), change.code === Close.ROOM_ENDED ? {state: 'open'} : change));
  room.on('welcome', (snapshot) => {
    setRoom(snapshot.room);
    setAnnouncement(snapshot.announcement);
    rail.pin(snapshot.pin);
    drops.replace(snapshot.drops);
    setFigures(snapshot.counts);
    for (const comment of snapshot.recent) feed.add(comment);
  });
  room.on('room', (event) => setRoom(event.room));
  room.on('announce', (event) => setAnnouncement(event.text));
  room.on('pin', (event) => rail.pin(event));
  room.on('unpin', () => rail.pin(null));
  room.on('counts', (event) => setFigures(event.counts));
  room.on('comment', (comment) => {
    feed.add(comment);
    by('said').textContent = count(feed.said);
  });
  room.on('delete', ({comment}) => feed.remove(comment));
  room.on('drop', ({drop}) => drops.open(drop));
  room.on('drop_stock', ({drop, left}) => drops.stock(drop, left));
  room.on('drop_end', ({drop}) => drops.end(drop));
  let calm = 0;
  room.on('shed', ({shown, total}) => {
    say(by('shed'), 'shedStrip', {shown, total});
    by('shed').hidden = shown >= total;
    feed.said += Math.max(0, total - shown);
    clearTimeout(calm);
    calm = setTimeout(() => { by('shed').hidden = true; }, SHED_SHOWN_MS);
  });

  function setRoom(fresh) { card = {...card, ...fresh}; show(); }
  function setFigures(fresh) { figures = fresh; showFigures(); }
  function setAnnouncement(text) {
    announcement = text;
    by('announced').hidden = !text;
    by('announced').children[1].textContent = text;
  }
  function showFigures() {
    for (const name of ['viewers', 'uniques', 'likes']) by(name).textContent = count(figures[name] ?? 0);
  }
  function show() {
    document.title = `${card.title} · Nearcast`;
    by('title').textContent = card.title;
    by('badge').className = `badge ${card.state === 'live' ? 'live' : ''}`;
    say(by('badge'), {live: 'live', scheduled: 'soon', ended: 'ended'}[card.state]);
    by('startbar').hidden = card.state !== 'scheduled';
    by('end').hidden = card.state !== 'live';
    document.querySelector('.acts').hidden = card.state === 'scheduled';
    for (const name of ['openAnnounce', 'openSlow', 'openDrop']) by(name).disabled = card.state !== 'live';
    rail.enable(card.state === 'live');
    const slow = card.slow_seconds > 0;
    by('openSlow').classList.toggle('on', slow);
    say(by('slowWord'), slow ? 'slowN' : 'slow', {n: card.slow_seconds});
    tick();
    showFigures();
  }
  function tick() {
    by('timer').textContent = card.state === 'live' && card.live_at ? countdown(room.now() - card.live_at) : '';
  }
  setInterval(tick, 1000);
  onLanguage(show);

  by('start').addEventListener('click', () => during(by('start'), async () => {
    await post('start');
    setRoom({state: 'live', live_at: room.now()});
    room.retryNow();
    toast(t('nowLive'), 'yes');
  }).catch(complain));
  askTwice(by('end'), 'endSure', () => during(by('end'), async () => {
    await post('end');
    setRoom({state: 'ended'});
    openResults(session, id, 'roomEnded');
  }).catch(complain));
  by('announced').querySelector('button').addEventListener('click', () => room.announce('').catch(complain));
  by('openAnnounce').addEventListener('click', () => announceSheet(room, announcement));
  by('openSlow').addEventListener('click', () => slowSheet(room, card.slow_seconds ?? 0));
  by('openFunnel').addEventListener('click', () => openResults(session, id));
  by('openDrop').addEventListener('click', () => openDropSheet(session, room, id));
}

/** The shelf as one row of large cards: a tap pins, a second tap on the pinned one unpins. */
class Rail {
  #place;
  #room;
  #pinned = null;

  constructor(place, room, products) {
    this.#place = place;
    this.#room = room;
    place.replaceChildren(...products.map((product, n) => this.#card(product, n + 1)));
    if (!products.length) place.append(h('p', {class: 'empty', t: 'shelfEmpty'}));
  }

  pin(pin) {
    this.#pinned = pin?.product.id ?? null;
    for (const button of this.#place.querySelectorAll('button')) {
      const on = button.dataset.product === this.#pinned;
      button.setAttribute('aria-pressed', String(on));
      button.querySelector('.flag').hidden = !on;
      // Sideways only: scrollIntoView would also move the page under the thumb.
      if (on) this.#place.scrollTo({left: button.offsetLeft - this.#place.clientWidth / 2 + button.clientWidth / 2, behavior: 'smooth'});
    }
  }

  enable(on) {
    for (const button of this.#place.querySelectorAll('button')) button.disabled = !on || button.dataset.soldOut !== undefined;
  }

  #card(product, n) {
    const button = h('button', {type: 'button', 'aria-pressed': 'false', 'data-product': product.id, 'data-sold-out': product.sold_out,
      onclick: () => this.#toggle(product.id, button)},
    h('img', {src: product.image, alt: ''}), h('span', {class: 'badge live flag', hidden: true, t: 'explaining'}), h('span', {class: 'place'}, String(n)),
    h('span', {class: 'name'}, product.title), product.sold_out ? h('span', {class: 'badge', t: 'soldOut'}) : price(product));
    return button;
  }

  #toggle(product, button) {
    return during(button, () => (product === this.#pinned ? this.#room.unpin() : this.#room.pin(product))).catch(complain);
  }
}

/** Drops that are running: what is left, and a way to stop them. */
class OpenDrops {
  #place;
  #room;
  #session;
  #shown = new Map();

  constructor(place, room, session) {
    this.#place = place;
    this.#room = room;
    this.#session = session;
    setInterval(() => this.#tick(), 500);
  }

  replace(drops) {
    for (const id of [...this.#shown.keys()]) this.end(id);
    for (const drop of drops) this.open(drop);
  }

  open(drop) {
    this.end(drop.id);
    const told = h('span', {class: 'grow clip'});
    const stop = h('button', {class: 'button', type: 'button'}, h('span', {'data-label': '', t: 'stop'}));
    askTwice(stop, 'stopSure', () => during(stop, () => this.#session.call('POST', `/v1/drops/${drop.id}/end`)).catch(complain));
    const element = h('p', {class: 'strip', 'data-drop': drop.id}, icon('ticket'), told, stop);
    this.#shown.set(drop.id, {drop: {...drop}, element, told});
    this.#place.append(element);
    this.#tick();
  }

  stock(id, left) {
    const entry = this.#shown.get(id);
    if (entry) entry.drop.left = left;
  }

  end(id) {
    this.#shown.get(id)?.element.remove();
    this.#shown.delete(id);
  }

  #tick() {
    const now = this.#room.now();
    for (const {drop, told} of this.#shown.values()) {
      if (drop.opens_at > now) say(told, 'dropSoon', {title: drop.title, time: countdown(drop.opens_at - now)});
      else say(told, 'dropRuns', {title: drop.title, left: count(drop.left), stock: count(drop.stock), time: countdown(drop.ends_at - now)});
    }
  }
}

function announceSheet(room, text) {
  const words = h('textarea', {class: 'input', id: 'announceText', maxlength: 200, rows: 3, placeholder: 'announceHint', value: text});
  const ready = ['readyShip', 'readyCoupon', 'readyAsk'].map((key) => h('button', {class: 'chip', type: 'button', t: key, onclick: () => { words.value = t(key); words.focus(); }}));
  const put = h('button', {class: 'button main wide tall', type: 'button', id: 'announceGo', t: 'announceGo', onclick: () => during(put, async () => {
    await room.announce(words.value.trim());
    sheet.close();
  }).catch(complain)});
  const sheet = openSheet({title: 'announce', content: [
    h('div', {class: 'field'}, h('label', {for: 'announceText', t: 'announceWhat'}), words), h('div', {class: 'chips'}, ...ready), put]});
}

function slowSheet(room, seconds) {
  const chips = SLOW.map((n) => h('button', {class: 'chip', type: 'button', 'aria-pressed': String(n === seconds), t: n ? ['slowN', {n}] : 'off',
    onclick: async (event) => {
      await during(event.currentTarget, () => room.slow(n)).then(() => sheet.close(), complain);
    }}));
  const sheet = openSheet({title: 'slow', content: [h('p', {class: 'dim', t: 'slowWhat'}), h('div', {class: 'chips'}, ...chips)]});
}
