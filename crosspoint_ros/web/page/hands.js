// What the pointer and the keyboard do on a picture: click, carry the found point, aim.

const STEP_PX = 10;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const clamped = (value, size) => Math.min(Math.max(value, 0), size - 1);

export class Hands {
  #view;
  #ask;
  #pressed = null; // what the pointer went down on
  held = null; // the found point while it is carried, px
  aim = null; // the keyboard's crosshair, px

  constructor(view, ask) {
    this.#view = view;
    this.#ask = ask;
    const { svg } = view;
    svg.addEventListener('pointerdown', (event) => this.#press(event));
    svg.addEventListener('pointermove', (event) => this.#carry(event));
    svg.addEventListener('pointerup', () => this.#release());
    svg.addEventListener('pointercancel', () => this.letGo());
    svg.addEventListener('click', (event) => this.#click(event));
    svg.addEventListener('keydown', (event) => this.#key(event));
    svg.addEventListener('blur', () => this.letGo());
  }

  letGo() {
    if (!this.held && !this.aim && !this.#pressed) return;
    this.held = this.aim = this.#pressed = null;
    this.#view.draw();
  }

  // The pointer

  #pointOf(event) {
    const box = this.#view.svg.getBoundingClientRect();
    const { width, height } = this.#view.size;
    return { x: clamped(((event.clientX - box.left) / box.width) * width - 0.5, width),
      y: clamped(((event.clientY - box.top) / box.height) * height - 0.5, height) };
  }

  #press(event) {
    if (event.button !== 0) return;
    const onMark = event.target.classList.contains('grip');
    this.#pressed = { stamp: this.#view.stamp, point: this.#pointOf(event), onMark,
      carries: onMark && this.#view.isCorrectable, moved: false };
    if (this.#pressed.carries) this.#view.svg.setPointerCapture(event.pointerId);
  }

  #carry(event) {
    if (!this.#pressed?.carries) return;
    const at = this.#pointOf(event);
    const { answer, size } = this.#view;
    const { point } = this.#pressed;
    this.#pressed.moved ||= Math.hypot(at.x - point.x, at.y - point.y) > size.width / 300;
    if (!this.#pressed.moved) return;
    this.held = { x: clamped(answer.x + at.x - point.x, size.width),
      y: clamped(answer.y + at.y - point.y, size.height) };
    this.#view.draw();
  }

  #release() {
    if (this.#pressed?.moved && this.held) this.#ask.correct(this.#view.camera, this.held);
  }

  // The press is the click: pictures go on until the finger lifts.
  #click(event) {
    const pressed = this.#pressed;
    this.#pressed = null;
    if (!pressed || pressed.moved || event.button !== 0) return;
    if (pressed.onMark && !pressed.carries) this.#view.goBack();
    else this.#ask.click(this.#view.camera, pressed.stamp, pressed.point);
  }

  // The keyboard

  #key(event) {
    const view = this.#view;
    if (ARROWS[event.key]) this.#move(ARROWS[event.key], event.shiftKey ? 1 : STEP_PX);
    else if (event.key === 'Enter' && this.held) this.#ask.correct(view.camera, this.held);
    else if (event.key === 'Enter' && this.aim) this.#ask.click(view.camera, view.stamp, this.aim);
    else if (event.key === 'c') this.#takeUp();
    else return;
    event.preventDefault();
  }

  #takeUp() {
    const { answer } = this.#view;
    if (!this.#view.isCorrectable) {
      this.#view.goBack();
      return;
    }
    this.held = { x: answer.x, y: answer.y };
    this.aim = null;
    this.#view.draw();
  }

  #move([dx, dy], step) {
    const { width, height } = this.#view.size;
    const from = this.held ?? this.aim ?? { x: width >> 1, y: height >> 1 };
    const to = { x: clamped(from.x + dx * step, width), y: clamped(from.y + dy * step, height) };
    if (this.held) this.held = to;
    else this.aim = to;
    this.#view.draw();
  }
}
