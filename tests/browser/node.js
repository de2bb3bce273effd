// Runs the suites that need no page in Node: `node node.js client.test.js …` prints what each test came to, as JSON.

import {run} from './check.js';

for (const suite of process.argv.slice(2)) await import(`./${suite}`);
console.log(JSON.stringify(await run()));
