// The WebSocket: comes back by itself, and lets in only who has the token.

const FIRST_MS = 300;
const LONGEST_MS = 3000;

// The token stands behind #, which no browser sends to a server; from here it goes into a cookie.
function takeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get('token') ?? '';
  if (token) history.replaceState(null, '', location.pathname);
  return token;
}

export class Connection {
  #socket = null;
  #token = '';
  #wait_ms = FIRST_MS;
  #ids = 0;
  #hear;

  // hear: {event(content), picture(header, blob), status(kind, words)}
  constructor(hear) {
    this.#hear = hear;
    addEventListener('hashchange', () => this.open());
    this.open();
  }

  get isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  async open() {
    this.#token = takeToken() || this.#token;
    try {
      const entered = await fetch('enter', {
        method: 'POST', body: JSON.stringify({ token: this.#token }) });
      if (entered.status === 403) return this.#refused(await entered.text());
      if (!entered.ok) throw new Error(`the server answers ${entered.status}`);
    } catch {
      return this.#again();
    }
    this.#token = '';
    return this.#connect();
  }

  #refused(why) {
    this.#token = '';
    const advice = /token|cookie/.test(why)
      ? 'Open the address that crosspoint web printed, with its token.' : '';
    this.#hear.status('refused', `${why.trim()}. ${advice}`);
  }

  #again() {
    this.#hear.status('lost', 'The server is not there; trying again…');
    setTimeout(() => this.open(), this.#wait_ms);
    this.#wait_ms = Math.min(2 * this.#wait_ms, LONGEST_MS);
  }

  #connect() {
    const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
    const socket = new WebSocket(`${scheme}://${location.host}/events`);
    socket.binaryType = 'arraybuffer';
    socket.onopen = () => {
      this.#wait_ms = FIRST_MS;
      this.#hear.status('open', '');
    };
    socket.onmessage = ({ data }) => this.#heard(data);
    socket.onclose = () => {
      if (this.#socket === socket) this.#again();
    };
    this.#socket = socket;
  }

  #heard(data) {
    if (typeof data === 'string') {
      this.#hear.event(JSON.parse(data));
      return;
    }
    const length = new DataView(data).getUint32(0);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    this.#hear.picture(header, new Blob([new Uint8Array(data, 4 + length)]));
  }

  // Returns false when there is no connection.
  send(content) {
    if (this.isOpen) this.#socket.send(JSON.stringify(content));
    return this.isOpen;
  }

  // Sends a request; its reply will carry the id that is returned (0: not sent).
  ask(content) {
    this.#ids += 1;
    return this.send({ ...content, id: this.#ids }) ? this.#ids : 0;
  }
}
