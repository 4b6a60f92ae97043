// One camera: its live picture, and the marks and words of the answer on it.

import { Hands } from './hands.js';
import { ellipse, make, mark, place } from './marks.js';
import { codeWords, percent, pixel, VERDICTS } from './words.js';

const FROZEN_MS = 3500; // and three times as long as the camera's pictures are apart

function element(name, className, text = '') {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

export class View {
  #ask;
  #waiting = false;
  #inSight = true;
  #came_ms = performance.now();
  #period_ms = 0;
  #now = { moved: false, mark: null }; // where the answer's mark belongs on the live picture
  stamp = '0'; // of the picture that is shown
  size = { width: 4, height: 3 }; // of the camera's image, px
  answer = null; // {kind: 'clicked' | 'found', camera, stamp, x, y, …}
  isStill = false; // the answered picture is shown, not the live one

  // ask: {next(camera, after), past(camera, stamp), click(…), correct(camera, point)}
  constructor(camera, index, ask) {
    this.camera = camera;
    this.#ask = ask;
    this.#build(index);
    this.hands = new Hands(this, ask);
    new ResizeObserver(() => this.draw()).observe(this.stage);
    new IntersectionObserver(([entry]) => {
      this.#inSight = entry.isIntersecting;
      this.askNext();
    }).observe(this.root);
  }

  #build(index) {
    this.root = element('section', 'view');
    this.root.dataset.camera = this.camera;
    this.root.setAttribute('aria-label', `camera ${this.camera}`);
    this.badge = element('span', 'badge', 'waiting for a picture');
    this.switch = element('button', 'switch');
    this.switch.hidden = true;
    this.switch.addEventListener('click', () => (this.isStill ? this.goLive() : this.goBack()));
    const head = element('header', '');
    head.append(element('h3', '', this.camera), element('kbd', '', String(index + 1)),
      this.badge, this.switch);
    this.canvas = element('canvas', 'picture');
    this.svg = make('svg', { class: 'marks', tabindex: 0, role: 'application',
      'aria-label': `picture of ${this.camera}: arrow keys aim, Enter clicks` });
    this.stage = element('div', 'stage');
    this.stage.append(this.canvas, this.svg);
    this.words = element('p', 'words');
    this.root.append(head, this.stage, this.words);
  }

  // Pictures: the next one is asked for when the last one is drawn.

  askNext() {
    if (this.#waiting || !this.#inSight || document.hidden || this.isStill) return;
    this.#waiting = this.#ask.next(this.camera, this.stamp);
  }

  reconnected() {
    this.#waiting = false;
    this.askNext();
  }

  async show(header, blob) {
    if (!header.past) this.#waiting = false;
    try {
      if (header.problem) throw new Error(header.problem);
      // Upright as it lies in the file: that is how the camera's pixels are counted.
      const bitmap = await createImageBitmap(blob, { imageOrientation: 'none' });
      if (Boolean(header.past) === this.isStill) this.#paint(header, bitmap);
      bitmap.close();
    } catch (error) {
      this.stamp = header.stamp;
      this.setBadge(`cannot be shown: ${error.message}`, 'bad');
    }
    this.askNext();
  }

  #paint(header, bitmap) {
    if (this.canvas.width !== bitmap.width || this.canvas.height !== bitmap.height) {
      this.canvas.width = bitmap.width;
      this.canvas.height = bitmap.height;
    }
    this.#resize(header.width, header.height);
    this.canvas.getContext('2d', { alpha: false }).drawImage(bitmap, 0, 0);
    this.stamp = header.stamp;
    this.root.dataset.stamp = header.stamp;
    if (header.past) return;
    this.#noteTime();
    this.setNow(header);
  }

  #noteTime() {
    const now_ms = performance.now();
    // At most 10 s: while the page is out of sight, none is asked for.
    const passed_ms = Math.min(now_ms - this.#came_ms, 10000);
    this.#period_ms += 0.3 * (passed_ms - this.#period_ms);
    this.#came_ms = now_ms;
  }

  get #age_ms() {
    return performance.now() - this.#came_ms;
  }

  // Whether pictures have ceased to come, though we ask for them.
  get isFrozen() {
    return !this.isStill && this.#age_ms > Math.max(FROZEN_MS, 3 * this.#period_ms);
  }

  #resize(width, height) {
    if (width === this.size.width && height === this.size.height) return;
    this.size = { width, height };
    this.stage.style.aspectRatio = `${width} / ${height}`;
    // (0, 0) is the centre of the first pixel.
    this.svg.setAttribute('viewBox', `-0.5 -0.5 ${width} ${height}`);
    this.draw();
  }

  setNow({ moved = false, mark: at = null }) {
    const before = this.#now;
    this.#now = { moved, mark: at };
    this.switch.hidden = !this.isStill && !(moved && this.#isMarked);
    this.switch.textContent = this.isStill ? 'Live' : 'Answered picture';
    if (moved || before.moved) this.draw(); // else the marks are where they were
  }

  // The picture on which the answer was given, and the live one again

  goBack() {
    if (!this.#isMarked) return;
    this.isStill = true;
    this.#ask.past(this.camera, this.answer.stamp);
    this.setNow(this.#now);
  }

  goLive() {
    this.isStill = false;
    this.hands.letGo();
    this.setNow(this.#now);
    this.askNext();
  }

  noPast() {
    this.goLive();
    this.setBadge('that picture is not kept any more', 'bad');
  }

  get age() {
    return `${Math.round(this.#age_ms / 1000)} s`;
  }

  // Called twice a second: a picture that stands still must not pass for a live one.
  checkAge(problem) {
    this.root.classList.toggle('frozen', this.isFrozen);
    if (this.isStill) this.setBadge('answered picture', '');
    else if (this.isFrozen) this.setBadge(`no picture for ${this.age}`, 'bad');
    else if (problem) this.setBadge(problem, 'bad');
    else this.setBadge(this.stamp === '0' ? 'waiting for a picture' : 'live', '');
  }

  setBadge(words, kind) {
    if (this.badge.title === words) return;
    this.badge.textContent = words;
    this.badge.title = words;
    this.badge.className = `badge ${kind}`;
  }

  // Marks and words

  get #isMarked() {
    return this.answer !== null && this.answer.x !== null && this.answer.verdict !== 'refused';
  }

  // Whether what is on the screen is the answer's own view, where its point may be corrected.
  get isCorrectable() {
    return this.#isMarked && this.answer.kind === 'found' && (this.isStill || !this.#now.moved);
  }

  setAnswer(answer, now = {}) {
    this.answer = answer;
    if (this.isStill) this.goLive();
    this.hands.letGo();
    this.setNow(now);
    this.sayAnswer();
    this.draw();
  }

  sayAnswer() {
    const { answer } = this;
    this.words.className = `words ${answer?.verdict ?? answer?.kind ?? ''}`;
    this.words.replaceChildren(...this.#told(answer));
  }

  // Words alone; the answer and its marks stay.
  say(words) {
    this.hands.letGo();
    this.words.className = 'words';
    this.words.textContent = words;
  }

  #told(answer) {
    if (!answer) return [];
    if (answer.kind === 'clicked') return [element('b', '', 'clicked'), ` ${pixel(answer)}`];
    if (answer.verdict === 'refused') {
      return [element('b', '', codeWords(answer.code)), `: ${answer.message}`];
    }
    return [element('b', '', VERDICTS[answer.verdict]), ` ${pixel(answer)} · confidence `
      + percent(answer.confidence)];
  }

  // Where the mark is drawn; null where the answer's point is not on this picture.
  get #place() {
    if (!this.#isMarked) return null;
    if (this.hands.held) return this.hands.held;
    const { moved, mark: at } = this.#now;
    if (!moved || this.isStill) return { x: this.answer.x, y: this.answer.y };
    return at ? { x: at[0], y: at[1] } : null;
  }

  draw() {
    const marks = [];
    const at = this.#place;
    if (at) marks.push(...this.#marked(at));
    if (this.hands.aim) marks.push(this.#placed('aim', this.hands.aim, ''));
    this.svg.replaceChildren(...marks);
  }

  #marked(at) {
    if (this.answer.kind === 'clicked') return [this.#placed('clicked', at, '')];
    const { held } = this.hands;
    const { verdict, covariance_px2 } = this.answer;
    const marks = [];
    if (this.isCorrectable && covariance_px2 && !held) marks.push(ellipse(at, covariance_px2));
    const found = this.#placed(verdict, at, held ? pixel(held) : VERDICTS[verdict]);
    found.append(make('circle', { class: 'grip', r: 22 }));
    return [...marks, found];
  }

  #placed(kind, point, label) {
    const group = mark(kind, label);
    group.classList.toggle('carried', this.#now.moved && !this.isStill && kind !== 'aim');
    const { x, y, stamp } = this.answer ?? point;
    Object.assign(group.dataset, { x, y, stamp, at: `${point.x} ${point.y}` });
    place(group, point, this.size.width / (this.stage.clientWidth || this.size.width));
    return group;
  }
}
