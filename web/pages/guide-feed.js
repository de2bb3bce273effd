/** The guide's list of comments; a tap (or a long press, which ends in one) opens what can be done about it. */

import {avatar, during, h, icon} from './dom.js';
import {clock} from './format.js';
import {t} from './i18n.js';
import {complain, openSheet, toast} from './sheet.js';

const KEPT = 200;
const MUTES = [['mute10m', 600], ['mute1d', 86_400], ['mute7d', 7 * 86_400], ['muteGood', 3_650 * 86_400]];

export class Feed {
  said = 0;
  #list;
  #room;
  #me;

  /** @param {HTMLOListElement} list @param {import('/client/nearcast.js').Room} room @param {{subject: string}} me */
  constructor(list, room, me) {
    this.#list = list;
    this.#room = room;
    this.#me = me;
    list.append(h('li', {class: 'empty', t: 'feedEmpty'}));
  }

  add(comment) {
    const {id, by, text, at} = comment;
    const list = this.#list;
    const following = list.scrollHeight - list.scrollTop - list.clientHeight < 64;
    this.said += 1;
    list.querySelector('.empty')?.remove();
    list.append(h('li', {'data-id': id, class: by.id === this.#me.subject ? 'mine' : ''},
      h('button', {type: 'button', 'aria-haspopup': 'dialog', onclick: () => this.#menu(comment), oncontextmenu: (event) => event.preventDefault()},
        avatar(by), h('span', {class: 'grow'},
          h('span', {class: 'who'}, h('span', {class: 'clip'}, by.name), by.role === 'guide' ? h('span', {class: 'badge live', t: 'host'}) : by.tier > 0 && h('span', {class: 'badge gold'}, `V${by.tier}`),
            h('span', {class: 'num'}, clock(at))),
          h('span', {class: 'words'}, text)))));
    while (list.children.length > KEPT) list.firstElementChild.remove();
    if (following) list.scrollTop = list.scrollHeight;
  }

  remove(id) {
    this.#list.querySelector(`[data-id="${CSS.escape(id)}"]`)?.classList.add('gone');
  }

  #menu({id, by, text}) {
    const act = (work, done) => async (event) => {
      await during(event.currentTarget, work).then(() => { sheet.close(); toast(t(done), 'yes'); }, complain);
    };
    const own = by.id === this.#me.subject;
    const sheet = openSheet({title: ['commentBy', {name: by.name}], content: [
      h('p', {class: 'dim', style: 'overflow-wrap: anywhere'}, text),
      h('button', {class: 'button no wide tall', type: 'button', 'data-act': 'delete', onclick: act(() => this.#room.delete(id), 'deleted')}, icon('bin'), h('span', {t: 'delete'})),
      !own && h('div', {class: 'field'}, h('span', {class: 'label row'}, icon('mute'), h('span', {t: 'muteFor'})),
        h('div', {class: 'chips'}, ...MUTES.map(([key, seconds]) => h('button', {class: 'chip', type: 'button', 'data-mute': seconds, t: key, onclick: act(() => this.#room.mute(by.id, seconds), 'mutedDone')})),
          h('button', {class: 'chip', type: 'button', t: 'unmute', onclick: act(() => this.#room.mute(by.id, 0), 'unmuted')}))),
    ].filter(Boolean)});
  }
}
