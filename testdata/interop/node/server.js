// A server of Node's ws. It prints its port, and then a line of JSON for each connection that has ended.
//
//   /echo   sends back each message
//   /close  closes with the code and reason of the query
//   /parts  sends a text and a binary message in fragments, with pings between them, then echoes
//   /ping   sends a ping, and what its pong carried as a text
//
// ?deflate={...} gives the perMessageDeflate options of the connection.
import { createServer } from "node:http";
import { WebSocketServer } from "ws";

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
};

const http = createServer();
http.on("upgrade", (request, socket, head) => {
  const url = new URL(request.url, "http://localhost");
  const server = new WebSocketServer({
    noServer: true,
    maxPayload: 8 << 20,
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
    ws.on("close", (code, reason) => console.log(JSON.stringify({ ...report, code, reason: reason.toString() })));
    serve[url.pathname](ws, url.searchParams);
  });
});
http.listen(0, "127.0.0.1", () => console.log(http.address().port));
process.stdin.on("end", () => process.exit()).resume(); // the test's end is ours
