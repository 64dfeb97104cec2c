const $ = id => document.getElementById(id);

let me, room;      // who, and where
let socket;        // null: not in a room
let tries = 0;     // to connect, since it last worked
let timer;         // of the next try
let newest = 0;    // time of the newest message shown: after a reconnect the server sends the last ones again
let people = null; // in the room; null: not told yet
let unread = 0;

// Connecting, and connecting again.

function connect() {
  clearTimeout(timer);
  const url = new URL("ws", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  url.search = new URLSearchParams({ name: me, room });
  const ws = socket = new WebSocket(url);
  ws.onmessage = ({ data }) => {
    if (ws !== socket) return;
    tries = 0;
    status("Connected", "on");
    receive(JSON.parse(data));
  };
  ws.onclose = () => {
    if (ws === socket) retry();
  };
  status("Connecting…", "off");
}

// After a restart of the server every page is here at the same time: each waits a random while, and longer after each failure.
function retry() {
  const wait = 300 + Math.random() * Math.min(30_000, 1000 * 2 ** tries++);
  timer = setTimeout(connect, wait);
  status(`Connection lost, trying again in ${Math.ceil(wait / 1000)} s`, "off");
}

addEventListener("online", () => {
  if (socket && socket.readyState === WebSocket.CLOSED) connect();
});

function leave() {
  clearTimeout(timer);
  const ws = socket;
  socket = null;
  ws.close(1000);
  $("chat").hidden = true;
  $("join").hidden = false;
  $("name").focus();
}

// What the server tells: {from, text, time} or {people}.

function receive(event) {
  if (event.people) return setPeople(event.people);
  if (event.time <= newest) return;
  newest = event.time;
  showMessage(event);
  if (document.hidden) unread++;
  showTitle();
}

function setPeople(names) {
  const items = names.map(name => element("li", { textContent: name === me ? `${name} (you)` : name, style: hue(name) }));
  $("people").replaceChildren(...items);
  $("here").textContent = `Here now: ${names.length}`;
  if (people) {
    names.filter(n => !people.includes(n)).forEach(n => note(`${n} came in`));
    people.filter(n => !names.includes(n)).forEach(n => note(`${n} left`));
  }
  people = names;
}

// Showing. Text comes from strangers: it is only ever textContent.

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

function showMessage({ from, text, time }) {
  const at = new Date(time);
  const item = element("li", { className: from === me ? "mine" : "theirs", style: hue(from) },
    element("p", { className: "head" },
      element("b", { textContent: from }), " ",
      element("time", { dateTime: at.toISOString(), textContent: at.toLocaleTimeString([], { timeStyle: "short" }) })),
    element("p", { className: "body", textContent: text }));
  if ($("log").lastElementChild?.dataset.from === from) item.classList.add("more");
  item.dataset.from = from;
  show(item);
}

function note(text) {
  show(element("li", { className: "note", textContent: text }));
}

// A reader who has scrolled up is left where she is.
function show(item) {
  const log = $("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  log.append(item);
  if (log.children.length > 500) log.firstElementChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function status(text, state) {
  if ($("status").textContent !== text) $("status").textContent = text;
  $("status").dataset.state = state;
  $("send").disabled = state !== "on";
}

function showTitle() {
  document.title = (unread ? `(${unread}) ` : "") + `${room} – Chat`;
}

document.addEventListener("visibilitychange", () => {
  unread = 0;
  if (socket) showTitle();
});

// The two forms.

$("join").addEventListener("submit", event => {
  event.preventDefault();
  me = $("name").value.trim();
  room = $("room").value.trim();
  if (!me || !room) return;
  sessionStorage.setItem("name", me);
  location.hash = new URLSearchParams({ room });
  [newest, people, tries, unread] = [0, null, 0, 0];
  $("log").replaceChildren();
  $("people").replaceChildren();
  $("title").textContent = room;
  $("join").hidden = true;
  $("chat").hidden = false;
  $("text").focus();
  showTitle();
  connect();
});

$("compose").addEventListener("submit", event => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || socket.readyState !== WebSocket.OPEN) return; // the text stays until it can be sent
  socket.send(text);
  $("text").value = "";
  $("log").scrollTop = $("log").scrollHeight;
});

$("text").addEventListener("keydown", event => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("compose").requestSubmit();
});

$("leave").addEventListener("click", leave);

$("name").value = sessionStorage.getItem("name") ?? "";
$("room").value = new URLSearchParams(location.hash.slice(1)).get("room") || "lobby";
