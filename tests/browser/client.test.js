// The client's socket: what it says, when it comes back, and what it never loses or repeats.

import {connect, Refused} from '../../web/client/nearcast.js';
import {equal, failure, FakeSocket, ok, settle, test} from './check.js';
import {comment, joined, welcome} from './joined.js';

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

test('says at once that there is no WebSocket and none was passed, instead of trying for ever', () => {
  const {WebSocket} = globalThis;
  delete globalThis.WebSocket;
  try {
    let said;
    try {
      connect({room: 'r1', sockets: ['ws://a'], token: () => 'jwt'});
    } catch (error) {
      said = error;
    }
    ok(said instanceof TypeError && said.message.includes('WebSocket'), String(said));
  } finally {
    if (WebSocket) globalThis.WebSocket = WebSocket;
  }
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

test('does not show a comment whose deletion overtook it', async () => {
  const {socket, of} = await joined();
  socket.say({t: 'batch', seq: 11, e: [{t: 'delete', comment: 'c1'}]});
  socket.say({t: 'batch', e: [comment('c1'), comment('c2')]});
  equal(of('comment').map(({id}) => id), ['c2']);
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

test('every command carries its fields', async () => {
  const {room, socket} = await joined();
  const calls = [
    [() => room.start(), {t: 'start'}], [() => room.pause(), {t: 'pause'}], [() => room.end(), {t: 'end'}],
    [() => room.pin('p', 60), {t: 'pin', product: 'p', ttl: 60}], [() => room.pin('p'), {t: 'pin', product: 'p'}],
    [() => room.unpin(), {t: 'unpin'}], [() => room.announce('a'), {t: 'announce', text: 'a'}],
    [() => room.drop({campaign: 'c', mode: 'push'}), {t: 'drop', campaign: 'c', mode: 'push'}],
    [() => room.mute('v', 600), {t: 'mute', viewer: 'v', seconds: 600}],
    [() => room.mute('v', 600, 'brand'), {t: 'mute', viewer: 'v', seconds: 600, scope: 'brand'}],
    [() => room.kick('v'), {t: 'kick', viewer: 'v'}], [() => room.ban('v', 0), {t: 'ban', viewer: 'v', seconds: 0}],
    [() => room.ban('v', 60, 'brand'), {t: 'ban', viewer: 'v', seconds: 60, scope: 'brand'}],
    [() => room.delete('k'), {t: 'delete', comment: 'k'}], [() => room.slow(5), {t: 'slow', seconds: 5}],
    [() => room.hush(true, ['v']), {t: 'hush', on: true, allow: ['v']}], [() => room.hush(false), {t: 'hush', on: false}],
    [() => room.report('k', 'spam'), {t: 'report', comment: 'k', reason: 'spam'}],
    [() => room.locate({lng: 1, lat: 2, datum: 'wgs84', accuracy: null}), {t: 'locate', lng: 1, lat: 2, datum: 'wgs84', accuracy: null}],
  ];
  for (const [call, expected] of calls) {
    const answered = call();
    const {id, ...said} = socket.sent.at(-1);
    equal(said, expected);
    socket.say({t: 'ack', id, ok: true});
    equal((await answered).id, id);
  }
});

test('a text cut in the middle of an emoji is sent as one that the server can read', async () => {
  const {room, socket} = await joined();
  room.comment('👍🏻👍'.slice(0, 5)).catch(() => {});
  equal(socket.of('comment')[0].text, '👍🏻\ufffd');
});

test('a text longer than any frame is refused here, where the server would close for good', async () => {
  const {room, socket} = await joined();
  equal((await failure(room.comment('好'.repeat(1400)))).code, 'too_long');
  equal(socket.of('comment').length, 0);
});

test('kicks and bans are told like any event, and end the visit of whom they mean', async () => {
  const {room, socket, of} = await joined();
  socket.say({t: 'batch', seq: 12, e: [{t: 'kick', viewer: 'v'}, {t: 'ban', viewer: 'w', until: null}]});
  equal([of('kick')[0].viewer, of('ban')[0].viewer, room.position.seq], ['v', 'w', 12]);
  socket.end(4509, 'banned');
  equal(of('state').at(-1), {state: 'closed', code: 4509, reason: 'banned'});
});
