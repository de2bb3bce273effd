/** The table of rooms: which are on, since when, and with how many. */

import {by, h, redraw} from './dom.js';
import {clock, count, day} from './format.js';
import {t} from './i18n.js';
import {all} from './login.js';
import {badgeOf} from './room-card.js';

const ORDER = {live: 0, scheduled: 1, ended: 2};

/**
 * @param {import('./login.js').Session} session
 * @param {string|undefined} chosen  the id of the room whose funnel is shown
 * @param {(room: any) => void} choose
 * @returns {Promise<any[]>} the rooms
 */
export async function showRooms(session, chosen, choose) {
  const items = await all(session.call, '/v1/ops/rooms?limit=100', 300);
  items.sort((a, b) => ORDER[a.room.state] - ORDER[b.room.state] || b.viewers - a.viewers);
  const live = items.filter(({room}) => room.state === 'live');
  by('kLive').textContent = count(live.length);
  by('kViewers').textContent = count(live.reduce((sum, {viewers}) => sum + viewers, 0));
  redraw(by('rooms'), items.map((item) => row(item, chosen, choose)));
  if (!items.length) by('rooms').append(h('tr', {}, h('td', {colspan: 6, class: 'faint', t: 'noRooms'})));
  return items.map(({room}) => room);
}

function row({room, viewers, uniques, likes, comments, stream}, chosen, choose) {
  const {key, look} = badgeOf(room);
  return h('tr', {'aria-selected': String(chosen === room.id), 'data-room': room.id},
    h('td', {}, h('button', {class: 'room', type: 'button', onclick: () => choose(room)}, h('b', {}, room.title), h('span', {class: 'small faint clip'}, [room.guide.name, room.store?.name].filter(Boolean).join(' · ')))),
    h('td', {}, h('span', {class: look, t: key}), h('span', {class: 'small faint when'}, when(room)), stream && picture(stream)),
    ...[viewers, uniques, likes, comments].map((n) => h('td', {class: 'n num'}, count(n))));
}

const PICTURES = {arriving: 'opsPicArriving', lost: 'opsPicLost', waiting: 'opsPicWaiting'};

/** Whether the room's picture arrives, and since when. */
function picture({state, since}) {
  return h('span', {class: 'small faint when', 'data-picture': state, t: [PICTURES[state], {time: since ? clock(since) : ''}]});
}

/** When it starts, has started, or ended. */
function when({state, scheduled_at: scheduled, live_at: live, paused_at: paused, ended_at: ended}) {
  if (state === 'scheduled') return scheduled ? t('startsAt', {day: day(scheduled), time: clock(scheduled)}) : '';
  if (state === 'live') return t(paused ? 'sincePaused' : 'sinceLive', {time: clock(paused ?? live)});
  return ended ? `${day(ended)} ${clock(ended)}` : '';
}
