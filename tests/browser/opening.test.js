// Whose turn it is in a drop, and whether its announcement is the server's: as tests/coupons/test_openings.py has it.

import {isOurs, turnOf} from '../../web/client/opening.js';
import {equal, ok, test} from './check.js';

const VIEWER = '019c2f6e-1a2b-7c3d-8e4f-000000000003';
const KEY = '6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw=';
const DROP = /** @type {any} */ ({
  id: '019c2f6e-1a2b-7c3d-8e4f-000000000007', opens_at: 1781784060000, ends_at: 1781784360000, spread: 500,
  signature: 'Y/+kbU8xewxGKz/MlVwW8/0d8ndhcTcPVJbthXX7PLxwBXVqFciPO7857wuFJSNL61Y0OEMNKkcDrTgRfr25DA==',
});

test('a viewer computes the turn that the server computes', () => {
  equal(turnOf(DROP.id, VIEWER, 500), 387);
  equal(turnOf(DROP.id, VIEWER), 0);
});

test('an announcement that was changed on the way is found out', async () => {
  const ours = await isOurs(DROP, KEY);
  if (ours === null) return; // knows no Ed25519: it says so, and trusts what it was told
  ok(ours, 'the server said so');
  for (const forged of [{opens_at: DROP.opens_at - 1000}, {ends_at: DROP.ends_at + 1}, {spread: 0}, {id: VIEWER}]) {
    equal(await isOurs({...DROP, ...forged}, KEY), false);
  }
});

test('what is not signed cannot be told', async () => {
  equal(await isOurs({...DROP, signature: undefined}, KEY), null);
});
