// One camera: its live image, with the marks and message of the current result.

import { createElement } from './dom.js';
import { createEllipse, createMark, createSvg, placeMark } from './marks.js';
import { PointerInput } from './pointer_input.js';
import { codeText, formatPercent, formatPixel, VERDICT_TEXT } from './text.js';

const FROZEN_MS = 3500; // or three times the camera's mean period, if that is longer
const MAX_PERIOD_MS = 10000; // longer gaps are our own: a hidden page requests nothing

export class CameraView {
  #actions;
  #isRequested = false;
  #isOnScreen = true;
  #received_ms = performance.now();
  #period_ms = 0;
  #tracked = { moved: false, mark: null }; // where the mark is on the live image
  stamp = '0'; // of the displayed image
  size = { width: 4, height: 3 }; // of the camera's image, px
  answer = null; // {kind: 'clicked' | 'found', camera, stamp, x, y, …}
  isPaused = false; // the matched image is displayed instead of the live one

  // actions: {next(camera, after), past(camera, stamp), click(…), correct(camera, point)}
  constructor(camera, index, actions) {
    this.camera = camera;
    this.#actions = actions;
    this.#build(index);
    this.input = new PointerInput(this, actions);
    new ResizeObserver(() => this.draw()).observe(this.stage);
    new IntersectionObserver(([entry]) => {
      this.#isOnScreen = entry.isIntersecting;
      this.requestNext();
    }).observe(this.root);
  }

