const $ = id => document.getElementById(id);

let name, room;
let socket;              // null: not in a room
let opened;              // whether socket was ever open
let tries = 0;           // to connect, since the last success
let stream = "", after;  // of the last message that was received
const unsent = new Map(); // id -> {text, item}: messages not seen in the stream yet

async function login() {
  const r = await fetch("login", { method: "POST", body: new URLSearchParams({ name }) });
  if (!r.ok) throw new Error(await r.text());
}

function connect() {
  const url = new URL("ws", location.href);
  url.search = new URLSearchParams(stream ? { room, stream, after } : { room });
  url.protocol = url.protocol.replace("http", "ws");
  const ws = socket = new WebSocket(url);
  opened = false;
  ws.onopen = () => {
    opened = true;
    for (const id of unsent.keys()) send(id); // a message that is already stored is not stored again
  };
  ws.onmessage = ({ data }) => {
    tries = 0;
    receive(JSON.parse(data));
  };
  ws.onclose = e => {
    if (e.code === 1008) return status(e.reason);
    retry();
  };
  status("Connecting…");
}

// When a node restarts or dies, many pages get here at the same time. Each waits for a random time, which grows with
// each failure.
function retry() {
  const wait = 300 + Math.random() * Math.min(30_000, 500 * 2 ** tries++);
  status(`Connection lost, trying again in ${Math.ceil(wait / 1000)} s`);
  setTimeout(async () => {
    try {
      if (!opened && (await fetch("ws")).status === 401) await login(); // the cookie has expired
    } catch {} // the node is not there; the load balancer will find another
    connect();
  }, wait);
}

function receive(e) {
  if (e.stream) {
    if (e.gap) note("Some messages are missing here.");
    if (e.stream !== stream) [stream, after] = [e.stream, 0];
  }
  if (e.online !== undefined) status(e.online ? "Connected" : "Connected, but messages do not arrive at the moment");
  if (e.people) $("people").textContent = e.people.join(", ");
  if (e.seq) {
    after = e.seq;
    if (e.from === name && unsent.has(e.id)) {
      unsent.get(e.id).item.remove();
      unsent.delete(e.id);
    }
    show(`${new Date(e.time).toLocaleTimeString([], { timeStyle: "short" })} ${e.from}: ${e.text}`);
  }
  if (e.reason) {
    note(e.reason);
    if (unsent.has(e.refused)) setTimeout(send, 2000, e.refused);
  }
}

function send(id) {
  if (unsent.has(id) && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ id, text: unsent.get(id).text }));
}

// Text comes from strangers, so it is only ever set as textContent.
function show(text, className = "") {
  const log = $("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  const item = Object.assign(document.createElement("li"), { textContent: text, className });
  log.append(item);
  while (log.children.length > 500) log.firstElementChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
  return item;
}

function note(text) { show(text, "note"); }
function status(text) { $("status").textContent = text; }

$("join").addEventListener("submit", async event => {
  event.preventDefault();
  name = $("name").value.trim();
  room = $("room").value.trim();
  try {
    await login();
  } catch (e) {
    return alert(e.message);
  }
  $("title").textContent = room;
  $("join").hidden = true;
  $("chat").hidden = false;
  $("text").focus();
  connect();
});

$("compose").addEventListener("submit", event => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  const id = Array.from(crypto.getRandomValues(new Uint8Array(12)), b => b.toString(16).padStart(2, "0")).join("");
  unsent.set(id, { text, item: show(`… ${name}: ${text}`, "unsent") });
  send(id);
  $("text").value = "";
});
