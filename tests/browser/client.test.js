// The client's socket: what it says, when it comes back, and what it never loses or repeats.

import {connect, Refused} from '/client/nearcast.js';
import {equal, failure, FakeSocket, FakeTime, ok, settle, test} from './check.js';

const ROOM = 'r1';

function welcome(more = {}) {
  return {t: 'welcome', you: {id: 'me', name: 'Me'}, room: {id: ROOM}, log: {epoch: 'e', seq: 10}, now: 5_000_000, ...more};
}

function comment(id, text = id) {
  return {t: 'comment', id, by: {id: 'x', name: 'X'}, text, at: 1};
}

/** A client whose network, clock and luck are ours. */
async function joined(options = {}, snapshot = welcome()) {
  FakeSocket.made.length = 0;
  const time = new FakeTime();
  const room = connect({
    room: ROOM, sockets: ['ws://a', 'ws://b'], token: 'jwt', open: (url) => new FakeSocket(url), random: () => 0,
    clock: time.clock, timers: time.timers, ...options,
  });
  const heard = [];
  for (const type of ['state', 'welcome', 'pin', 'comment', 'drop', 'coupon', 'counts', 'shed', 'bye']) room.on(type, (value) => heard.push([type, value]));
  await settle();
  if (snapshot) {
    FakeSocket.last.accept();
    FakeSocket.last.say(snapshot);
  }
  const of = (type) => heard.filter(([t]) => t === type).map(([, value]) => value);
  return {room, time, heard, of, get socket() { return FakeSocket.last; }};
}

test('says hello first and is open once welcomed', async () => {
  const {room, socket} = await joined({}, null);
  equal(socket.url, 'ws://a/v1/rooms/r1/live');
  equal(room.state, 'connecting');
  socket.accept();
  equal(socket.sent, [{t: 'hello', v: 1, token: 'jwt'}]);
  socket.say(welcome());
  equal(room.state, 'open');
  equal(room.position, {epoch: 'e', seq: 10});
});

test('knows the server clock', async () => {
  const {room, time} = await joined();
  equal(room.now(), 5_000_000);
  await time.pass(250);
  equal(room.now(), 5_000_250);
});

test('unpacks batches in order and moves its position', async () => {
  const {room, socket, heard} = await joined();
  socket.say({t: 'batch', seq: 12, e: [{t: 'pin', product: {id: 'p'}, at: 1}, comment('c1'), {t: 'counts', counts: {viewers: 3}}]});
  equal(heard.slice(2).map(([type]) => type), ['pin', 'comment', 'counts']);
  equal(room.position.seq, 12);
  socket.say({t: 'coupon', coupon: {id: 'k'}, seq: 13});
  equal(room.position.seq, 13);
  socket.say({t: 'batch', e: [{t: 'counts', counts: {}}]});
  equal(room.position.seq, 13, 'a batch without seq does not move it');
});

test('shows a comment once, from batches and from snapshots', async () => {
  const {socket, of} = await joined({}, welcome({recent: [comment('c0')]}));
  equal(of('welcome')[0].recent.map(({id}) => id), ['c0']);
  socket.say({t: 'batch', e: [comment('c0'), comment('c1'), comment('c1')]});
  equal(of('comment').map(({id}) => id), ['c1']);
});

test('ignores frames and events of a newer server', async () => {
  const {room, socket, of} = await joined();
  socket.say({t: 'hologram', x: 1});
  socket.say({t: 'batch', seq: 11, e: [{t: 'smell'}, comment('c1')]});
  equal(of('comment').length, 1);
  equal(room.state, 'open');
});

test('one broken listener neither stops the others nor the position', async () => {
  const {room, socket, of} = await joined();
  const reported = globalThis.reportError;
  const errors = [];
  globalThis.reportError = (error) => errors.push(error.message);
  room.on('pin', () => { throw new Error('broken'); });
  socket.say({t: 'batch', seq: 11, e: [{t: 'pin', product: {}}, comment('c1')]});
  globalThis.reportError = reported;
  equal(errors, ['broken']);
  equal([of('comment').length, room.position.seq], [1, 11]);
});

test('a command resolves with its ack or rejects with the refusal', async () => {
  const {room, socket} = await joined();
  const yes = room.comment('hi');
  const no = room.claim('d1');
  const [first, second] = [socket.of('comment')[0], socket.of('claim')[0]];
  equal([first.text, second.drop], ['hi', 'd1']);
  ok(first.id !== second.id, 'each command has an id of its own');
  socket.say({t: 'ack', id: second.id, error: {code: 'sold_out', message: 'All gone.', retry_after: 2}});
  socket.say({t: 'ack', id: first.id, ok: true, comment: 'c9'});
  equal((await yes).comment, 'c9');
  const refused = await failure(no);
  ok(refused instanceof Refused, 'a Refused');
  equal([refused.code, refused.message, refused.retryAfter], ['sold_out', 'All gone.', 2]);
});

