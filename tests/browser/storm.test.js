// Whatever the network does: every certain event arrives exactly once and in order, every command at most once.

import {connect} from '../../web/client/nearcast.js';
import {chance, equal, FakeSocket, FakeTime, ok, settle, test} from './check.js';
import {rigged} from './joined.js';

/** A room whose log is kept, behind gateways whose lines break: by a close, or silently. */
class StormyRoom {
  log = []; // certain events; the place in it is the event's number
  carriedOut = new Map(); // command's id → how often
  #random;
  #lines = new Map(); // socket → the last number that was sent there

  constructor(random) {
    this.#random = random;
  }

  open = (url) => {
    const socket = new FakeSocket(url);
    const receive = socket.send;
    socket.send = (text) => {
      receive.call(socket, text);
      if (!socket.broken) this.#hear(socket, JSON.parse(text));
    };
    // Some addresses answer nobody, some refuse.
    const luck = this.#random();
    if (luck > 0.3) Promise.resolve().then(() => socket.accept());
    else if (luck > 0.15) Promise.resolve().then(() => socket.end(1006));
    return socket;
  };

  tell(event) {
    this.log.push(event);
  }

  /** What the room has for each line; with lossy events in between, and never more than a few at a time. */
  tick() {
    for (const [socket, sent] of [...this.#lines]) {
      if (socket.broken) continue;
      const events = this.log.slice(sent, sent + 1 + Math.floor(this.#random() * 4));
      if (!events.length) continue;
      this.#lines.set(socket, sent + events.length);
      const lossy = {t: 'comment', id: `c${sent}`, by: {}, text: '…'};
      socket.say({t: 'batch', seq: sent + events.length, e: [lossy, ...events]});
    }
  }

  /** A line breaks: the client hears of it, or nothing any more. */
  break() {
    for (const socket of [...this.#lines.keys()]) {
      this.#lines.delete(socket);
      socket.broken = true;
      if (this.#random() < 0.6) socket.end([1006, 1000, 4001, 4002, 4100][Math.floor(this.#random() * 5)]);
    }
  }

  #hear(socket, frame) {
    if (frame.t === 'hello') return this.#admit(socket, frame.resume);
    if (!frame.id) return;
    if (!this.carriedOut.has(frame.id)) this.carriedOut.set(frame.id, 0);
    // A command sent again is answered again, and carried out once: that is the server's part. The client's is the id.
    if (this.carriedOut.get(frame.id) === 0) this.carriedOut.set(frame.id, 1);
    if (this.#random() < 0.8) Promise.resolve().then(() => { if (!socket.broken) socket.say({t: 'ack', id: frame.id, ok: true}); });
  }

  #admit(socket, resume) {
    const log = {epoch: 'e', seq: this.log.length};
    const missed = resume ? log.seq - resume.seq : 0;
    this.#lines.set(socket, resume ? resume.seq : log.seq);
    socket.say({t: 'welcome', you: {}, room: {}, log, now: 0, recovered: Boolean(resume), missed});
  }
}

async function weather(seed) {
  const random = chance(seed);
  const time = new FakeTime();
  const server = new StormyRoom(random);
  const room = connect(rigged(time, {open: server.open, random, token: async () => 'jwt', sockets: async () => ['ws://a', 'ws://b', 'ws://c']}));
  const heard = [];
  const outcomes = new Map(); // text → how its promise ended
  let joinedAt = null;
  room.on('welcome', ({log}) => { joinedAt ??= log.seq; });
  room.on('announce', ({n}) => heard.push(n));
  for (let n = 0; n < 150; n += 1) {
    const what = random();
    if (what < 0.5) server.tell({t: 'announce', n: server.log.length});
    else if (what < 0.62) server.break();
    else if (what < 0.75) room.comment(`say ${n}`).then((ack) => outcomes.set(n, ack.id), ({code}) => outcomes.set(n, code));
    else if (what < 0.8) room.wake();
    await time.pass(random() * 1_500);
    server.tick();
  }
  // The weather clears.
  for (let n = 0; n < 200 && (joinedAt === null || room.position.seq < server.log.length); n += 1) {
    await time.pass(500);
    server.tick();
  }
  await time.pass(25_000);
  await settle();
  room.close();
  return {server, heard, joinedAt, outcomes};
}

test('every certain event arrives exactly once and in order, in any weather', async () => {
  let reconnected = 0;
  for (let seed = 1; seed <= 60; seed += 1) {
    FakeSocket.made.length = 0;
    const {server, heard, joinedAt} = await weather(seed);
    equal(heard, Array.from({length: server.log.length - joinedAt}, (_, i) => joinedAt + i), `weather ${seed}`);
    reconnected += FakeSocket.made.length;
  }
  ok(reconnected > 300, `there was weather: ${reconnected} sockets`);
});

test('a command has one id for ever, and one that ended in offline never reached a server', async () => {
  const ends = {answered: 0, offline: 0, no_answer: 0};
  for (let seed = 100; seed < 140; seed += 1) {
    FakeSocket.made.length = 0;
    const {outcomes} = await weather(seed);
    const ids = new Map(); // text → the ids it was ever said with
    for (const {sent} of FakeSocket.made) {
      for (const {t, id, text} of sent) if (t === 'comment') ids.set(text, (ids.get(text) ?? new Set()).add(id));
    }
    for (const [n, end] of outcomes) {
      const said = ids.get(`say ${n}`) ?? new Set();
      if (end === 'offline') equal(said.size, 0, `weather ${seed}, command ${n}`);
      else equal(said.size, 1, `weather ${seed}, command ${n}`);
      ends[end in ends ? end : 'answered'] += 1;
    }
  }
  ok(Object.values(ends).every((count) => count > 5), `all ends were met: ${JSON.stringify(ends)}`);
});
