/** Stores on a map without tiles: Web Mercator, gathered into groups when far away, opened by wheel, pinch or tap. */

import {h, s} from './dom.js';
import {count} from './format.js';
import {t} from './i18n.js';

const GATHER_PX = 46;
const MOST_LABELS = 40;
const BUTTONS_PX = 60; // the zoom buttons' column
const NAMES_FROM = 4e4; // pixels for the world: closer than this, stores have their own names
const MIN_SCALE = 300; // pixels for the whole width of the world
const MAX_SCALE = 6e6;
const MARGIN_PX = 56;
const FARTHEST_NORTH = 85; // degrees; at the pole itself the map has no end
const STEPS_DEGREES = [20, 10, 5, 2, 1, .5, .2, .1, .05, .02, .01];

/** Longitude and latitude in degrees → the unit square. @returns {[number, number]} */
export function project(lng, lat) {
  const sine = Math.sin((Math.min(Math.max(lat, -FARTHEST_NORTH), FARTHEST_NORTH) * Math.PI) / 180);
  return [lng / 360 + .5, .5 - Math.log((1 + sine) / (1 - sine)) / (4 * Math.PI)];
}

/** The unit square → degrees. @returns {[number, number]} */
export function unproject(x, y) {
  return [(x - .5) * 360, (Math.atan(Math.exp((.5 - y) * 2 * Math.PI)) * 360) / Math.PI - 90];
}

/**
 * Gather points that would overlap. Cells of a grid first, which is fast for thousands of stores; then cells whose means
 * lie close are joined, since a town does not care where the grid's lines run.
 * @param {Array<{x: number, y: number, store: {issued: number, redeemed: number}}>} points  in pixels
 * @returns {Array<{x: number, y: number, issued: number, redeemed: number, members: object[]}>} largest first
 */
export function gather(points, cell = GATHER_PX) {
  const cells = new Map();
  for (const point of points) {
    const key = `${Math.floor(point.x / cell)},${Math.floor(point.y / cell)}`;
    if (!cells.has(key)) cells.set(key, []);
    cells.get(key).push(point);
  }
  const groups = [];
  for (const members of [...cells.values()].sort((a, b) => b.length - a.length)) {
    const group = summed(members);
    const near = groups.findIndex((other) => Math.hypot(other.x - group.x, other.y - group.y) < cell * .8);
    if (near < 0) groups.push(group);
    else groups[near] = summed([...groups[near].members, ...members]);
  }
  return groups.sort((a, b) => b.members.length - a.members.length);
}

function summed(members) {
  const sum = (value) => members.reduce((total, member) => total + value(member), 0);
  return {
    x: sum(({x}) => x) / members.length, y: sum(({y}) => y) / members.length,
    issued: sum(({store}) => store.issued), redeemed: sum(({store}) => store.redeemed), members,
  };
}

export class StoreMap {
  #place;
  #svg = s('svg', {role: 'img'});
  #tip = h('div', {class: 'tip', hidden: true});
  #stores = [];
  #known = '';
  #scale = MIN_SCALE;
  #centre = project(108, 33);
  #fingers = new Map();
  #moved = 0;

