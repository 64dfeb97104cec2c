// Provides the WebSocket of ws to versions of Node that have none.
globalThis.WebSocket ??= require("ws").WebSocket;
