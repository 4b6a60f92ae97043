// One camera: its live picture, the marks on it, and what a hand or the keyboard does to them.

import { ellipse, make, mark, place } from './marks.js';
import { codeWords, percent, pixel, VERDICTS } from './words.js';

const FROZEN_MS = 3500;
const STEP_PX = 10;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function element(name, className, text = '') {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

export class View {
  #ask;
  #stamp = '0';
  #size = { width: 4, height: 3 };
  #came_ms = performance.now();
  #answer = null; // {kind: 'clicked' | 'found', x, y, …}
  #aim = null; // the keyboard's crosshair, px
  #held = null; // the found point while it is carried
  #pressed = null; // what was under the pointer when it went down
  #found = null; // the SVG group of the found point
  #waiting = false;
  #inSight = true;

  // ask: {next(camera, after), click(camera, stamp, point), correct(camera, point)}
  constructor(camera, index, ask) {
    this.camera = camera;
    this.#ask = ask;
    this.root = element('section', 'view');
    this.root.dataset.camera = camera;
    this.root.setAttribute('aria-label', `camera ${camera}`);
    const head = element('header', '');
    this.badge = element('span', 'badge', 'waiting for a picture');
    head.append(element('h3', '', camera), element('kbd', '', String(index + 1)), this.badge);
    this.canvas = element('canvas', 'picture');
    this.svg = make('svg', { class: 'marks', tabindex: 0, role: 'application' });
    this.svg.setAttribute('aria-label', `picture of ${camera}: arrow keys aim, Enter clicks`);
    this.stage = element('div', 'stage');
    this.stage.append(this.canvas, this.svg);
    this.words = element('p', 'words');
    this.root.append(head, this.stage, this.words);
    this.#listen();
  }

  #listen() {
    this.svg.addEventListener('pointerdown', (event) => this.#press(event));
    this.svg.addEventListener('pointermove', (event) => this.#carry(event));
    this.svg.addEventListener('pointerup', (event) => this.#release(event));
    this.svg.addEventListener('pointercancel', () => this.letGo());
    this.svg.addEventListener('click', (event) => this.#click(event));
    this.svg.addEventListener('keydown', (event) => this.#key(event));
    this.svg.addEventListener('blur', () => this.#setAim(null));
    new ResizeObserver(() => this.#draw()).observe(this.stage);
    new IntersectionObserver(([entry]) => {
      this.#inSight = entry.isIntersecting;
      this.askNext();
    }).observe(this.root);
  }

  // Pictures: the next one is asked for when the last one is drawn.

  askNext() {
    if (this.#waiting || !this.#inSight || document.hidden) return;
    this.#waiting = this.#ask.next(this.camera, this.#stamp);
  }

  reconnected() {
    this.#waiting = false;
    this.askNext();
  }

  async show(header, blob) {
    this.#waiting = false;
    try {
      if (header.problem) throw new Error(header.problem);
      // Upright as it lies in the file: that is how the camera's pixels are counted.
      const bitmap = await createImageBitmap(blob, { imageOrientation: 'none' });
      this.#paint(header, bitmap);
      bitmap.close();
    } catch (error) {
      this.#stamp = header.stamp;
      this.setBadge(`cannot be shown: ${error.message}`, 'bad');
    }
    this.askNext();
  }

  #paint({ stamp, width, height }, bitmap) {
    if (this.canvas.width !== bitmap.width || this.canvas.height !== bitmap.height) {
      this.canvas.width = bitmap.width;
      this.canvas.height = bitmap.height;
    }
    if (width !== this.#size.width || height !== this.#size.height) this.#resize(width, height);
    this.canvas.getContext('2d').drawImage(bitmap, 0, 0);
    this.#stamp = stamp;
    this.#came_ms = performance.now();
    this.root.dataset.stamp = stamp;
  }

  #resize(width, height) {
    this.#size = { width, height };
    this.stage.style.aspectRatio = `${width} / ${height}`;
    // (0, 0) is the centre of the first pixel.
    this.svg.setAttribute('viewBox', `-0.5 -0.5 ${width} ${height}`);
    this.#draw();
  }

  // Called once a second or so: a picture that stands still must not pass for a live one.
  checkAge(problem) {
    const age_ms = performance.now() - this.#came_ms;
    const frozen = age_ms > FROZEN_MS;
    this.root.classList.toggle('frozen', frozen);
    if (frozen) this.setBadge(`no picture for ${Math.round(age_ms / 1000)} s`, 'bad');
    else if (problem) this.setBadge(problem, 'bad');
    else this.setBadge(this.#stamp === '0' ? 'waiting for a picture' : 'live', '');
  }

  setBadge(words, kind) {
    this.badge.textContent = words;
    this.badge.title = words;
    this.badge.className = `badge ${kind}`;
  }

  // Marks and words

  // answer: {kind: 'clicked', x, y} | {kind: 'found', x, y, verdict, …} | {kind: 'words', …} | null
  setAnswer(answer) {
    this.#answer = answer;
    this.#held = null;
    this.words.className = `words ${answer?.verdict ?? answer?.kind ?? ''}`;
    this.words.replaceChildren(...this.#told(answer));
    this.#draw();
  }

  #told(answer) {
    if (!answer) return [];
    if (answer.kind === 'words') return [answer.text];
    if (answer.kind === 'clicked') return [element('b', '', 'clicked'), ` ${pixel(answer)}`];
    if (answer.verdict === 'refused') {
      return [element('b', '', codeWords(answer.code)), `: ${answer.message}`];
    }
    return [element('b', '', VERDICTS[answer.verdict]), ` ${pixel(answer)} · confidence `
      + percent(answer.confidence)];
  }

  #draw() {
    const scale = this.#size.width / (this.stage.clientWidth || this.#size.width);
    const marks = [];
    const at = this.#held ?? this.#answer;
    this.#found = null;
    if (at && this.#answer.x !== null && this.#answer.kind === 'clicked') {
      marks.push(this.#placed('clicked', at, scale, ''));
    } else if (at && this.#answer.kind === 'found' && this.#answer.verdict !== 'refused') {
      if (this.#answer.covariance_px2 && !this.#held) {
        marks.push(ellipse(at, this.#answer.covariance_px2));
      }
      this.#found = this.#placed(this.#answer.verdict, at, scale,
        this.#held ? pixel(at) : VERDICTS[this.#answer.verdict]);
      this.#found.append(make('circle', { class: 'grip', r: 22 }));
      marks.push(this.#found);
    }
    if (this.#aim) marks.push(this.#placed('aim', this.#aim, scale, ''));
    this.svg.replaceChildren(...marks);
  }

  #placed(kind, point, scale, label) {
    const group = mark(kind, label);
    Object.assign(group.dataset, { x: point.x, y: point.y, stamp: point.stamp ?? '' });
    place(group, point, scale);
    return group;
  }

  // The pointer

  #pointOf(event) {
    const box = this.svg.getBoundingClientRect();
    const { width, height } = this.#size;
    const within = (value, size) => Math.min(Math.max(value - 0.5, 0), size - 1);
    return { x: within(((event.clientX - box.left) / box.width) * width, width),
      y: within(((event.clientY - box.top) / box.height) * height, height) };
  }

  #press(event) {
    this.#pressed = { stamp: this.#stamp, point: this.#pointOf(event), carried: false };
    if (event.button === 0 && event.target.classList.contains('grip')) {
      event.preventDefault();
      const { x, y } = this.#pressed.point;
      this.#pressed.off = { x: this.#answer.x - x, y: this.#answer.y - y };
      this.svg.setPointerCapture(event.pointerId);
    }
  }

  #carry(event) {
    if (!this.#pressed?.off) return;
    const at = this.#pointOf(event);
    this.#pressed.carried = true;
    this.#held = { x: at.x + this.#pressed.off.x, y: at.y + this.#pressed.off.y };
    this.#draw();
  }

  #release() {
    if (!this.#pressed?.off || !this.#held) return;
    this.#ask.correct(this.camera, this.#held);
  }

  #click(event) {
    const pressed = this.#pressed;
    this.#pressed = null;
    if (pressed?.carried) return;
    // The press is the click: pictures go on until the finger lifts.
    this.#ask.click(this.camera, pressed?.stamp ?? this.#stamp,
      pressed?.point ?? this.#pointOf(event));
  }

  letGo() {
    this.#held = this.#pressed = null;
    this.#setAim(null);
  }

  // The keyboard

  #setAim(aim) {
    this.#aim = aim;
    this.#draw();
  }

  #key(event) {
    if (ARROWS[event.key]) this.#move(ARROWS[event.key], event.shiftKey ? 1 : STEP_PX);
    else if (event.key === 'Enter' && this.#held) this.#ask.correct(this.camera, this.#held);
    else if (event.key === 'Enter' && this.#aim) {
      this.#ask.click(this.camera, this.#stamp, this.#aim);
    } else if (event.key === 'c' && this.#found) {
      this.#held = { x: this.#answer.x, y: this.#answer.y };
      this.#setAim(null);
    } else return;
    event.preventDefault();
  }

  #move([dx, dy], step) {
    const { width, height } = this.#size;
    const from = this.#held ?? this.#aim ?? { x: (width >> 1) - dx * step,
      y: (height >> 1) - dy * step };
    const to = { x: Math.min(Math.max(from.x + dx * step, 0), width - 1),
      y: Math.min(Math.max(from.y + dy * step, 0), height - 1) };
    if (this.#held) this.#held = to;
    else this.#aim = to;
    this.#draw();
  }
}
