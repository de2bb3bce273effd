// When the client comes back, where to, with which token; and when it does not.

import {connect, Refused} from '../../web/client/nearcast.js';
import {chance, equal, FakeSocket, FakeTime, ok, settle, test} from './check.js';
import {joined, rigged, welcome} from './joined.js';

const ALMOST = 1 - 1e-9;

test('backs off up to eight seconds, and starts anew after a steady connection', async () => {
  const {time, socket, delays} = await joined({random: () => ALMOST});
  socket.end(1006);
  for (let i = 0; i < 4; i += 1) {
    await time.pass(delays().at(-1) + 1);
    FakeSocket.last.end(1006);
  }
  equal(delays().map(Math.round), [2000, 4000, 8000, 8000, 8000]);
  await time.pass(8_000);
  FakeSocket.last.accept();
  FakeSocket.last.say(welcome());
  await time.pass(6_000);
  FakeSocket.last.end(1006);
  equal(Math.round(delays().at(-1)), 2000);
});

test('thousands that fell at once come back over two seconds, none of them in a wave', async () => {
  const tenths = new Array(20).fill(0);
  const random = chance(1);
  for (let n = 0; n < 500; n += 1) {
    const {socket, delays, room} = await joined({random});
    socket.end(1006);
    tenths[Math.floor(delays()[0] / 100)] += 1;
    room.close();
  }
  equal(tenths.slice(0, 2), [0, 0]);
  ok(Math.max(...tenths) < 50, `500 over 18 tenths of a second: ${tenths}`);
});

test('viewers of a dead gateway spread over all others, and come back to it last', async () => {
  const sockets = ['ws://a', 'ws://b', 'ws://c', 'ws://d'];
  const second = new Set();
  const random = chance(2);
  for (let n = 0; n < 60; n += 1) {
    const {room, time, socket} = await joined({sockets, random});
    const tried = [socket.url];
    socket.end(1006);
    for (let i = 0; i < 4; i += 1) {
      await time.pass(8_000);
      tried.push(FakeSocket.last.url);
      FakeSocket.last.end(1006);
    }
    equal(new Set(tried.slice(0, 4)).size, 4, 'each is tried once before one is tried again');
    ok(tried[4] !== tried[3], 'not the one that failed last');
    second.add(tried[1]);
    room.close();
  }
  equal(second.size, 4);
});

test('waits as long as the server asks, and some more by chance', async () => {
  const {socket, of} = await joined({random: () => ALMOST});
  socket.say({t: 'bye', code: 4001, reason: 'draining', retry_after: 4});
  socket.end(4001);
  equal(Math.round(of('state').at(-1).delay), 5200);
  equal(of('bye')[0].retry_after, 4);
});

test('what the server said before the close counts where the platform hides the code', async () => {
  for (const [code, state] of [[4504, 'closed'], [4001, 'waiting']]) {
    const {room, socket} = await joined();
    socket.say({t: 'bye', code, reason: 'so'});
    socket.end(1006);
    equal(room.state, state);
  }
});

test('an end that the platform calls normal is no reason to stay away', async () => {
  const {room, socket} = await joined();
  socket.end(1000, 'interrupted');
  equal(room.state, 'waiting');
});

test('retryNow shortens the wait', async () => {
  const {room, socket} = await joined();
  socket.end(1006);
  room.retryNow();
  await settle();
  equal(FakeSocket.made.length, 2);
});

test('waking up shortens the wait to almost nothing', async () => {
  const {room, time, socket} = await joined({random: () => ALMOST});
  socket.end(1006);
  room.wake();
  room.wake();
  await time.pass(301);
  equal(FakeSocket.made.length, 2);
});

test('waking up does not overrule a server that asked to be left alone', async () => {
  const {room, time, socket} = await joined();
  socket.say({t: 'bye', code: 4001, reason: 'draining', retry_after: 4});
  socket.end(4001);
  room.wake();
  await time.pass(3_900);
  equal(FakeSocket.made.length, 1);
  await time.pass(101);
  equal(FakeSocket.made.length, 2);
});

test('waking up asks an open line for a sign of life, and replaces a dead one within seconds', async () => {
  const {room, time, socket} = await joined();
  room.wake();
  room.wake();
  equal(socket.of('ping').length, 1);
  await time.pass(100);
  socket.say({t: 'batch', e: []});
  await time.pass(3_000);
  equal(room.state, 'open', 'it lives');
  socket.say({t: 'pong', now: 1});
  room.wake();
  await time.pass(3_001);
  equal([room.state, socket.closed, FakeSocket.made.length], ['connecting', true, 2]);
});

test('a busy room is not pinged for its life, only for its clock', async () => {
  const {time, socket} = await joined();
  for (let second = 0; second < 119; second += 1) {
    await time.pass(1_000);
    socket.say({t: 'batch', e: []});
  }
  equal(socket.of('ping').length, 0);
  for (let second = 0; second < 30; second += 1) {
    await time.pass(1_000);
    socket.say({t: 'batch', e: []});
  }
  equal(socket.of('ping').length, 1);
});

