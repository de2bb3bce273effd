/** The guide's list of comments; a tap (or a long press, which ends in one) opens what can be done about it. */

import {avatar, h} from './dom.js';
import {clock} from './format.js';
import {stickToEnd} from './stick.js';

const KEPT = 200;
const STANDINGS = {mute: 'isMuted', kick: 'isKicked', ban: 'isBanned'};

export class Feed {
  said = 0;
  #list;
  #me;
  #open;
  #standing = new Map(); // viewer → what was done to them last

  /**
   * @param {HTMLOListElement} list
   * @param {{subject: string}} me
   * @param {(person: object, comment: {id: string, text: string}) => void} open  the sheet about a comment's author
   */
  constructor(list, me, open) {
    this.#list = list;
    this.#me = me;
    this.#open = open;
    this.empty('feedEmpty');
    stickToEnd(list);
  }

  /** What stands here while nothing was said. @param {string} key */
  empty(key) {
    const told = this.#list.querySelector('.empty');
    if (told || !this.#list.children.length) this.#list.replaceChildren(h('li', {class: 'empty', t: key}));
  }

  add(comment) {
    const {id, by, text, at} = comment;
    const list = this.#list;
    this.said += 1;
    list.querySelector('.empty')?.remove();
    list.append(h('li', {'data-id': id, 'data-by': by.id, class: by.id === this.#me.subject ? 'mine' : ''},
      h('button', {type: 'button', 'aria-haspopup': 'dialog', onclick: () => this.#open(by, comment), oncontextmenu: (event) => event.preventDefault()},
        avatar(by), h('span', {class: 'grow'},
          h('span', {class: 'who'}, h('span', {class: 'clip'}, by.name), by.role === 'guide' ? h('span', {class: 'badge live', t: 'host'}) : by.tier > 0 && h('span', {class: 'badge gold'}, `V${by.tier}`),
            h('span', {class: 'num'}, clock(at)), standingBadge(this.#standing.get(by.id))),
          h('span', {class: 'words'}, text)))));
    while (list.children.length > KEPT) list.firstElementChild.remove();
  }

  remove(id) {
    this.#list.querySelector(`[data-id="${CSS.escape(id)}"]`)?.classList.add('gone');
  }

  /** Their comments say what was done. @param {string} viewer @param {'mute'|'kick'|'ban'|null} standing  null: nothing any more */
  mark(viewer, standing) {
    if (standing) this.#standing.set(viewer, standing);
    else this.#standing.delete(viewer);
    for (const item of this.#list.querySelectorAll(`[data-by="${CSS.escape(viewer)}"]`)) {
      item.querySelector('.standing').replaceWith(standingBadge(standing));
    }
  }
}

function standingBadge(standing) {
  return h('span', {class: 'badge standing', hidden: !standing, ...(standing && {t: STANDINGS[standing]})});
}
