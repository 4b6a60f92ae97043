// One camera: its live image, with the marks and message of the current result. The focused view is
// large and takes clicks; the others are small, and a click makes one of them the focused view.

import { createElement } from './dom.js';
import { t } from './i18n.js';
import { ImageLayers } from './image_layers.js';
import { createEllipse, createLine, createMark, createSvg, placeMark } from './marks.js';
import { PointerInput } from './pointer_input.js';
import { formatAge, getAge_ms, OLD_MS } from './robot_clock.js';
import { codeText, formatPercent, formatPixel, VERDICT_TEXT } from './text.js';

const FROZEN_MS = 3500; // or three times the camera's mean period, if that is longer
const MAX_PERIOD_MS = 10000; // longer gaps are our own: a hidden page requests nothing
const MAX_ZOOM = 16;

const UNTRACKED = { moved: false, mark: null, isLate: false };

// Where a mark is on the live image. While TF is behind the image, it stays at its last place.
function track(last, { moved = false, mark = null }) {
  return moved === null ? { ...last, isLate: true } : { moved, mark, isLate: false };
}

export class CameraView {
  #actions;
  #isRequested = false;
  #isLate = false; // the next request, so that it says nothing of the link
  #isOnScreen = true;
  #received_ms = performance.now();
  #period_ms = 0;
  #tracked = UNTRACKED;
  // Of the active targets in this view: {name, kind, x, y, stamp, label, tracked}.
  #standing = [];
  #isPrevious = false; // the answer belongs to the click before the one that runs
  #opened = ''; // which earlier answer this is, where one was opened from the history
  #line = null; // the epipolar line of the pixel under the cursor of another view
  #isDrawing = false; // soon
  #width = 0; // of the stage, px of the screen: to read it there lays out the page
  hasDepth = false;
  stamp = '0'; // of the displayed image
  size = { width: 4, height: 3 }; // of the camera's image, px
  region = { x: 0, y: 0, width: 4, height: 3 }; // the part of it that is visible, px
  answer = null; // {kind: 'clicked' | 'found', camera, stamp, x, y, …}
  isPaused = false; // the matched image is displayed instead of the live one
  isFocused = false;

  // actions: {next(camera, after, width, late), past(camera, stamp), click(…), correct(camera, point),
  // depth(camera), focus(camera), hover(…), hoverClicked(), unhover(), loupe}
  constructor(camera, index, actions) {
    this.camera = camera;
    this.#actions = actions;
    this.#build(index);
    this.input = new PointerInput(this, actions);
    new ResizeObserver((entries) => {
      this.#width = entries.at(-1).contentRect.width;
      this.draw();
    }).observe(this.stage);
    new IntersectionObserver((entries) => {
      this.#isOnScreen = entries.at(-1).isIntersecting;
      this.requestNext();
    }).observe(this.root);
  }

  #build(index) {
    this.root = createElement('section', 'view');
    this.root.tabIndex = -1;
    this.root.dataset.camera = this.camera;
    this.root.setAttribute('aria-label', t('view.label', { camera: this.camera }));
    this.badge = createElement('span', 'badge', t('badge.waiting'));
    this.toggle = createElement('button', 'toggle');
    this.toggle.title = t('view.toggle');
    this.toggle.hidden = true;
    this.toggle.addEventListener('click', () => (
      this.isPaused ? this.showLive() : this.showMatched()));
    const header = createElement('header', '', createElement('h2', '', this.camera),
      createElement('kbd', '', String(index + 1)), this.toggle, this.badge);
    this.canvas = createElement('canvas', 'image');
    this.svg = createSvg('svg', { class: 'marks', tabindex: 0 });
    this.layers = new ImageLayers(this, this.#actions);
    this.stage = createElement('div', 'stage', this.canvas, ...this.layers.elements, this.svg,
      header);
    this.message = createElement('p', 'message');
    this.root.append(this.stage, createElement('div', 'words', this.message, this.layers.bar));
    this.setFocused(false);
  }

