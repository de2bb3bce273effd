// Commands: said in order, resent once, bounded, given up in time; and what becomes of likes, taps and what was seen.

import {equal, failure, FakeSocket, ok, settle, test} from './check.js';
import {joined, reconnected, welcome} from './joined.js';

const quiet = (promise) => { promise.catch(() => {}); };

test('resends what was not answered, once on each connection, in order and with the same ids', async () => {
  const {room, time, socket} = await joined();
  const answers = ['one', 'two', 'three'].map((drop) => room.claim(drop));
  const ids = socket.of('claim').map(({id}) => id);
  socket.say({t: 'ack', id: ids[0], ok: true});
  const again = await reconnected(time);
  equal(again.of('claim').map(({id, drop}) => [id, drop]), [[ids[1], 'two'], [ids[2], 'three']]);
  again.say(welcome({log: {epoch: 'f', seq: 1}})); // the log began anew under the open socket: nothing is repeated
  equal(again.of('claim').length, 2);
  for (const id of ids) again.say({t: 'ack', id, ok: true});
  equal((await Promise.all(answers)).map(({id}) => id), ids);
  const third = await reconnected(time);
  equal(third.of('claim').length, 0);
});

test('says commands given without a connection once there is one, in order', async () => {
  const {room, socket} = await joined({}, null);
  quiet(room.comment('a'));
  quiet(room.claim('d'));
  quiet(room.comment('b'));
  socket.accept();
  equal(socket.sent.map(({t}) => t), ['hello']);
  socket.say(welcome());
  equal(socket.sent.map(({t, text}) => text ?? t), ['hello', 'a', 'claim', 'b']);
});

test('has four unanswered commands at most: a gateway would refuse more', async () => {
  const {room, time, socket} = await joined();
  for (let n = 0; n < 6; n += 1) quiet(room.comment(`${n}`));
  equal(socket.of('comment').map(({text}) => text), ['0', '1', '2', '3']);
  socket.say({t: 'ack', id: socket.of('comment')[2].id, ok: true});
  equal(socket.of('comment').map(({text}) => text), ['0', '1', '2', '3', '4']);
  const again = await reconnected(time);
  equal(again.of('comment').map(({text}) => text), ['0', '1', '3', '4']);
});

test('a command that ended without an answer is said again under its id', async () => {
  const {room, time, socket} = await joined();
  const drop = {campaign: 'c', mode: 'push', id: 'mine'};
  const first = failure(room.drop(drop));
  await time.pass(20_000);
  equal((await first).code, 'no_answer');
  const again = room.drop(drop);
  equal(socket.of('drop'), [{t: 'drop', ...drop}, {t: 'drop', ...drop}]);
  socket.say({t: 'ack', id: 'mine', ok: true, drop: 'd'});
  equal((await again).drop, 'd');
});

test('the queue has a bound, and says so at once', async () => {
  const {room, socket} = await joined();
  socket.end(1006);
  const waiting = Array.from({length: 50}, () => failure(room.comment('x')));
  equal((await failure(room.comment('one more'))).code, 'offline');
  room.close();
  equal((await Promise.all(waiting)).every(({code}) => code === 'closed'), true);
});

test('what was never said is refused with offline, what may have been done with no_answer', async () => {
  const {room, time, socket} = await joined();
  const said = failure(room.comment('said'));
  socket.end(1006);
  const unsaid = failure(room.comment('unsaid'));
  await time.pass(20_000);
  equal([(await said).code, (await unsaid).code], ['no_answer', 'offline']);
  const later = FakeSocket.last;
  later.accept();
  later.say(welcome());
  equal(later.of('comment').length, 0, 'given up is given up');
});

test('a command without an answer is rejected in the end, and a late answer breaks nothing', async () => {
  const {room, time, socket} = await joined();
  const waiting = failure(room.comment('x'));
  for (let i = 0; i < 3; i += 1) {
    await time.pass(7_000);
    socket.say({t: 'pong', now: 1});
  }
  equal((await waiting).code, 'no_answer');
  socket.say({t: 'ack', id: socket.of('comment')[0].id, ok: true});
});

test('a refusal carries its code, sentence, time and the field that it is about', async () => {
  const {room, socket} = await joined();
  const refused = failure(room.claim('d'));
  socket.say({t: 'ack', id: socket.of('claim')[0].id, error: {code: 'invalid', message: 'No.', retry_after: 2, field: 'drop'}});
  const {code, message, retryAfter, fields} = await refused;
  equal([code, message, retryAfter, fields], ['invalid', 'No.', 2, {field: 'drop'}]);
});

test('likes given without a connection are told with the next one, a hundred at most', async () => {
  const {room, time, socket} = await joined();
  socket.end(1006);
  room.like(70);
  room.like(70);
  await time.pass(10_000);
  equal(FakeSocket.last.of('like').length, 0);
  FakeSocket.last.accept();
  FakeSocket.last.say(welcome());
  equal(FakeSocket.last.of('like'), [{t: 'like', n: 100}]);
});

test('what was seen without a connection is told later, once; a tap is not', async () => {
  const {room, time, socket} = await joined();
  socket.end(1006);
  room.seen('k1');
  room.seen('k1');
  room.tap('p1');
  await time.pass(10_000);
  FakeSocket.last.accept();
  FakeSocket.last.say(welcome());
  equal([FakeSocket.last.of('seen'), FakeSocket.last.of('tap')], [[{t: 'seen', coupon: 'k1'}], []]);
});

test('a listener of the welcome that leaves is not spoken for', async () => {
  const {room, socket} = await joined({}, null);
  quiet(room.comment('a'));
  room.on('welcome', () => room.close());
  socket.accept();
  socket.say(welcome());
  await settle();
  equal(socket.sent.map(({t}) => t), ['hello']);
  ok(socket.closed, 'closed');
});
