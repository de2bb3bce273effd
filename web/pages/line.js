/** The strip that tells how the connection is. Silent while all is well, and for the first second of trouble. */

import {Close} from '/client/nearcast.js';
import {say} from './i18n.js';

const REASONS = {
  [Close.ROOM_ENDED]: 'roomEnded', [Close.ROOM_UNKNOWN]: 'roomUnknown', [Close.REPLACED]: 'replaced', [Close.FLOOD]: 'flooded',
  [Close.TOKEN_INVALID]: 'signInAgain', [Close.VERSION]: 'outdated',
};
const timers = new WeakMap();

/**
 * @param {HTMLElement} strip
 * @param {{state: string, code?: number, delay?: number}} change  as `Room` emits it
 * @param {string} [trying]  key of what it says while the connection is tried again
 */
export function showLine(strip, {state, code}, trying = 'reconnecting') {
  clearTimeout(timers.get(strip));
  const show = (key, off) => {
    strip.hidden = false;
    strip.classList.toggle('off', off);
    say(strip, key);
  };
  if (state === 'open') strip.hidden = true;
  else if (state !== 'closed') timers.set(strip, setTimeout(() => show(navigator.onLine === false ? 'noNetwork' : trying, false), strip.hidden ? 900 : 0));
  else if (code !== 1000) show(REASONS[code] ?? 'disconnected', true);
}
