/** One honest line for the guide: how late viewers see the show, how much of the talk is shown, and whether all is well. */

import {by} from './dom.js';
import {count} from './format.js';
import {t} from './i18n.js';

const ASK_EVERY_MS = 5000;
const SHED_SHOWN_MS = 4000;

/**
 * The line's words.
 * @param {{state: string, delay_ms: number|null, reasons: string[]}|null} health  null: nobody can say
 * @param {{shown: number, total: number}|null} talk  of the last second, if anything was left out
 */
export function honestLine(health, talk) {
  const parts = [];
  if (health && health.delay_ms !== null) {
    const seconds = Math.round(health.delay_ms / 100) / 10;
    parts.push(seconds < .1 ? t('honestNow') : t('honestLate', {n: seconds.toFixed(1)}));
  }
  if (talk) parts.push(t('honestTalk', {shown: count(talk.shown), total: count(talk.total)}));
  if (!health) parts.push(t('honestUnknown'));
  else if (health.state === 'well') parts.push(t('honestWell'));
  else parts.push(...health.reasons.slice(0, 2).map((reason) => t(`honest_${reason}`)));
  return parts.join(' · ');
}

/**
 * @param {import('./login.js').Session} session @param {string} id
 * @param {{card: () => import('./room-card.js').RoomCard}} desk
 */
export function followHealth(session, id, {card}) {
  let health = null;
  let asked = false;
  let connected = true;
  let talk = null;
  let calm = 0;

  async function ask() {
    if (document.hidden || card().state !== 'live') return;
    try {
      health = await session.call('GET', `/v1/rooms/${id}/health`);
    } catch {
      health = null; // saying nothing would look like all is well
    }
    asked = true;
    show();
  }

  function show() {
    const strip = by('honest');
    strip.hidden = !asked || card().state !== 'live';
    // Without the guide's own socket the line above says so, and "all is well" must not contradict it.
    const known = connected || health?.state === 'unwell' ? health : null;
    strip.dataset.state = known ? known.state : 'unwell';
    const line = honestLine(known, talk);
    if (strip.textContent !== line) strip.textContent = line;
  }

  setInterval(ask, ASK_EVERY_MS);
  void ask();
  return {
    show,
    /** @param {boolean} open  whether the guide's own socket is */
    heard(open) { connected = open; if (open) void ask(); show(); },
    shed(shown, total) {
      talk = shown < total ? {shown, total} : null;
      clearTimeout(calm);
      calm = setTimeout(() => { talk = null; show(); }, SHED_SHOWN_MS);
      show();
    },
  };
}
