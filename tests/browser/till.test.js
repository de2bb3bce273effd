// The till without a network: what it checks by itself, what it keeps, what it learns afterwards.

import {Refused} from '/client/nearcast.js';
import {codeIn, Keys} from '/pages/clerk-keys.js';
import {Queue} from '/pages/clerk-queue.js';
import {equal, failure, ok, test} from './check.js';

const SYMBOLS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
const STEP = 30;

function base32(bytes) {
  let bits = [...bytes].map((byte) => byte.toString(2).padStart(8, '0')).join('');
  bits = bits.padEnd(Math.ceil(bits.length / 5) * 5, '0');
  return bits.match(/.{5}/g).map((five) => SYMBOLS[parseInt(five, 2)]).join('');
}

/** A server's keys, and QR codes signed by them: `show(ms)`. */
async function server(skipped = 0) {
  const pair = await crypto.subtle.generateKey({name: 'Ed25519'}, true, ['sign', 'verify']);
  const raw = new Uint8Array(await crypto.subtle.exportKey('raw', pair.publicKey));
  const told = () => ({
    keys: [{algorithm: 'Ed25519', key: btoa(String.fromCharCode(...raw))}], step_seconds: STEP, skew_seconds: 5, tell_within_seconds: 86_400,
    now: new Date(Date.now() + skipped).toISOString(),
  });
  const show = async (at, subject = new Uint8Array(10).fill(7)) => {
    const message = new Uint8Array(14);
    message.set(subject);
    new DataView(message.buffer).setUint32(10, Math.floor(at / 1000 / STEP));
    const signed = new Uint8Array([...new TextEncoder().encode('NC1.'), ...message]);
    const signature = new Uint8Array(await crypto.subtle.sign({name: 'Ed25519'}, pair.privateKey, signed));
    return `NC1.${base32([...message, ...signature])}`;
  };
  return {call: async () => told(), show};
}

function session(answer, asked = []) {
  return {
    asked, renewed: 0,
    call: async (method, path, {body}) => { asked.push(body.redemptions); return answer(body.redemptions); },
    async token() { this.renewed += 1; },
  };
}

const sale = (key, at = 1000, more = {}) => ({key, at, qr: `NC1.${key}`, ...more});
const stands = (sales) => ({outcomes: sales.map(({key}) => ({key, redemption: {id: key, reversed_at: null}, refusal: null}))});

test('a till checks a QR code by the public key alone', async () => {
  localStorage.clear();
  const {call, show} = await server();
  const keys = new Keys(call);
  const now = Date.now();
  const qr = await show(now);
  equal((await failure(keys.check(qr, now))).code, 'cannot_check', 'without keys');
  await keys.refresh();
  await keys.check(qr, now);
  await new Keys(call).check(qr, now); // a reloaded page has them still
  for (const [text, at, code] of [
    [await show(now - 100_000), now, 'qr_expired'],
    [await show(now + 100_000), now, 'qr_expired'],
    [await (await server()).show(now), now, 'code_mistyped'],
    [qr.replace('NC1.', 'NM1.'), now, 'code_mistyped'],
    [`${qr.slice(0, 20)}${qr[20] === 'A' ? 'B' : 'A'}${qr.slice(21)}`, now, 'code_mistyped'],
    [qr.slice(0, -3), now, 'code_mistyped'],
    ['NC1.', now, 'code_mistyped'],
    ['NC1.0189', now, 'code_mistyped'],
  ]) equal((await failure(keys.check(text, at))).code, code, text);
});

test('a till whose own clock is wrong goes by the time of the server', async () => {
  localStorage.clear();
  const ahead = 3_600_000;
  const {call, show} = await server(ahead);
  const keys = new Keys(call);
  await keys.refresh();
  ok(Math.abs(keys.now() - Date.now() - ahead) < 10_000, 'an hour ahead');
  await keys.check(await show(keys.now()), keys.now());
});

test('a QR code names its coupon', async () => {
  const {show} = await server();
  equal(codeIn(await show(0, new Uint8Array(10))), '0'.repeat(16));
  equal(codeIn(await show(0, new Uint8Array(10).fill(255))), 'Z'.repeat(16));
});

test('what stands is forgotten, what does not stays until it is seen', async () => {
  localStorage.clear();
  const server = session((sales) => ({outcomes: sales.map(({key}) => ({
    key, redemption: key === 'a' ? {reversed_at: null} : key === 'b' ? {reversed_at: 'then'} : null,
    refusal: key === 'c' ? {code: 'already_redeemed'} : key === 'd' ? {code: 'busy'} : null,
  }))}));
  const queue = new Queue(server, 'demo/S1');
  for (const [n, key] of [...'dcba'].entries()) queue.put(sale(key, n, {order_fen: 100}));
  equal(await queue.tell(), 1);
  equal(server.asked[0][0], {key: 'd', qr: 'NC1.d', order_fen: 100, at: '1970-01-01T00:00:00.000Z'}, 'oldest first');
  equal(new Queue(server, 'demo/S1').all().map(({key, refusal}) => [key, refusal?.code ?? null]), [['d', null], ['c', 'already_redeemed'], ['b', 'taken_back']]);
  equal(queue.waiting().map(({key}) => key), ['d'], 'busy is asked again');
  queue.drop('c');
  equal(queue.all().length, 2);
});

test('nothing is lost while the server cannot be reached', async () => {
  localStorage.clear();
  const queue = new Queue(session(() => { throw new Refused('offline'); }), 'demo/S1');
  queue.put(sale('a'));
  equal((await failure(queue.tell())).code, 'offline');
  equal(queue.waiting().length, 1);
  equal(new Queue(session(stands), 'demo/S2').all(), [], 'another store tells nothing of ours');
});

test('more than a hundred are told in turns, and telling twice at once is telling once', async () => {
  localStorage.clear();
  const server = session(stands);
  const queue = new Queue(server, 'demo/S1');
  for (let n = 0; n < 130; n += 1) queue.put(sale(`k${n}`, n));
  equal(await Promise.all([queue.tell(), queue.tell()]), [130, 130]);
  equal(server.asked.map((sales) => sales.length), [100, 30]);
  equal(queue.all(), []);
});

test('one that cannot be read does not keep the others back', async () => {
  localStorage.clear();
  const queue = new Queue(session((sales) => {
    if (sales.some(({key}) => key === 'bad')) throw new Refused('invalid');
    return stands(sales);
  }), 'demo/S1');
  for (const [n, key] of ['a', 'bad', 'b'].entries()) queue.put(sale(key, n));
  equal(await queue.tell(), 2);
  equal(queue.all().map(({key, refusal}) => [key, refusal.code]), [['bad', 'invalid']]);
});

test('a token that ended meanwhile is renewed', async () => {
  localStorage.clear();
  let old = true;
  const server = session((sales) => {
    if (!old) return stands(sales);
    old = false;
    throw new Refused('token_expired', '', {status: 401});
  });
  const queue = new Queue(server, 'demo/S1');
  queue.put(sale('a'));
  equal([await queue.tell(), server.renewed], [1, 1]);
});
