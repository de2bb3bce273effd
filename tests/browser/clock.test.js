// The server's clock as the client knows it: near, and never a surprise to a countdown.

import {ServerClock} from '../../web/client/clock.js';
import {equal, FakeTime, ok, test} from './check.js';
import {joined} from './joined.js';

const AHEAD = 7_000; // the server's clock, against a device's that is right

/** A device whose clock may be wrong and set, and a server to ask over a network of a chosen delay. */
function device() {
  const time = new FakeTime();
  let wrong = 0;
  const clock = new ServerClock(() => time.now + wrong);
  return {
    clock,
    truth: () => time.now + AHEAD,
    set: (ms) => { wrong += ms; },
    pass: (ms) => { time.now += ms; },
    ask: (there, back) => {
      const asked = time.now + wrong;
      time.now += there;
      const told = time.now + AHEAD;
      time.now += back;
      clock.learn(told, asked);
    },
  };
}

test('one answer gives the clock to within half its trip', () => {
  const {clock, truth, ask} = device();
  ask(10, 90);
  ok(Math.abs(clock.now() - truth()) <= 50, 'near');
});

test('a slow answer does not spoil a good guess', () => {
  const {clock, truth, ask, pass} = device();
  ask(20, 20);
  pass(20_000);
  ask(0, 4_000);
  equal(clock.now() - truth(), 0);
});

test('a guess grows old, and a worse one replaces it', () => {
  const {clock, ask, pass} = device();
  ask(5, 5);
  ask(80, 20);
  equal(clock.olderThan(50), true, 'the worse one was not taken');
  pass(120_000);
  ask(80, 20);
  equal(clock.olderThan(50), false, 'taken');
});

test('a device whose clock is set is followed at the next answer', () => {
  for (const change of [3_600_000, -3_600_000]) {
    const {clock, truth, ask, pass, set} = device();
    ask(20, 20);
    pass(5_000);
    set(change);
    ask(100, 100);
    ok(Math.abs(clock.now() - truth()) <= 100, `after ${change}`);
  }
});

test('a clock set back between question and answer teaches nothing', () => {
  const {clock} = device();
  clock.learn(9_999_999, Infinity);
  equal(clock.olderThan(0), true);
});

test('a better guess never runs a countdown backwards', () => {
  const {clock, ask, truth} = device();
  ask(0, 800); // guessed 400 too early: no, late
  const before = clock.now();
  ask(1, 1);
  ok(clock.now() >= before, 'not backwards');
  ask(1, 1);
  ok(Math.abs(clock.now() - truth()) <= 400, 'and near');
});

test('a guess 300 ms ahead is held until time has caught up', () => {
  const {clock, ask, truth, pass} = device();
  ask(600, 0); // the middle is 300 too late
  equal(clock.now() - truth(), 300);
  ask(1, 1);
  equal(clock.now() - truth(), 298, 'held');
  pass(1_000);
  equal(clock.now() - truth(), 0);
});

test('the welcome is an answer too: the clock is known from the first moment', async () => {
  const {room, time} = await joined();
  equal(room.now(), 5_000_000);
  await time.pass(250);
  equal(room.now(), 5_000_250);
});

test('pongs are matched with their pings, also after waking up', async () => {
  const {room, time, socket} = await joined();
  room.wake();
  await time.pass(40);
  socket.say({t: 'pong', now: 9_000_020});
  equal(room.now(), 9_000_040);
});
