/** One form for a room, whether REST described it or the socket did: times in ms, nothing left out. */

/** What the wire leaves out means these. A card that lacks a field must not leave the former value standing. */
const USUAL = {store: null, scheduled_at: null, live_at: null, paused_at: null, ended_at: null, slow_seconds: 0, hushed: false, allow: []};
const BADGES = {live: 'live', scheduled: 'soon', ended: 'ended'};

/**
 * @typedef {{id: string, title: string, state: 'scheduled'|'live'|'ended', guide: {id: string, name: string}, store: string|null,
 *   scheduled_at: number|null, live_at: number|null, paused_at: number|null, ended_at: number|null, slow_seconds: number,
 *   hushed: boolean, allow: string[]}} RoomCard
 */

/** @param {Partial<RoomCard>} card  as the socket gives it @returns {RoomCard} */
export const filled = (card) => ({...USUAL, ...card});

/** @param {any} found  a room as REST gives it: ISO times, the store as an object @returns {RoomCard} */
export function fromRest(found) {
  const times = Object.fromEntries(['scheduled_at', 'live_at', 'paused_at', 'ended_at'].map(
    (name) => [name, found[name] ? Date.parse(found[name]) : null]));
  const {id, title, state, guide, slow_seconds: slow} = found;
  return filled({id, title, state, guide, slow_seconds: slow, store: found.store?.name ?? null, ...times});
}

/** The words and the colour of a room's badge. @param {{state: string, paused_at?: any}} room @returns {{key: string, look: string}} */
export function badgeOf({state, paused_at: paused}) {
  if (state === 'live' && paused) return {key: 'paused', look: 'badge gold'};
  return {key: BADGES[state], look: state === 'live' ? 'badge live' : 'badge'};
}
