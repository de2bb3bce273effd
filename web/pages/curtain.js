/** The last thing in a room: why it is over for this viewer, said calmly, and where to go from here. */

import {Close} from '/client/nearcast.js';
import {by, h, icon} from './dom.js';
import {count} from './format.js';
import {say} from './i18n.js';

/** Ways out of a room that the connection's strip is too small for. */
const ENDS = {
  [Close.ROOM_ENDED]: {sign: 'check', title: 'roomEnded', wallet: true},
  [Close.KICKED]: {sign: 'door', title: 'kicked', text: 'kickedText', again: 'comeBack'},
  [Close.BANNED]: {sign: 'door', title: 'banned', text: 'bannedText'},
  [Close.ERASED]: {sign: 'check', title: 'erased', text: 'erasedText'},
  [Close.REPLACED]: {sign: 'copy', title: 'replaced', text: 'replacedText', again: 'watchHere'},
};

export class Curtain {
  #figures = {};
  #drawn = null;

  /** The room's figures as last heard; the farewell tells them. @param {{likes?: number, uniques?: number}} figures */
  set figures(figures) {
    this.#figures = figures;
    if (this.#drawn === Close.ROOM_ENDED) this.#tell();
  }

  /** Draw it, if `code` is an end that has one. @param {number} [code] @returns {boolean} */
  draw(code) {
    const end = ENDS[code];
    if (!end || this.#drawn === code) return Boolean(end);
    this.#drawn = code;
    by('overSign').replaceChildren(icon(end.sign));
    say(by('overTitle'), end.title);
    by('overText').replaceChildren();
    if (end.text) by('overText').append(h('p', {t: end.text}));
    else this.#tell();
    by('overAgain').hidden = !end.again;
    if (end.again) say(by('overAgain'), end.again);
    by('overWallet').hidden = !end.wallet;
    by('over').hidden = false;
    for (const part of document.querySelectorAll('.lower, .bar, .drops, .cover')) part.inert = true;
    return true;
  }

  #tell() {
    const {uniques = 0, likes = 0} = this.#figures;
    const figures = likes ? 'endedFigures' : 'endedVisitors';
    by('overText').replaceChildren(
      h('p', {t: uniques ? [figures, {uniques: count(uniques), likes: count(likes)}] : 'endedThanks'}), h('p', {class: 'small', t: 'endedCoupons'}));
  }
}
