/**
 * The client in a WeChat mini-program, over `wx`: sockets, requests, and waking up with the app.
 *
 *     import {joinRoom, requester} from './nearcast/wechat.js';
 *     const call = rest({base, token: () => token, fetch: requester(wx)});
 *     const room = joinRoom(wx, {room: id, sockets, token});
 */

import {connect} from './nearcast.js';

/** @typedef {any} Wx  the platform's `wx` */

/**
 * Join a room, and follow the app: back in the foreground, or on another network, the connection is tried at once.
 * @param {Wx} wx
 * @param {import('./nearcast.js').Options} options
 * @returns {import('./nearcast.js').Room}
 */
export function joinRoom(wx, options) {
  const room = connect({open: opener(wx), ...options});
  wakeWithApp(wx, room);
  return room;
}

/**
 * Makes sockets of `wx.connectSocket`, for the option `open`.
 * @param {Wx} wx
 * @param {object} [more]  further options of `wx.connectSocket`
 * @returns {(url: string) => import('./nearcast.js').Socket}
 */
export function opener(wx, more = {}) {
  return (url) => {
    let stage = 'connecting';
    /** @type {import('./nearcast.js').Socket} */
    const socket = {
      onopen: null, onmessage: null, onclose: null, onerror: null,
      send: (data) => task?.send({data, fail: (why) => fail(why)}),
      close: leave,
    };
    const ignore = () => {};
    const task = wx.connectSocket({url, tcpNoDelay: true, ...more, success: ignore, fail: (why) => end(1006, why?.errMsg)});
    if (!task) {
      end(1006, 'no socket'); // the platform has none left: five at a time
      return socket;
    }
    task.onOpen(() => {
      if (stage !== 'connecting') return hangUp(); // left meanwhile
      stage = 'open';
      socket.onopen?.();
    });
    task.onMessage(({data}) => { if (stage === 'open') socket.onmessage?.({data}); });
    task.onClose((why) => end(why?.code ?? 1006, why?.reason));
    task.onError(fail);
    return socket;

    // Not every platform reports an end after an error, or the code of a close: the first sign of an end is the end.
    function end(code, reason = '') {
      if (stage === 'closed') return;
      stage = 'closed';
      // Later, since a failure may be told before `connectSocket` returned and anybody could listen.
      Promise.resolve().then(() => socket.onclose?.({code, reason}));
    }
    function fail(why) {
      end(1006, why?.errMsg);
      hangUp(); // else it may stay one of the five
    }
    function leave() {
      // A task that is still connecting cannot be closed everywhere: then `onOpen` does it.
      if (stage !== 'closed') hangUp();
      stage = 'closed';
    }
    function hangUp() {
      task?.close({code: 1000, success: ignore, fail: ignore});
    }
  };
}

/**
 * `wx.request` in the form of `fetch`, as far as `rest` needs it. The platform has no PATCH.
 * @param {Wx} wx
 * @returns {typeof fetch}
 */
export function requester(wx) {
  /** @param {string} url @param {any} asked */
  const request = (url, {method = 'GET', headers = {}, body, timeout}) => new Promise((resolve, reject) => {
    wx.request({
      url, method, header: headers, data: body, timeout,
      dataType: 'text', // anything but `json`: `rest` parses, and bears what is no JSON
      success: ({statusCode, data}) => resolve({
        status: statusCode, ok: statusCode >= 200 && statusCode < 300, text: async () => (typeof data === 'string' ? data : ''),
      }),
      fail: (why) => reject(new Error(why?.errMsg)),
    });
  });
  return /** @type {any} */ (request);
}

/**
 * Wakes `room` when the app is shown again and when the network changes, until the room is closed or the returned
 * function is called. In the background the platform stops all scripts, and ends sockets, after some seconds, and does
 * not always tell.
 * @param {Wx} wx
 * @param {import('./nearcast.js').Room} room
 * @returns {() => void}
 */
export function wakeWithApp(wx, room) {
  const shown = () => room.wake();
  const changed = ({isConnected}) => { if (isConnected) room.wake(); };
  wx.onAppShow?.(shown);
  wx.onNetworkStatusChange?.(changed);
  const stop = () => {
    wx.offAppShow?.(shown);
    wx.offNetworkStatusChange?.(changed);
  };
  room.on('state', ({state}) => { if (state === 'closed') stop(); });
  return stop;
}
