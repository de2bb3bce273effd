/** Who is at this page: a token for one role, kept for the browser tab, renewed before it ends. */

import {Refused, rest} from '/client/nearcast.js';
import {h, mark} from './dom.js';
import {adopt, refusal, t} from './i18n.js';

const RENEW_BEFORE_MS = 120_000;
const query = new URLSearchParams(location.search);
export const brand = query.get('brand') ?? 'demo';

/** @typedef {{subject: string, role: string, name: string, brand: string, token: string, expires_at: string, account: string}} Login */
/** @typedef {{me: Login, call: ReturnType<typeof rest>, token: (expired: boolean) => Promise<string>, leave: () => void}} Session */

/**
 * Sign in as `role`: by the tab's own token, by `?account=` of a deep link, or by asking.
 * @param {'viewer'|'guide'|'clerk'|'ops'} role
 * @param {string} usual  the account proposed
 * @returns {Promise<Session>}
 */
export async function signIn(role, usual) {
  const kept = `nearcast.${role}`;
  const wanted = query.get('account');
  /** @type {Login} */
  let login = JSON.parse(sessionStorage.getItem(kept) ?? 'null');
  const call = rest({token: () => login?.token ?? null});
  const keep = (answer, account) => {
    login = {...answer, account};
    sessionStorage.setItem(kept, JSON.stringify(login));
  };
  const enter = async (account, name) => {
    const store = query.get('store');
    keep(await call('POST', '/v1/auth/dev', {body: {brand, role, account, ...(name && {name}), ...(store && {store_code: store})}}), account);
  };
  let renewing = null;
  /** One at a time: the page's own clock and the room's socket may ask for a fresh token at once. */
  const renew = () => (renewing ??= renewOnce().finally(() => { renewing = null; }));
  const renewOnce = async () => {
    try {
      keep(await call('POST', '/v1/auth/refresh'), login.account);
    } catch (error) {
      // Too late to renew: the tab slept. Who may sign in by account alone does so again.
      if (error.status !== 401) throw error;
      await enter(login.account, login.name);
    }
  };

  const ending = () => Date.parse(login.expires_at) - Date.now() < RENEW_BEFORE_MS;
  const usable = login && login.brand === brand && (!wanted || login.account === wanted)
    && !ending() && await accepted(call);
  if (!usable) {
    if (wanted) await enter(wanted, query.get('name')).catch((error) => ask(role, wanted, enter, error));
    else await ask(role, usual, enter);
  }
  setInterval(() => {
    if (ending()) renew().catch(() => {});
  }, 30_000);
  return {
    get me() { return login; },
    call,
    token: async (expired) => {
      if (expired) await renew();
      // Before its end the old one still serves, should a fresh one not be had.
      else if (ending()) await renew().catch(() => {});
      return login.token;
    },
    leave: () => {
      sessionStorage.removeItem(kept);
      location.assign(location.pathname);
    },
  };
}

/** Is the kept token still the server's? A server that was reset in between knows nobody of before. */
async function accepted(call) {
  try {
    return await call('GET', '/v1/me');
  } catch (error) {
    if (error instanceof Refused && error.code === 'offline') return true; // let the page tell it
    return false;
  }
}

/** Ask for an account until one is accepted. */
function ask(role, usual, enter, error) {
  return new Promise((resolve) => {
    const input = h('input', {class: 'input', id: 'account', autocomplete: 'off', required: true, maxlength: 40, value: usual});
    const trouble = h('p', {class: 'small', role: 'alert', style: 'color: var(--no); min-height: 1.5em'}, error ? refusal(error) : '');
    const button = h('button', {class: 'button main wide tall', t: 'signIn'});
    const gate = h('main', {class: 'gate'}, h('form', {},
      h('div', {class: 'row'}, h('a', {class: 'mark', href: '/'}, mark(), 'Nearcast'), h('span', {class: 'grow'}),
        h('button', {class: 'button quiet', type: 'button', 'data-language': ''})),
      h('div', {class: 'stack'}, h('h1', {t: `gate_${role}`}), h('p', {class: 'dim', t: `gateHint_${role}`})),
      h('div', {class: 'field'}, h('label', {for: 'account', t: role === 'viewer' ? 'nickname' : 'account'}), input),
      h('div', {class: 'stack'}, button, trouble)));
    document.body.classList.add('gated');
    document.body.append(gate);
    adopt(gate);
    gate.querySelector('form').addEventListener('submit', async (event) => {
      event.preventDefault();
      button.disabled = true;
      trouble.textContent = t('signingIn');
      try {
        const text = input.value.trim();
        await enter(...(role === 'viewer' ? [accountOf(text), text] : [text]));
        gate.remove();
        document.body.classList.remove('gated');
        resolve();
      } catch (refused) {
        trouble.textContent = refusal(refused);
        button.disabled = false;
      }
    });
  });
}

/** An account name in plain letters for any nickname. */
function accountOf(nickname) {
  return `web-${[...nickname].map((char) => (/\w/.test(char) ? char : char.codePointAt(0).toString(16))).join('')}`.slice(0, 40);
}

/** All pages of a list, up to `most` items. @param {Session['call']} call @param {string} path @returns {Promise<any[]>} */
export async function all(call, path, most = 500) {
  const items = [];
  let cursor = null;
  do {
    const page = await call('GET', cursor ? `${path}${path.includes('?') ? '&' : '?'}cursor=${encodeURIComponent(cursor)}` : path);
    items.push(...page.items);
    cursor = page.next;
  } while (cursor && items.length < most);
  return items;
}
