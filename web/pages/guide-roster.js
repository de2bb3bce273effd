/** Who is here: everybody in a small room, a fair sample of a big one. */

import {avatar, h, icon} from './dom.js';
import {count} from './format.js';
import {openPerson} from './guide-person.js';
import {refusal} from './i18n.js';
import {openSheet} from './sheet.js';

/** @param {import('./login.js').Session} session @param {string} id  the room @param {import('./guide-person.js').Desk} desk */
export async function openRoster(session, id, desk) {
  const told = h('p', {class: 'small dim', role: 'status'}, h('span', {class: 'spinner'}));
  const list = h('ul', {class: 'roster'});
  const sheet = openSheet({title: 'roster', content: [told, list]});
  try {
    const {total, complete, viewers} = await session.call('GET', `/v1/rooms/${id}/roster`);
    told.replaceChildren(h('span', {t: total === 0 ? 'rosterEmpty' : complete
      ? ['rosterAll', {n: count(total)}] : ['rosterSample', {total: count(total), n: viewers.length}]}));
    list.replaceChildren(...viewers.map((viewer) => h('li', {}, h('button', {type: 'button', 'data-viewer': viewer.id, onclick: () => {
      sheet.close();
      openPerson(desk, viewer);
    }}, avatar(viewer), h('span', {class: 'grow clip'}, viewer.name), viewer.tier > 0 && h('span', {class: 'badge gold'}, `V${viewer.tier}`), icon('next')))));
    for (const viewer of viewers) desk.names.set(viewer.id, viewer.name);
  } catch (error) {
    told.replaceChildren(refusal(error));
  }
}
