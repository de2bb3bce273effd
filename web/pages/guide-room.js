/** The console of a live room: figures, comments, shelf and what the thumb can do. */

import {Close} from '/client/nearcast.js';
import {by, during, h} from './dom.js';
import {count} from './format.js';
import {openDropSheet} from './guide-drop.js';
import {OpenDrops} from './guide-drops.js';
import {Feed} from './guide-feed.js';
import {followHealth} from './guide-health.js';
import {runLife} from './guide-life.js';
import {openOrder} from './guide-order.js';
import {openPerson} from './guide-person.js';
import {Rail} from './guide-rail.js';
import {openRoster} from './guide-roster.js';
import {followStream} from './guide-stream.js';
import {openResults} from './funnel.js';
import {onLanguage, say, t} from './i18n.js';
import {joinRoom} from './join.js';
import {showLine} from './line.js';
import {badgeOf, filled, fromRest} from './room-card.js';
import {complain, openSheet} from './sheet.js';

const SHED_SHOWN_MS = 4000;

/** @param {import('./login.js').Session} session @param {string} id  the room */
export async function runRoom(session, id) {
  const found = await session.call('GET', `/v1/rooms/${id}`);
  by('console').hidden = false;
  let card = fromRest(found);
  let figures = {viewers: found.viewers};
  let announcement = '';
  const room = joinRoom(session, found);
  /** @type {import('./guide-person.js').Desk} */
  const desk = {room, me: session.me, card: () => card, names: new Map()};
  const feed = new Feed(by('feed'), session.me, (person, comment) => openPerson(desk, person, comment));
  const rail = new Rail(by('rail'), room, found.shelf);
  const drops = new OpenDrops(by('drops'), room, session);
  const life = runLife(session, {...desk, id, reminders: found.reminders ?? 0}, setRoom);
  const stream = followStream(session, id, desk);
  const health = followHealth(session, id, desk);
  show();

  room.on('state', (change) => {
    const offline = change.state !== 'open' && change.code !== Close.ROOM_ENDED;
    document.querySelector('.figures').classList.toggle('stale', offline);
    health.heard(!offline);
    showLine(by('line'), offline ? change : {state: 'open'}, 'guideOffline');
  });
  room.on('welcome', (snapshot) => {
    setRoom(filled(snapshot.room));
    setAnnouncement(snapshot.announcement);
    rail.pin(snapshot.pin);
    drops.replace(snapshot.drops);
    setFigures(snapshot.counts);
    for (const comment of snapshot.recent) hear(comment);
  });
  room.on('room', (event) => setRoom(filled(event.room)));
  room.on('announce', (event) => setAnnouncement(event.text));
  room.on('pin', (event) => rail.pin(event));
  room.on('unpin', () => rail.pin(null));
  room.on('counts', (event) => setFigures(event.counts));
  room.on('comment', hear);
  room.on('delete', ({comment}) => feed.remove(comment));
  room.on('mute', ({viewer, until}) => feed.mark(viewer, until && 'mute'));
  room.on('kick', ({viewer}) => feed.mark(viewer, 'kick'));
  room.on('ban', ({viewer, until}) => feed.mark(viewer, until && 'ban'));
  room.on('drop', ({drop}) => drops.open(drop));
  room.on('drop_stock', ({drop, left}) => drops.stock(drop, left));
  room.on('drop_end', ({drop}) => drops.end(drop));
  let calm = 0;
  room.on('shed', ({shown, total}) => {
    health.shed(shown, total);
    say(by('shed'), 'shedStrip', {shown: count(shown), total: count(total)});
    by('shed').hidden = shown >= total;
    feed.said += Math.max(0, total - shown);
    clearTimeout(calm);
    calm = setTimeout(() => { by('shed').hidden = true; }, SHED_SHOWN_MS);
  });

  function hear(comment) {
    desk.names.set(comment.by.id, comment.by.name);
    feed.add(comment);
    by('said').textContent = count(feed.said);
  }
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
    const {key, look} = badgeOf(card);
    by('badge').className = look;
    say(by('badge'), key);
    const live = card.state === 'live';
    for (const name of ['openAnnounce', 'openOrder', 'pause', 'openDrop']) by(name).disabled = !live;
    rail.enable(live);
    by('openOrder').classList.toggle('on', card.hushed || card.slow_seconds > 0);
    say(by('orderWord'), card.slow_seconds > 0 ? 'slowN' : 'order', {n: card.slow_seconds});
    by('hushed').hidden = !card.hushed || card.state === 'ended';
    say(by('hushed').children[1], card.allow.length ? 'hushedN' : 'hushedStrip', {n: card.allow.length});
    if (card.state === 'ended') feed.empty('feedOver');
    // Whoever looks at it later was told no figures: the summary has them.
    document.querySelector('.figures').hidden = card.state === 'ended' && figures.uniques === undefined;
    life.show();
    stream.show();
    health.show();
    showFigures();
  }
  onLanguage(show);

  by('announced').querySelector('button').addEventListener('click', () => room.announce('').catch(complain));
  by('hushed').querySelector('button').addEventListener('click', ({currentTarget: lift}) => during(lift, () => room.hush(false)).catch(complain));
  by('openAnnounce').addEventListener('click', () => announceSheet(room, announcement));
  by('openOrder').addEventListener('click', () => openOrder(desk));
  by('openRoster').addEventListener('click', () => openRoster(session, id, desk));
  by('openFunnel').addEventListener('click', () => openResults(session, id));
  by('openDrop').addEventListener('click', () => openDropSheet(session, room, id));
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
