/** The guide's shelf as one row of large cards: a tap pins, a second tap on the pinned one unpins. */

import {during, h} from './dom.js';
import {complain} from './sheet.js';
import {price} from './shelf.js';

export class Rail {
  #place;
  #room;
  #pinned = null;

  constructor(place, room, products) {
    this.#place = place;
    this.#room = room;
    place.replaceChildren(...products.map((product, n) => this.#card(product, n + 1)));
    if (!products.length) place.append(h('p', {class: 'empty', t: 'shelfEmpty'}));
  }

  pin(pin) {
    this.#pinned = pin?.product.id ?? null;
    for (const button of this.#place.querySelectorAll('button')) {
      const on = button.dataset.product === this.#pinned;
      button.setAttribute('aria-pressed', String(on));
      button.querySelector('.flag').hidden = !on;
      // Sideways only: scrollIntoView would also move the page under the thumb.
      if (on) this.#place.scrollTo({left: button.offsetLeft - this.#place.clientWidth / 2 + button.clientWidth / 2, behavior: 'smooth'});
    }
  }

  enable(on) {
    for (const button of this.#place.querySelectorAll('button')) button.disabled = !on || button.dataset.soldOut !== undefined;
  }

  #card(product, n) {
    const button = h('button', {type: 'button', 'aria-pressed': 'false', 'data-product': product.id, 'data-sold-out': product.sold_out,
      onclick: () => this.#toggle(product.id, button)},
    h('img', {src: product.image, alt: ''}), h('span', {class: 'badge live flag', hidden: true, t: 'explaining'}), h('span', {class: 'place'}, String(n)),
    h('span', {class: 'name'}, product.title), product.sold_out ? h('span', {class: 'badge', t: 'soldOut'}) : price(product));
    return button;
  }

  #toggle(product, button) {
    return during(button, () => (product === this.#pinned ? this.#room.unpin() : this.#room.pin(product))).catch(complain);
  }
}
