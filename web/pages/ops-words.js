/** The brand's unwanted words: one a line. What is being typed is never overwritten by what the server says meanwhile. */

import {by, during} from './dom.js';
import {clock, count, day} from './format.js';
import {onLanguage, t} from './i18n.js';
import {askTwice, complain, toast} from './sheet.js';

export class Words {
  #session;
  #known = null;

  /** @param {import('./login.js').Session} session */
  constructor(session) {
    this.#session = session;
    by('words').addEventListener('input', () => this.#tell());
    by('wordsForm').addEventListener('submit', (event) => {
      event.preventDefault();
      void this.#save();
    });
    askTwice(by('wordsBack'), 'sure', () => this.#back());
    onLanguage(() => this.#tell());
  }

  async refresh() {
    const known = await this.#session.call('GET', '/v1/ops/words');
    if (!this.#changed) this.#take(known);
  }

  #lines() {
    return by('words').value.split('\n').map((word) => word.trim()).filter(Boolean);
  }

  get #changed() {
    return this.#known !== null && this.#lines().join('\n') !== this.#known.words.join('\n');
  }

  #take(known) {
    const fresh = JSON.stringify(known) !== JSON.stringify(this.#known);
    this.#known = known;
    // A cursor that jumps is as bad as a word that vanishes: only news is written into the field.
    if (fresh) by('words').value = known.words.join('\n');
    this.#tell();
  }

  #tell() {
    if (!this.#known) return;
    const {own, words, changed_at: at} = this.#known;
    by('wordsBack').hidden = !own;
    by('wordsState').classList.toggle('warn', this.#changed);
    by('wordsState').textContent = this.#changed ? t('wordsUnsaved')
      : own ? t('wordsOwn', {n: count(words.length), day: day(at), time: clock(at)}) : t('wordsShipped');
  }

  #save() {
    return during(by('wordsSave'), async () => {
      this.#take(await this.#session.call('PUT', '/v1/ops/words', {body: {words: this.#lines()}}));
      toast(t('wordsSaved'), 'yes');
    }).catch(complain);
  }

  #back() {
    return during(by('wordsBack'), async () => {
      await this.#session.call('DELETE', '/v1/ops/words');
      this.#take(await this.#session.call('GET', '/v1/ops/words'));
      toast(t('wordsGone'), 'yes');
    }).catch(complain);
  }
}
