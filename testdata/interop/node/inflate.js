// Each line of input is {bits, chunks: [base64]}; each gets a line with what zlib.inflateRaw makes of the chunks, one
// stream with a window of 2^bits bytes. zlib only looks into its window for what is no longer in its output buffer, so that
// the buffer is kept small: otherwise it would let a distance beyond the window pass.
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
