/** What stands before the picture while there is none: the wait for the start, or for a host who is back soon. */

import {by, during} from './dom.js';
import {clock, count, day, lasting} from './format.js';
import {onLanguage, say, t} from './i18n.js';
import {complain, toast} from './sheet.js';

const ASK_EVERY_MS = 20_000;

export class Cover {
  #session;
  #room;
  #id;
  #card;
  #reminded;
  #waiting;

  /**
   * @param {import('./login.js').Session} session
   * @param {import('/client/nearcast.js').Room} room  its clock is the server's: a phone's own may be wrong
   * @param {{id: string, reminded: boolean, reminders: number}} found  the room as REST gave it
   * @param {import('./room-card.js').RoomCard} card
   */
  constructor(session, room, found, card) {
    this.#session = session;
    this.#room = room;
    this.#id = found.id;
    this.#reminded = found.reminded;
    this.#waiting = found.reminders;
    this.#card = card;
    by('remind').addEventListener('click', () => this.#remind().catch(complain));
    setInterval(() => this.#tick(), 500);
    setInterval(() => this.#ask(), ASK_EVERY_MS);
    onLanguage(() => this.show(this.#card));
    this.show(card);
  }

  /** @param {import('./room-card.js').RoomCard} card */
  show(card) {
    this.#card = card;
    by('cover').hidden = card.state !== 'scheduled';
    by('backSoon').hidden = !(card.state === 'live' && card.paused_at);
    by('room').classList.toggle('covered', !by('cover').hidden || !by('backSoon').hidden);
    const at = card.scheduled_at;
    by('startsAt').textContent = at ? t('startsAt', {day: day(at), time: clock(at)}) : '';
    this.#showReminder();
    this.#tick();
  }

  #tick() {
    const {state, scheduled_at: at} = this.#card;
    if (state !== 'scheduled') return;
    const left = (at ?? 0) - this.#room.now();
    by('startsIn').hidden = !(at && left > 0);
    by('startsIn').textContent = lasting(left);
    say(by('startsWord'), !at ? 'notYet' : left > 0 ? 'startsIn' : 'anyMoment');
  }

  #showReminder() {
    const button = by('remind');
    button.setAttribute('aria-pressed', String(this.#reminded));
    button.classList.toggle('main', !this.#reminded);
    say(button.lastElementChild, this.#reminded ? 'reminding' : 'remind');
    by('waiting').hidden = !this.#waiting;
    say(by('waiting'), 'nWaiting', {n: count(this.#waiting)});
  }

  async #remind() {
    await during(by('remind'), () => this.#session.call(this.#reminded ? 'DELETE' : 'PUT', `/v1/rooms/${this.#id}/reminder`));
    this.#reminded = !this.#reminded;
    this.#waiting = Math.max(0, this.#waiting + (this.#reminded ? 1 : -1));
    this.#showReminder();
    toast(t(this.#reminded ? 'remindSet' : 'remindOff'), this.#reminded ? 'yes' : '');
  }

  /** How many wait by now. Not worth a word if it cannot be had. */
  async #ask() {
    if (document.hidden || this.#card.state !== 'scheduled') return;
    const found = await this.#session.call('GET', `/v1/rooms/${this.#id}`).catch(() => null);
    if (!found) return;
    this.#waiting = found.reminders;
    this.#showReminder();
  }
}
