/** Amounts, distances, times and counts as people write them. Fen, metres, milliseconds in; text out. */

import {language, t} from './i18n.js';

const DAY_MS = 86_400_000;
const locale = () => (language === 'zh' ? 'zh-CN' : 'en-GB');

/** @param {number} fen  → ¥128, ¥128.50 */
export function yuan(fen) {
  const whole = fen % 100 === 0;
  return `¥${(fen / 100).toLocaleString('en-US', {minimumFractionDigits: whole ? 0 : 2, maximumFractionDigits: 2})}`;
}

/** @param {number} n  → 9,999, then 1.2万 / 12K */
export function count(n) {
  if (n < 10_000) return n.toLocaleString('en-US');
  if (language === 'zh') return `${trim(n / 10_000)}万`;
  return n < 1_000_000 ? `${trim(n / 1_000)}K` : `${trim(n / 1_000_000)}M`;
}

const trim = (x) => x.toFixed(x < 100 ? 1 : 0).replace(/\.0$/, '');

/** @param {number} m  metres → 850 m, 2.4 km */
export function distance(m) {
  return m < 1000 ? t('metres', {n: Math.round(m)}) : t('kilometres', {n: (m / 1000).toFixed(1).replace(/\.0$/, '')});
}

/** @param {number|string} at  ms or ISO → 19:05 */
export function clock(at) {
  return new Date(at).toLocaleTimeString(locale(), {hour: '2-digit', minute: '2-digit', hour12: false});
}

/** @param {number|string} at  ms or ISO → 11月29日 / 29 Nov */
export function day(at) {
  return new Date(at).toLocaleDateString(locale(), {month: 'short', day: 'numeric'});
}

/** @param {number} ms  a length of time, never below zero → 04:09, 1:02:33 */
export function countdown(ms) {
  const seconds = Math.max(0, Math.ceil(ms / 1000));
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  const [hours, ...rest] = parts.map((part) => String(part).padStart(2, '0'));
  return hours === '00' ? rest.join(':') : `${parts[0]}:${rest.join(':')}`;
}

/** @param {number} ms  a length of time, days apart once there is one → 2 天 04:09:00 */
export function lasting(ms) {
  const days = Math.floor(Math.max(0, ms) / DAY_MS);
  return days ? t('daysAnd', {n: days, time: countdown(ms - days * DAY_MS)}) : countdown(ms);
}

/** @param {string} code  17 characters → ABCD EFGH JKMN PQRS T */
export function grouped(code) {
  return code.replace(/[\s-]/g, '').replace(/(.{4})(?=.)/g, '$1 ');
}

/** @param {number} part @param {number} whole  → 37 % */
export function percent(part, whole) {
  return whole > 0 ? `${Math.round((100 * part) / whole)}%` : '–';
}

/**
 * What a coupon is worth, taken from its title for the ticket's stub: "满100减20" → ¥20, "8折" → 8折, "20% off" → 20%.
 * @param {string} title
 * @returns {{value: string, unit: 'yuan'|'fold'|'percent'}|null}
 */
export function worth(title) {
  const off = /(?:减|立减|券面|[¥￥])\s*(\d+(?:\.\d+)?)(?!.*减)/.exec(title) ?? /(\d+(?:\.\d+)?)\s*元/.exec(title);
  const fold = /(\d(?:\.\d)?)\s*折/.exec(title);
  const cut = /(\d{1,2})\s*%/.exec(title);
  if (fold) return {value: fold[1], unit: 'fold'};
  if (cut) return {value: cut[1], unit: 'percent'};
  return off ? {value: off[1], unit: 'yuan'} : null;
}
