// A mini-program's `wx.connectSocket` over Node's TCP: what the client needs of WebSocket (RFC 6455), and no more.

import {randomBytes} from 'node:crypto';
import {request} from 'node:http';

const [TEXT, CLOSE, PING, PONG] = [0x1, 0x8, 0x9, 0xa];

export const wx = {connectSocket: (options) => new SocketTask(options.url)};

class SocketTask {
  #told = {open() {}, message() {}, close() {}, error() {}};
  #stream = null;
  #rest = Buffer.alloc(0);
  #over = false;

  constructor(url) {
    const headers = {
      Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Version': '13', 'Sec-WebSocket-Key': randomBytes(16).toString('base64'),
    };
    const asked = request(url.replace(/^ws/, 'http'), {headers});
    asked.on('upgrade', (answer, stream, head) => {
      this.#stream = stream;
      stream.on('data', (bytes) => this.#receive(bytes));
      stream.on('error', () => {});
      stream.on('close', () => this.#end(1006, ''));
      this.#told.open({header: answer.headers});
      this.#receive(head);
    });
    asked.on('response', (answer) => {
      answer.resume();
      this.#told.error({errMsg: `connect fail: ${answer.statusCode}`});
    });
    asked.on('error', (error) => this.#told.error({errMsg: error.message}));
    asked.end();
  }

  onOpen(told) { this.#told.open = told; }
  onMessage(told) { this.#told.message = told; }
  onClose(told) { this.#told.close = told; }
  onError(told) { this.#told.error = told; }

  send({data, fail}) {
    if (!this.#stream || this.#over) fail({errMsg: 'sendSocketMessage:fail not open'});
    else this.#write(TEXT, Buffer.from(data));
  }

  close({code, fail}) {
    if (!this.#stream || this.#over) return fail({errMsg: 'closeSocket:fail not connected'});
    const body = Buffer.alloc(2);
    body.writeUInt16BE(code);
    this.#write(CLOSE, body);
    this.#stream.end();
    this.#end(code, '');
  }

  #end(code, reason) {
    if (this.#over) return;
    this.#over = true;
    this.#told.close({code, reason});
  }

  #write(kind, body) {
    const head = body.length < 126 ? Buffer.from([0x80 | kind, 0x80 | body.length]) : Buffer.from([0x80 | kind, 0x80 | 126, body.length >> 8, body.length & 255]);
    const mask = randomBytes(4);
    this.#stream.write(Buffer.concat([head, mask, body.map((byte, i) => byte ^ mask[i % 4])]));
  }

  #receive(bytes) {
    this.#rest = Buffer.concat([this.#rest, bytes]);
    for (;;) {
      if (this.#rest.length < 2) return;
      const kind = this.#rest[0] & 15;
      let [from, length] = [2, this.#rest[1] & 127];
      if (length === 126) [from, length] = [4, this.#rest.length < 4 ? Infinity : this.#rest.readUInt16BE(2)];
      else if (length === 127) [from, length] = [10, this.#rest.length < 10 ? Infinity : Number(this.#rest.readBigUInt64BE(2))];
      if (this.#rest.length < from + length) return;
      const body = this.#rest.subarray(from, from + length);
      this.#rest = this.#rest.subarray(from + length);
      if (kind === TEXT) this.#told.message({data: body.toString()});
      else if (kind === PING) this.#write(PONG, body);
      else if (kind === CLOSE) {
        this.#end(body.length ? body.readUInt16BE(0) : 1005, body.subarray(2).toString());
        this.#stream.end();
      }
    }
  }
}
