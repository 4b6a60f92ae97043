// The epipolar lines of the pixel under the cursor: one request at a time, the newest place next.

const REPEAT_MS = 200; // while the cursor rests, cameras may move

export class HoverLines {
  #send;
  #show;
  #wanted = null; // {camera, stamp, x, y}
  #asked = null; // what the request in flight is for
  #asked_ms = 0;
  #shown = ''; // as JSON: while the cameras rest, the lines do too
  latency_ms = 0; // of the last round trip

  // send(request) returns whether it was sent; show(lines) gets {camera: [[x, y], …]}.
  constructor(send, show) {
    this.#send = send;
    this.#show = show;
  }

  request(camera, stamp, { x, y }) {
    const isSame = this.#wanted?.camera === camera && this.#wanted.x === x && this.#wanted.y === y;
    this.#wanted = { camera, stamp, x, y };
    if (isSame && performance.now() - this.#asked_ms < REPEAT_MS) return;
    this.#ask();
  }

  clear() {
    this.#wanted = null;
    this.#update({});
  }

  receive({ camera, x, y, lines }) {
    this.latency_ms = performance.now() - this.#asked_ms;
    this.#asked = null;
    if (!this.#wanted) return;
    if (this.#wanted.camera === camera) this.#update(lines);
    if (this.#wanted.camera !== camera || this.#wanted.x !== x || this.#wanted.y !== y) this.#ask();
  }

  #update(lines) {
    const shown = JSON.stringify(lines);
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.#show(lines);
  }

  onReconnect() {
    this.#asked = null;
    this.clear();
  }

  #ask() {
    if (this.#asked) return;
    this.#asked_ms = performance.now();
    if (this.#send({ type: 'hover', ...this.#wanted })) this.#asked = this.#wanted;
  }
}