  setFocused(isFocused) {
    this.isFocused = isFocused;
    this.root.classList.toggle('focused', isFocused);
    this.svg.setAttribute('role', isFocused ? 'application' : 'button');
    this.svg.setAttribute('aria-label', t(isFocused ? 'view.large' : 'view.small', this));
    if (!isFocused) {
      this.input?.reset();
      this.setRegion({ x: 0, y: 0, ...this.size });
      if (this.isPaused && !this.#opened) this.showLive();
    }
    this.layers.update();
  }

  // Images: the next one is requested once the last one is drawn.

  requestNext() {
    if (this.#isRequested) return;
    if (!this.#isOnScreen || document.hidden || this.isPaused) {
      this.#isLate = true;
      return;
    }
    const width = Math.round(this.#stageWidth * this.zoom * devicePixelRatio);
    this.#isRequested = this.#actions.next(this.camera, this.stamp, Math.max(width, 1), this.#isLate);
    this.#isLate = false;
  }

  onReconnect() {
    this.#isRequested = false;
    this.layers.onReconnect();
    if (this.isPaused) this.#actions.past(this.camera, this.answer.stamp);
    this.requestNext();
  }

  async showImage(header, blob) {
    if (!header.past) this.#isRequested = false;
    try {
      if (header.problem) throw new Error(header.problem);
      // EXIF orientation is ignored: pixel coordinates refer to the stored rows and columns.
      const bitmap = await createImageBitmap(blob, { imageOrientation: 'none' });
      if (Boolean(header.past) === this.isPaused) this.#drawImage(header, bitmap);
      else if (header.past && this.layers.isComparing) this.layers.drawAnswered(bitmap);
      bitmap.close();
    } catch (error) {
      this.stamp = header.stamp;
      this.setBadge(t('badge.unreadable', { reason: error.message }), 'bad');
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
    this.input.onImage();
    if (header.past) return;
    this.#updatePeriod();
    this.setTracked(header);
  }

  #updatePeriod() {
    const elapsed_ms = Math.min(this.#silent_ms, MAX_PERIOD_MS);
    this.#period_ms += 0.3 * (elapsed_ms - this.#period_ms);
    this.#received_ms = performance.now();
  }

  get #silent_ms() {
    return performance.now() - this.#received_ms;
  }

  get ageText() {
    return `${Math.round(this.#silent_ms / 1000)} s`;
  }

  // Whether images have stopped although we request them.
  get isFrozen() {
    return !this.isPaused && this.#silent_ms > Math.max(FROZEN_MS, 3 * this.#period_ms);
  }

  #resize(width, height) {
    if (width === this.size.width && height === this.size.height) return;
    this.size = { width, height };
    this.stage.style.setProperty('--aspect', width / height);
    this.setRegion({ x: 0, y: 0, width, height });
  }

  get #stageWidth() { return this.#width || this.stage.clientWidth; }

  // Zoom

  get zoom() { return this.size.width / this.region.width; }

  setRegion({ x, y, width, height }) {
    const inside = (value, length, whole) => Math.min(Math.max(value, 0), whole - length);
    this.region = { x: inside(x, width, this.size.width), y: inside(y, height, this.size.height),
      width, height };
    const { zoom, region, size } = this;
    const transform = `scale(${zoom}) translate(${(-100 * region.x) / size.width}%, ${
      (-100 * region.y) / size.height}%)`;
    this.canvas.style.transform = transform;
    this.layers.setTransform(transform);
    const pixelSize = this.#stageWidth / region.width;
    this.canvas.classList.toggle('pixels', pixelSize > 3);
    // (0, 0) is the centre of the first pixel.
    this.svg.setAttribute('viewBox', `${region.x - 0.5} ${region.y - 0.5} ${width} ${height}`);
    this.draw();
  }

  // Zooms by a factor, and keeps the pixel where it is on the screen.
  zoomAt(pixel, factor) {
    const zoom = Math.min(Math.max(this.zoom * factor, 1), MAX_ZOOM);
    const change = this.zoom / zoom;
    const { x, y } = this.region;
    this.setRegion({ x: pixel.x + 0.5 - (pixel.x + 0.5 - x) * change,
      y: pixel.y + 0.5 - (pixel.y + 0.5 - y) * change,
      width: this.size.width / zoom, height: this.size.height / zoom });
  }

  setTracked(header) {
    const { moved: before, isLate: beforeLate } = this.#tracked;
    const drawn = JSON.stringify([this.#tracked, this.#standing]);
    this.#tracked = track(this.#tracked, header);
    for (const point of this.#standing) {
      point.tracked = track(point.tracked,
        header.standing?.find(({ name }) => name === point.name) ?? {});
    }
    if (drawn === JSON.stringify([this.#tracked, this.#standing])) return;
    const { moved, isLate } = this.#tracked;
    this.#updateToggle();
    // A correction would otherwise end at a place to which no one dragged it.
    if ((moved && !before) || (isLate && !beforeLate)) this.input.reset();
  }

  setUnmoved() {
    this.#tracked = UNTRACKED;
    this.#updateToggle();
  }

  showMatched() {
    if (!this.isMarked) return;
    this.isPaused = true;
    this.#actions.past(this.camera, this.answer.stamp);
    this.#updateToggle();
  }

  showLive() {
    this.isPaused = false;
    this.input.reset();
    this.#updateToggle();
    this.requestNext();
  }

  #updateToggle() {
    const { moved, isLate } = this.#tracked;
    this.toggle.hidden = !this.isPaused && !((moved || isLate) && this.isMarked);
    this.toggle.textContent = t(this.isPaused ? 'button.live' : 'button.matched');
    this.layers.update();
    this.draw();
  }

  onImageMissing() {
    if (!this.isPaused && !this.layers.isComparing) return; // it was for a thumbnail
    const opened = this.#opened;
    this.layers.reset();
    this.showLive();
    if (opened) this.showMessage(t('view.picture_missing', { click: opened }));
    this.setBadge(t('badge.missing'), 'bad');
  }

  setHasDepth(hasDepth) {
    if (hasDepth === this.hasDepth) return;
    this.hasDepth = hasDepth;
    this.layers.update();
  }

  // Called several times a second, so that an old image is not mistaken for a live one.
  updateBadge(problem) {
    const age_ms = getAge_ms(Number(this.stamp) / 1e6);
    this.root.classList.toggle('frozen', this.isFrozen);
    if (this.isPaused) this.setBadge(t('badge.matched'), '');
    else if (this.isFrozen) this.setBadge(t('badge.frozen', { age: this.ageText }), 'bad');
    else if (problem) this.setBadge(problem, 'bad');
    else if (this.stamp === '0') this.setBadge(t('badge.waiting'), '');
    else if (age_ms > OLD_MS) this.setBadge(t('badge.old', { age: formatAge(age_ms) }), 'old');
    else this.setBadge(t('badge.live'), '');
  }

  setBadge(text, kind) {
    if (this.badge.title === text) return;
    this.badge.textContent = text;
    this.badge.title = text;
    this.badge.className = `badge ${kind}`;
  }

  // Marks and message

  get isMarked() {
    return this.answer !== null && this.answer.x !== null;
  }

  // Corrections refer to the matched image, so it must be displayed, or the camera unmoved.
  get isCorrectable() {
    const { moved, isLate } = this.#tracked;
    return this.isMarked && this.answer.kind === 'found' && this.answer.verdict !== 'refused'
      && !this.#isPrevious && !this.#opened && (this.isPaused || !(moved || isLate));
  }

  // tracked: where it is on the live image; null if not known now, so that it is as before, or late
  // until the next image. opened: the name of an earlier answer, which is shown on
  // its own image alone.
  setAnswer(answer, tracked = null, opened = '') {
    if (answer?.refused_px) {
      const [x, y] = answer.refused_px; // a hollow mark, where it would have been
      answer = { ...answer, x, y };
    }
    const isSame = answer !== null && answer.stamp === this.answer?.stamp
      && answer.x === this.answer.x && answer.y === this.answer.y;
    this.answer = answer;
    this.#setPrevious(false);
    this.#opened = opened;
    this.root.classList.toggle('opened', Boolean(opened));
    this.root.classList.toggle('refuses', answer?.verdict === 'refused');
    if (!isSame) this.layers.reset();
    if (!isSame) this.#tracked = track(UNTRACKED, { moved: null });
    if (this.isPaused) this.showLive();
    this.input.reset();
    if (opened) this.showMatched();
    if (tracked) this.setTracked(tracked);
    this.#updateToggle();
    this.showCaption();
  }

  // The points of the active targets that are not those of the displayed answer.
  setStanding(points) {
    this.#standing = points.map((point) => ({ ...point, tracked: this.#standing.find(
      ({ name, stamp }) => name === point.name && stamp === point.stamp)?.tracked
      ?? track(UNTRACKED, { moved: null }) }));
    this.draw();
  }

  // points: [x, y] of the epipolar line, or null.
  setLine(points) {
    if (!points && !this.#line) return;
    this.#line = points;
    this.draw();
  }

  // A new click runs: what is displayed is dimmed, and named so.
  markPrevious() {
    if (this.answer === null) return;
    this.#setPrevious(true);
    this.input.reset();
    this.showCaption();
    this.draw();
  }

  #setPrevious(isPrevious) {
    this.#isPrevious = isPrevious;
    this.root.classList.toggle('previous', isPrevious);
  }

  showCaption() {
    const { answer } = this;
    this.message.className = `message ${answer?.verdict ?? answer?.kind ?? ''}`;
    const whose = this.#isPrevious ? [t('view.previous')] : [];
    if (this.#opened) whose.push(`${this.#opened}: `);
    this.message.replaceChildren(...whose, ...this.#createCaption(answer));
    this.message.title = this.message.textContent;
  }

  // Replaces the caption; the answer and its marks stay.
  showMessage(text) {
    this.input.reset();
    this.message.className = 'message';
    this.message.textContent = this.message.title = text;
  }

  #createCaption(answer) {
    if (!answer) return [];
    if (answer.kind === 'clicked') {
      return [createElement('b', '', t('view.clicked')), ` ${formatPixel(answer)}`];
    }
    if (answer.verdict === 'refused') {
      return [createElement('b', '', codeText(answer.code)), `: ${answer.message}`];
    }
    return [createElement('b', '', VERDICT_TEXT[answer.verdict]),
      ` ${formatPixel(answer)} · ${
        t('view.confidence', { percent: formatPercent(answer.confidence) })}`];
  }

  // Where the mark is drawn; null if the point is not on the displayed image.
  get #markPixel() {
    if (!this.isMarked || (this.#opened && !this.isPaused)) return null;
    if (this.input.dragged) return this.input.dragged;
    return this.isPaused ? this.answer : this.#place(this.answer, this.#tracked);
  }

  #place({ x, y }, { moved, mark }) {
    if (!moved) return { x, y };
    return mark ? { x: mark[0], y: mark[1] } : null;
  }

  // Once for all that an event changes.
  draw() {
    if (this.#isDrawing) return;
    this.#isDrawing = true;
    queueMicrotask(() => {
      this.#isDrawing = false;
      this.#drawMarks();
    });
  }

  #drawMarks() {
    const marks = this.#line && !this.isPaused ? [createLine(this.#line)] : [];
    const pixel = this.#markPixel;
    for (const point of this.isPaused ? [] : this.#standing) {
      const { kind, label, tracked } = point;
      const place = this.#place(point, tracked);
      if (!place) continue;
      const mark = this.#createMark(kind, place, label, point, tracked);
      mark.classList.add('standing', `of-${kind}`);
      mark.classList.remove('sure', 'check', 'clicked');
      marks.push(mark);
    }
    if (pixel) marks.push(...this.#createMarks(pixel));
    if (this.input.crosshair) {
      marks.push(this.#createMark('crosshair', this.input.crosshair, '', this.input.crosshair,
        UNTRACKED));
    }
    this.svg.replaceChildren(...marks);
  }

  #createMarks(pixel) {
    const { answer, isCorrectable } = this;
    if (answer.kind === 'clicked') {
      const clicked = this.#createMark('clicked', pixel, answer.isRefused ? VERDICT_TEXT.refused : '',
        answer, this.#tracked);
      clicked.classList.toggle('refused', Boolean(answer.isRefused));
      return [clicked];
    }
    const { dragged } = this.input;
    const { verdict, covariance_px2 } = answer;
    const marks = [];
    if (isCorrectable && covariance_px2 && !dragged) {
      marks.push(createEllipse(pixel, covariance_px2));
    }
    const found = this.#createMark(verdict, pixel,
      dragged ? formatPixel(dragged) : verdict === 'refused' ? t('view.refused_mark', {
        reason: codeText(answer.code) }) : VERDICT_TEXT[verdict], answer, this.#tracked);
    if (verdict !== 'refused') found.append(createSvg('circle', { class: 'grip', r: 22 }));
    return [...marks, found];
  }

  #createMark(kind, point, label, { x, y, stamp }, { moved, isLate }) {
    const group = createMark(kind, this.isFocused ? label : '');
    group.classList.toggle('tracked', moved && !this.isPaused);
    group.classList.toggle('late', isLate && !this.isPaused);
    Object.assign(group.dataset, { x, y, stamp, at: `${point.x} ${point.y}` });
    const perPixel = this.region.width / (this.#stageWidth || this.region.width);
    placeMark(group, point, perPixel * (this.isFocused ? 1 : 0.7));
    return group;
  }
}
