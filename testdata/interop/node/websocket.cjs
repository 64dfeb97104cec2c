// Gives a version of Node without WebSocket the one of ws.
globalThis.WebSocket ??= require("ws").WebSocket;
