/** Comments that viewers reported: what was said, how many found what wrong with it, and the verdict. */

import {by, during, h} from './dom.js';
import {clock, count, day} from './format.js';
import {t} from './i18n.js';
import {all} from './login.js';
import {complain, toast} from './sheet.js';
import {steady} from './steady.js';

const SHOWN = 100;
const MUTE_DAYS = 7;

export class Reports {
  #session;
  #state = 'open';

  /** @param {import('./login.js').Session} session */
  constructor(session) {
    this.#session = session;
    for (const [id, state] of [['casesOpen', 'open'], ['casesDone', 'resolved']]) by(id).addEventListener('click', () => this.#choose(state));
  }

  async refresh() {
    const asked = this.#state;
    const [open, shown] = await Promise.all(['open', ...(asked === 'open' ? [] : [asked])].map(
      (state) => all(this.#session.call, `/v1/ops/reports?state=${state}&limit=${SHOWN}`, SHOWN)));
    by('openCases').hidden = !open.length;
    by('openCases').textContent = open.length < SHOWN ? open.length : `${SHOWN}+`;
    if (asked === this.#state) this.#draw(shown ?? open);
  }

  #choose(state) {
    this.#state = state;
    by('casesOpen').setAttribute('aria-checked', String(state === 'open'));
    by('casesDone').setAttribute('aria-checked', String(state !== 'open'));
    this.refresh().catch(complain);
  }

  #draw(cases) {
    steady(by('cases'), [this.#state, cases], () => cases.length ? cases.map((one) => this.#row(one))
      : [h('li', {class: 'empty', t: this.#state === 'open' ? 'noReports' : 'noDecided'})]);
  }

  #row({comment, room_title: room, reports, reasons, last_at: last, verdict}) {
    const {author} = comment;
    return h('li', {class: 'case', 'data-comment': comment.id},
      h('p', {class: 'words'}, comment.text),
      h('p', {class: 'small dim'}, [author.name, room, `${day(last)} ${clock(last)}`].join(' · ')),
      h('p', {class: 'why'}, h('b', {class: 'small', t: ['nReports', {n: count(reports)}]}),
        ...Object.entries(reasons).sort((a, b) => b[1] - a[1]).map(([reason, n]) => h('span', {class: 'badge gold', t: ['reasonN', {reason: t(`reason_${reason}`), n}]}))),
      verdict ? h('span', {class: `badge ${verdict === 'keep' ? 'yes' : ''}`, t: `verdict_${verdict}`}) : h('div', {class: 'row decide'},
        this.#verdict(comment.id, 'delete', 'takeItDown', 'no'), this.#verdict(comment.id, 'keep', 'keepIt', ''),
        comment.role === 'viewer' && h('button', {class: 'button quiet', type: 'button', 'data-author': author.id, t: ['muteAuthor', {n: MUTE_DAYS}],
          onclick: ({currentTarget: button}) => this.#act(button, '/v1/ops/mutes', {viewer: author.id, seconds: MUTE_DAYS * 86_400}, 'mutedDone')})));
  }

  #verdict(id, verdict, words, look) {
    return h('button', {class: `button ${look}`, type: 'button', 'data-verdict': verdict, t: words,
      onclick: ({currentTarget: button}) => this.#act(button, `/v1/ops/reports/${id}/resolve`, {verdict}, `verdict_${verdict}`)});
  }

  #act(button, path, body, done) {
    return during(button, async () => {
      await this.#session.call('POST', path, {body});
      toast(t(done), 'yes');
      await this.refresh();
    }).catch(complain);
  }
}
