/** What a show was: figures, what was explained and how often it was opened, to read and to pass on. */

import {copyText} from './copy.js';
import {h, icon} from './dom.js';
import {clock, count} from './format.js';
import {openResults} from './funnel.js';
import {refusal, t} from './i18n.js';
import {openSheet} from './sheet.js';

/** @param {import('./login.js').Session} session @param {{id: string, title: string}} room @param {string} [title]  key of the sheet's heading */
export async function openSummary(session, room, title = 'summary') {
  const {body} = openSheet({title, class: 'summary', content: [h('div', {class: 'empty'}, h('span', {class: 'spinner'}))]});
  const funnel = h('button', {class: 'button wide', type: 'button', t: 'toFunnel', onclick: () => openResults(session, room.id)});
  try {
    const found = await session.call('GET', `/v1/rooms/${room.id}/summary`);
    body.replaceChildren(
      figures(found), h('h3', {t: 'chapters'}), chapters(found.pins),
      h('button', {class: 'button main wide tall', type: 'button', id: 'copySummary', onclick: () => copyText(asText(room, found))}, icon('copy'), h('span', {t: 'copy'})),
      funnel);
  } catch (error) {
    body.replaceChildren(h('div', {class: 'empty', role: 'alert'}, refusal(error)), funnel);
  }
}

const minutes = ({seconds}) => Math.max(1, Math.round(seconds / 60));

function figures(found) {
  const cells = [['sMinutes', minutes(found)], ['sPeak', found.viewers_peak], ['fUniques', found.uniques], ['fComments', found.comments],
    ['fLikes', found.likes], ['sReminders', found.reminders]];
  return h('dl', {class: 'sixth'}, ...cells.map(([key, n]) => h('div', {'data-figure': key}, h('dt', {t: key}), h('dd', {class: 'num'}, count(n)))));
}

function chapters(pins) {
  if (!pins.length) return h('p', {class: 'dim', t: 'noChapters'});
  return h('ol', {class: 'chapters'}, ...pins.map((pin) => h('li', {},
    h('img', {src: pin.product.image, alt: ''}), h('span', {class: 'grow'}, h('b', {class: 'clip'}, pin.product.title), h('span', {class: 'small dim num'}, span(pin))),
    h('span', {class: 'badge', t: ['nTaps', {n: count(pin.taps)}]}))));
}

const span = ({pinned_at: from, unpinned_at: to}) => [clock(from), to && clock(to)].filter(Boolean).join('–');

/** The same as one plain text, for a chat. */
function asText({title}, found) {
  const line = t('summaryLine', {title, minutes: minutes(found), peak: count(found.viewers_peak), uniques: count(found.uniques),
    comments: count(found.comments), likes: count(found.likes), reminders: count(found.reminders)});
  return [line, ...found.pins.map((pin) => `${span(pin)} ${pin.product.title} · ${t('nTaps', {n: count(pin.taps)})}`)].join('\n');
}
