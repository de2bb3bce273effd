/** Reporting a comment: press it for a while (or open its menu by mouse or keys), say why. */

import {during, h} from './dom.js';
import {t} from './i18n.js';
import {complain, openSheet, toast} from './sheet.js';

const REASONS = ['spam', 'fraud', 'abuse', 'sexual', 'illegal', 'other'];
const PRESS_MS = 450;
const SLIP_PX = 10; // a finger that moved more wants to scroll
const TRIES = 4;

/**
 * Let whoever presses a comment of somebody else report it.
 * @param {HTMLOListElement} list  its items carry `data-id`; one's own, `mine`, have nothing to report
 * @param {import('/client/nearcast.js').Room} room
 */
export function reportByPress(list, room) {
  let timer = 0;
  let from = null;
  const release = () => clearTimeout(timer);
  const of = (event) => event.target.closest('li[data-id]:not(.mine)');
  list.addEventListener('pointerdown', (event) => {
    const item = of(event);
    release();
    if (!item || event.button !== 0) return;
    from = event;
    timer = setTimeout(() => {
      swallowClick();
      ask(item, room);
    }, PRESS_MS);
  });
  list.addEventListener('pointermove', (event) => {
    if (from && Math.hypot(event.clientX - from.clientX, event.clientY - from.clientY) > SLIP_PX) release();
  });
  for (const end of ['pointerup', 'pointercancel', 'pointerleave']) list.addEventListener(end, release);
  list.addEventListener('contextmenu', (event) => {
    const item = of(event);
    if (!item) return;
    event.preventDefault();
    release();
    ask(item, room);
  });
  list.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && of(event)) ask(of(event), room);
    const step = {ArrowUp: 'previousElementSibling', ArrowDown: 'nextElementSibling'}[event.key];
    if (!step) return;
    event.preventDefault();
    const here = document.activeElement.closest('li');
    (here ? here[step] : list.lastElementChild)?.focus();
  });
}

/** The finger that opened the sheet is still down, over a reason perhaps: lifting it chooses nothing. */
function swallowClick() {
  const swallow = (event) => {
    if (!event.detail) return; // from the keyboard
    event.preventDefault();
    event.stopPropagation();
  };
  document.addEventListener('click', swallow, true);
  document.addEventListener('pointerdown', () => document.removeEventListener('click', swallow, true), {capture: true, once: true});
}

function ask(item, room) {
  if (document.querySelector('dialog[open]')) return; // a long press may be told twice: by its time and as a menu
  const sheet = openSheet({title: 'reportTitle', content: [
    h('p', {class: 'quote'}, item.textContent), h('p', {class: 'dim', t: 'reportWhy'}),
    h('div', {class: 'chips reasons'}, ...REASONS.map((reason) => h('button', {class: 'chip', type: 'button', 'data-reason': reason, t: `reason_${reason}`,
      onclick: (event) => during(event.currentTarget, () => send(room, item.dataset.id, reason)).then(() => {
        sheet.close();
        toast(t('reported'), 'yes');
      }, complain)}))),
  ]});
}

/** A comment said just now is not stored yet: the server says when to try again. */
async function send(room, comment, reason) {
  for (let left = TRIES; ; left -= 1) {
    try {
      return await room.report(comment, reason);
    } catch (error) {
      if (error.code !== 'not_found' || !error.retryAfter || left === 1) throw error;
      await new Promise((go) => { setTimeout(go, error.retryAfter * 1000); });
    }
  }
}
