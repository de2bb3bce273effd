/** What socket and REST share (refusals, ids), and a caller of the REST interface. Import it through `nearcast.js`. */

/** A "no" with its stable code: from the server (its catalogue), or our own `offline`, `no_answer`, `closed`. */
export class Refused extends Error {
  /**
   * @param {string} code
   * @param {string} [message]  a sentence for a person, in English
   * @param {{status?: number, retryAfter?: number, fields?: object}} [more]  `retryAfter` in seconds
   */
  constructor(code, message = code, {status = 0, retryAfter, fields = {}} = {}) {
    super(message);
    this.name = 'Refused';
    this.code = code;
    this.status = status;
    this.retryAfter = retryAfter;
    this.fields = fields;
  }
}

/** A random id for a command or an Idempotency-Key; `randomUUID` exists in secure contexts only, mini-programs have neither. */
export function newId() {
  const source = typeof crypto === 'undefined' ? undefined : crypto;
  if (source?.randomUUID) return source.randomUUID();
  const bytes = new Uint8Array(16);
  if (source?.getRandomValues) source.getRandomValues(bytes);
  else bytes.forEach((_, i) => { bytes[i] = Math.floor(Math.random() * 256); });
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/**
 * A REST caller: `await call('POST', '/v1/visits', {body: {qr}, key})` → the parsed answer, null for 204.
 * Throws Refused with the problem's code, `offline` where the server could not be reached.
 * @param {{base?: string, token?: () => string|null, fetch?: typeof globalThis.fetch, timeout?: number}} [options]  `timeout` in ms;
 *   `fetch` is told it too, for platforms that know no AbortSignal
 */
export function rest({base = '', token = () => null, fetch = globalThis.fetch?.bind(globalThis), timeout = 15_000} = {}) {
  /**
   * @param {string} method
   * @param {string} path
   * @param {{body?: object, key?: string}} [more]  `key`: an Idempotency-Key
   * @returns {Promise<any>}
   */
  return async function call(method, path, {body, key} = {}) {
    const bearer = token();
    /** @type {Record<string, string>} */
    const headers = {
      ...(body !== undefined && {'Content-Type': 'application/json'}),
      ...(bearer && {Authorization: `Bearer ${bearer}`}),
      ...(key && {'Idempotency-Key': key}),
    };
    /** @type {Response} */
    let answer;
    let text;
    try {
      const signal = typeof AbortSignal === 'undefined' ? undefined : AbortSignal.timeout?.(timeout);
      const asked = {method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal, timeout};
      answer = await fetch(base + path, asked);
      text = await answer.text();
    } catch {
      throw new Refused('offline', 'The server could not be reached.');
    }
    const parsed = parse(text);
    if (answer.ok) return parsed;
    const {code = answer.status >= 500 ? 'unavailable' : 'bad_request', detail, retry_after: retryAfter, ...fields} = parsed ?? {};
    throw new Refused(code, detail, {status: answer.status, retryAfter, fields});
  };
}

function parse(text) {
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return null; // a proxy's HTML page
  }
}
