/** The viewer's shelf: the pinned product's card, the list, one product large. */

import {by, h} from './dom.js';
import {yuan} from './format.js';
import {say, t} from './i18n.js';
import {openSheet, toast} from './sheet.js';

/** @typedef {{id: string, title: string, image: string, price_fen: number, list_price_fen?: number|null, sold_out?: boolean}} ProductCard */

/** @param {ProductCard} product */
export function price(product) {
  return h('span', {class: 'price'}, yuan(product.price_fen),
    product.list_price_fen > product.price_fen && h('s', {}, yuan(product.list_price_fen)));
}

export class Shelf {
  #room;
  #products;
  /** @type {ProductCard|null} */
  #pinned = null;
  #unpinAt = 0;

  /** @param {import('/client/nearcast.js').Room} room @param {ProductCard[]} products */
  constructor(room, products) {
    this.#room = room;
    this.#products = products;
    by('pinned').addEventListener('click', () => this.#pinned && this.look(this.#pinned));
  }

  /** @param {{product: ProductCard, until?: number|null}|null} pin */
  pin(pin) {
    clearTimeout(this.#unpinAt);
    const fresh = pin && pin.product.id !== this.#pinned?.id;
    this.#pinned = pin?.product ?? null;
    const card = by('pinned');
    const podium = by('podium');
    card.hidden = podium.hidden = !pin;
    if (!pin) return;
    const {product} = pin;
    card.dataset.product = product.id;
    card.replaceChildren(h('img', {src: product.image, alt: ''}), h('span', {class: 'flag', t: 'explaining'}),
      h('span', {class: 'name'}, product.title), price(product));
    podium.src = product.image;
    if (fresh) {
      for (const element of [card, podium]) {
        element.style.animation = 'none';
        void element.offsetWidth; // lets the entrance play again
        element.style.animation = '';
      }
    }
    // The server says unpin too; this covers a viewer who is offline when it does.
    if (pin.until) this.#unpinAt = setTimeout(() => this.pin(null), Math.max(0, pin.until - this.#room.now()) + 3000);
  }

  open() {
    const items = this.#products.map((product, place) => h('button', {class: 'good', type: 'button', 'data-product': product.id, onclick: () => this.look(product)},
      h('img', {src: product.image, alt: '', loading: 'lazy'}),
      h('span', {}, h('span', {class: 'flags'}, h('span', {class: 'badge'}, String(place + 1)),
        product.id === this.#pinned?.id && h('span', {class: 'badge live', t: 'explaining'}),
        product.sold_out && h('span', {class: 'badge', t: 'soldOut'})), h('b', {}, product.title), price(product))));
    if (!items.length) items.push(h('div', {class: 'empty', t: 'shelfEmpty'}));
    openSheet({title: ['shelfN', {n: this.#products.length}], content: [h('div', {class: 'goods'}, ...items)]});
  }

  /** @param {ProductCard} product */
  look(product) {
    this.#room.tap(product.id);
    const buy = h('button', {class: 'button main wide tall', type: 'button', disabled: product.sold_out, t: product.sold_out ? 'soldOut' : 'wantIt',
      onclick: () => toast(t('askInStore'), 'yes')});
    const sheet = openSheet({title: 'product', content: [
      h('img', {class: 'bigpic', src: product.image, alt: product.title}), h('h3', {}, product.title), price(product), buy]});
    say(sheet.element, 'product', {}, 'aria-label');
  }
}
