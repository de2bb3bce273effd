// The pages' parts that need no server: REST helper, words, formats, map, the clerk's attempt.

import {newId, Refused, rest} from '/client/nearcast.js';
import {Attempt} from '/pages/attempt.js';
import {h} from '/pages/dom.js';
import {count, countdown, distance, grouped, lasting, worth, yuan} from '/pages/format.js';
import {Release} from '/pages/guide-drop.js';
import {honestLine} from '/pages/guide-health.js';
import {refusal, say, speak, t} from '/pages/i18n.js';
import {facts} from '/pages/ops-eyes.js';
import {gather, project, unproject} from '/pages/ops-map.js';
import {badgeOf, filled, fromRest} from '/pages/room-card.js';
import {steady} from '/pages/steady.js';
import {REFUSALS, WORDS} from '/pages/words.js';
import {equal, failure, ok, test} from './check.js';

/** A fetch that answers with these, one after the other, and remembers what it was asked. */
function answering(...answers) {
  const asked = [];
  const fetch = async (url, options) => {
    asked.push({url, ...options});
    const answer = answers.shift();
    if (answer instanceof Error) throw answer;
    return new Response(answer.body === undefined ? null : JSON.stringify(answer.body), {status: answer.status ?? 200});
  };
  return {fetch, asked};
}

test('rest sends token, key and JSON, and gives the parsed answer', async () => {
  const {fetch, asked} = answering({body: {id: 1}}, {status: 204});
  const call = rest({fetch, token: () => 'jwt', base: 'http://api'});
  equal(await call('POST', '/v1/visits', {body: {qr: 'x'}, key: 'k1'}), {id: 1});
  equal([asked[0].url, asked[0].method, asked[0].body], ['http://api/v1/visits', 'POST', '{"qr":"x"}']);
  equal([asked[0].headers.Authorization, asked[0].headers['Idempotency-Key']], ['Bearer jwt', 'k1']);
  equal(await call('DELETE', '/v1/me/consents/location'), null);
});

test('rest turns a problem into a Refused with its fields', async () => {
  const {fetch} = answering({status: 409, body: {type: 't', title: 'T', status: 409, detail: 'Used.', code: 'already_redeemed', redeemed_at: 'then', retry_after: 3}});
  const error = await failure(rest({fetch})('POST', '/x'));
  equal([error.code, error.status, error.message, error.retryAfter, error.fields.redeemed_at], ['already_redeemed', 409, 'Used.', 3, 'then']);
});

test('rest calls a dead network offline and a proxy page unavailable', async () => {
  equal((await failure(rest({fetch: answering(new TypeError('no route')).fetch})('GET', '/x'))).code, 'offline');
  const page = async () => new Response('<html>502</html>', {status: 502});
  equal((await failure(rest({fetch: page})('GET', '/x'))).code, 'unavailable');
});

test('ids are different', () => {
  equal(new Set(Array.from({length: 100}, newId)).size, 100);
});

test('a redemption keeps its key until an answer came', async () => {
  sessionStorage.clear();
  const keys = [];
  const replies = [new Refused('offline'), new Refused('unavailable'), {id: 'r'}, {id: 'r2'}];
  const call = async (method, path, {key}) => {
    keys.push(key);
    const reply = replies.shift();
    if (reply instanceof Error) throw reply;
    return reply;
  };
  const attempt = new Attempt({call});
  const what = {code: 'ABC', order_fen: 100};
  equal((await failure(attempt.redeem(what, {}))).code, 'offline');
  equal(new Attempt({call}).unfinished().what, what, 'a reloaded page knows it');
  await failure(new Attempt({call}).redeem(what, {}));
  await attempt.redeem(what, {});
  equal(keys.map((key) => key === keys[0]), [true, true, true]);
  equal(attempt.unfinished(), null);
  await attempt.redeem(what, {});
  ok(keys[3] !== keys[0], 'the next attempt has a key of its own');
});

test('a refusal ends an attempt', async () => {
  sessionStorage.clear();
  const attempt = new Attempt({call: async () => { throw new Refused('wrong_store'); }});
  await failure(attempt.redeem({code: 'A'}, {}));
  equal(attempt.unfinished(), null);
});

