// A client that uses Node's ws. Each line of input is a job, {url, options, messages, fragments, ping, close}. For
// each, it prints a line that says what happened.
import { createInterface } from "node:readline";
import { WebSocket } from "ws";

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await run(JSON.parse(line)).catch(error => ({ error: String(error) }))));
}

function run({ url, options = {}, protocols = [], messages = [], fragments, ping, close }) {
  return new Promise((done, fail) => {
    const ws = new WebSocket(url, protocols, { maxPayload: 8 << 20, ...options });
    const told = { received: [], pongs: [], pings: 0 };
    const inbox = [];
    let wake;
    const next = () => new Promise(resolve => (inbox.length ? resolve(inbox.shift()) : (wake = resolve)));
    const deliver = message => {
      if (!wake) return inbox.push(message);
      wake(message);
      wake = undefined;
    };

    ws.on("error", fail);
    ws.on("upgrade", response => (told.answer = response.headers["sec-websocket-extensions"] ?? ""));
    ws.on("unexpected-response", (_, response) => fail(new Error("status " + response.statusCode)));
    ws.on("message", (data, binary) => deliver({ binary, data }));
    ws.on("ping", () => told.pings++);
    ws.on("pong", data => told.pongs.push(data.toString()));
    ws.on("close", (code, reason) => done({ ...told, code, reason: reason.toString() }));
    ws.on("open", async () => {
      told.protocol = ws.protocol;
      for (const { binary, text, base64, repeat = 1 } of messages) {
        const data = Buffer.concat(Array(repeat).fill(base64 === undefined ? Buffer.from(text) : Buffer.from(base64, "base64")));
        ws.send(data, { binary });
        const answer = await next();
        told.received.push(answer.binary === binary && answer.data.equals(data));
      }
      if (fragments) {
        fragments.forEach((part, i) => {
          ws.send(part, { fin: i === fragments.length - 1 });
          if (ping) ws.ping(ping + i);
        });
        told.whole = (await next()).data.toString();
      }
      if (close) ws.close(...close);
    });
  });
}
