/** The phone's own camera as a scanner, where the browser can read QR codes. */

import {h, icon} from './dom.js';

const EVERY_MS = 180;

export const canScan = () => 'BarcodeDetector' in globalThis && Boolean(navigator.mediaDevices?.getUserMedia);

export class Scanner {
  #place;
  #found;
  #stream = null;
  #timer = 0;

  /** @param {HTMLElement} place @param {(text: string) => void} found  called once per start */
  constructor(place, found) {
    this.#place = place;
    this.#found = found;
  }

  async start() {
    this.stop();
    const detector = new globalThis.BarcodeDetector({formats: ['qr_code']});
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: 'environment'}});
    } catch {
      throw Object.assign(new Error('no camera'), {code: 'camera_failed'});
    }
    const video = h('video', {playsinline: true, muted: true});
    video.muted = true;
    video.srcObject = this.#stream;
    this.#place.replaceChildren(video, h('button', {class: 'round', type: 'button', label: 'close', onclick: () => this.stop()}, icon('close')));
    this.#place.hidden = false;
    await video.play();
    const look = async () => {
      const codes = await detector.detect(video).catch(() => []);
      if (!this.#stream) return;
      if (codes.length) {
        this.stop();
        this.#found(codes[0].rawValue);
      } else this.#timer = setTimeout(look, EVERY_MS);
    };
    void look();
  }

  stop() {
    clearTimeout(this.#timer);
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = null;
    this.#place.hidden = true;
    this.#place.replaceChildren();
  }
}