  #build(index) {
    this.root = createElement('section', 'view');
    this.root.dataset.camera = this.camera;
    this.root.setAttribute('aria-label', `camera ${this.camera}`);
    this.badge = createElement('span', 'badge', 'waiting for an image');
    this.toggle = createElement('button', 'toggle');
    this.toggle.title = 'switch between the live image and the matched one';
    this.toggle.hidden = true;
    this.toggle.addEventListener('click', () => (
      this.isPaused ? this.showLive() : this.showMatched()));
    const header = createElement('header', '', createElement('h3', '', this.camera),
      createElement('kbd', '', String(index + 1)), this.badge, this.toggle);
    this.canvas = createElement('canvas', 'image');
    this.svg = createSvg('svg', { class: 'marks', tabindex: 0, role: 'application',
      'aria-label': `image of ${this.camera}: arrow keys move the crosshair, Enter clicks` });
    this.stage = createElement('div', 'stage', this.canvas, this.svg);
    this.message = createElement('p', 'message');
    this.root.append(header, this.stage, this.message);
  }

  // Images: the next one is requested once the last one is drawn.

  requestNext() {
    if (this.#isRequested || !this.#isOnScreen || document.hidden || this.isPaused) return;
    this.#isRequested = this.#actions.next(this.camera, this.stamp);
  }

  onReconnect() {
    this.#isRequested = false;
    this.requestNext();
  }

  async showImage(header, blob) {
    if (!header.past) this.#isRequested = false;
    try {
      if (header.problem) throw new Error(header.problem);
      // EXIF orientation is ignored: pixel coordinates refer to the stored rows and columns.
      const bitmap = await createImageBitmap(blob, { imageOrientation: 'none' });
      if (Boolean(header.past) === this.isPaused) this.#drawImage(header, bitmap);
      bitmap.close();
    } catch (error) {
      this.stamp = header.stamp;
      this.setBadge(`cannot display the image: ${error.message}`, 'bad');
    }
    this.requestNext();
  }

  #drawImage(header, bitmap) {
    if (this.canvas.width !== bitmap.width || this.canvas.height !== bitmap.height) {
      this.canvas.width = bitmap.width;
      this.canvas.height = bitmap.height;
    }
    this.#resize(header.width, header.height);
    this.canvas.getContext('2d', { alpha: false }).drawImage(bitmap, 0, 0);
    this.stamp = header.stamp;
    this.root.dataset.stamp = header.stamp;
    if (header.past) return;
    this.#updatePeriod();
    this.setTracked(header);
  }

  #updatePeriod() {
    const elapsed_ms = Math.min(this.#age_ms, MAX_PERIOD_MS);
    this.#period_ms += 0.3 * (elapsed_ms - this.#period_ms);
    this.#received_ms = performance.now();
  }

  get #age_ms() {
    return performance.now() - this.#received_ms;
  }

  get ageText() {
    return `${Math.round(this.#age_ms / 1000)} s`;
  }

  // Whether images have stopped although we request them.
  get isFrozen() {
    return !this.isPaused && this.#age_ms > Math.max(FROZEN_MS, 3 * this.#period_ms);
  }

  #resize(width, height) {
    if (width === this.size.width && height === this.size.height) return;
    this.size = { width, height };
    this.stage.style.aspectRatio = `${width} / ${height}`;
    // (0, 0) is the centre of the first pixel.
    this.svg.setAttribute('viewBox', `-0.5 -0.5 ${width} ${height}`);
    this.draw();
  }

  setTracked({ moved = false, mark = null }) {
    const before = this.#tracked;
    this.#tracked = { moved, mark };
    this.toggle.hidden = !this.isPaused && !(moved && this.#isMarked);
    this.toggle.textContent = this.isPaused ? 'Live' : 'Matched';
    if (moved || before.moved) this.draw();
  }

  // The image that was matched, or the live one

  showMatched() {
    if (!this.#isMarked) return;
    this.isPaused = true;
    this.#actions.past(this.camera, this.answer.stamp);
    this.setTracked(this.#tracked);
  }

  showLive() {
    this.isPaused = false;
    this.input.reset();
    this.setTracked(this.#tracked);
    this.requestNext();
  }

  onImageMissing() {
    this.showLive();
    this.setBadge('the matched image is no longer stored', 'bad');
  }

  // Called twice a second, so that a frozen image is not mistaken for a live one.
  updateBadge(problem) {
    this.root.classList.toggle('frozen', this.isFrozen);
    if (this.isPaused) this.setBadge('matched image', '');
    else if (this.isFrozen) this.setBadge(`frozen for ${this.ageText}`, 'bad');
    else if (problem) this.setBadge(problem, 'bad');
    else this.setBadge(this.stamp === '0' ? 'waiting for an image' : 'live', '');
  }

  setBadge(text, kind) {
    if (this.badge.title === text) return;
    this.badge.textContent = text;
    this.badge.title = text;
    this.badge.className = `badge ${kind}`;
  }

  // Marks and message

  get #isMarked() {
    return this.answer !== null && this.answer.x !== null && this.answer.verdict !== 'refused';
  }

  // Corrections refer to the matched image, so it must be displayed, or the camera unmoved.
  get isCorrectable() {
    return this.#isMarked && this.answer.kind === 'found'
      && (this.isPaused || !this.#tracked.moved);
  }

  setAnswer(answer, tracked = {}) {
    this.answer = answer;
    if (this.isPaused) this.showLive();
    this.input.reset();
    this.setTracked(tracked);
    this.showCaption();
    this.draw();
  }

  showCaption() {
    const { answer } = this;
    this.message.className = `message ${answer?.verdict ?? answer?.kind ?? ''}`;
    this.message.replaceChildren(...this.#createCaption(answer));
  }

  // Replaces the caption; the answer and its marks stay.
  showMessage(text) {
    this.input.reset();
    this.message.className = 'message';
    this.message.textContent = text;
  }

  #createCaption(answer) {
    if (!answer) return [];
    if (answer.kind === 'clicked') {
      return [createElement('b', '', 'clicked'), ` ${formatPixel(answer)}`];
    }
    if (answer.verdict === 'refused') {
      return [createElement('b', '', codeText(answer.code)), `: ${answer.message}`];
    }
    return [createElement('b', '', VERDICT_TEXT[answer.verdict]),
      ` ${formatPixel(answer)} · confidence ${formatPercent(answer.confidence)}`];
  }

  // Where the mark is drawn; null if the point is not on the displayed image.
  get #markPixel() {
    if (!this.#isMarked) return null;
    if (this.input.dragged) return this.input.dragged;
    const { moved, mark } = this.#tracked;
    if (!moved || this.isPaused) return { x: this.answer.x, y: this.answer.y };
    return mark ? { x: mark[0], y: mark[1] } : null;
  }

  draw() {
    const marks = [];
    const pixel = this.#markPixel;
    if (pixel) marks.push(...this.#createMarks(pixel));
    if (this.input.crosshair) marks.push(this.#createMark('crosshair', this.input.crosshair, ''));
    this.svg.replaceChildren(...marks);
  }

  #createMarks(pixel) {
    if (this.answer.kind === 'clicked') return [this.#createMark('clicked', pixel, '')];
    const { dragged } = this.input;
    const { verdict, covariance_px2 } = this.answer;
    const marks = [];
    if (this.isCorrectable && covariance_px2 && !dragged) {
      marks.push(createEllipse(pixel, covariance_px2));
    }
    const found = this.#createMark(
      verdict, pixel, dragged ? formatPixel(dragged) : VERDICT_TEXT[verdict]);
    found.append(createSvg('circle', { class: 'grip', r: 22 }));
    return [...marks, found];
  }

  #createMark(kind, point, label) {
    const group = createMark(kind, label);
    const isTracked = this.#tracked.moved && !this.isPaused && kind !== 'crosshair';
    group.classList.toggle('tracked', isTracked);
    const { x, y, stamp } = this.answer ?? point;
    Object.assign(group.dataset, { x, y, stamp, at: `${point.x} ${point.y}` });
    placeMark(group, point, this.size.width / (this.stage.clientWidth || this.size.width));
    return group;
  }
}
