// A viewer in Node, as in a mini-program: `node viewer.js '{"room", "sockets", "token"}'`. Tells what it hears, one JSON
// line each; comments with each line that it is given (a JSON string), and leaves when there are no more.

import {createInterface} from 'node:readline';
import {joinRoom} from '../../web/client/wechat.js';
import {wx} from './platform.js';

const tell = (type, value) => process.stdout.write(`${JSON.stringify([type, value])}\n`);
const room = joinRoom(wx, JSON.parse(process.argv[2]));
for (const type of ['state', 'welcome', 'announce', 'kick', 'bye']) room.on(type, (value) => tell(type, value));

for await (const line of createInterface({input: process.stdin})) {
  const text = JSON.parse(line);
  room.comment(text).then(() => tell('said', line), ({code}) => tell('refused', code));
}
room.close();