test('a changed amount is another attempt', async () => {
  sessionStorage.clear();
  const keys = [];
  const attempt = new Attempt({call: async (method, path, {key}) => { keys.push(key); throw new Refused('offline'); }});
  await failure(attempt.redeem({code: 'A', order_fen: 100}, {}));
  await failure(attempt.redeem({code: 'A', order_fen: 200}, {}));
  ok(keys[0] !== keys[1], 'different keys');
});

test('a drop without an answer that is wished again keeps its id', async () => {
  const said = [];
  const replies = [new Refused('no_answer'), new Refused('no_answer'), {ok: true}, {ok: true}, new Refused('no_answer'), {ok: true}, new Refused('sold_out'), {ok: true}];
  const release = new Release({drop: async (drop) => {
    said.push(drop);
    const reply = replies.shift();
    if (reply instanceof Error) throw reply;
    return reply;
  }});
  const drop = {campaign: 'c', mode: 'push', seconds: 60};
  equal((await failure(release.drop(drop))).code, 'no_answer');
  await failure(release.drop(drop));
  await release.drop(drop);
  equal(said.map(({id, ...rest}) => [id === said[0].id, rest]), [[true, drop], [true, drop], [true, drop]]);
  await release.drop(drop);
  ok(said[3].id !== said[0].id, 'after an answer it is another drop');
  await failure(release.drop(drop));
  await release.drop({...drop, seconds: 180});
  ok(said[5].id !== said[4].id, 'another wish is another drop');
  await failure(release.drop(drop));
  await release.drop(drop);
  ok(said[7].id !== said[6].id, 'a refusal is an answer');
});

test('amounts, counts, distances, times', () => {
  speak('zh');
  equal([yuan(0), yuan(12800), yuan(12850), yuan(5), yuan(123456700)], ['¥0', '¥128', '¥128.50', '¥0.05', '¥1,234,567']);
  equal([count(0), count(9999), count(10000), count(128734), count(1280000)], ['0', '9,999', '1万', '12.9万', '128万']);
  equal([distance(298.6), distance(1000), distance(2449)], ['299 米', '1 公里', '2.4 公里']);
  equal([countdown(-5), countdown(900), countdown(61_000), countdown(3_723_000)], ['00:00', '00:01', '01:01', '1:02:03']);
  speak('en');
  equal([count(128734), count(1280000), distance(2449)], ['129K', '1.3M', '2.4 km']);
  speak('zh');
});

test('a wait of days tells the days apart', () => {
  equal([lasting(-1), lasting(59_000), lasting(86_399_000), lasting(2 * 86_400_000 + 61_000)], ['00:00', '00:59', '23:59:59', '2 天 01:01']);
});

test('what a card leaves out is over, whatever stood there before', () => {
  const before = {...filled({id: 'r', state: 'live', paused_at: 5, slow_seconds: 10, hushed: true, allow: ['v']})};
  const after = {...before, ...filled({id: 'r', state: 'live'})};
  equal([after.paused_at, after.slow_seconds, after.hushed, after.allow], [null, 0, false, []]);
  const found = fromRest({id: 'r', title: 'T', state: 'scheduled', guide: {}, store: {name: 'S'}, slow_seconds: 0, scheduled_at: '2026-06-18T12:00:00Z', live_at: null});
  equal([found.store, found.scheduled_at, found.live_at], ['S', 1781784000000, null]);
  equal([badgeOf({state: 'live'}).key, badgeOf({state: 'live', paused_at: 5}).key, badgeOf({state: 'ended', paused_at: null}).key], ['live', 'paused', 'ended']);
});

test('a list that says nothing new is left standing', () => {
  const place = h('ul');
  const draw = (data) => steady(place, data, () => data.map((text) => h('li', {}, text)));
  draw(['a']);
  const first = place.firstChild;
  draw(['a']);
  ok(place.firstChild === first, 'the same element');
  draw(['b']);
  equal(place.textContent, 'b');
});

