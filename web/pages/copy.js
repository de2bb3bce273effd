/** Copying a text, also where the browser's clipboard is closed to the page. */

import {h} from './dom.js';
import {t} from './i18n.js';
import {toast} from './sheet.js';

/** Copy `text` and say whether that worked: the clipboard's own interface exists in secure contexts only, and a phone in
 * the shop's network may not be in one. @param {string} text */
export async function copyText(text) {
  try {
    if (navigator.clipboard) await navigator.clipboard.writeText(text);
    else copyBySelection(text);
    toast(t('copied'), 'yes');
  } catch {
    toast(t('copyFailed'), 'no');
  }
}

function copyBySelection(text) {
  const field = h('textarea', {class: 'unseen', readonly: true, value: text});
  // Inside the dialog: what lies under a modal one cannot be selected.
  (document.querySelector('dialog[open]') ?? document.body).append(field);
  field.select();
  const done = document.execCommand('copy');
  field.remove();
  if (!done) throw new Error('the browser did not copy');
}
