/** The drawn stand-in for the stream, in each room's own colours. */

const WALL = ['#6d4632', '#8c5c40', '#4c2f22'];
const ROBE = ['#2f6b5d', '#1f4a42', '#285d51', '#2b6355'];
const DUSK = ['#27324f', '#79628a', '#e7a27a'];

/** Other rooms' colours, in the same order; the drawing's own are the first room's. */
const PALETTES = [
  {},
  {wall: ['#3f5a52', '#5d7d70', '#283b36'], robe: ['#a44a3a', '#79332a', '#93413a', '#9a463a'], dusk: ['#2c3a5c', '#5d7a9c', '#f0c08a']},
  {wall: ['#4a4763', '#6a6285', '#2e2b42'], robe: ['#c08a3e', '#8f6528', '#ab7a35', '#b58139'], dusk: ['#1d2747', '#4c5590', '#d79ab0']},
  {wall: ['#7c3f3a', '#a05a4c', '#502824'], robe: ['#3c4f7c', '#2a385b', '#35466d', '#394b76'], dusk: ['#3a2b52', '#9a5f78', '#f2b06c']},
];

let drawing = null;
const painted = new Map(); // palette → address: a list drawn anew must not flicker

/**
 * Show the scene of `room` in `image`.
 * @param {HTMLImageElement} image
 * @param {string} room  its id decides the colours
 */
export async function paint(image, room) {
  const palette = PALETTES[parseInt(room.replace(/\W/g, '').slice(-3), 16) % PALETTES.length];
  if (!painted.has(palette)) painted.set(palette, await coloured(palette));
  image.src = painted.get(palette);
}

async function coloured({wall = WALL, robe = ROBE, dusk = DUSK}) {
  drawing ??= fetch('/pages/scene.svg').then((answer) => answer.text());
  const text = [[WALL, wall], [ROBE, robe], [DUSK, dusk]].reduce(
    (svg, [from, to]) => from.reduce((done, colour, place) => done.replaceAll(colour, to[place]), svg), await drawing);
  return `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
}
