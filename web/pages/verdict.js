/** The till's answer, as large as the screen. */

import {h, icon} from './dom.js';

/**
 * @param {'yes'|'no'} mood
 * @param {string} title  key of the words
 * @param {string[]} lines  sentences below it
 * @param {Array<[string, string]|false|null|undefined|''>} facts  [key, text]
 * @param {() => void} onclose
 */
export function verdict(mood, title, lines, facts, onclose) {
  const slip = facts.filter(Boolean);
  const next = h('button', {class: 'button tall', type: 'button', autofocus: true, t: 'nextOne', onclick: () => element.close()});
  const element = /** @type {HTMLDialogElement} */ (h('dialog', {class: `verdict ${mood}`, role: 'alertdialog', label: title},
    h('div', {class: 'inner'},
      h('div', {class: 'sign'}, icon(mood === 'yes' ? 'check' : 'close')),
      h('h2', {t: title}), ...lines.map((line) => h('p', {}, line)),
      slip.length > 0 && h('dl', {class: 'slip'}, ...slip.flatMap(([key, text]) => [h('dt', {t: key}), h('dd', {class: 'num'}, text)])),
      next)));
  element.addEventListener('close', () => {
    element.remove();
    onclose();
  });
  document.body.append(element);
  element.showModal();
}
