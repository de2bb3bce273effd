/** May I speak here? The bar under the comments says so in one calm sentence, and is open or shut accordingly. */

import {by} from './dom.js';
import {clock, day} from './format.js';
import {onLanguage, say, t} from './i18n.js';
import {toast} from './sheet.js';

const GOOD_MS = 365 * 86_400_000; // a mute that outlasts a year is for good
const LONGEST_TIMER_MS = 2 ** 31 - 1;

export class Voice {
  #room;
  #me;
  #card;
  #until = 0;
  #timer = 0;

  /** @param {import('/client/nearcast.js').Room} room @param {{subject: string}} me @param {import('./room-card.js').RoomCard} card */
  constructor(room, me, card) {
    this.#room = room;
    this.#me = me;
    this.#card = card;
    onLanguage(() => this.#show());
    this.#show();
  }

  /** @param {import('./room-card.js').RoomCard} card */
  follow(card) {
    this.#card = card;
    this.#show();
  }

  /** What the snapshot says of me. @param {number|null|undefined} until */
  muted(until) {
    this.#until = until ?? 0;
    this.#show();
  }

  /** Somebody was muted, or may speak again. @param {{viewer: string, until: number|null}} event */
  heard({viewer, until}) {
    if (viewer !== this.#me.subject) return;
    const before = this.#muted;
    this.muted(until);
    if (this.#muted) toast(by('voice').textContent, 'no');
    else if (before) toast(t('speakAgain'), 'yes');
  }

  get #muted() {
    return this.#until > this.#room.now();
  }

  #show() {
    clearTimeout(this.#timer);
    if (this.#muted) this.#timer = setTimeout(() => this.#show(), Math.min(LONGEST_TIMER_MS, this.#until - this.#room.now() + 100));
    const {hushed, allow, slow_seconds: slow} = this.#card;
    const invited = allow.includes(this.#me.subject);
    const shut = this.#muted || (hushed && !invited);
    by('text').disabled = shut;
    say(by('text'), shut ? 'notNowShort' : 'saySomething', {}, 'placeholder');
    by('voice').hidden = !(shut || hushed || slow);
    if (this.#muted) this.#sayMuted();
    else if (hushed) say(by('voice'), invited ? 'mayStillSpeak' : 'roomHushed');
    else if (slow) say(by('voice'), 'slowHint', {n: slow});
  }

  #sayMuted() {
    const left = this.#until - this.#room.now();
    if (left > GOOD_MS) say(by('voice'), 'mutedForGood');
    else say(by('voice'), 'youAreMuted', {until: `${left > 20 * 3_600_000 ? `${day(this.#until)} ` : ''}${clock(this.#until)}`});
  }
}
