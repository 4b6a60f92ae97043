// Magnifies the image at the cursor: eight screen pixels for each pixel of the camera.

import { createElement } from './dom.js';

const SIZE_PX = 136;
const ZOOM = 8;
const GAP_PX = 26;
const FINGER_PX = 44;

export class Loupe {
  #canvas = createElement('canvas', 'loupe');
  isOn = true;

  constructor() {
    this.#canvas.width = this.#canvas.height = SIZE_PX;
    this.#canvas.setAttribute('aria-hidden', 'true');
    this.hide();
  }

  hide() { this.#canvas.hidden = true; }

  // pixel: of the camera's image; x, y: of the cursor in the stage, screen px. A finger hides what
  // is below it: then the loupe is above.
  show(view, pixel, x, y, isFinger = false) {
    const { stage, canvas, size, region } = view;
    if ((!this.isOn && !isFinger) || stage.clientWidth / region.width >= ZOOM) {
      this.hide();
      return;
    }
    if (this.#canvas.parentNode !== stage) stage.append(this.#canvas);
    this.#canvas.hidden = false;
    let left = x + GAP_PX + SIZE_PX < stage.clientWidth ? x + GAP_PX : x - GAP_PX - SIZE_PX;
    let top = y - GAP_PX - SIZE_PX > 0 ? y - GAP_PX - SIZE_PX : y + GAP_PX;
    if (isFinger && y > SIZE_PX + FINGER_PX) {
      left = Math.min(Math.max(x - SIZE_PX / 2, 0), stage.clientWidth - SIZE_PX);
      top = y - SIZE_PX - FINGER_PX;
    }
    this.#canvas.style.transform = `translate(${left}px, ${top}px)`;
    const context = this.#canvas.getContext('2d', { alpha: false });
    const ratio = canvas.width / size.width; // wide images are sent scaled
    const width = (SIZE_PX / ZOOM) * ratio;
    context.imageSmoothingEnabled = false;
    context.fillRect(0, 0, SIZE_PX, SIZE_PX);
    context.drawImage(canvas, (pixel.x + 0.5) * ratio - width / 2,
      (pixel.y + 0.5) * ratio - width / 2, width, width, 0, 0, SIZE_PX, SIZE_PX);
    const middle = SIZE_PX / 2;
    for (const [colour, line] of [['#000', 3.5], ['#fff', 1.5]]) { // an open ring
      context.strokeStyle = colour;
      context.lineWidth = line;
      context.beginPath();
      context.arc(middle, middle, 1.5 * ZOOM, 0, 7);
      context.stroke();
    }
  }
}
