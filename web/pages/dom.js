/** Building elements. Text always goes in as text nodes: nothing that a user wrote is ever parsed as HTML. */

import {say} from './i18n.js';

const SVG = 'http://www.w3.org/2000/svg';

/**
 * `h('button', {class: 'button', t: 'send', onclick: fn}, child, 'text')`.
 * `t`, `label`, `title`, `placeholder`: keys of the dictionary, or `[key, vars]`; they follow the language.
 * `on…`: listeners; true/false: attribute there or not; everything else: attributes.
 * @param {string} tag
 * @param {Record<string, any>} [props]
 * @param {...(Node|string|number|null|undefined|false)} children
 * @returns {HTMLElement}
 */
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same for SVG. @returns {SVGElement} */
export function s(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name in SPOKEN) say(element, ...[value].flat(), SPOKEN[name]);
    else if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'value') element.value = value;
    else element.setAttribute(name, value === true ? '' : String(value));
  }
  element.append(...children.filter((child) => child || child === 0));
  return element;
}

const SPOKEN = {t: 'textContent', label: 'aria-label', title: 'title', placeholder: 'placeholder'};

/** The element with this id, which the page's own HTML holds. @returns {any} */
export const by = (id) => document.getElementById(id);

/** A round initial in a colour that stays with the person. @param {{id: string, name: string}} person */
export function avatar(person) {
  const hue = [...String(person.id)].reduce((sum, char) => (sum * 31 + char.charCodeAt(0)) % 360, 7);
  return h('span', {class: 'avatar', style: `--hue: ${hue}`, 'aria-hidden': 'true'}, [...person.name || '·'][0]);
}

const PATHS = {
  heart: ['M12 20.5S3.5 15.6 3.5 9.4C3.5 6.6 5.7 4.5 8.2 4.5c1.6 0 3 .8 3.8 2.2.8-1.4 2.2-2.2 3.8-2.2 2.5 0 4.7 2.1 4.7 4.9 0 6.2-8.5 11.1-8.5 11.1Z'],
  bag: ['M5.5 8h13l1 12h-15z', 'M9 10.5V7a3 3 0 0 1 6 0v3.5'],
  place: ['M12 21s7-6.2 7-11.5A7 7 0 0 0 5 9.5C5 14.8 12 21 12 21Z', 'M12 12a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5Z'],
  ticket: ['M3.5 7h17v3.5a1.75 1.75 0 0 0 0 3.5V17.5h-17V14a1.75 1.75 0 0 0 0-3.5z', 'M14 7.5v2M14 11.5v1.5M14 15v2'],
  close: ['M6 6l12 12M18 6L6 18'],
  send: ['M4 12L20 4.5l-5.5 15-3-6z', 'M11.5 13.5L20 4.5'],
  scan: ['M4 8.5V5.5A1.5 1.5 0 0 1 5.5 4h3M15.5 4h3A1.5 1.5 0 0 1 20 5.5v3M20 15.5v3a1.5 1.5 0 0 1-1.5 1.5h-3M8.5 20h-3A1.5 1.5 0 0 1 4 18.5v-3M4 12h16'],
  back: ['M14.5 5.5L8 12l6.5 6.5'],
  next: ['M9.5 5.5L16 12l-6.5 6.5'],
  horn: ['M4 10v4h3l8 4.5v-13L7 10z', 'M18.5 9.5a3.5 3.5 0 0 1 0 5'],
  clock: ['M12 20.5a8.5 8.5 0 1 0 0-17 8.5 8.5 0 0 0 0 17Z', 'M12 7.5V12l3 2'],
  chart: ['M5 20V11M12 20V4M19 20v-6'],
  more: ['M5.5 12h.01M12 12h.01M18.5 12h.01'],
  check: ['M4.5 12.5l5 5 10-11'],
  user: ['M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8Z', 'M4.5 20.5c.8-4 3.8-6 7.5-6s6.7 2 7.5 6'],
  undo: ['M8.5 5L4 9.5 8.5 14', 'M4.5 9.5H14a5.5 5.5 0 0 1 0 11h-3'],
  mute: ['M4 10v4h3l6 4V6l-6 4z', 'M17 9.5l4 5M21 9.5l-4 5'],
  bin: ['M5 7h14M10 7V4.5h4V7M7 7l1 13h8l1-13'],
  pin: ['M9 4h6l-.8 6 3.3 3.5H6.5L9.8 10zM12 13.5V20.5'],
  shop: ['M4 10.5L5.5 4.5h13l1.5 6a2.7 2.7 0 0 1-5.3 0 2.7 2.7 0 0 1-5.4 0 2.7 2.7 0 0 1-5.3 0Z', 'M5.5 13v7h13v-7M10 20v-4.5h4V20'],
  plus: ['M12 5v14M5 12h14'],
  stop: ['M7 7h10v10H7z'],
  pause: ['M8.5 6v12M15.5 6v12'],
  door: ['M13 4.5H6v15h7', 'M10.5 12H20M16.5 8.5L20 12l-3.5 3.5'],
  copy: ['M9 8.5h10.5v11H9z', 'M5 15V4.5h10'],
  bell: ['M6 16.5V11a6 6 0 0 1 12 0v5.5l1.5 1.5h-15z', 'M10 20.5h4'],
  flag: ['M6 21V4.5M6 5h11l-2.5 4 2.5 4H6'],
  ban: ['M12 20.5a8.5 8.5 0 1 0 0-17 8.5 8.5 0 0 0 0 17Z', 'M6 6l12 12'],
  shield: ['M12 3.5l7 2.5v5.5c0 4.5-3 7.7-7 9-4-1.3-7-4.5-7-9V6z'],
  camera: ['M4 7.5h11v9H4z', 'M15 10.5l5-2.5v8l-5-2.5'],
  play: ['M8 5.5v13l10.5-6.5z'],
};

