/** The room's picture: whether it arrives, and the address that the camera needs for it. */

import {by, during, h, icon} from './dom.js';
import {copyText} from './copy.js';
import {clock, countdown, day} from './format.js';
import {refusal, say, t} from './i18n.js';
import {askTwice, complain, openSheet} from './sheet.js';

const ASK_EVERY_MS = 4000;
const WORDS = {waiting: 'picWaiting', arriving: 'picArrives', lost: 'picLost'};

/**
 * Follow the picture of room `id`; nothing is shown where no media server is set up.
 * @param {import('./login.js').Session} session @param {string} id
 * @param {{room: {now: () => number}, card: () => import('./room-card.js').RoomCard}} desk
 * @returns {{show: () => void}}  `show` follows the room's card
 */
export function followStream(session, id, {room, card}) {
  /** @type {{state: 'waiting'|'arriving'|'lost', since: string|null}|null} */
  let picture = null;
  let off = false;

  async function ask() {
    if (off || document.hidden || card().state === 'ended') return;
    try {
      picture = await session.call('GET', `/v1/rooms/${id}/stream`);
    } catch (error) {
      off = error.code === 'stream_off';
    }
    show();
  }

  function show() {
    const told = Boolean(picture) && card().state !== 'ended';
    by('stream').hidden = by('openStream').hidden = !told;
    if (!told) return;
    by('stream').dataset.state = picture.state;
    say(by('streamWord'), WORDS[picture.state]);
    tick();
  }

  // How long it has been gone is what a guide wants to know; how long it has been well is not.
  function tick() {
    by('streamFor').textContent = picture?.state === 'lost' ? countdown(room.now() - Date.parse(picture.since)) : '';
  }

  for (const name of ['stream', 'openStream']) by(name).addEventListener('click', () => openStream(session, id));
  setInterval(tick, 1000);
  setInterval(ask, ASK_EVERY_MS);
  void ask();
  return {show};
}

/** The address, whole and in the two parts that OBS asks for, and as a picture for another phone. */
function openStream(session, id) {
  const {body} = openSheet({title: 'streamTitle', class: 'stream', content: [h('div', {class: 'empty'}, h('span', {class: 'spinner'}))]});
  const path = `/v1/rooms/${id}/stream`;

  async function draw() {
    const given = await session.call('POST', path);
    const renew = h('button', {class: 'button', type: 'button', id: 'streamRenew', onclick: () => during(renew, draw).catch(complain)}, h('span', {t: 'streamRenew'}));
    const withdraw = h('button', {class: 'button no', type: 'button', id: 'streamWithdraw'}, h('span', {'data-label': true, t: 'streamWithdraw'}));
    askTwice(withdraw, 'streamWithdrawSure', () => during(withdraw, async () => {
      await session.call('DELETE', path);
      await draw();
    }).catch(complain));
    const code = h('img', {class: 'qr', alt: t('streamQr'), width: 240, height: 240});
    // As a picture, never as markup: whatever the SVG holds stays inert.
    code.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(given.qr)}`;
    body.replaceChildren(
      part('streamServer', 'streamServerField', given.server), part('streamKey', 'streamKeyField', given.key),
      h('p', {class: 'small dim', t: 'streamSecret'}),
      h('div', {class: 'stack scan'}, code, h('p', {class: 'small dim', t: 'streamQr'}),
        h('button', {class: 'button wide', type: 'button', id: 'streamWhole', onclick: () => copyText(given.push_url)}, icon('copy'), h('span', {t: 'streamWhole'}))),
      h('p', {class: 'small', id: 'streamUntil', t: ['streamUntil', {day: day(given.expires_at), time: clock(given.expires_at)}]}),
      h('div', {class: 'split'}, renew, withdraw));
  }

  draw().catch((error) => body.replaceChildren(h('div', {class: 'empty', role: 'alert'}, refusal(error))));
}

/** One field of OBS, which is copied by a tap on the button beside it. */
function part(label, name, text) {
  const field = h('input', {class: 'input', id: name, readonly: true, value: text, onfocus: () => field.select()});
  return h('div', {class: 'field'}, h('label', {for: name, t: label}), h('div', {class: 'row'}, field,
    h('button', {class: 'round', type: 'button', label: ['copyIt', {what: t(label)}], 'data-copy': name, onclick: () => copyText(text)}, icon('copy'))));
}