test('resumes with its position and resends what was not answered, with the same id', async () => {
  const {room, time, socket} = await joined();
  const waiting = room.claim('d1');
  const {id} = socket.of('claim')[0];
  socket.say({t: 'batch', seq: 14, e: []});
  socket.end(1006);
  equal(room.state, 'waiting');
  await time.pass(1_000);
  const again = FakeSocket.last;
  ok(again !== socket, 'a new socket');
  equal(again.url, 'ws://b/v1/rooms/r1/live', 'the next gateway');
  again.accept();
  equal(again.sent[0].resume, {epoch: 'e', seq: 14});
  equal(again.of('claim').length, 0, 'nothing before the welcome');
  again.say(welcome({recovered: true, log: {epoch: 'e', seq: 14}}));
  equal(again.of('claim').map((frame) => frame.id), [id]);
  again.say({t: 'ack', id, ok: true});
  ok((await waiting).ok, 'answered');
});

test('keeps its old place until the missed events have come', async () => {
  const {room, time, socket} = await joined();
  socket.end(1006);
  await time.pass(1_000);
  FakeSocket.last.accept();
  FakeSocket.last.say(welcome({recovered: true, missed: 3, log: {epoch: 'e', seq: 13}}));
  equal(room.position, {epoch: 'e', seq: 10});
  FakeSocket.last.say({t: 'batch', seq: 13, e: [{t: 'pin', product: {}}]});
  equal(room.position, {epoch: 'e', seq: 13});
});

test('takes the snapshot position when the log was lost', async () => {
  const {room, time, socket} = await joined();
  socket.end(1006);
  await time.pass(1_000);
  FakeSocket.last.accept();
  FakeSocket.last.say(welcome({log: {epoch: 'new', seq: 2}}));
  equal(room.position, {epoch: 'new', seq: 2});
});

test('backs off longer and longer, and starts anew after a steady connection', async () => {
  const {time, socket, of} = await joined({random: () => 1});
  const delays = () => of('state').filter(({state}) => state === 'waiting').map(({delay}) => delay);
  socket.end(1006);
  for (let i = 0; i < 6; i += 1) {
    await time.pass(delays().at(-1));
    FakeSocket.last.end(1006);
  }
  equal(delays(), [500, 1000, 2000, 4000, 8000, 15000, 15000]);
  await time.pass(15_000);
  FakeSocket.last.accept();
  FakeSocket.last.say(welcome());
  await time.pass(6_000);
  FakeSocket.last.end(1006);
  equal(delays().at(-1), 500);
});

test('waits as long as the server asks, and some more by chance', async () => {
  const {socket, of} = await joined({random: () => 1});
  socket.say({t: 'bye', code: 4001, reason: 'draining', retry_after: 4});
  socket.end(4001);
  equal(of('state').at(-1).delay, 5200);
  equal(of('bye')[0].retry_after, 4);
});

test('does not come back after a close of 4500 and above, and tells who waits', async () => {
  const {room, time, socket, of} = await joined();
  const waiting = failure(room.comment('x'));
  socket.end(4504, 'ended');
  equal(of('state').at(-1), {state: 'closed', code: 4504, reason: 'ended'});
  equal((await waiting).code, 'closed');
  await time.pass(60_000);
  equal(FakeSocket.made.length, 1);
  equal((await failure(room.comment('y'))).code, 'closed');
});

test('asks for a fresh token when the old one expired', async () => {
  const asked = [];
  const {time, socket} = await joined({token: async (expired) => { asked.push(expired); return expired ? 'fresh' : 'old'; }});
  equal(socket.sent[0].token, 'old');
  socket.end(4100);
  await time.pass(1_000);
  FakeSocket.last.accept();
  equal([asked, FakeSocket.last.sent[0].token], [[false, true], 'fresh']);
});

test('gives up when the token or the room is refused, not when the network is', async () => {
  let error = new Refused('offline');
  const {room, time} = await joined({sockets: async () => { throw error; }}, null);
  equal(room.state, 'waiting');
  error = new Refused('not_found', 'gone', {status: 404});
  await time.pass(5_000);
  equal(room.state, 'closed');
});

