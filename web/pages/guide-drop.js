/** Releasing coupons: what, how, how many; who would get one, and why the others not; then go. */

import {newId} from '/client/nearcast.js';
import {during, h, icon} from './dom.js';
import {clock, count, yuan} from './format.js';
import {refusal, say, t} from './i18n.js';
import {all} from './login.js';
import {complain, openSheet, toast} from './sheet.js';

const SECONDS = [60, 180, 300, 600];

/** What an open sheet releases: a drop that got no answer and is wished again keeps its id, and is one drop. */
export class Release {
  #room;
  /** @type {{wish: string, id: string}|null} */
  #unanswered = null;

  /** @param {Pick<import('/client/nearcast.js').Room, 'drop'>} room */
  constructor(room) {
    this.#room = room;
  }

  /** @param {Parameters<import('/client/nearcast.js').Room['drop']>[0]} drop */
  async drop(drop) {
    const wish = JSON.stringify(drop);
    const id = this.#unanswered?.wish === wish ? this.#unanswered.id : newId();
    this.#unanswered = {wish, id};
    try {
      const done = await this.#room.drop({...drop, id});
      this.#unanswered = null;
      return done;
    } catch (error) {
      if (error.code !== 'no_answer') this.#unanswered = null;
      throw error;
    }
  }
}

/** @param {import('./login.js').Session} session @param {import('/client/nearcast.js').Room} room @param {string} id */
export async function openDropSheet(session, room, id) {
  const release = new Release(room);
  const wish = {campaign: null, mode: 'push', seconds: 300, stock: null, delay: 0};
  const campaigns = h('div', {class: 'options across', tabindex: -1, role: 'radiogroup', label: 'campaign'}, h('div', {class: 'empty'}, h('span', {class: 'spinner'})));
  const preview = h('section', {class: 'preview', 'aria-live': 'polite', hidden: true});
  const stock = h('input', {class: 'input', id: 'dropStock', type: 'number', inputmode: 'numeric', min: 1, placeholder: 'allLeft'});
  const modes = choice('mode', 'mode', [['push', 'modePush'], ['claim', 'modeClaim']], wish.mode, (mode) => {
    wish.mode = mode;
    say(hint, mode === 'push' ? 'modePushHint' : 'modeClaimHint');
    delays.hidden = mode === 'push';
  });
  const hint = h('p', {class: 'small dim', t: 'modePushHint'});
  const lengths = choice('seconds', 'openFor', SECONDS.map((n) => [n, ['nMinutes', {n: n / 60}]]), wish.seconds, (n) => { wish.seconds = n; });
  const delays = h('div', {class: 'field', hidden: true}, h('span', {class: 'label', t: 'delay'}),
    choice('delay', 'delay', [[0, 'atOnce'], [5, ['nSeconds', {n: 5}]], [10, ['nSeconds', {n: 10}]], [30, ['nSeconds', {n: 30}]]], 0, (n) => { wish.delay = n; }));
  const go = h('button', {class: 'button main wide tall', type: 'button', id: 'dropGo', disabled: true, t: 'release', onclick: () => during(go, async () => {
    const {campaign, mode, seconds, delay} = wish;
    await release.drop({campaign, mode, seconds, ...(stock.value && {stock: Number(stock.value)}), ...(mode === 'claim' && delay && {delay})});
    sheet.close();
    toast(t('released'), 'yes');
  }).catch(complain)});
  const sheet = openSheet({title: 'dropCoupons', class: 'dropSheet', content: [
    campaigns, h('div', {class: 'field'}, h('span', {class: 'label', t: 'mode'}), modes, hint),
    h('div', {class: 'field'}, h('span', {class: 'label', t: 'openFor'}), lengths), delays,
    h('div', {class: 'field'}, h('label', {for: 'dropStock', t: 'howMany'}), stock), preview], footer: go});

  const pick = async (campaign) => {
    wish.campaign = campaign.id;
    for (const option of campaigns.children) option.setAttribute('aria-checked', String(option.dataset.campaign === campaign.id));
    stock.max = campaign.stock - campaign.issued;
    go.disabled = false;
    preview.hidden = false;
    preview.replaceChildren(h('span', {class: 'spinner'}));
    try {
      const seen = await session.call('POST', `/v1/rooms/${id}/drops/preview`, {body: {campaign: campaign.id}});
      if (wish.campaign === campaign.id) preview.replaceChildren(...reach(seen));
    } catch (error) {
      preview.replaceChildren(h('p', {}, refusal(error)));
    }
  };
  try {
    const found = (await all(session.call, '/v1/campaigns', 100)).filter(({state}) => state === 'running');
    campaigns.replaceChildren(...found.map((campaign) => h('button', {class: 'option', type: 'button', role: 'radio', 'aria-checked': 'false', 'data-campaign': campaign.id, onclick: () => pick(campaign)},
      h('b', {}, campaign.title), h('span', {class: 'badge gold', t: ['nLeft', {n: count(campaign.stock - campaign.issued)}]}), h('span', {class: 'small dim'}, terms(campaign)))));
    if (!found.length) campaigns.append(h('div', {class: 'empty', t: 'noCampaigns'}));
    else await pick(found[0]);
  } catch (error) {
    campaigns.replaceChildren(h('div', {class: 'empty', role: 'alert'}, refusal(error)));
  }
}

