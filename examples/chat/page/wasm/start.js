// Starts chat.wasm through Go's wasm_exec.js.
const go = typeof Go === "undefined" ? null : new Go();
WebAssembly.instantiateStreaming(fetch("chat.wasm"), go?.importObject)
  .then(({ instance }) => go.run(instance))
  .then(() => document.getElementById("status").textContent = "The program has ended. Please reload the page.")
  .catch(error => document.getElementById("refusal").textContent =
    `chat.wasm cannot be started (${error.message}). To build it, run "go generate ./examples/chat" and start the server again.`);
