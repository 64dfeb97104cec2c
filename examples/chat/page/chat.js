const $ = id => document.getElementById(id);

let me, room;            // name and room, as typed
let socket = null;       // null: not in a room
let tries = 0;           // to connect, since the last success
let nextTry, countdown;  // time of the next try, on the clock of performance.now(), and the interval that waits for it
let people = new Map();  // in the room: names by ID
let mine = new Set();    // this page's IDs in the room: each connection gets a new one
let newest = 0;          // time of the newest message shown: after a reconnect, the server repeats the last messages
let atEnd = true;        // whether the newest message is in view
let unread = 0;

// Connecting and reconnecting.

function connect() {
  stopWaiting();
  const url = new URL("ws", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  url.search = new URLSearchParams({ name: me, room });
  const ws = socket = new WebSocket(url);
  ws.onmessage = ({ data }) => {
    if (ws === socket) receive(JSON.parse(data));
  };
  ws.onclose = ({ code }) => {
    if (ws === socket) retry(code);
  };
  status("Connecting…", "off");
}

// When a server restarts, it loses all pages at the same moment. Each waits for a random time, which grows with each
// failure (RFC 6455, section 7.2.3).
function retry(code) {
  nextTry = performance.now() + 300 + Math.random() * Math.min(60_000, 5000 * 2 ** tries++);
  status(code === 1001 ? "The server restarts" : "Connection lost", "off");
  countdown = setInterval(tick, 200);
  tick();
}

function tick() {
  const left = nextTry - performance.now();
  if (left <= 0) return connect();
  $("wait").hidden = false;
  $("countdown").textContent = `Trying again in ${Math.ceil(left / 1000)} s`;
}

function stopWaiting() {
  clearInterval(countdown);
  $("wait").hidden = true;
}

$("now").addEventListener("click", () => {
  connect();
  $("text").focus();
});

addEventListener("online", () => {
  if (socket?.readyState === WebSocket.CLOSED) connect();
});

// Entering and leaving a room. The room is in the URL, so that the back button works and links can be shared.

function enter(name) {
  socket?.close(1000);
  room = name;
  tries = newest = unread = 0;
  mine.clear();
  $("log").replaceChildren();
  atEnd = true;
  people.clear();
  showPeople();
  $("title").textContent = room;
  $("join").hidden = true;
  $("chat").hidden = false;
  $("text").focus();
  connect();
  showTitle();
}

function leave(reason = "") {
  stopWaiting();
  const ws = socket;
  socket = null;
  ws.close(1000);
  $("chat").hidden = true;
  $("join").hidden = false;
  $("refusal").textContent = reason;
  $("name").focus();
  showTitle();
}

function roomInURL() {
  return (new URLSearchParams(location.hash.slice(1)).get("room") ?? "").trim();
}

addEventListener("hashchange", () => {
  const name = roomInURL();
  $("room").value = name || "lobby";
  if (!socket || name === room) return;
  if (name) enter(name);
  else leave();
});

// Events from the server: {refused}, {you, people}, {joined}, {left} or {from, text, time}.

function receive(event) {
  if (event.refused) leave(event.refused);
  else if (event.people) welcome(event);
  else if (event.joined) arrive(event.joined);
  else if (event.left) depart(event.left);
  else if (event.time > newest) hear(event);
}

function welcome(event) {
  tries = 0;
  status("Connected", "on");
  mine.add(event.you);
  people = new Map(event.people.map(({ id, name }) => [id, name]));
  showPeople();
}

function arrive({ id, name }) {
  people.set(id, name);
  showPeople();
  note(`${name} came in`);
}

function depart({ id, name }) {
  people.delete(id);
  showPeople();
  note(`${name} left`);
}

function hear(event) {
  newest = event.time;
  showMessage(event);
  if (document.hidden) unread++;
  showTitle();
}

// Rendering. All text comes from strangers, so it is only ever set as textContent.

function element(tag, { style = {}, ...properties } = {}, ...children) {
  const e = Object.assign(document.createElement(tag), properties);
  Object.entries(style).forEach(([k, v]) => e.style.setProperty(k, v));
  e.append(...children);
  return e;
}

function hue(name) {
  let h = 0;
  for (const c of name) h = (h * 31 + c.codePointAt(0)) % 360;
  return { "--hue": h };
}

function showPeople() {
  const sorted = [...people].sort(([, a], [, b]) => a.localeCompare(b));
  $("people").replaceChildren(...sorted.map(([id, name]) =>
    element("li", { textContent: mine.has(id) ? `${name} (you)` : name, style: hue(name) })));
  $("here").textContent = `Here now: ${sorted.length}`;
}

function showMessage({ from, text, time }) {
  const at = new Date(time);
  const item = element("li", { className: mine.has(from.id) ? "mine" : "theirs", style: hue(from.name) },
    element("p", { className: "head" },
      element("b", { textContent: from.name }), " ",
      element("time", { dateTime: at.toISOString(), textContent: at.toLocaleTimeString([], { timeStyle: "short" }) })),
    element("p", { className: "body", textContent: text }));
  if ($("log").lastElementChild?.dataset.from === from.id) item.classList.add("more");
  item.dataset.from = from.id;
  show(item);
}

function note(text) {
  show(element("li", { className: "note", textContent: text }));
}

// A reader who has scrolled up stays there. For everybody else the newest message stays in view, even when the composer
// grows and the log shrinks.

function show(item) {
  $("log").append(item);
  if ($("log").children.length > 500) $("log").firstElementChild.remove();
  if (atEnd) scrollToEnd();
}

function scrollToEnd() {
  $("log").scrollTop = $("log").scrollHeight;
}

let lastTop = 0;
$("log").addEventListener("scroll", () => {
  const { scrollHeight, scrollTop, clientHeight } = $("log");
  if (scrollHeight - scrollTop - clientHeight < 80) atEnd = true;
  else if (scrollTop < lastTop) atEnd = false; // only a reader scrolls up
  lastTop = scrollTop;
});

new ResizeObserver(() => {
  if (atEnd) scrollToEnd();
}).observe($("log"));

function status(text, state) {
  if ($("status").textContent !== text) $("status").textContent = text;
  $("status").dataset.state = state;
  $("send").disabled = state !== "on";
}

function showTitle() {
  document.title = socket === null ? "Chat" : (unread ? `(${unread}) ` : "") + `${room} – Chat`;
}

document.addEventListener("visibilitychange", () => {
  unread = 0;
  showTitle();
});

// The two forms.

$("join").addEventListener("submit", event => {
  event.preventDefault();
  me = $("name").value.trim();
  const name = $("room").value.trim();
  if (!me || !name) return;
  sessionStorage.setItem("name", me);
  enter(name);
  location.hash = new URLSearchParams({ room });
});

$("compose").addEventListener("submit", event => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || socket.readyState !== WebSocket.OPEN) return; // the text stays until it can be sent
  socket.send(text);
  $("text").value = "";
  scrollToEnd();
});

$("text").addEventListener("keydown", event => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("compose").requestSubmit();
});

$("leave").addEventListener("click", () => leave());

$("name").value = sessionStorage.getItem("name") ?? "";
$("room").value = roomInURL() || "lobby";
