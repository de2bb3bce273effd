/** Joining a room from a page. */

import {wakeWithPage} from '/client/browser.js';
import {connect} from '/client/nearcast.js';

const LOOPBACK = ['127.0.0.1', 'localhost', '[::1]'];

/**
 * @param {import('./login.js').Session} session
 * @param {{id: string, sockets: string[]}} found  the room as REST gave it
 * @returns {import('/client/nearcast.js').Room}
 */
export function joinRoom(session, found) {
  let {sockets} = found;
  let proven = true;
  const joined = connect({
    room: found.id,
    token: session.token,
    // Gateways come and go, but a whole room that reconnects at once should not also ask REST at once: the list is
    // asked for again only after an attempt with it has failed.
    sockets: async () => {
      if (!proven) ({sockets} = await session.call('GET', `/v1/rooms/${found.id}`));
      proven = false;
      return sockets.map(reachable);
    },
  });
  joined.on('welcome', () => { proven = true; });
  wakeWithPage(joined);
  return joined;
}

/** A gateway that announces itself on loopback is, seen from a phone, on the host that served this page. */
function reachable(base) {
  const url = new URL(base);
  if (LOOPBACK.includes(url.hostname) && !LOOPBACK.includes(location.hostname)) url.hostname = location.hostname;
  return url.href.replace(/\/$/, '');
}
