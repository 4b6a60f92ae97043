// Pointer and keyboard input on an image: click, drag the found point, move a crosshair.

const STEP_PX = 10;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const clamp = (value, size) => Math.min(Math.max(value, 0), size - 1);

export class PointerInput {
  #view;
  #actions;
  #press = null; // where and on what the pointer went down
  dragged = null; // the found point while it is dragged, px
  crosshair = null; // the keyboard's crosshair, px

  constructor(view, actions) {
    this.#view = view;
    this.#actions = actions;
    const { svg } = view;
    svg.addEventListener('pointerdown', (event) => this.#onDown(event));
    svg.addEventListener('pointermove', (event) => this.#onMove(event));
    svg.addEventListener('pointerup', () => this.#onUp());
    svg.addEventListener('pointercancel', () => this.reset());
    svg.addEventListener('click', (event) => this.#onClick(event));
    svg.addEventListener('keydown', (event) => this.#onKey(event));
    svg.addEventListener('blur', () => this.reset());
  }

  reset() {
    if (!this.dragged && !this.crosshair && !this.#press) return;
    this.dragged = this.crosshair = this.#press = null;
    this.#view.draw();
  }

  // Pointer

  #toPixel(event) {
    const box = this.#view.svg.getBoundingClientRect();
    const { width, height } = this.#view.size;
    return { x: clamp(((event.clientX - box.left) / box.width) * width - 0.5, width),
      y: clamp(((event.clientY - box.top) / box.height) * height - 0.5, height) };
  }

  #onDown(event) {
    if (event.button !== 0) return;
    const onMark = event.target.classList.contains('grip');
    this.#press = { stamp: this.#view.stamp, point: this.#toPixel(event), onMark,
      drags: onMark && this.#view.isCorrectable, moved: false };
    if (this.#press.drags) this.#view.svg.setPointerCapture(event.pointerId);
  }

  #onMove(event) {
    if (!this.#press?.drags) return;
    const pixel = this.#toPixel(event);
    const { answer, size } = this.#view;
    const { point } = this.#press;
    this.#press.moved ||= Math.hypot(pixel.x - point.x, pixel.y - point.y) > size.width / 300;
    if (!this.#press.moved) return;
    this.dragged = { x: clamp(answer.x + pixel.x - point.x, size.width),
      y: clamp(answer.y + pixel.y - point.y, size.height) };
    this.#view.draw();
  }

  #onUp() {
    if (this.#press?.moved && this.dragged) this.#actions.correct(this.#view.camera, this.dragged);
  }

  // The click takes pixel and stamp of the press: new images arrive before the release.
  #onClick(event) {
    const press = this.#press;
    this.#press = null;
    if (!press || press.moved || event.button !== 0) return;
    if (press.onMark && !press.drags) this.#view.showMatched();
    else this.#actions.click(this.#view.camera, press.stamp, press.point);
  }

  // Keyboard

  #onKey(event) {
    const { camera, stamp } = this.#view;
    if (ARROWS[event.key]) this.#move(ARROWS[event.key], event.shiftKey ? 1 : STEP_PX);
    else if (event.key === 'Enter' && this.dragged) this.#actions.correct(camera, this.dragged);
    else if (event.key === 'Enter' && this.crosshair) {
      this.#actions.click(camera, stamp, this.crosshair);
    } else if (event.key === 'c') this.#grabPoint();
    else return;
    event.preventDefault();
  }

  #grabPoint() {
    const { answer } = this.#view;
    if (!this.#view.isCorrectable) {
      this.#view.showMatched();
      return;
    }
    this.dragged = { x: answer.x, y: answer.y };
    this.crosshair = null;
    this.#view.draw();
  }

  #move([dx, dy], step) {
    const { width, height } = this.#view.size;
    const from = this.dragged ?? this.crosshair ?? { x: width >> 1, y: height >> 1 };
    const to = { x: clamp(from.x + dx * step, width), y: clamp(from.y + dy * step, height) };
    if (this.dragged) this.dragged = to;
    else this.crosshair = to;
    this.#view.draw();
  }
}
