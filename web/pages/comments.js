/** The comments that flow over the picture. */

import {h} from './dom.js';
import {stickToEnd} from './stick.js';

const KEPT = 60;
const JOINS_EVERY_MS = 1500;

export class Comments {
  /** Show the newest one. @type {() => void} */
  toEnd;
  #list;
  #me;
  #joinedAt = 0;

  /** @param {HTMLOListElement} list @param {{subject: string}} me */
  constructor(list, me) {
    this.#list = list;
    this.#me = me;
    this.toEnd = stickToEnd(list);
  }

  /** @param {{id: string, by: {id: string, name: string, role?: string, tier?: number}, text: string}} comment */
  add({id, by, text}) {
    const host = by.role === 'guide';
    const mine = by.id === this.#me.subject;
    this.#append(h('li', {'data-id': id, tabindex: -1, class: mine ? 'mine' : host ? 'guide' : ''},
      host ? h('span', {class: 'tier host', t: 'host'}) : by.tier > 0 && h('span', {class: 'tier'}, `V${by.tier}`),
      h('span', {class: 'by'}, by.name), text));
  }

  /** Somebody came in: one line that the next such line replaces. @param {{name: string}} person */
  join(person) {
    const now = performance.now();
    if (now - this.#joinedAt < JOINS_EVERY_MS) return;
    this.#joinedAt = now;
    this.#list.querySelector('.join')?.remove();
    this.#append(h('li', {class: 'join', t: ['cameIn', {name: person.name}]}));
  }

  /** @param {string} id */
  remove(id) {
    this.#list.querySelector(`[data-id="${CSS.escape(id)}"]`)?.remove();
  }

  #append(item) {
    const list = this.#list;
    list.append(item);
    while (list.children.length > KEPT) list.firstElementChild.remove();
  }
}
