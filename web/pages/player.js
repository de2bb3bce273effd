/**
 * The stream's picture, where a media server has one and this browser plays it by itself; else the drawn scene stays.
 * Played by the browser's own HLS (Safari, Chromium, WeChat): no library, so what cannot play it shows the drawing.
 */

import {h} from './dom.js';

const HLS = 'application/vnd.apple.mpegurl';
const SOONEST_MS = 1000;
const LATEST_MS = 30_000;
/** A picture that stands still for so long is asked for anew. */
const PATIENCE_MS = 10_000;

/**
 * Show the room's stream on `stage` whenever the room is live and not paused.
 * @param {HTMLElement} stage  holds the drawn scene; gets the class `playing` while there is a picture
 * @param {{hls?: string|null}|null|undefined} playback  as REST gave it
 * @param {import('/client/nearcast.js').Room} room
 */
export function play(stage, playback, room) {
  const video = h('video', {class: 'picture', playsinline: true, autoplay: true});
  video.muted = true; // the property: the attribute would come too late for a video made by a script
  if (!playback?.hls || !video.canPlayType(HLS)) return;
  const sound = h('button', {class: 'glass small sound', type: 'button', t: 'soundOn', hidden: true});
  stage.querySelector('.scene').after(video);
  stage.after(sound);
  let wanted = false;
  let delay = SOONEST_MS;
  let timer = 0;

  function follow({state, paused_at}) {
    const now = state === 'live' && !paused_at;
    if (now === wanted) return;
    wanted = now;
    delay = SOONEST_MS;
    if (wanted) begin();
    else rest();
  }

  function begin() {
    clearTimeout(timer);
    video.src = playback.hls;
    video.play().catch(() => {}); // what matters comes as an event
    timer = setTimeout(again, PATIENCE_MS);
  }

  function rest() {
    clearTimeout(timer);
    show(false);
    video.removeAttribute('src');
    video.load();
  }

  function again() {
    rest();
    if (!wanted) return;
    // The guide is about to begin, or has lost the network, and everybody in the room is waiting for the same file.
    timer = setTimeout(begin, delay * (.5 + Math.random()));
    delay = Math.min(LATEST_MS, delay * 2);
  }

  function show(on) {
    stage.classList.toggle('playing', on);
    sound.hidden = !on || !video.muted;
  }

  video.addEventListener('timeupdate', () => {
    if (!wanted || !video.currentTime) return;
    show(true);
    delay = SOONEST_MS;
    clearTimeout(timer);
    timer = setTimeout(again, PATIENCE_MS);
  });
  for (const event of ['error', 'ended']) video.addEventListener(event, () => wanted && video.hasAttribute('src') && again());
  sound.addEventListener('click', () => {
    video.muted = false;
    sound.hidden = true;
  });
  room.on('welcome', (snapshot) => follow(snapshot.room));
  room.on('room', (event) => follow(event.room));
}
