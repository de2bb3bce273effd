/** Lists that are asked for again and again, and drawn only when they say something new: a button must not vanish
 *  between being aimed at and being hit. */

import {language} from './i18n.js';

const drawn = new WeakMap();

/** @param {Element} place @param {any} data  what is shown, as JSON can hold it @param {() => Node[]} draw */
export function steady(place, data, draw) {
  const now = JSON.stringify([language, data]);
  if (drawn.get(place) === now) return;
  drawn.set(place, now);
  place.replaceChildren(...draw());
}
