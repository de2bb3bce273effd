/** What lies over a page: sheets, one-sentence notices, and buttons that ask twice. */

import {h, icon} from './dom.js';
import {refusal, say, t} from './i18n.js';

/**
 * Open a sheet from below. Closing it (button, Escape, the backdrop) removes it.
 * `footer` stays in reach of the thumb while the content scrolls.
 * @param {{title: string|[string, object], class?: string, onclose?: () => void, content: Node[], footer?: Node}} options
 * @returns {{element: HTMLDialogElement, body: HTMLElement, close: () => void}}
 */
export function openSheet({title, class: extra = '', onclose, content, footer}) {
  const body = h('div', {class: 'body'}, ...content);
  const heading = h('h2', {t: title});
  const close = () => element.close();
  const element = /** @type {HTMLDialogElement} */ (h('dialog', {class: `sheet ${extra}`},
    h('header', {}, heading, h('button', {class: 'round', type: 'button', label: 'close', onclick: close}, icon('close'))),
    body, footer && h('footer', {}, footer)));
  say(element, ...[title].flat(), 'aria-label');
  element.addEventListener('click', (event) => event.target === element && close());
  element.addEventListener('close', () => {
    element.remove();
    onclose?.();
  });
  document.body.append(element);
  element.showModal();
  return {element, body, close};
}

let timer = 0;

/** Say one sentence for a few seconds, above everything. @param {string} text @param {'yes'|'no'|''} [mood] */
export function toast(text, mood = '') {
  let place = document.querySelector('.toast');
  if (!place) document.body.append(place = h('div', {class: 'toast', popover: 'manual', role: 'status'}));
  place.className = `toast ${mood}`;
  place.textContent = text;
  // Shown anew each time: a sheet opened since then lies above it otherwise.
  if (place.matches(':popover-open')) place.hidePopover();
  place.showPopover();
  clearTimeout(timer);
  timer = setTimeout(() => place.hidePopover(), 2600 + 40 * text.length);
}

/** Say a refusal in the reader's language. @param {{code?: string}} error */
export function complain(error) {
  if (!error?.code) (globalThis.reportError ?? console.error)(error);
  toast(refusal(error), 'no');
}

/**
 * A button for what cannot be taken back lightly: the first tap asks, the second within 4 s does.
 * @param {HTMLButtonElement} button
 * @param {string} question  key of the words it shows when it asks
 * @param {() => void} work
 */
export function askTwice(button, question, work) {
  const label = button.querySelector('[data-label]') ?? button;
  let asked = 0;
  let usual = '';
  const relax = () => {
    clearTimeout(asked);
    asked = 0;
    button.classList.remove('asking');
    label.textContent = usual;
  };
  button.addEventListener('click', () => {
    if (asked) {
      relax();
      work();
      return;
    }
    usual = label.textContent;
    label.textContent = t(question);
    button.classList.add('asking');
    asked = setTimeout(relax, 4000);
  });
}
