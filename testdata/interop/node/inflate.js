// Each line of input is {bits, chunks: [base64]}. For each, it prints a line with the output of zlib.inflateRaw for the
// chunks, which are one stream with a window of 2^bits bytes. zlib uses its window only for bytes that are no longer in
// its output buffer. The buffer is kept small, because a large one would hide a distance beyond the window.
import { createInterface } from "node:readline";
import { constants, inflateRawSync } from "node:zlib";

for await (const line of createInterface({ input: process.stdin })) {
  const { bits, chunks } = JSON.parse(line);
  const stream = Buffer.concat(chunks.map(chunk => Buffer.from(chunk, "base64")));
  try {
    const data = inflateRawSync(stream, { windowBits: bits, chunkSize: 64, finishFlush: constants.Z_SYNC_FLUSH });
    console.log(JSON.stringify({ data: data.toString("base64") }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }));
  }
}
