// A server that uses Node's ws. It prints its port, and then a line of JSON for each connection that has ended.
//
//   /echo   sends back each message
//   /close  closes with the code and reason of the query
//   /parts  sends a text and a binary message in fragments, with pings between them, then echoes
//   /ping   sends a ping, and what its pong carried as a text
//   /abort  sends "before", and after a message ends without a close frame
//   /deaf   does not read until /hear?id= is asked for; then reads to the first text, and tells how many binary messages
//           came before it in the order of the numbers they begin with
//   /ended  waits until the /echo or /deaf of the same id has ended and tells how
//   /hang   never answers the handshake
//   /refuse answers 403
//
// ?deflate={...} gives the perMessageDeflate options of the connection.
import { createServer } from "node:http";
import { WebSocketServer } from "ws";

// event returns a promise of the named event, and what resolves it.
const events = new Map();
const event = name => {
  if (!events.has(name)) {
    const e = {};
    e.promise = new Promise(resolve => (e.resolve = resolve));
    events.set(name, e);
  }
  return events.get(name);
};

const serve = {
  "/echo": () => {},

  "/close": (ws, query) => {
    if (query.has("code")) ws.close(Number(query.get("code")), query.get("reason"));
    else ws.close();
  },

  "/parts": ws => {
    for (const binary of [false, true]) {
      const parts = [Buffer.from("Hel"), Buffer.alloc(0), Buffer.from("lo, W\xc3", "latin1"), Buffer.from("\xb6rld", "latin1")];
      parts.forEach((part, i) => {
        ws.send(part, { binary, fin: i === parts.length - 1 });
        ws.ping();
      });
    }
  },

  "/ping": ws => {
    ws.on("pong", data => ws.send(data.toString()));
    ws.ping("are you there?");
  },

  // The answer says that the peer has read: a reset may discard bytes that it has not.
  "/abort": ws => {
    ws.removeAllListeners("message");
    ws.on("message", () => ws.terminate());
    ws.send("before");
  },

  "/deaf": (ws, query) => {
    let ordered = 0;
    ws.removeAllListeners("message");
    ws.on("message", (data, binary) => {
      if (!binary) {
        ws.send(String(ordered));
        ws.close(1000);
      } else if (data.subarray(0, 8).toString() === String(ordered).padStart(8)) {
        ordered++;
      }
    });
    ws.pause();
    event("hear" + query.get("id")).promise.then(() => ws.resume());
  },

  "/hear": (ws, query) => {
    event("hear" + query.get("id")).resolve();
    ws.send("");
    ws.close(1000);
  },

  "/ended": async (ws, query) => {
    ws.send(await event("ended" + query.get("id")).promise);
    ws.close(1000);
  },
};

const http = createServer();
http.on("upgrade", (request, socket, head) => {
  const url = new URL(request.url, "http://localhost");
  if (url.pathname === "/hang") return;
  if (url.pathname === "/refuse") return socket.end("HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n");
  const server = new WebSocketServer({
    noServer: true,
    maxPayload: 32 << 20,
    perMessageDeflate: JSON.parse(url.searchParams.get("deflate") ?? "false"),
    handleProtocols: names => [...names].at(-1),
  });
  const report = { pings: 0, offer: request.headers["sec-websocket-extensions"] ?? "", answer: "" };
  const extensions = /^sec-websocket-extensions: */i;
  server.on("headers", lines => (report.answer = lines.find(line => extensions.test(line))?.replace(extensions, "") ?? ""));
  server.handleUpgrade(request, socket, head, ws => {
    ws.on("ping", () => report.pings++);
    ws.on("message", (data, binary) => ws.send(data, { binary }));
    ws.on("error", error => (report.error = String(error)));
    ws.on("close", (code, reason) => {
      const end = code === 1006 ? "lost" : `${code} ${reason}`.trim();
      if (url.pathname === "/echo" || url.pathname === "/deaf") event("ended" + url.searchParams.get("id")).resolve(end);
    });
    ws.on("close", (code, reason) => console.log(JSON.stringify({ ...report, code, reason: reason.toString() })));
    serve[url.pathname](ws, url.searchParams);
  });
});
http.listen(0, "127.0.0.1", () => console.log(http.address().port));
process.stdin.on("end", () => process.exit()).resume(); // exit when the test does
