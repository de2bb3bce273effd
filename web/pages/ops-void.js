/** Withdrawing a coupon by its code: one that should not have been given, or whose code got around. */

import {by, during} from './dom.js';
import {t} from './i18n.js';
import {askTwice, complain, toast} from './sheet.js';

/** @param {import('./login.js').Session} session */
export function offerVoid(session) {
  const typed = by('voidCode');
  by('voidForm').addEventListener('submit', (event) => event.preventDefault());
  askTwice(by('voidNow'), 'voidSure', () => during(by('voidNow'), async () => {
    const {title} = await session.call('POST', '/v1/ops/coupons/void', {body: {code: typed.value.trim()}});
    toast(t('voidDone', {title}), 'yes');
    typed.value = '';
  }).catch(complain));
}
