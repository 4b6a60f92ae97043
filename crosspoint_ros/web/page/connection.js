// The WebSocket connection: token exchange, reconnection, and message framing.

import { t } from './i18n.js';

const FIRST_RETRY_MS = 300;
const MAX_RETRY_MS = 3000;
const MAX_SILENT_MS = 4200; // the server sends a beat every 2 s
const CHECK_MS = 200;

// The token is in the URL fragment, which browsers never send; it is exchanged for a cookie.
function takeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get('token') ?? '';
  if (token) history.replaceState(null, '', location.pathname);
  return token;
}

export class Connection {
  #socket = null;
  #token = '';
  #retry_ms = FIRST_RETRY_MS;
  #last_id = 0;
  #heard_ms = 0;
  #isSilent = false;
  #handlers;

  // handlers: {event(content), image(header, blob), status(kind, text)}
  constructor(handlers) {
    this.#handlers = handlers;
    addEventListener('hashchange', () => this.open());
    setInterval(() => this.#checkSilence(), CHECK_MS);
    this.open();
  }

  get isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN && !this.#isSilent;
  }

  // A server that hangs keeps the connection open.
  #checkSilence() {
    const silent_ms = performance.now() - this.#heard_ms;
    if (!this.isOpen || silent_ms < MAX_SILENT_MS) return;
    this.#isSilent = true;
    this.#handlers.status('lost', t('status.silent'));
  }

  async open() {
    this.#token = takeToken() || this.#token;
    try {
      const response = await fetch('enter', {
        method: 'POST', body: JSON.stringify({ token: this.#token }) });
      if (response.status === 403) return this.#reject(await response.text());
      if (!response.ok) throw new Error(`HTTP ${response.status}`);
    } catch {
      return this.#retry();
    }
    this.#token = '';
    return this.#connect();
  }

  #reject(reason) {
    this.#token = '';
    const advice = /token|cookie/.test(reason)
      ? t('status.token') : '';
    this.#handlers.status('refused', `${reason.trim()}. ${advice}`);
  }

  #retry() {
    this.#handlers.status('lost', t('status.lost'));
    setTimeout(() => this.open(), this.#retry_ms);
    this.#retry_ms = Math.min(2 * this.#retry_ms, MAX_RETRY_MS);
  }

  #connect() {
    const url = new URL('events', location.href); // a proxy may serve the page under a path
    url.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
    url.hash = '';
    const socket = new WebSocket(url);
    socket.binaryType = 'arraybuffer';
    socket.onopen = () => {
      this.#retry_ms = FIRST_RETRY_MS;
      this.#heard_ms = performance.now();
      this.#isSilent = false;
      this.#handlers.status('open', '');
    };
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = () => {
      if (this.#socket === socket) this.#retry();
    };
    this.#socket = socket;
  }

  // Text: an event. Binary: header length (uint32, big-endian), JSON header, encoded image.
  #receive(data) {
    this.#heard_ms = performance.now();
    if (this.#isSilent) {
      this.#isSilent = false;
      this.#handlers.status('open', '');
    }
    if (typeof data === 'string') {
      this.#handlers.event(JSON.parse(data));
      return;
    }
    const length = new DataView(data).getUint32(0);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    this.#handlers.image(header, new Blob([new Uint8Array(data, 4 + length)]));
  }

  // Returns false if not connected. A server that is silent gets it when it is back.
  send(content) {
    const isConnected = this.#socket?.readyState === WebSocket.OPEN;
    if (isConnected) this.#socket.send(JSON.stringify(content));
    return isConnected;
  }

  // Sends a person's request and returns its id, which the reply carries; 0 if no one would answer.
  request(content) {
    this.#last_id += 1;
    if (!this.isOpen) return 0;
    return this.send({ ...content, id: this.#last_id }) ? this.#last_id : 0;
  }
}