  /** @param {HTMLElement} place */
  constructor(place) {
    this.#place = place;
    const zoom = h('div', {class: 'zoom'},
      h('button', {type: 'button', label: 'zoomIn', onclick: () => this.#zoom(1.8)}, '+'),
      h('button', {type: 'button', label: 'zoomOut', onclick: () => this.#zoom(1 / 1.8)}, '−'),
      h('button', {type: 'button', label: 'zoomAll', onclick: () => this.#fit()}, '⤢'));
    place.append(this.#svg, this.#tip, zoom);
    new ResizeObserver(() => this.#draw()).observe(place);
    this.#listen();
  }

  /** @param {Array<{code: string, name: string, city: string, lng: number, lat: number, issued: number, redeemed: number}>} stores
   *  @param {string} city  empty: all */
  show(stores, city) {
    this.#stores = stores.filter((store) => !city || store.city === city).map((store) => ({store, at: project(store.lng, store.lat)}));
    // New figures redraw in place; another selection moves the view to it.
    const known = `${city}|${this.#stores.length}`;
    if (known !== this.#known) this.#fit();
    else this.#draw();
    this.#known = known;
  }

  #fit() {
    if (!this.#stores.length) return this.#draw();
    const xs = this.#stores.map(({at}) => at[0]);
    const ys = this.#stores.map(({at}) => at[1]);
    const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const {clientWidth: width, clientHeight: height} = this.#place;
    this.#centre = [(left + right) / 2, (top + bottom) / 2];
    this.#scale = this.#bounded(Math.min((width - 2 * MARGIN_PX) / (right - left || 1e-6), (height - 2 * MARGIN_PX) / (bottom - top || 1e-6)));
    this.#draw();
  }

  #bounded(scale) {
    return Math.min(MAX_SCALE, Math.max(MIN_SCALE, scale));
  }

  #toPixels([x, y]) {
    return [(x - this.#centre[0]) * this.#scale + this.#place.clientWidth / 2, (y - this.#centre[1]) * this.#scale + this.#place.clientHeight / 2];
  }

  /** Zoom by `factor` so that the point under (`px`, `py`) stays where it is. */
  #zoom(factor, px = this.#place.clientWidth / 2, py = this.#place.clientHeight / 2) {
    const before = this.#scale;
    this.#scale = this.#bounded(before * factor);
    const shift = 1 / before - 1 / this.#scale;
    this.#centre = [this.#centre[0] + (px - this.#place.clientWidth / 2) * shift, this.#centre[1] + (py - this.#place.clientHeight / 2) * shift];
    this.#draw();
  }

  #draw() {
    this.#tip.hidden = true;
    const {clientWidth: width, clientHeight: height} = this.#place;
    if (!width) return;
    const points = [];
    for (const {store, at} of this.#stores) {
      const [x, y] = this.#toPixels(at);
      if (x > -60 && x < width + 60 && y > -60 && y < height + 60) points.push({x, y, store});
    }
    const groups = gather(points);
    const most = Math.max(1, ...groups.map((group) => group.issued));
    for (const group of groups) group.radius = group.issued ? 5 + 19 * Math.sqrt(group.issued / most) : 0;
    this.#svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    this.#svg.setAttribute('aria-label', t('mapSaid', {stores: this.#stores.length, issued: count(this.#stores.reduce((sum, {store}) => sum + store.issued, 0))}));
    this.#svg.replaceChildren(...this.#graticule(width, height), ...groups.map((group) => this.#spot(group)), ...this.#labels(groups, width));
  }

  #spot(group) {
    const lone = group.members.length === 1;
    const {radius} = group;
    const inner = group.issued ? radius * Math.sqrt(Math.min(1, group.redeemed / group.issued)) : 0;
    const spot = s('g', {class: 'spot', transform: `translate(${group.x.toFixed(1)} ${group.y.toFixed(1)})`},
      s('circle', {r: Math.max(radius, 14), fill: 'transparent'}),
      group.issued > 0 && s('circle', {class: 'halo', r: radius.toFixed(1)}),
      inner > 0 && s('circle', {class: 'core', r: inner.toFixed(1)}),
      !group.issued && s('circle', {class: 'bare', r: lone ? 3.5 : 5}));
    spot.addEventListener('pointerenter', () => this.#tell(group));
    spot.addEventListener('pointerleave', () => { this.#tip.hidden = true; });
    spot.addEventListener('click', () => {
      if (this.#moved > 6) return;
      if (lone) this.#tell(group);
      else this.#zoom(3, group.x, group.y);
    });
    return spot;
  }

  /** Names beside the groups, the largest first, as far as there is room: a city and its stores, or one store. */
  #labels(groups, width) {
    const taken = [];
    const labels = [];
    for (const group of groups) {
      const name = this.#name(group);
      const room = 8 + [...name].reduce((sum, char) => sum + (char > '\u2e80' ? 12.5 : 7.5), 0);
      const aside = Math.max(group.radius, 6) + 5;
      const before = group.x + aside + room > width - BUTTONS_PX; // no room on the right
      const box = {x: before ? group.x - aside - room : group.x + aside, y: group.y - 9, w: room, h: 18};
      const crossed = (other) => box.x < other.x + other.w && other.x < box.x + box.w && box.y < other.y + other.h && other.y < box.y + box.h;
      if (!name || taken.some(crossed)) continue;
      taken.push(box);
      labels.push(s('text', {class: 'label', x: before ? box.x + room : box.x, y: group.y + 4, 'text-anchor': before ? 'end' : 'start'}, name));
      if (labels.length >= MOST_LABELS) break;
    }
    return labels;
  }

  #name({members}) {
    if (members.length === 1) return this.#scale > NAMES_FROM ? members[0].store.name : '';
    if (this.#scale > NAMES_FROM) return String(members.length);
    const cities = [...new Set(members.map(({store}) => store.city))];
    return `${cities.slice(0, 2).join('·')}${cities.length > 2 ? '…' : ''} ${members.length}`;
  }

  #tell(group) {
    const [first] = group.members;
    const lone = group.members.length === 1;
    this.#tip.replaceChildren(h('b', {}, lone ? first.store.name : t('nStores', {n: group.members.length})),
      t('tipFigures', {issued: count(group.issued), redeemed: count(group.redeemed)}));
    this.#tip.hidden = false;
    this.#tip.classList.toggle('below', group.y < 90);
    this.#tip.style.left = `${Math.min(this.#place.clientWidth - 90, Math.max(90, group.x))}px`;
    this.#tip.style.top = `${group.y}px`;
  }

  #graticule(width, height) {
    const step = STEPS_DEGREES.findLast((degrees) => (degrees / 360) * this.#scale > 70) ?? STEPS_DEGREES[0];
    const corner = (px, py) => unproject(this.#centre[0] + (px - width / 2) / this.#scale, this.#centre[1] + (py - height / 2) / this.#scale);
    const [west, north] = corner(0, 0);
    const [east, south] = corner(width, height);
    const digits = Math.max(0, -Math.floor(Math.log10(step)));
    const parts = [];
    for (let lng = Math.ceil(west / step) * step; lng <= east; lng += step) {
      const [x] = this.#toPixels(project(lng, 0));
      parts.push(s('path', {class: 'grid', d: `M${x} 0V${height}`}), s('text', {class: 'degree', x: x + 4, y: height - 6}, `${lng.toFixed(digits)}°`));
    }
    for (let lat = Math.ceil(Math.max(-80, south) / step) * step; lat <= Math.min(80, north); lat += step) {
      const [, y] = this.#toPixels(project(0, lat));
      parts.push(s('path', {class: 'grid', d: `M0 ${y}H${width}`}), s('text', {class: 'degree', x: 5, y: y - 4}, `${lat.toFixed(digits)}°`));
    }
    return parts;
  }

  #listen() {
    const place = this.#place;
    const at = (event) => {
      const box = place.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    place.addEventListener('wheel', (event) => {
      event.preventDefault();
      this.#zoom(Math.exp(-event.deltaY * .0022), ...at(event));
    }, {passive: false});
    place.addEventListener('pointerdown', (event) => {
      if (event.target.closest('.zoom')) return;
      this.#fingers.set(event.pointerId, at(event));
      this.#moved = 0;
    });
    addEventListener('pointermove', (event) => {
      const before = this.#fingers.get(event.pointerId);
      if (!before) return;
      const now = at(event);
      const others = [...this.#fingers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
      this.#fingers.set(event.pointerId, now);
      this.#moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
      if (others.length) {
        const [other] = others;
        const span = (point) => Math.max(10, Math.hypot(point[0] - other[0], point[1] - other[1]));
        this.#zoom(span(now) / span(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      } else if (this.#moved > 3) {
        this.#centre = [this.#centre[0] - (now[0] - before[0]) / this.#scale, this.#centre[1] - (now[1] - before[1]) / this.#scale];
        this.#draw();
      }
    });
    for (const end of ['pointerup', 'pointercancel']) addEventListener(end, (event) => this.#fingers.delete(event.pointerId));
  }
}
