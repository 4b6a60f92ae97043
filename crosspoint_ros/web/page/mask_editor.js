// Painting of the robot's own body in a camera: a mask to download, for the camera's mask_path.

import { createElement } from './dom.js';
import { encodeGreyPng } from './grey_png.js';
import { t } from './i18n.js';

const RADII = { min: 1, max: 10, value: 4 }; // percent of the image's width
const WHEEL = 0.002;

function createButton(key, act) {
  const button = createElement('button', 'mask-tool', t(key));
  button.type = 'button';
  button.addEventListener('click', act);
  return button;
}

export class MaskEditor {
  #view;
  #strokes = []; // {erases, radius_px, points: [[x, y], …]}, of one image size
  #stroke = null; // that is being painted

  constructor(view) {
    this.#view = view;
    this.canvas = createElement('canvas', 'image mask');
    this.canvas.hidden = true;
    this.button = createButton('mask.button', () => this.setOn(!this.isOn));
    this.eraser = createButton('mask.erase', () => this.eraser.setAttribute(
      'aria-pressed', String(!this.#erases)));
    this.button.classList.add('mask-toggle');
    for (const button of [this.button, this.eraser]) button.setAttribute('aria-pressed', 'false');
    this.undo = createButton('button.undo', () => this.#undo());
    this.save = createButton('mask.download', () => this.#download());
    this.radius = createElement('input', 'radius');
    Object.assign(this.radius, { type: 'range', ...RADII, ariaLabel: t('mask.radius') });
    this.tools = createElement('span', 'mask-tools', this.radius, this.eraser, this.undo, this.save);
    this.tools.hidden = true;
    this.canvas.addEventListener('pointerdown', (event) => this.#begin(event));
    this.canvas.addEventListener('pointermove', (event) => this.#extend(event));
    for (const end of ['pointerup', 'pointercancel']) {
      this.canvas.addEventListener(end, () => { this.#stroke = null; });
    }
    this.canvas.addEventListener('wheel', (event) => {
      event.preventDefault();
      const [x, y] = this.#toPoint(event);
      this.#view.zoomAt({ x: x - 0.5, y: y - 0.5 }, Math.exp(-event.deltaY * WHEEL));
    }, { passive: false });
  }

  get isOn() { return !this.canvas.hidden; }

  get #erases() { return this.eraser.getAttribute('aria-pressed') === 'true'; }

  setOn(isOn) {
    if (isOn === this.isOn) return;
    this.canvas.hidden = this.tools.hidden = !isOn;
    this.button.setAttribute('aria-pressed', String(isOn));
    if (isOn) {
      this.#draw();
      this.#view.showMessage(t('mask.help', { camera: this.#view.camera }));
    } else this.#view.showCaption();
    this.#view.layers.update();
  }

  // Points of the canvas: (0, 0) is the corner of the first pixel.
  #toPoint({ clientX, clientY }) {
    const { left, top, width, height } = this.#view.svg.getBoundingClientRect();
    const { region } = this.#view;
    return [region.x + ((clientX - left) / width) * region.width,
      region.y + ((clientY - top) / height) * region.height];
  }

  #begin(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.#fitSize();
    this.#stroke = { erases: this.#erases, points: [this.#toPoint(event)],
      radius_px: (this.#view.size.width * this.radius.value) / 100 };
    this.#strokes.push(this.#stroke);
    this.#draw();
  }

  #extend(event) {
    if (!this.#stroke) return;
    this.#stroke.points.push(this.#toPoint(event));
    this.#drawStroke(this.#stroke);
  }

  #undo() {
    this.#strokes.pop();
    this.#draw();
  }

  #fitSize() {
    const { width, height } = this.#view.size;
    // A mask is for one size.
    if (this.canvas.width !== width || this.canvas.height !== height) this.#strokes = [];
    Object.assign(this.canvas, { width, height }); // clears it
  }

  #draw() {
    this.#fitSize();
    for (const stroke of this.#strokes) this.#drawStroke(stroke);
    this.undo.disabled = this.save.disabled = !this.#strokes.length;
  }

  #drawStroke({ erases, radius_px, points }) {
    const context = this.canvas.getContext('2d');
    context.globalCompositeOperation = erases ? 'destination-out' : 'source-over';
    Object.assign(context, { lineWidth: 2 * radius_px, lineCap: 'round', lineJoin: 'round',
      strokeStyle: '#f08a4b' });
    context.beginPath();
    context.moveTo(...points[0]);
    for (const point of points) context.lineTo(...point);
    context.stroke();
  }

  async #download() {
    const { width, height } = this.canvas;
    const { data } = this.canvas.getContext('2d').getImageData(0, 0, width, height);
    const grey = Uint8Array.from({ length: width * height }, (_, i) => (
      data[4 * i + 3] > 127 ? 255 : 0));
    const link = createElement('a');
    link.href = URL.createObjectURL(await encodeGreyPng(width, height, grey));
    link.download = `${this.#view.camera}_mask.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    this.#view.showMessage(t('mask.downloaded', { camera: this.#view.camera,
      file: link.download }));
  }
}
