/** "My data": take out everything that is kept, or have it erased. Both are the viewer's right, and neither is hidden. */

import {during, h, icon} from './dom.js';
import {complain, openSheet} from './sheet.js';

const FILE = 'nearcast-export.json';

/** @param {import('./login.js').Session} session */
export function openMyData(session) {
  const point = (name, key) => h('li', {}, icon(name), h('span', {t: key}));
  const take = h('button', {class: 'button main wide tall', type: 'button', id: 'takeOut', onclick: () => during(take, async () => {
    try {
      save(await session.call('GET', '/v1/me/export'));
    } catch (error) {
      complain(error);
    }
  })}, icon('copy'), h('span', {t: 'takeOut'}));
  const erase = h('button', {class: 'button no wide', type: 'button', id: 'eraseMe', onclick: () => sheet.body.replaceChildren(...confirming(session, sheet))},
    icon('bin'), h('span', {t: 'eraseMe'}));
  const sheet = openSheet({title: 'myData', class: 'myData', content: [
    h('ul', {class: 'promise'}, point('user', 'dataAccount'), point('place', 'dataPlace'), point('ticket', 'dataCoupons'), point('shield', 'dataRights')),
    take, h('p', {class: 'small faint', t: 'takeOutHint'}), erase]});
}

/** What will be gone, what will stay, and a tick before the button can be tapped. */
function confirming(session, sheet) {
  const gone = h('button', {class: 'button no wide tall', type: 'button', id: 'eraseGo', disabled: true, onclick: () => during(gone, async () => {
    try {
      await session.call('DELETE', '/v1/me');
      sheet.body.replaceChildren(...done(session));
      sheet.element.addEventListener('close', () => session.leave());
    } catch (error) {
      complain(error);
    }
  })}, h('span', {t: 'eraseGo'}));
  const sure = /** @type {HTMLInputElement} */ (h('input', {type: 'checkbox', id: 'eraseSure', onchange: () => { gone.disabled = !sure.checked; }}));
  const point = (name, key) => h('li', {}, icon(name), h('span', {t: key}));
  return [
    h('h3', {t: 'eraseTitle'}),
    h('ul', {class: 'promise'}, point('bin', 'eraseGone'), point('ticket', 'eraseCoupons'), point('shop', 'eraseKept'), point('undo', 'eraseFinal')),
    h('label', {class: 'sure'}, sure, h('span', {t: 'eraseSure'})),
    gone, h('button', {class: 'button quiet wide', type: 'button', t: 'cancel', onclick: sheet.close})];
}

function done(session) {
  return [h('div', {class: 'empty', role: 'status', id: 'erased'}, icon('check'), h('p', {t: 'erasedText'})),
    h('button', {class: 'button main wide', type: 'button', t: 'close', onclick: () => session.leave()})];
}

/** Hand an object to the browser as a file. */
function save(data) {
  const address = URL.createObjectURL(new Blob([JSON.stringify(data, null, 2)], {type: 'application/json'}));
  const link = h('a', {href: address, download: FILE});
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