function terms({kind, amount_fen: amount, threshold_fen: threshold, percent_off: off, gift, radius_m: radius, min_tier: tier}) {
  const what = {
    amount: () => t('termsAmount', {amount: yuan(amount), threshold: yuan(threshold)}),
    percent: () => t('termsPercent', {off, fold: (100 - off) / 10, cap: amount ? yuan(amount) : '–'}),
    gift: () => t('termsGift', {gift}),
  }[kind]();
  return [what, t('within', {km: radius / 1000}), tier > 0 && t('tierFrom', {tier})].filter(Boolean).join(' · ');
}

/** "268 in range, 231 would get one", the reasons of the others, and the nearest stores. */
function reach({located, in_range: inRange, eligible, reasons, stores, held_until: heldUntil}) {
  const why = Object.entries(reasons).filter(([, n]) => n > 0).sort((a, b) => b[1] - a[1]);
  return [
    h('p', {class: 'big'}, h('b', {id: 'eligible', class: 'num'}, count(eligible)), h('span', {t: 'wouldGet'})),
    heldUntil && h('p', {class: 'small', id: 'heldUntil', t: ['heldUntil', {time: clock(heldUntil)}]}),
    h('p', {class: 'small', id: 'inRange', t: ['reach', {inRange: count(inRange), located: count(located)}]}),
    why.length > 0 && h('p', {class: 'small', t: 'others'}),
    why.length > 0 && h('ul', {}, ...why.map(([code, n]) => h('li', {}, h('span', {}, refusal({code})), h('b', {class: 'num'}, count(n))))),
    stores.length > 0 && h('ul', {style: 'border-top: 1px solid rgb(23 76 64 / 18%); padding-top: .75rem'}, ...stores.slice(0, 5).map((store) => h('li', {}, h('span', {class: 'row', style: 'gap: .375rem'}, icon('shop'), store.name), h('b', {class: 'num'}, count(store.viewers))))),
  ].filter(Boolean);
}

/** Chips of which one is chosen. @param {string} name  of the data attribute @param {string} label  key of the words */
function choice(name, label, options, first, pick) {
  const chips = options.map(([value, key]) => h('button', {class: 'chip', type: 'button', role: 'radio', 'aria-checked': String(value === first), [`data-${name}`]: value, t: key, onclick: () => {
    for (const chip of chips) chip.setAttribute('aria-checked', String(chip.dataset[name] === String(value)));
    pick(value);
  }}));
  return h('div', {class: 'chips', role: 'radiogroup', label}, ...chips);
}
