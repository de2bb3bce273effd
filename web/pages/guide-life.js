/** A room's life in the guide's hand: wait for the hour, start, pause, go on, end, look back. */

import {by, during} from './dom.js';
import {count, countdown, lasting} from './format.js';
import {openSummary} from './guide-summary.js';
import {say, t} from './i18n.js';
import {askTwice, complain, toast} from './sheet.js';

const ASK_EVERY_MS = 20_000;

/**
 * @param {import('./login.js').Session} session
 * @param {import('./guide-person.js').Desk & {id: string, reminders: number}} desk
 * @param {(change: Partial<import('./room-card.js').RoomCard>) => void} change  of what is known of the room
 * @returns {{show: () => void}}  `show` follows the room's card
 */
export function runLife(session, {room, card, id, reminders}, change) {
  const post = (verb) => session.call('POST', `/v1/rooms/${id}/${verb}`);
  let waiting = reminders;
  let wasOn = false;
  let lookedBack = false;

  function show() {
    const {state, paused_at: paused} = card();
    const start = by('start');
    by('startbar').hidden = state === 'live' && !paused;
    start.hidden = state === 'ended';
    by('openSummary').hidden = state !== 'ended';
    say(start.lastElementChild, paused ? 'goOn' : 'start');
    by('end').hidden = state !== 'live';
    by('acts').hidden = state !== 'live';
    by('pause').hidden = Boolean(paused);
    // The room's own event may come before the answer to `end`, or after: one of them looks back.
    wasOn ||= state !== 'ended';
    if (state === 'ended' && !lookedBack) lookBack(wasOn ? 'roomEnded' : 'summary');
    tick();
  }

  function tick() {
    const {state, live_at: live, scheduled_at: scheduled, paused_at: paused} = card();
    const now = room.now();
    by('timer').textContent = state === 'live' && live ? countdown(now - live) : '';
    const told = by('startTold');
    told.hidden = state === 'ended';
    if (paused) say(told, 'pausedStrip', {time: countdown(now - paused)});
    else if (scheduled && scheduled <= now) say(told, 'overdue');
    else if (scheduled) say(told, 'goesLiveIn', {time: lasting(scheduled - now)});
    else told.hidden = true;
    by('startWaiting').hidden = state !== 'scheduled' || !waiting;
    say(by('startWaiting'), 'waitingForYou', {n: count(waiting)});
  }

  function lookBack(title) {
    lookedBack = true;
    void openSummary(session, {id, title: card().title}, title);
  }

  setInterval(tick, 1000);
  setInterval(async () => {
    if (document.hidden || card().state !== 'scheduled') return;
    // A countdown that is a little old is better than a complaint every few seconds.
    const found = await session.call('GET', `/v1/rooms/${id}`).catch(() => null);
    waiting = found?.reminders ?? waiting;
  }, ASK_EVERY_MS);

  by('start').addEventListener('click', () => during(by('start'), async () => {
    const on = Boolean(card().paused_at);
    await post('start');
    change({state: 'live', paused_at: null, live_at: card().live_at ?? room.now()});
    room.retryNow();
    toast(t(on ? 'wentOn' : 'nowLive'), 'yes');
  }).catch(complain));
  by('pause').addEventListener('click', () => during(by('pause'), async () => {
    await room.pause();
    toast(t('pausedDone'), 'yes');
  }).catch(complain));
  askTwice(by('end'), 'endSure', () => during(by('end'), async () => {
    await post('end');
    change({state: 'ended', paused_at: null});
  }).catch(complain));
  by('openSummary').addEventListener('click', () => lookBack('summary'));
  return {show};
}
