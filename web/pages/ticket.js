/** A coupon as a ticket. */

import {h} from './dom.js';
import {day, worth} from './format.js';
import {t} from './i18n.js';

/**
 * @param {{title: string, terms: string, store_name?: string, valid_until?: number, state?: string}} coupon
 * @param {{tag?: 'div'|'button', [attribute: string]: any}} [props]
 * @param {...Node} more  further lines
 */
export function ticket(coupon, {tag = 'div', ...props} = {}, ...more) {
  const spent = coupon.state && coupon.state !== 'issued';
  const value = worth(coupon.title);
  return h(tag, {...props, class: `ticket ${spent ? 'spent' : ''} ${props.class ?? ''}`},
    h('span', {class: 'stub'}, stub(value), h('span', {class: 'under', t: spent ? `coupon_${coupon.state}` : 'inStore'})),
    h('span', {class: 'told'}, h('b', {}, coupon.title),
      coupon.store_name && h('span', {}, coupon.store_name),
      coupon.terms && h('span', {}, coupon.terms),
      coupon.valid_until && h('span', {t: ['until', {day: day(coupon.valid_until)}]}), ...more));
}

function stub(value) {
  if (!value) return h('span', {class: 'value', t: 'gift'});
  if (value.unit === 'yuan') return h('span', {class: 'value'}, h('small', {}, '¥'), value.value);
  return h('span', {class: 'value'}, value.value, h('small', {}, value.unit === 'percent' ? '%' : t('fold')));
}
