/** A QR code that changes: fetched anew before the old one ends, so that a screenshot ages and the real one does not. */

import {h} from './dom.js';
import {refusal} from './i18n.js';

const EARLY_MS = 4000;
const RETRY_MS = 3000;

export class QrImage {
  #fetch;
  #timer = 0;
  #stopped = false;

  /** @param {() => Promise<{payload: string, svg: string, expires_at: string}>} fetch */
  constructor(fetch) {
    this.#fetch = fetch;
    this.picture = h('img', {class: 'qr', alt: 'QR', width: 240, height: 240});
    this.bar = h('div', {class: 'fade', 'aria-hidden': 'true'});
    this.trouble = h('p', {class: 'small', role: 'status'});
    this.element = h('div', {class: 'stack', style: 'justify-items: center'}, this.picture, this.bar, this.trouble);
    void this.#turn();
  }

  stop() {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  async #turn() {
    let wait = RETRY_MS;
    try {
      const {payload, svg, expires_at: end} = await this.#fetch();
      // As a picture, never as markup: whatever the SVG holds stays inert.
      this.picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
      this.picture.dataset.payload = payload;
      this.trouble.textContent = '';
      const left = Date.parse(end) - Date.now();
      wait = Math.min(30_000, Math.max(RETRY_MS, left - EARLY_MS));
      this.#fade(wait);
    } catch (error) {
      this.trouble.textContent = refusal(error);
    }
    if (!this.#stopped) this.#timer = setTimeout(() => this.#turn(), wait);
  }

  #fade(ms) {
    this.bar.style.setProperty('--part', '1');
    const end = performance.now() + ms;
    const step = () => {
      const part = Math.max(0, (end - performance.now()) / ms);
      this.bar.style.setProperty('--part', part.toFixed(3));
      if (part > 0 && !this.#stopped && this.bar.isConnected) setTimeout(step, 1000);
    };
    setTimeout(step, 1000);
  }
}
