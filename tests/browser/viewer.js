// A viewer in Node, as in a mini-program: `node viewer.js '{"room", "sockets", "token", "fresh"}'`, of which `fresh` is the
// token it has when it is asked for another one. Tells what it hears, and why it was asked, one JSON line each; comments with each line that it is given (a JSON string), and leaves when there are no more.

import {createInterface} from 'node:readline';
import {joinRoom} from '../../web/client/wechat.js';
import {wx} from './platform.js';

const tell = (type, value) => process.stdout.write(`${JSON.stringify([type, value])}\n`);
const {token, fresh, ...options} = JSON.parse(process.argv[2]);
const room = joinRoom(wx, {
  ...options,
  token: (why) => {
    tell('asked', why);
    return why ? fresh : token;
  },
});
for (const type of ['state', 'welcome', 'announce', 'kick', 'bye']) room.on(type, (value) => tell(type, value));

for await (const line of createInterface({input: process.stdin})) {
  const text = JSON.parse(line);
  room.comment(text).then(() => tell('said', line), ({code}) => tell('refused', code));
}
room.close();
