/** Checks QR codes by the public key alone, for a till that has no network. */

import {Refused} from '/client/nearcast.js';

const KEPT = 'nearcast.till.keys';
const PREFIX = 'NC1.';
const SYMBOLS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
const CROCKFORD = '0123456789ABCDEFGHJKMNPQRSTVWXYZ';
const MESSAGE_BYTES = 14;
const SIGNATURE_BYTES = 64;
const CODE_SYMBOLS = 16;

/** @param {string} text  base32 without padding @returns {Uint8Array<ArrayBuffer>|null} */
function bytesOf(text) {
  const bytes = new Uint8Array(Math.floor((text.length * 5) / 8));
  let held = 0;
  let bits = 0;
  let next = 0;
  for (const symbol of text) {
    const value = SYMBOLS.indexOf(symbol);
    if (value < 0) return null;
    held = ((held << 5) | value) & 0xfff;
    bits += 5;
    if (bits >= 8) bytes[next++] = (held >> (bits -= 8)) & 0xff;
  }
  return bytes;
}

/** The coupon's code that a QR code holds, without its check symbol. @param {string} qr */
export function codeIn(qr) {
  return [...qr.slice(PREFIX.length, PREFIX.length + CODE_SYMBOLS)].map((symbol) => CROCKFORD[SYMBOLS.indexOf(symbol)]).join('');
}

export class Keys {
  #call;
  /** @type {{keys: Array<{algorithm: string, key: string}>, step_seconds: number, skew_seconds: number, ahead: number}|null} */
  #kept;

  /** @param {import('./login.js').Session['call']} call */
  constructor(call) {
    this.#call = call;
    this.#kept = JSON.parse(localStorage.getItem(KEPT) ?? 'null');
  }

  /** Ask for the keys and the time, while there is a network. */
  async refresh() {
    const asked = Date.now();
    const told = await this.#call('GET', '/v1/till/keys');
    const ahead = Date.parse(told.now) - (asked + Date.now()) / 2;
    this.#kept = {...told, ahead};
    localStorage.setItem(KEPT, JSON.stringify(this.#kept));
  }

  /** The server's time in ms, as far as this device knows. */
  now() {
    return Date.now() + (this.#kept?.ahead ?? 0);
  }

  /**
   * Is this coupon's QR code ours, and was it live at `at` (ms, by `now`)? Throws Refused: `code_mistyped`, `qr_expired`,
   * or `cannot_check` where this device has no keys or knows no Ed25519.
   * @param {string} qr @param {number} at
   */
  async check(qr, at) {
    if (!this.#kept || !globalThis.crypto?.subtle) throw new Refused('cannot_check');
    const raw = qr.startsWith(PREFIX) ? bytesOf(qr.slice(PREFIX.length)) : null;
    if (raw?.length !== MESSAGE_BYTES + SIGNATURE_BYTES) throw new Refused('code_mistyped');
    const message = raw.subarray(0, MESSAGE_BYTES);
    const signed = new Uint8Array([...new TextEncoder().encode(PREFIX), ...message]);
    if (!await this.#genuine(signed, raw.subarray(MESSAGE_BYTES))) throw new Refused('code_mistyped');
    const {step_seconds: step, skew_seconds: skew} = this.#kept;
    const begin = new DataView(message.buffer).getUint32(MESSAGE_BYTES - 4) * step;
    const seconds = at / 1000;
    if (seconds < begin - skew || seconds >= begin + 2 * step + skew) throw new Refused('qr_expired');
  }

  async #genuine(signed, signature) {
    for (const {algorithm, key} of this.#kept.keys) {
      const raw = Uint8Array.from(atob(key), (char) => char.charCodeAt(0));
      let known;
      try {
        known = await crypto.subtle.importKey('raw', raw, {name: algorithm}, false, ['verify']);
      } catch {
        throw new Refused('cannot_check'); // a browser from before 2025
      }
      if (await crypto.subtle.verify({name: algorithm}, known, signature, signed)) return true;
    }
    return false;
  }
}
