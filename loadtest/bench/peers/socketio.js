// Socket.IO as it is by default: one emit to everybody in a room for each line on stdin. Its module is looked for where
// NODE_PATH says.
"use strict";
const { createServer } = require("node:http");
const { Server } = require("socket.io");

const http = createServer();
const io = new Server(http);
// The event's frame is 42["m","…"]: nine bytes around the text.
const text = "x".repeat(Number(process.argv[2]) - 9);

io.on("connection", (socket) => socket.join("bench"));
http.listen(0, "127.0.0.1", 4096, () => console.log(http.address().port));

let rest = "";
process.stdin.setEncoding("utf8");
process.stdin.on("data", (chunk) => {
  const lines = (rest + chunk).split("\n");
  rest = lines.pop();
  for (const _ of lines) io.to("bench").emit("m", text);
});
process.stdin.on("end", () => process.exit(0));