test('a silent socket is given up without waiting for its close', async () => {
  const {room, time, socket} = await joined();
  await time.pass(20_000);
  equal(socket.of('ping').length, 1);
  socket.say({t: 'pong', now: 5_020_000});
  await time.pass(20_000);
  equal(socket.of('ping').length, 2);
  await time.pass(9_900);
  equal(room.state, 'open');
  await time.pass(150);
  equal([room.state, socket.closed], ['waiting', true]);
  socket.end(1006);
  equal(FakeSocket.made.length, 1, 'its late close is nobody’s business');
});

test('a socket that never welcomes is given up', async () => {
  const {room, time, socket} = await joined({}, null);
  socket.accept();
  await time.pass(10_100);
  equal(socket.closed, true);
  ok(room.state !== 'open', 'not open');
});

test('the best clock is the one with the shortest trip', async () => {
  const {room, time, socket} = await joined();
  await time.pass(20_000);
  await time.pass(400);
  socket.say({t: 'pong', now: 9_000_200});
  equal(room.now(), 9_000_400, 'half the trip is added');
  await time.pass(19_600);
  await time.pass(5_000);
  socket.say({t: 'pong', now: 1});
  ok(room.now() > 9_000_000, 'a slow answer does not spoil it');
});

test('merges taps on the heart', async () => {
  const {room, time, socket} = await joined();
  for (let i = 0; i < 130; i += 1) room.like();
  equal(socket.of('like').length, 0);
  await time.pass(500);
  equal(socket.of('like'), [{t: 'like', n: 100}]);
  room.like(2);
  await time.pass(500);
  equal(socket.of('like')[1].n, 2);
});

test('what was seen offline is told later', async () => {
  const {room, time, socket} = await joined();
  socket.end(1006);
  room.seen('k1');
  await time.pass(1_000);
  FakeSocket.last.accept();
  FakeSocket.last.say(welcome());
  equal(FakeSocket.last.of('seen'), [{t: 'seen', coupon: 'k1'}]);
});

test('the queue of commands has a bound', async () => {
  const {room, socket} = await joined();
  socket.end(1006);
  const waiting = Array.from({length: 50}, () => failure(room.comment('x')));
  equal((await failure(room.comment('one more'))).code, 'offline');
  room.close();
  equal((await Promise.all(waiting)).every(({code}) => code === 'closed'), true);
});

test('a command without an answer is rejected in the end', async () => {
  const {room, time, socket} = await joined();
  const waiting = failure(room.comment('x'));
  for (let i = 0; i < 3; i += 1) {
    await time.pass(7_000);
    socket.say({t: 'pong', now: 1});
  }
  equal((await waiting).code, 'no_answer');
  socket.say({t: 'ack', id: socket.of('comment')[0].id, ok: true}); // too late: nobody listens, nothing breaks
});

test('a frame that is not JSON ends that socket', async () => {
  const {room, socket} = await joined();
  socket.say('<html>proxy</html>');
  equal([room.state, socket.closed], ['waiting', true]);
});

test('closing leaves for good', async () => {
  const {room, time, socket} = await joined();
  room.close();
  equal([room.state, socket.closed], ['closed', true]);
  room.retryNow();
  await time.pass(60_000);
  equal(FakeSocket.made.length, 1);
});

test('retryNow shortens the wait', async () => {
  const {room, socket} = await joined();
  socket.end(1006);
  room.retryNow();
  await settle();
  equal(FakeSocket.made.length, 2);
});

test('every command of a guide carries its fields', async () => {
  const {room, socket} = await joined();
  const calls = [room.start(), room.pin('p', 60), room.pin('p'), room.unpin(), room.announce('a'), room.drop({campaign: 'c', mode: 'push'}),
    room.mute('v', 600), room.mute('v', 600, 'brand'), room.delete('k'), room.slow(5), room.hush(true, ['v']), room.hush(false), room.report('k', 'spam'), room.end(), room.locate({lng: 1, lat: 2, datum: 'wgs84', accuracy: null})];
  calls.forEach((call) => call.catch(() => {}));
  equal(socket.sent.slice(1).map(({id, ...rest}) => rest), [
    {t: 'start'}, {t: 'pin', product: 'p', ttl: 60}, {t: 'pin', product: 'p'}, {t: 'unpin'}, {t: 'announce', text: 'a'},
    {t: 'drop', campaign: 'c', mode: 'push'}, {t: 'mute', viewer: 'v', seconds: 600}, {t: 'mute', viewer: 'v', seconds: 600, scope: 'brand'}, {t: 'delete', comment: 'k'}, {t: 'slow', seconds: 5},
    {t: 'hush', on: true, allow: ['v']}, {t: 'hush', on: false}, {t: 'report', comment: 'k', reason: 'spam'},
    {t: 'end'}, {t: 'locate', lng: 1, lat: 2, datum: 'wgs84', accuracy: null}]);
  room.close();
});
