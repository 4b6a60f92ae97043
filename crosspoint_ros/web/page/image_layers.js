// What can be put over a live image: the answered image, up to a slider, the depth, and a mask.

import { createElement } from './dom.js';
import { t } from './i18n.js';
import { MaskEditor } from './mask_editor.js';
import { formatAge, getAge_ms, OLD_MS } from './robot_clock.js';

const DEPTH_PERIOD_MS = 500;

export class ImageLayers {
  #view;
  #actions;
  #isDepthRequested = false;

  // actions: {past(camera, stamp), depth(camera)}
  constructor(view, actions) {
    this.#view = view;
    this.#actions = actions;
    this.answered = createElement('canvas', 'image answered');
    this.depth = createElement('img', 'image depth');
    this.depth.alt = '';
    this.slider = createElement('input', 'compare');
    Object.assign(this.slider, { type: 'range', min: 0, max: 100, value: 0, ariaLabel:
      t('layers.slider', { camera: view.camera }) });
    this.slider.addEventListener('input', () => this.#onSlide());
    this.button = createElement('button', 'layer', t('button.depth'));
    this.button.setAttribute('aria-pressed', 'false');
    this.button.addEventListener('click', () => this.#toggleDepth());
    this.legend = createElement('span', 'legend');
    this.label = createElement('label', 'comparing', `${t('layers.answered')} `, this.slider,
      ` ${t('layers.live')}`);
    this.mask = new MaskEditor(view);
    this.bar = createElement('div', 'layers', this.label, this.legend, this.mask.tools, this.button,
      this.mask.button);
    this.elements = [this.answered, this.depth, this.mask.canvas];
    this.update();
  }

  get isComparing() { return Number(this.slider.value) > 0; }

  // Shows the controls that apply now.
  update() {
    const { isFocused, isPaused, isMarked, hasDepth } = this.#view;
    this.mask.button.hidden = !isFocused || isPaused;
    if (this.mask.button.hidden) this.mask.setOn(false);
    this.label.hidden = !isFocused || isPaused || !isMarked || this.mask.isOn;
    this.button.hidden = !isFocused || isPaused || !hasDepth; // depth is of now
    if (this.label.hidden) this.#setShare(0);
    if (this.button.hidden) this.#setDepth(false);
  }

  // Another answer, or none.
  reset() { this.#setShare(0); }

  #setShare(percent) {
    this.slider.value = percent;
    this.answered.style.clipPath = `inset(0 ${100 - percent}% 0 0)`;
    this.answered.hidden = !percent;
  }

  #onSlide() {
    const wasHidden = this.answered.hidden;
    this.#clip();
    if (wasHidden && this.isComparing) {
      this.answered.width = this.answered.height = 0;
      this.#actions.past(this.#view.camera, this.#view.answer.stamp);
    }
  }

  // The share is of what is visible, not of the whole picture.
  #clip() {
    const { region, size } = this.#view;
    const edge = (region.x + (region.width * this.slider.value) / 100) / size.width;
    this.answered.style.clipPath = `inset(0 ${100 - 100 * edge}% 0 0)`;
    this.answered.hidden = !this.isComparing;
  }

  drawAnswered(bitmap) {
    this.answered.width = bitmap.width;
    this.answered.height = bitmap.height;
    this.answered.getContext('2d', { alpha: false }).drawImage(bitmap, 0, 0);
    this.#clip();
  }

  setTransform(transform) {
    for (const element of this.elements) element.style.transform = transform;
    if (this.isComparing) this.#clip();
  }

  // Depth

  get isDepthOn() { return this.button.getAttribute('aria-pressed') === 'true'; }

  #toggleDepth() { this.#setDepth(!this.isDepthOn); }

  #setDepth(isOn) {
    this.button.setAttribute('aria-pressed', String(isOn));
    this.depth.hidden = true;
    this.legend.hidden = !isOn;
    this.legend.textContent = isOn ? t('layers.waiting') : '';
    if (isOn) this.#requestDepth();
  }

  #requestDepth() {
    if (this.#isDepthRequested || !this.isDepthOn) return;
    this.#isDepthRequested = this.#actions.depth(this.#view.camera);
  }

  showDepth({ png, stamp, near_m, far_m, problem, pause_ms = 0 }) {
    this.#isDepthRequested = false;
    if (!this.isDepthOn) return;
    this.depth.hidden = !png;
    if (png) this.depth.src = `data:image/png;base64,${png}`;
    const age_ms = png ? getAge_ms(Number(stamp) / 1e6) : 0;
    const isOld = age_ms > OLD_MS;
    this.legend.textContent = png ? t(isOld ? 'layers.range_old' : 'layers.range', {
      near: near_m.toFixed(2), far: far_m.toFixed(2), age: formatAge(age_ms) }) : problem;
    setTimeout(() => this.#requestDepth(), Math.max(DEPTH_PERIOD_MS, pause_ms));
  }

  onReconnect() {
    this.#isDepthRequested = false;
    this.#requestDepth();
  }
}
