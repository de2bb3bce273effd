// A client in a room, whose network, clock and luck belong to the test.

import {connect} from '../../web/client/nearcast.js';
import {FakeSocket, FakeTime, settle} from './check.js';

const ROOM = 'r1';
const HEARD = ['state', 'welcome', 'pin', 'announce', 'comment', 'drop', 'coupon', 'counts', 'shed', 'bye', 'kick', 'ban'];

export function welcome(more = {}) {
  return {t: 'welcome', you: {id: 'me', name: 'Me'}, room: {id: ROOM}, log: {epoch: 'e', seq: 10}, now: 5_000_000, ...more};
}

export function comment(id, text = id) {
  return {t: 'comment', id, by: {id: 'x', name: 'X'}, text, at: 1};
}

/** Options of `connect` for a room of the test's own. */
export function rigged(time, options = {}) {
  return {
    room: ROOM, sockets: ['ws://a', 'ws://b'], token: 'jwt', open: (url) => new FakeSocket(url), random: () => 0,
    clock: time.clock, timers: time.timers, ...options,
  };
}

/** Connected, and welcomed unless `snapshot` is null. */
export async function joined(options = {}, snapshot = welcome()) {
  FakeSocket.made.length = 0;
  const time = new FakeTime();
  const room = connect(rigged(time, options));
  const heard = [];
  for (const type of HEARD) room.on(type, (value) => heard.push([type, value]));
  await settle();
  if (snapshot) {
    FakeSocket.last.accept();
    FakeSocket.last.say(snapshot);
  }
  const of = (type) => heard.filter(([t]) => t === type).map(([, value]) => value);
  /** What was waited before each attempt so far, ms. */
  const delays = () => of('state').filter(({state}) => state === 'waiting').map(({delay}) => delay);
  return {room, time, heard, of, delays, get socket() { return FakeSocket.last; }};
}

/** The last socket's line breaks, and the next one is welcomed. */
export async function reconnected(time, snapshot = welcome({recovered: true})) {
  FakeSocket.last.end(1006);
  await time.pass(10_000);
  FakeSocket.last.accept();
  FakeSocket.last.say(snapshot);
  return FakeSocket.last;
}
