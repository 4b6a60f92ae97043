// Writes a PNG of one 8-bit channel, as masks are read: the browser itself writes four channels.

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

function computeCrc(bytes) {
  let crc = -1;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc;
}

function createChunk(name, content) {
  const chunk = new Uint8Array(12 + content.length);
  const view = new DataView(chunk.buffer);
  view.setUint32(0, content.length);
  chunk.set([...name].map((letter) => letter.charCodeAt(0)), 4);
  chunk.set(content, 8);
  view.setInt32(8 + content.length, computeCrc(chunk.subarray(4, 8 + content.length)));
  return chunk;
}

// grey: Uint8Array of width * height, by rows.
export async function encodeGreyPng(width, height, grey) {
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8); // bits; the colour type of grey, and the rest, are 0
  const rows = new Uint8Array((width + 1) * height); // each begins with its filter, none
  for (let y = 0; y < height; y += 1) {
    rows.set(grey.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  }
  const packed = new Response(new Blob([rows]).stream().pipeThrough(
    new CompressionStream('deflate'))); // zlib, as PNG has it
  return new Blob([new Uint8Array(SIGNATURE), createChunk('IHDR', new Uint8Array(header.buffer)),
    createChunk('IDAT', new Uint8Array(await packed.arrayBuffer())),
    createChunk('IEND', new Uint8Array())], { type: 'image/png' });
}
