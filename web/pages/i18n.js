/** Two languages, Chinese first. Elements remember what they say, so that a switch re-says everything in place. */

import {REFUSALS, WORDS} from './words.js';

const KEPT = 'nearcast.language';
const COLUMN = {zh: 0, en: 1};

/** @type {'zh'|'en'} */
export let language = localStorage.getItem(KEPT) === 'en' ? 'en' : 'zh';

const spoken = new WeakMap(); // element → Map(attribute → [key, vars])
const listeners = new Set();

/** The words for `key`, with `{name}` filled from `vars`. @param {string} key @param {Record<string, any>} [vars] */
export function t(key, vars = {}) {
  const entry = WORDS[key];
  if (!entry) throw new Error(`no words for ${key}`);
  return entry[COLUMN[language]].replace(/\{(\w+)\}/g, (_, name) => String(vars[name] ?? ''));
}

/**
 * Let `element` say `key` from now on, in whatever language.
 * @param {Element} element
 * @param {string} key
 * @param {Record<string, any>} [vars]
 * @param {string} [where]  `textContent` or an attribute's name
 */
export function say(element, key, vars = {}, where = 'textContent') {
  if (typeof vars === 'string') [vars, where] = [{}, vars];
  if (!spoken.has(element)) spoken.set(element, new Map());
  spoken.get(element).set(where, [key, vars]);
  element.setAttribute('data-spoken', '');
  utter(element, where, t(key, vars));
}

function utter(element, where, text) {
  if (where === 'textContent') element.textContent = text;
  else element.setAttribute(where, text);
}

/** A friendly sentence for a refusal, whoever refused. @param {{code?: string, retryAfter?: number}} error */
export function refusal(error) {
  const entry = REFUSALS[error?.code] ?? REFUSALS.unavailable;
  return entry[COLUMN[language]];
}

/** `listener` runs after each switch of language, for what is not plain words (dates, amounts). */
export function onLanguage(listener) {
  listeners.add(listener);
}

/** @param {'zh'|'en'} wanted */
export function speak(wanted) {
  language = wanted;
  localStorage.setItem(KEPT, wanted);
  document.documentElement.lang = wanted === 'zh' ? 'zh-CN' : 'en';
  for (const element of document.querySelectorAll('[data-spoken]')) {
    for (const [where, [key, vars]] of spoken.get(element) ?? []) utter(element, where, t(key, vars));
  }
  for (const listener of listeners) listener();
}

/** Take over the words that the page's own HTML names: `data-t`, `data-t-label`, `data-t-title`, `data-t-placeholder`; language buttons. */
export function adopt(root = document) {
  for (const element of root.querySelectorAll('[data-t]')) say(element, element.dataset.t);
  for (const element of root.querySelectorAll('[data-t-label]')) say(element, element.dataset.tLabel, {}, 'aria-label');
  for (const element of root.querySelectorAll('[data-t-title]')) say(element, element.dataset.tTitle, {}, 'title');
  for (const element of root.querySelectorAll('[data-t-placeholder]')) say(element, element.dataset.tPlaceholder, {}, 'placeholder');
  for (const button of root.querySelectorAll('[data-language]')) {
    say(button, 'otherLanguage');
    say(button, 'switchLanguage', {}, 'aria-label');
    button.addEventListener('click', () => speak(language === 'zh' ? 'en' : 'zh'));
  }
  document.documentElement.lang = language === 'zh' ? 'zh-CN' : 'en';
}
