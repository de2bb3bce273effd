// A test runner of one screen, for tests of ES modules in the browser that the pages run in.

const tests = [];

/** @param {string} name  what must hold @param {() => void|Promise<void>} body */
export function test(name, body) {
  tests.push({name, body});
}

/** Runs what was registered; `{name: null | 'what went wrong'}`. */
export async function run() {
  const results = {};
  for (const {name, body} of tests) {
    try {
      await body();
      results[name] = null;
    } catch (error) {
      results[name] = String(error.stack ?? error);
    }
  }
  return results;
}

export function equal(actual, expected, what = '') {
  const [a, b] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (a !== b) throw new Error(`${what} is ${a}, expected ${b}`);
}

export function ok(value, what) {
  if (!value) throw new Error(`not so: ${what}`);
}

/** The error that `promise` ends in. */
export async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error('it did not fail');
}

/** Lets promises that are already settled run on. */
export async function settle() {
  for (let i = 0; i < 20; i += 1) await Promise.resolve();
}

/** Chance that comes out the same every time: 0 ≤ x < 1 (mulberry32). */
export function chance(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Timers and a clock that move only when told. */
export class FakeTime {
  now = 1_000_000;
  #timers = new Map();
  #next = 1;

  clock = () => this.now;
  timers = {
    set: (fn, ms) => {
      this.#timers.set(this.#next, {at: this.now + ms, fn});
      return this.#next++;
    },
    clear: (id) => this.#timers.delete(id),
  };

  async pass(ms) {
    const end = this.now + ms;
    for (;;) {
      await settle();
      const due = [...this.#timers].filter(([, {at}]) => at <= end).sort((a, b) => a[1].at - b[1].at)[0];
      if (!due) break;
      this.#timers.delete(due[0]);
      this.now = Math.max(this.now, due[1].at);
      due[1].fn();
    }
    this.now = end;
    await settle();
  }
}

/** The far end of a socket: what was sent, and what the server says. */
export class FakeSocket {
  static made = [];
  sent = [];
  closed = false;
  onopen = null;
  onmessage = null;
  onclose = null;
  onerror = null;

  constructor(url) {
    this.url = url;
    FakeSocket.made.push(this);
  }

  static get last() {
    return FakeSocket.made.at(-1);
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.closed = true;
  }

  accept() {
    this.onopen?.();
  }

  say(frame) {
    this.onmessage?.({data: typeof frame === 'string' ? frame : JSON.stringify(frame)});
  }

  end(code, reason = '') {
    this.onclose?.({code, reason});
  }

  /** Frames of one type that the client sent. */
  of(type) {
    return this.sent.filter(({t}) => t === type);
  }
}
