/** What a guide can do about one person, and about the comment that led to them. */

import {during, h, icon} from './dom.js';
import {t} from './i18n.js';
import {askTwice, complain, openSheet, toast} from './sheet.js';

const DAY = 86_400;
const TERMS = [[1, ['nDays', {n: 1}]], [7, ['nDays', {n: 7}]], [15, ['nDays', {n: 15}]], [3_650, 'forGood']];
const ALLOWED_MAX = 50; // the wire's own bound

/**
 * @typedef {{room: import('/client/nearcast.js').Room, me: {subject: string}, card: () => import('./room-card.js').RoomCard,
 *   names: Map<string, string>}} Desk  what the guide's sheets share; `names` are those of whoever was seen here
 */

/**
 * @param {Desk} desk
 * @param {{id: string, name: string, role?: string}} person
 * @param {{id: string, text: string}} [comment]
 */
export function openPerson(desk, person, comment) {
  const {room, me, card} = desk;
  let scope = 'room';
  const act = (button, work, done) => during(button, work).then(() => {
    sheet.close();
    toast(t(done), 'yes');
  }, complain);
  const content = [];
  if (comment) {
    content.push(h('p', {class: 'quote'}, comment.text),
      h('button', {class: 'button no wide tall', type: 'button', 'data-act': 'delete', onclick: (event) => act(event.currentTarget, () => room.delete(comment.id), 'deleted')},
        icon('bin'), h('span', {t: 'delete'})));
  }
  // Nobody acts against the staff; the server would refuse it.
  if (person.id !== me.subject && (person.role ?? 'viewer') === 'viewer') {
    if (card().hushed) content.push(voiceButton(desk, person, act));
    const kick = h('button', {class: 'button wide', type: 'button', 'data-act': 'kick'}, icon('door'), h('span', {'data-label': '', t: 'kick'}));
    askTwice(kick, 'kickSure', () => act(kick, () => room.kick(person.id), 'kickedDone'));
    content.push(
      scopes((chosen) => { scope = chosen; }),
      terms('mute', 'muteFor', (seconds, button) => act(button, () => room.mute(person.id, seconds, scope), seconds ? 'mutedDone' : 'unmuted')),
      terms('ban', 'banFor', (seconds, button) => act(button, () => room.ban(person.id, seconds, scope), seconds ? 'bannedDone' : 'unmuted'), true),
      kick);
  }
  const sheet = openSheet({title: comment ? ['commentBy', {name: person.name}] : ['quoted', {name: person.name}], class: 'person', content});
}

/** In a room that is muted: may this one speak? */
function voiceButton({room, card}, person, act) {
  const {allow} = card();
  const may = allow.includes(person.id);
  return h('button', {class: 'button wide tall', type: 'button', 'data-act': 'allow', disabled: !may && allow.length >= ALLOWED_MAX, onclick: (event) => act(
    event.currentTarget, () => room.hush(true, may ? allow.filter((id) => id !== person.id) : [...allow, person.id]), may ? 'disallowed' : 'allowed')},
  icon('horn'), h('span', {t: may ? 'disallow' : 'allow'}));
}

/** Whether what follows holds in this room or in all of the brand's. */
function scopes(pick) {
  const chips = ['room', 'brand'].map((scope) => h('button', {class: 'chip', type: 'button', role: 'radio', 'aria-checked': String(scope === 'room'), 'data-scope': scope, t: `reach_${scope}`, onclick: () => {
    for (const chip of chips) chip.setAttribute('aria-checked', String(chip.dataset.scope === scope));
    pick(scope);
  }}));
  return h('div', {class: 'field'}, h('span', {class: 'label', t: 'scopeOf'}), h('div', {class: 'chips even', role: 'radiogroup', label: 'scopeOf'}, ...chips));
}

/** 1, 7, 15 days, for good, or lifted. @param {boolean} [sure]  ask twice before it begins */
function terms(name, label, act, sure = false) {
  const chips = TERMS.map(([days, key]) => {
    const chip = h('button', {class: 'chip', type: 'button', [`data-${name}`]: days * DAY, t: key});
    if (sure) askTwice(chip, 'sure', () => act(days * DAY, chip));
    else chip.addEventListener('click', () => act(days * DAY, chip));
    return chip;
  });
  return h('div', {class: 'field'}, h('span', {class: 'label row'}, icon(name === 'mute' ? 'mute' : 'ban'), h('span', {t: label})),
    h('div', {class: 'chips even'}, ...chips,
      h('button', {class: 'chip', type: 'button', [`data-${name}`]: 0, t: 'lift', onclick: (event) => act(0, event.currentTarget)})));
}
