/** The guide's strips of drops that are running: what is left, and a way to stop them. */

import {during, h, icon} from './dom.js';
import {clock, count, countdown} from './format.js';
import {say} from './i18n.js';
import {askTwice, complain} from './sheet.js';

export class OpenDrops {
  #place;
  #room;
  #session;
  #shown = new Map();

  constructor(place, room, session) {
    this.#place = place;
    this.#room = room;
    this.#session = session;
    setInterval(() => this.#tick(), 500);
  }

  replace(drops) {
    for (const id of [...this.#shown.keys()]) this.end(id);
    for (const drop of drops) this.open(drop);
  }

  open(drop) {
    this.end(drop.id);
    const told = h('span', {class: 'grow clip'});
    const stop = h('button', {class: 'button', type: 'button'}, h('span', {'data-label': '', t: 'stop'}));
    askTwice(stop, 'stopSure', () => during(stop, () => this.#session.call('POST', `/v1/drops/${drop.id}/end`)).catch(complain));
    const element = h('p', {class: 'strip', 'data-drop': drop.id}, icon('ticket'), told, stop);
    this.#shown.set(drop.id, {drop: {...drop}, element, told});
    this.#place.append(element);
    this.#tick();
  }

  stock(id, left) {
    const entry = this.#shown.get(id);
    if (entry) entry.drop.left = left;
  }

  end(id) {
    this.#shown.get(id)?.element.remove();
    this.#shown.delete(id);
  }

  #tick() {
    const now = this.#room.now();
    for (const {drop, told} of this.#shown.values()) {
      if (drop.opens_at > now) say(told, 'dropSoon', {title: drop.title, time: countdown(drop.opens_at - now)});
      else if (drop.held_until > now) say(told, 'dropHeld', {title: drop.title, left: count(drop.left), stock: count(drop.stock), at: clock(drop.held_until)});
      else say(told, 'dropRuns', {title: drop.title, left: count(drop.left), stock: count(drop.stock), time: countdown(drop.ends_at - now)});
    }
  }
}