/** A line icon, hidden from screen readers: what it is for is said in words beside it. @param {keyof typeof PATHS} name */
export function icon(name) {
  return s('svg', {class: 'icon', viewBox: '0 0 24 24', fill: 'none', stroke: 'currentColor', 'stroke-width': 1.7,
    'stroke-linecap': 'round', 'stroke-linejoin': 'round', 'aria-hidden': 'true'}, ...PATHS[name].map((d) => s('path', {d})));
}

/** Nearcast's sign: a place, and what goes out from it. */
export function mark() {
  return s('svg', {viewBox: '0 0 32 32', 'aria-hidden': 'true'},
    s('circle', {cx: 16, cy: 16, r: 16, fill: 'var(--vermilion)'}),
    s('path', {d: 'M9 21a9.5 9.5 0 0 1 14 0', fill: 'none', stroke: '#fff', 'stroke-width': 2, 'stroke-linecap': 'round', opacity: .55, transform: 'rotate(180 16 18)'}),
    s('path', {d: 'M16 25s6-5.6 6-10.3A6 6 0 0 0 10 14.7C10 19.4 16 25 16 25Z', fill: '#fff'}),
    s('circle', {cx: 16, cy: 14.5, r: 2.4, fill: 'var(--vermilion)'}));
}

/** Put icons where the page's HTML asks for them by `data-icon`. */
export function hangIcons(root = document) {
  for (const place of root.querySelectorAll('[data-icon]:empty')) place.append(icon(place.dataset.icon));
  for (const place of root.querySelectorAll('[data-mark]:empty')) place.append(mark());
}

/** New children for a list of rooms; who had the focus keeps it, since a refresh is not the reader's doing. */
export function redraw(place, children) {
  const held = place.contains(document.activeElement) && document.activeElement.closest('[data-room]')?.dataset.room;
  place.replaceChildren(...children);
  if (!held) return;
  const again = place.querySelector(`[data-room="${CSS.escape(held)}"]`);
  (again?.matches('a, button') ? again : again?.querySelector('button'))?.focus({preventScroll: true});
}

/** A button's work: it cannot be started twice, and shows that it is under way. @param {HTMLButtonElement} button */
export async function during(button, work) {
  button.disabled = true;
  button.setAttribute('aria-busy', 'true');
  try {
    return await work();
  } finally {
    button.disabled = false;
    button.removeAttribute('aria-busy');
  }
}
