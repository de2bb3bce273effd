// The mini-program's side: what `wx` does and does not do, and what the client makes of it.

import {rest} from '../../web/client/nearcast.js';
import {joinRoom, opener, requester} from '../../web/client/wechat.js';
import {equal, failure, FakeTime, ok, settle, test} from './check.js';
import {rigged, welcome} from './joined.js';

/** A platform with the documented manners, and the ones people report. */
class FakeWx {
  tasks = [];
  requests = [];
  listeners = {show: new Set(), network: new Set()};
  slots = 5;

  connectSocket = (options) => {
    if (this.tasks.filter(({over}) => !over).length >= this.slots) {
      options.fail({errMsg: 'connectSocket:fail exceed max task count'});
      return undefined;
    }
    const task = new FakeTask(options);
    this.tasks.push(task);
    return task;
  };

  request = (options) => this.requests.push(options);
  onAppShow = (listener) => this.listeners.show.add(listener);
  offAppShow = (listener) => this.listeners.show.delete(listener);
  onNetworkStatusChange = (listener) => this.listeners.network.add(listener);
  offNetworkStatusChange = (listener) => this.listeners.network.delete(listener);

  get last() { return this.tasks.at(-1); }
}

class FakeTask {
  sent = [];
  closes = [];
  opened = false;
  over = false;
  deaf = false; // sends fail: the platform knows that the line is gone

  constructor(options) {
    this.options = options;
  }

  onOpen(told) { this.told = {...this.told, open: told}; }
  onMessage(told) { this.told = {...this.told, message: told}; }
  onClose(told) { this.told = {...this.told, close: told}; }
  onError(told) { this.told = {...this.told, error: told}; }

  send({data, fail}) {
    if (this.deaf) fail({errMsg: 'sendSocketMessage:fail SocketTask.readyState is not OPEN'});
    else this.sent.push(JSON.parse(data));
  }

  /** As the platform does it: nothing happens before the connection is open. */
  close({code, fail}) {
    if (code !== 1000 && !(code >= 3000 && code <= 4999)) throw new Error(`no such close code: ${code}`);
    this.closes.push(code);
    if (this.opened) this.over = true;
    else fail({errMsg: 'closeSocket:fail WebSocket is not connected'});
  }

  open() { this.opened = true; this.told.open({header: {}}); }
  say(frame) { this.told.message({data: JSON.stringify(frame)}); }
  end(code, reason) { this.over = true; this.told.close({code, reason}); }
  fail(errMsg) { this.told.error({errMsg}); }
}

async function inRoom(options = {}) {
  const wx = new FakeWx();
  const time = new FakeTime();
  const {open, ...rest} = rigged(time, options);
  const room = joinRoom(wx, rest);
  const states = [];
  room.on('state', (change) => states.push(change));
  await settle();
  return {wx, time, room, states};
}

async function welcomed(options) {
  const all = await inRoom(options);
  all.wx.last.open();
  all.wx.last.say(welcome());
  equal(all.room.state, 'open');
  return all;
}

test('joins over a SocketTask, and hears and says the same as in a browser', async () => {
  const {wx, room} = await inRoom();
  const task = wx.last;
  equal([task.options.url, task.options.tcpNoDelay], ['ws://a/v1/rooms/r1/live', true]);
  task.open();
  equal(task.sent, [{t: 'hello', v: 1, token: 'jwt'}]);
  const heard = [];
  room.on('comment', ({text}) => heard.push(text));
  task.say(welcome());
  const answered = room.comment('好看');
  task.say({t: 'batch', e: [{t: 'comment', id: 'c', text: '好看'}]});
  task.say({t: 'ack', id: task.sent[1].id, ok: true});
  equal([(await answered).ok, heard], [true, ['好看']]);
});

test('comes back from the background: the platform ends sockets as if all were well', async () => {
  const {wx, time, room} = await welcomed();
  wx.last.end(1000, 'interrupted');
  await settle();
  equal(room.state, 'waiting');
  for (const shown of wx.listeners.show) shown({});
  await time.pass(300);
  equal(wx.tasks.length, 2);
});