test('codes are grouped as people read them out', () => {
  equal(grouped('ABCD-EFGH-JKMN-PQRS-*'), 'ABCD EFGH JKMN PQRS *');
  equal(grouped('ABCDEFGHJKMNPQRS7'), 'ABCD EFGH JKMN PQRS 7');
});

test('a ticket shows what a coupon is worth', () => {
  equal(worth('满 100 减 20'), {value: '20', unit: 'yuan'});
  equal(worth('新品尝鲜 满30减8'), {value: '8', unit: 'yuan'});
  equal(worth('全场 8.5 折'), {value: '8.5', unit: 'fold'});
  equal(worth('20% off'), {value: '20', unit: 'percent'});
  equal(worth('5 元代金券'), {value: '5', unit: 'yuan'});
  equal(worth('桂花冷萃一杯'), null);
});

test('every word is there in both languages, with the same blanks', () => {
  const blanks = (text) => [...new Set(text.match(/\{\w+\}/g) ?? [])].sort();
  for (const [key, entry] of [...Object.entries(WORDS), ...Object.entries(REFUSALS)]) {
    equal(entry.length, 2, key);
    ok(entry.every((text) => typeof text === 'string' && text.trim()), `${key} says something`);
    if (!['termsPercent'].includes(key)) equal(blanks(entry[0]), blanks(entry[1]), key);
  }
});

test('a switch of language re-says what stands on the page', () => {
  speak('zh');
  const line = h('p', {t: ['nWatching', {n: 7}], label: 'close'});
  document.body.append(line);
  equal([line.textContent, line.getAttribute('aria-label')], ['7 人在看', '关闭']);
  speak('en');
  equal([line.textContent, line.getAttribute('aria-label'), document.documentElement.lang], ['7 watching', 'Close', 'en']);
  equal(refusal({code: 'sold_out'}), REFUSALS.sold_out[1]);
  say(line, 'close');
  equal(line.textContent, 'Close');
  speak('zh');
  line.remove();
  equal(t('close'), '关闭');
});

test('an unknown refusal still gets a sentence', () => {
  equal(refusal({code: 'never_heard_of'}), REFUSALS.unavailable[0]);
  equal(refusal(new TypeError('x')), REFUSALS.unavailable[0]);
});

test('text of users stays text', () => {
  const line = h('p', {}, '<img src=x onerror="window.hacked = 1">');
  equal(line.children.length, 0);
  ok(line.textContent.startsWith('<img'), 'as written');
});

test('the map goes there and back', () => {
  for (const [lng, lat] of [[121.47, 31.23], [-70, -33], [0, 0], [113.9, 22.5]]) {
    const [x, y] = unproject(...project(lng, lat));
    ok(Math.abs(x - lng) < 1e-9 && Math.abs(y - lat) < 1e-9, `${lng}, ${lat}`);
  }
  ok(project(0, 60)[1] < project(0, 30)[1], 'north is up');
});

test('stores that would overlap are gathered, none is lost', () => {
  const point = (x, y) => ({x, y, store: {issued: 2, redeemed: 1}});
  const groups = gather([point(10, 10), point(12, 12), point(47, 11), point(300, 300)]);
  equal(groups.map(({members}) => members.length), [3, 1]);
  equal([groups[0].issued, groups[0].redeemed], [6, 3]);
  equal(gather([]), []);
});

test('a funnel narrows as its figures do, and a whisker lies where its interval does', async () => {
  const {funnelPicture, liftPicture, reach, signed} = await import('/pages/figures.js');
  const row = {in_room: 800, in_range: 400, offered: 300, issued: 200, redeemed: 0};
  const picture = funnelPicture(row);
  const high = ['in_room', 'in_range', 'offered', 'issued', 'redeemed'].map((step) => Number(picture.querySelector(`[data-figure=${step}]`).getAttribute('height')));
  equal(high.every((one, place) => place === 0 || one < high[place - 1]), true);
  equal(Math.abs(high[0] / high[1] - 2) < 1e-9, true);
  equal(high[4] > 0, true); // nothing is still a line
  equal([...picture.querySelectorAll('.figure')].map((one) => one.textContent), ['800', '400', '300', '200', '0']);
  equal(picture.getAttribute('aria-label').includes('800'), true);
  const sure = {lift_points: 8, low_points: 2, high_points: 14};
  equal([reach([sure]), reach([]), reach([{lift_points: 0, low_points: -100, high_points: 100}])], [20, 5, 100]);
  equal([2, 0, -3.25].map(signed), ['+2.0', '0.0', '−3.3']);
  for (const [lift, look] of [[sure, 'more'], [{...sure, low_points: -2}, 'open'], [{lift_points: -8, low_points: -14, high_points: -2}, 'less']]) {
    const drawn = liftPicture(lift, 20);
    equal(drawn.getAttribute('class'), `whisker ${look}`);
    equal(Number(drawn.querySelector('.dot').getAttribute('cx')), 100 + (92 * lift.lift_points) / 20);
  }
});