test('a socket that cannot even be made is tried again', async () => {
  let broken = true;
  const time = new FakeTime();
  FakeSocket.made.length = 0;
  const open = (url) => {
    if (broken) throw new SyntaxError('no such address');
    return new FakeSocket(url);
  };
  const room = connect(rigged(time, {open}));
  await settle();
  equal(room.state, 'waiting');
  broken = false;
  await time.pass(2_000);
  equal(FakeSocket.made.length, 1);
  room.close();
});

// ---- tokens ----------------------------------------------------------------------------------------------------------

test('asks for a fresh token when the old one expired', async () => {
  const asked = [];
  const {time, socket} = await joined({token: async (why) => { asked.push(why); return why ? 'fresh' : 'old'; }});
  equal(socket.sent[0].token, 'old');
  socket.end(4100);
  await time.pass(2_000);
  FakeSocket.last.accept();
  equal([asked, FakeSocket.last.sent[0].token], [[false, 'expired'], 'fresh']);
});

test('gives up when the token or the room is refused, not when the network is', async () => {
  const endings = [[403, 4502], [404, 4503]];
  for (const [status, code] of endings) {
    let error = new Refused('offline');
    const {room, time, of} = await joined({sockets: async () => { throw error; }}, null);
    equal(room.state, 'waiting');
    error = new Refused('no', 'no', {status});
    await time.pass(10_000);
    equal([room.state, of('state').at(-1).code], ['closed', code]);
  }
});

test('a REST answer that the token is too old asks for a fresh one before it is the end', async () => {
  const asked = [];
  let old = true;
  const {room, time} = await joined({
    token: async (why) => { asked.push(why); if (why) old = false; return 'jwt'; },
    sockets: async () => { if (old) throw new Refused('token_expired', 'old', {status: 401}); return ['ws://a']; },
  }, null);
  equal(room.state, 'waiting');
  await time.pass(2_000);
  equal([asked, FakeSocket.made.length], [[false, 'expired'], 1]);
  old = true;
  const hopeless = await joined({token: async () => { throw new Refused('token_invalid', 'no', {status: 401}); }}, null);
  await hopeless.time.pass(10_000);
  equal(hopeless.room.state, 'closed');
});

test('renews a token on the open connection while there is time', async () => {
  const tokens = ['first', 'second'];
  const asked = [];
  const {room, time, socket} = await joined({token: async (why) => { asked.push(why); return tokens[asked.length - 1]; }});
  socket.say({t: 'expiring', expires_at: room.now() + 120_000});
  await settle();
  const [renewal] = socket.of('renew');
  equal([asked, renewal.token], [[false, 'expiring'], 'second']);
  socket.say({t: 'ack', id: renewal.id, ok: true});
  for (let i = 0; i < 8; i += 1) {
    await time.pass(15_000);
    socket.say({t: 'batch', e: []});
  }
  equal([socket.of('renew').length, room.state], [1, 'open']);
});

test('tries a renewal again that failed or was refused, and never on another connection', async () => {
  let n = 0;
  const {room, time, socket} = await joined({token: async (why) => {
    n += 1;
    if (n === 2) throw new Refused('offline');
    return `${why} ${n}`;
  }});
  const expires = room.now() + 120_000;
  socket.say({t: 'expiring', expires_at: expires});
  await time.pass(15_000);
  const [refused] = socket.of('renew');
  equal(refused.token, 'expiring 3');
  socket.say({t: 'ack', id: refused.id, error: {code: 'token_expired', message: 'old'}});
  await time.pass(15_000);
  equal(socket.of('renew').map(({token}) => token), ['expiring 3', 'expiring 4']);
  socket.end(1006);
  await time.pass(2_000);
  const again = FakeSocket.last;
  again.accept();
  again.say(welcome());
  await time.pass(16_000);
  equal([again.sent[0].token, again.of('renew')], ['false 5', []]);
});

test('stops trying when time is up: the server closes, and a fresh token is asked for', async () => {
  let n = 0;
  const {room, time, socket} = await joined({token: async () => `t${n++}`});
  socket.say({t: 'expiring', expires_at: room.now() + 40_000});
  for (let i = 0; i < 8; i += 1) {
    await time.pass(5_000);
    socket.say({t: 'batch', e: []});
  }
  equal(socket.of('renew').length, 3, 'at 0, 15 and 30 s');
  socket.end(4100);
  equal(room.state, 'waiting');
});

test('a fixed or unchanged token is not sent again', async () => {
  for (const token of ['fixed', async () => 'same']) {
    const {room, time, socket} = await joined({token});
    socket.say({t: 'expiring', expires_at: room.now() + 10_000});
    await time.pass(1_000);
    equal([socket.of('renew'), room.state], [[], 'open']);
  }
});
