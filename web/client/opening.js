/** When it is whose turn in a drop that was announced ahead, and whether the announcement is the server's. */

/**
 * How many ms after the opening it is a viewer's turn: the server says the same (`coupons/rules.py`), and refuses whoever
 * comes before it as `not_started`.
 * @param {string} drop @param {string} viewer @param {number} [spread]  ms
 */
export function turnOf(drop, viewer, spread = 0) {
  let mixed = 0x811c9dc5;
  for (const symbol of drop + viewer) mixed = Math.imul(mixed ^ symbol.charCodeAt(0), 0x01000193);
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x45d9f3b);
  return ((mixed ^ (mixed >>> 16)) >>> 0) % (spread + 1);
}

/**
 * Whether a drop's card says the times that the server signed; null where this device cannot tell (no Ed25519), or the
 * card is not signed. The server decides by its own clock and rows anyway: this only keeps a countdown from being a lie.
 * @param {import('./wire.js').DropCard} drop
 * @param {string} key  32 bytes in base64, from `/v1/coupon-key`
 * @returns {Promise<boolean|null>}
 */
export async function isOurs(drop, key) {
  if (!drop.signature || !globalThis.crypto?.subtle) return null;
  try {
    const known = await crypto.subtle.importKey('raw', bytes(atob(key)), {name: 'Ed25519'}, false, ['verify']);
    return await crypto.subtle.verify({name: 'Ed25519'}, known, bytes(atob(drop.signature)), message(drop));
  } catch {
    return null; // from before 2025
  }
}

function message({id, opens_at: opens, ends_at: ends, spread = 0}) {
  const hex = id.replaceAll('-', '').match(/../g) ?? [];
  const told = new Uint8Array(40);
  told.set(bytes('NO1.'));
  told.set(hex.map((pair) => parseInt(pair, 16)), 4);
  const numbers = new DataView(told.buffer, 20);
  numbers.setBigUint64(0, BigInt(opens));
  numbers.setBigUint64(8, BigInt(ends));
  numbers.setUint32(16, spread);
  return told;
}

function bytes(text) {
  return Uint8Array.from(text, (symbol) => symbol.charCodeAt(0));
}
