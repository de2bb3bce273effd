/** The front door: four pages, with the brand of the deep link carried along. */

import {rest} from '/client/nearcast.js';
import {by, hangIcons} from './dom.js';
import {adopt} from './i18n.js';

adopt();
hangIcons();
const query = new URLSearchParams(location.search);
const brand = query.get('brand') ?? 'demo';
if (query.has('brand')) {
  for (const link of document.querySelectorAll('a[href^="/"]')) link.search = new URLSearchParams({brand}).toString();
}
rest()('GET', `/v1/brands/${encodeURIComponent(brand)}`).then(({name}) => { by('brand').textContent = name; }, () => {});
