/** The day's closing as a file. */

import {Refused} from '/client/nearcast.js';
import {h} from './dom.js';

/** Fetch today's sheet of this store and hand it to the browser to keep. @param {import('./login.js').Session} session */
export async function saveClosing(session) {
  const answer = await fetch('/v1/till/closing', {headers: {Authorization: `Bearer ${await session.token(false)}`}}).catch(() => {
    throw new Refused('offline');
  });
  if (!answer.ok) throw new Refused((await answer.json().catch(() => null))?.code ?? 'unavailable', '', {status: answer.status});
  const name = /filename="([^"]+)"/.exec(answer.headers.get('Content-Disposition') ?? '')?.[1] ?? 'closing.csv';
  const address = URL.createObjectURL(await answer.blob());
  h('a', {href: address, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