test('the guide is told how late, how much and whether all is well, and never more than is known', () => {
  const well = {state: 'well', delay_ms: 312, reasons: []};
  speak('zh');
  equal(honestLine(well, {shown: 30, total: 210}), '观众晚约 0.3 秒看到 · 已展示 30/210 条评论 · 一切正常');
  equal(honestLine({...well, delay_ms: 12}, null), '观众几乎同时看到 · 一切正常');
  equal(honestLine({...well, delay_ms: null}, null), '一切正常');
  equal(honestLine(null, null), '暂时看不到后台状态');
  equal(honestLine({state: 'unwell', delay_ms: 1400, reasons: ['bus_lost', 'delay', 'slow_viewers']}, null),
    '观众晚约 1.4 秒看到 · 消息通道断了，观众暂时看不到新内容 · 送达变慢');
  for (const reason of ['gateway_silent', 'bus_lost', 'delay', 'slow_viewers', 'draining', 'outbox_stuck', 'stream_lost']) ok(t(`honest_${reason}`));
});

test('the eyes of operations turn red at the limits, and rates are what was added in between', () => {
  const limits = {delay_ms: 250, outbox_seconds: 10, slow_closes_per_second: 1, claims_turned_away: .05, resumes_missed: .2, bus_gaps: 5, silent_seconds: 5};
  const gateway = {id: 'a', at: '2026-11-22T20:00:10Z', ready: true, bus_healthy: true, viewers: 90, joins: 100, shed: 0, slow_closes: 0, bus_gaps: 0,
    delay_ms_p95: 12, latest_ms_p95: 251, lossy_ms_p95: 20, bus_ms_p95: 2, loop_lag_ms: 1, write_buffer_bytes: 0, resumes: {recovered: 10}, claims: {ok: 10}};
  const then = {at: '2026-11-22T20:00:00Z', outbox: {waiting: 0, oldest_seconds: 0}, limits, gateways: [{...gateway, at: '2026-11-22T20:00:00Z'}]};
  const beyond = (one, outbox = then.outbox) => facts({...then, at: '2026-11-22T20:00:10Z', outbox, gateways: [{...gateway, ...one}]}, then, then).filter((fact) => fact.beyond).map((fact) => fact.name);
  equal(beyond({}), []);
  equal(beyond({delay_ms_p95: 251, bus_ms_p95: 300, loop_lag_ms: 251}), ['certain', 'bus', 'loop']);
  equal(beyond({slow_closes: 20, bus_gaps: 6}), ['gaps', 'slow']);
  equal(beyond({claims: {ok: 20, busy: 10}, resumes: {recovered: 12, fresh: 8}}), ['resumes', 'claims']);
  equal(beyond({claims: {ok: 20, sold_out: 1000}}), []);
  equal(beyond({ready: false}), ['gateways']);
  equal(beyond({at: '2026-11-22T20:00:03Z'}), ['gateways']);
  equal(beyond({}, {waiting: 3, oldest_seconds: 12}), ['outbox']);
  const joins = facts({...then, at: '2026-11-22T20:00:10Z', gateways: [{...gateway, joins: 150}, {...gateway, id: 'new', joins: 9000}]}, then, then).find((fact) => fact.name === 'joins');
  equal(joins.value, '5.0/秒');
  ok(facts({...then, gateways: []}, null, then).find((fact) => fact.name === 'gateways').beyond);
});
