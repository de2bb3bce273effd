/** Pictures of figures: drawn as SVG by hand, coloured by the page's style, said in words to those who cannot see them. */

import {s} from './dom.js';
import {count, percent} from './format.js';
import {t} from './i18n.js';

export const STEPS = ['in_room', 'in_range', 'offered', 'issued', 'redeemed'];
const WIDTH = 60;
const HIGH = 46;

/**
 * From step to step as a band that narrows: its height at each step is that step's share of the first one.
 * @param {Record<string, number>} row  counts per step
 */
export function funnelPicture(row) {
  const most = Math.max(1, ...STEPS.map((step) => row[step]));
  const half = (step) => Math.max(.75, (HIGH / 2) * (row[step] / most));
  const middle = 4 + HIGH / 2;
  const parts = STEPS.flatMap((step, place) => {
    const x = place * WIDTH;
    const now = half(step);
    const next = place + 1 < STEPS.length ? half(STEPS[place + 1]) : null;
    const bridge = next === null ? [] : [s('path', {class: 'bridge', d: `M${x + 40} ${middle - now}L${x + WIDTH} ${middle - next}V${middle + next}L${x + 40} ${middle + now}Z`})];
    return [s('rect', {class: `step s${place}`, 'data-figure': step, x, y: middle - now, width: 40, height: 2 * now, rx: Math.min(3, now)}), ...bridge,
      s('text', {class: 'figure', x: x + 20, y: HIGH + 20, 'text-anchor': 'middle'}, count(row[step])),
      s('text', {class: 'share', x: x + 20, y: HIGH + 33, 'text-anchor': 'middle'}, place ? percent(row[step], row[STEPS[place - 1]]) : '')];
  });
  const said = STEPS.map((step) => `${t(`step_${step}`)} ${count(row[step])}`).join(', ');
  return s('svg', {class: 'pipe', viewBox: `-2 0 ${WIDTH * STEPS.length - 16} ${HIGH + 38}`, role: 'img', 'aria-label': said}, ...parts);
}

/** The names over the pictures' steps, in the same columns. */
export function stepNames() {
  return s('svg', {class: 'pipe names', viewBox: `-2 0 ${WIDTH * STEPS.length - 16} 14`, 'aria-hidden': 'true'},
    ...STEPS.map((step, place) => s('text', {x: place * WIDTH + 20, y: 11, 'text-anchor': 'middle'}, t(`step_${step}`))));
}

/** Points to each side of zero that hold every interval of `lifts`, to a round number. */
export function reach(lifts) {
  const most = Math.max(5, ...lifts.flatMap((lift) => [Math.abs(lift.low_points), Math.abs(lift.high_points)]));
  return [5, 10, 20, 30, 50, 75, 100].find((round) => round >= most) ?? 100;
}

/**
 * A dot with its interval as a whisker, on an axis that all rows share; zero, where coupons change nothing, is dashed.
 * @param {{lift_points: number, low_points: number, high_points: number}} lift
 */
export function liftPicture(lift, most) {
  const x = (points) => 100 + (92 * Math.max(-most, Math.min(most, points))) / most;
  const [low, dot, high] = [lift.low_points, lift.lift_points, lift.high_points].map(x);
  const sure = lift.low_points > 0 ? 'more' : lift.high_points < 0 ? 'less' : 'open';
  return s('svg', {class: `whisker ${sure}`, viewBox: '0 0 200 24', role: 'img', 'aria-label': liftSaid(lift)},
    s('line', {class: 'zero', x1: 100, x2: 100, y1: 1, y2: 23}),
    s('path', {class: 'reach', d: `M${low} 12H${high}M${low} 7V17M${high} 7V17`}),
    s('circle', {class: 'dot', cx: dot, cy: 12, r: 4.5}));
}

/** @param {number} points */
export const signed = (points) => `${points > 0 ? '+' : points < 0 ? '−' : ''}${Math.abs(points).toFixed(1)}`;

export function liftSaid(lift) {
  return t('liftSaid', {points: signed(lift.lift_points), low: signed(lift.low_points), high: signed(lift.high_points)});
}