test('comes back from the background also where the platform told of no end', async () => {
  const {wx, time, room} = await welcomed();
  time.now += 600_000; // scripts stand still, the clock does not
  for (const shown of wx.listeners.show) shown({});
  await time.pass(3_000);
  equal([room.state, wx.tasks.length], ['connecting', 2]);
  equal(wx.tasks[0].over, true, 'and gives the dead one back');
});

test('a message that cannot be sent ends the connection at once', async () => {
  const {wx, room, states} = await welcomed();
  wx.last.deaf = true;
  room.claim('d').catch(() => {});
  await settle();
  equal(room.state, 'waiting');
  equal(states.filter(({state}) => state === 'waiting').length, 1);
});

test('an error is an end, whether or not a close follows', async () => {
  const {wx, time, states} = await inRoom();
  wx.last.fail('connect fail');
  wx.last.end(1006, 'abnormal closure');
  await settle();
  equal(states.filter(({state}) => state === 'waiting').length, 1);
  await time.pass(2_000);
  wx.last.fail('timeout');
  await settle();
  equal(states.filter(({state}) => state === 'waiting').length, 2);
});

test('a task given up while it connects is closed when it opens, since it cannot be closed before', async () => {
  const {wx, room} = await inRoom();
  room.close();
  equal(wx.last.over, false);
  wx.last.open();
  equal([wx.last.over, wx.last.sent], [true, []]);
});

test('a platform that has no socket left is asked again', async () => {
  const {wx, time, room} = await inRoom();
  wx.last.end(1006, '');
  wx.slots = 0;
  await time.pass(2_000);
  equal(room.state, 'waiting');
  wx.slots = 5;
  await time.pass(8_000);
  equal(room.state, 'connecting');
});

test('another network wakes it, a lost one does not', async () => {
  const {wx, room} = await welcomed();
  const changed = (isConnected) => wx.listeners.network.forEach((told) => told({isConnected, networkType: '4g'}));
  changed(false);
  equal(wx.last.sent.length, 1);
  changed(true);
  equal(wx.last.sent.at(-1), {t: 'ping'});
  room.close();
  equal([wx.listeners.show.size, wx.listeners.network.size], [0, 0], 'a room that was left is not woken');
});

test('a close for good stays one', async () => {
  const {wx, time, room} = await welcomed();
  wx.last.end(4504, 'the room has ended');
  await time.pass(60_000);
  equal([room.state, wx.tasks.length], ['closed', 1]);
});

test('bears an old platform without listeners for the app', async () => {
  const old = {connectSocket: () => undefined};
  const room = joinRoom(old, rigged(new FakeTime(), {open: opener(old)}));
  await settle();
  equal(room.state, 'waiting');
  room.close();
});

// ---- REST ------------------------------------------------------------------------------------------------------------

test('asks REST through wx.request', async () => {
  const wx = new FakeWx();
  const call = rest({base: 'https://api.example', token: () => 'jwt', fetch: requester(wx), timeout: 5_000});
  const answer = call('POST', '/v1/visits', {body: {qr: 'q'}, key: 'k'});
  await settle();
  const [{url, method, header, data, timeout, dataType, success}] = wx.requests;
  equal([url, method, data, timeout], ['https://api.example/v1/visits', 'POST', '{"qr":"q"}', 5_000]);
  equal(header, {'Content-Type': 'application/json', Authorization: 'Bearer jwt', 'Idempotency-Key': 'k'});
  ok(dataType !== 'json', 'the platform leaves the text alone');
  success({statusCode: 201, data: '{"id":"v"}'});
  equal(await answer, {id: 'v'});
});

test('tells refusals and a missing network of wx.request apart', async () => {
  const wx = new FakeWx();
  const call = rest({fetch: requester(wx)});
  const [refused, nothing, offline] = [failure(call('GET', '/a')), call('DELETE', '/b'), failure(call('GET', '/c'))];
  await settle();
  wx.requests[0].success({statusCode: 409, data: '{"code":"sold_out","detail":"All gone."}'});
  wx.requests[1].success({statusCode: 204, data: ''});
  wx.requests[2].fail({errMsg: 'request:fail timeout'});
  equal([(await refused).code, (await refused).status, await nothing, (await offline).code], ['sold_out', 409, null, 'offline']);
});
