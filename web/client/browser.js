/** What only a browser knows: that its network came back, and that somebody looks at the page again. */

/**
 * Wakes `room` with the page, until the room is closed or the returned function is called.
 * @param {import('./nearcast.js').Room} room
 * @returns {() => void}
 */
export function wakeWithPage(room) {
  const wake = () => document.hidden || room.wake();
  // From Wi-Fi to mobile there may be no moment without a network, and so no `online`.
  const {connection} = /** @type {{connection?: EventTarget}} */ (navigator);
  /** @type {[EventTarget|undefined, string][]} */
  const places = [[globalThis, 'online'], [globalThis, 'pageshow'], [document, 'visibilitychange'], [connection, 'change']];
  for (const [place, type] of places) place?.addEventListener(type, wake);
  const stop = () => {
    for (const [place, type] of places) place?.removeEventListener(type, wake);
  };
  room.on('state', ({state}) => { if (state === 'closed') stop(); });
  return stop;
}
