// Pointer and keyboard input on an image: click, drag the found point, zoom, pan, move a crosshair.

const STEP_PX = 10;
const CLICK_PX = 8; // a press that moves further on the screen is not a click
const LONG_PRESS_MS = 400; // of a finger: then a loupe shows what is below it
const KEY_ZOOM = 1.5;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const clamp = (value, size) => Math.min(Math.max(value, 0), size - 1);

export class PointerInput {
  #view;
  #actions;
  #press = null; // where and on what the pointer went down
  #touches = new Map(); // pointer id -> event
  #cursor = null; // {pixel, x, y} of the mouse
  dragged = null; // the found point while it is dragged, px
  crosshair = null; // the keyboard's crosshair, px

  constructor(view, actions) {
    this.#view = view;
    this.#actions = actions;
    const { svg } = view;
    svg.addEventListener('pointerdown', (event) => this.#onDown(event));
    svg.addEventListener('pointermove', (event) => this.#onMove(event));
    svg.addEventListener('pointerup', (event) => this.#onUp(event));
    svg.addEventListener('pointerleave', () => this.#setCursor(null));
    svg.addEventListener('pointercancel', (event) => {
      this.#touches.delete(event.pointerId);
      this.reset();
    });
    svg.addEventListener('wheel', (event) => this.#onWheel(event), { passive: false });
    svg.addEventListener('click', (event) => this.#onClick(event));
    svg.addEventListener('contextmenu', (event) => {
      if (this.#press?.isTouch) event.preventDefault(); // a long press
    });
    svg.addEventListener('keydown', (event) => this.#onKey(event));
    svg.addEventListener('blur', () => this.reset());
  }

  reset() {
    if (!this.dragged && !this.crosshair && !this.#press) return;
    this.dragged = this.crosshair = this.#press = null;
    if (!this.#cursor) this.#actions.loupe.hide();
    if (!this.#cursor) this.#actions.unhover();
    this.#view.draw();
  }

  // Pointer

  #toPixel({ clientX, clientY }) {
    const box = this.#view.svg.getBoundingClientRect();
    const { region, size: { width, height } } = this.#view;
    return {
      x: clamp(region.x + ((clientX - box.left) / box.width) * region.width - 0.5, width),
      y: clamp(region.y + ((clientY - box.top) / box.height) * region.height - 0.5, height) };
  }

  #setCursor(event) {
    const { loupe } = this.#actions;
    if (!event || !this.#view.isFocused || event.pointerType === 'touch') {
      if (this.#cursor) {
        loupe.hide();
        this.#actions.unhover();
      }
      this.#cursor = null;
      return;
    }
    const box = this.#view.svg.getBoundingClientRect();
    this.#cursor = { pixel: this.#toPixel(event), x: event.clientX - box.left,
      y: event.clientY - box.top };
    this.onImage();
  }

  // The loupe shows the newest image.
  onImage() {
    if (this.#press?.isLong) this.#showBelowFinger();
    if (!this.#cursor) return;
    this.#actions.loupe.show(this.#view, this.#cursor.pixel, this.#cursor.x, this.#cursor.y);
    // While a found point is dragged, the line that bounds it is that of the click.
    if (!this.dragged) this.#actions.hover(this.#view.camera, this.#view.stamp, this.#cursor.pixel);
  }

  #onDown(event) {
    if (event.button !== 0) return;
    this.#touches.set(event.pointerId, event);
    if (!this.#view.isFocused) return;
    if (this.#touches.size > 1) { // a pinch is not a click
      this.#press = null;
      this.dragged = null;
      this.#view.draw();
      return;
    }
    const onMark = event.target.classList.contains('grip');
    this.#press = { stamp: this.#view.stamp, point: this.#toPixel(event), onMark, moved: false,
      drags: onMark && this.#view.isCorrectable, x: event.clientX, y: event.clientY,
      region: this.#view.region, isTouch: event.pointerType === 'touch', isLong: false };
    if (this.#press.isTouch && !this.#press.drags) this.#awaitLongPress(this.#press, event);
    if (this.#press.drags || this.#view.zoom > 1) {
      this.#view.svg.setPointerCapture(event.pointerId);
    }
  }

  // The finger then moves the loupe, and what is in its middle is clicked when the finger leaves.
  #awaitLongPress(press, event) {
    setTimeout(() => {
      if (this.#press !== press || press.moved) return;
      press.isLong = true;
      this.#view.svg.setPointerCapture(event.pointerId);
      this.#showBelowFinger();
    }, LONG_PRESS_MS);
  }

  #showBelowFinger() {
    const box = this.#view.svg.getBoundingClientRect();
    const { point, x, y } = this.#press;
    this.#press.stamp = this.#view.stamp;
    this.#actions.loupe.show(this.#view, point, x - box.left, y - box.top, true);
    this.#actions.hover(this.#view.camera, this.#view.stamp, point);
  }

  #onMove(event) {
    this.#setCursor(event);
    if (this.#press?.isLong && this.#touches.size === 1) {
      Object.assign(this.#press, { point: this.#toPixel(event), x: event.clientX,
        y: event.clientY });
      this.#showBelowFinger();
      return;
    }
    if (this.#touches.size > 1) this.#pinch(event);
    else if (this.#press?.drags) this.#dragPoint(event);
    else if (this.#press) this.#pan(event);
  }

  #dragPoint(event) {
    const pixel = this.#toPixel(event);
    const { answer, size, region } = this.#view;
    const { point } = this.#press;
    this.#press.moved ||= Math.hypot(pixel.x - point.x, pixel.y - point.y) > region.width / 300;
    if (!this.#press.moved) return;
    this.#actions.hoverClicked();
    this.dragged = { x: clamp(answer.x + pixel.x - point.x, size.width),
      y: clamp(answer.y + pixel.y - point.y, size.height) };
    this.#view.draw();
  }

  #pan(event) {
    const { x, y, region } = this.#press;
    const [dx, dy] = [event.clientX - x, event.clientY - y];
    this.#press.moved ||= Math.hypot(dx, dy) > CLICK_PX;
    if (!this.#press.moved || this.#view.zoom === 1) return;
    const perPixel = region.width / this.#view.svg.clientWidth;
    this.#view.setRegion({ ...this.#view.region, x: region.x - dx * perPixel,
      y: region.y - dy * perPixel });
  }

  #pinch(event) {
    const before = this.#touches.get(event.pointerId);
    const other = [...this.#touches.values()].find((e) => e.pointerId !== event.pointerId);
    if (!before || !other || !this.#view.isFocused) return;
    const distance = (e) => Math.hypot(e.clientX - other.clientX, e.clientY - other.clientY);
    this.#view.zoomAt(this.#toPixel(other), distance(event) / Math.max(distance(before), 1));
    this.#touches.set(event.pointerId, event);
  }

  #onWheel(event) {
    if (!this.#view.isFocused) return;
    event.preventDefault();
    this.#view.zoomAt(this.#toPixel(event), Math.exp(-event.deltaY * 0.002));
    this.#setCursor(event);
  }

  #onUp(event) {
    this.#touches.delete(event.pointerId);
    if (this.#press?.isLong) {
      const { stamp, point } = this.#press;
      this.reset();
      this.#actions.click(this.#view.camera, stamp, point);
      return;
    }
    if (this.#press?.moved && this.dragged) this.#actions.correct(this.#view.camera, this.dragged);
  }

  // The click takes pixel and stamp of the press: new images arrive before the release.
  #onClick(event) {
    const press = this.#press;
    this.#press = null;
    if (!this.#view.isFocused) this.#actions.focus(this.#view.camera);
    else if (!press || press.moved || event.button !== 0) return;
    else if (press.onMark && !press.drags) this.#view.showMatched();
    else this.#actions.click(this.#view.camera, press.stamp, press.point);
  }

  // Keyboard

  #onKey(event) {
    const { camera, stamp, isFocused } = this.#view;
    const middle = this.crosshair ?? this.#middle;
    if (!isFocused) {
      if (event.key !== 'Enter' && event.key !== ' ') return;
      this.#actions.focus(camera);
    } else if (ARROWS[event.key]) this.#move(ARROWS[event.key], event.shiftKey ? 1 : STEP_PX);
    else if (event.key === 'Enter' && this.dragged) this.#actions.correct(camera, this.dragged);
    else if (event.key === 'Enter' && this.crosshair) {
      this.#actions.click(camera, stamp, this.crosshair);
    } else if (event.key === 'c') this.#grabPoint();
    else if (event.key === '+' || event.key === '=') this.#view.zoomAt(middle, KEY_ZOOM);
    else if (event.key === '-') this.#view.zoomAt(middle, 1 / KEY_ZOOM);
    else if (event.key === '0') this.#view.zoomAt(middle, 0);
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
    this.#actions.hoverClicked();
    this.#view.draw();
  }

  get #middle() {
    const { x, y, width, height } = this.#view.region;
    return { x: Math.floor(x + width / 2), y: Math.floor(y + height / 2) };
  }

  #move([dx, dy], step) {
    const { size, region } = this.#view;
    const from = this.dragged ?? this.crosshair ?? this.#middle;
    const to = { x: clamp(from.x + dx * step, size.width),
      y: clamp(from.y + dy * step, size.height) };
    if (this.dragged) this.dragged = to;
    else {
      this.crosshair = to;
      this.#actions.hover(this.#view.camera, this.#view.stamp, to);
    }
    const { x, y, width, height } = region;
    if (to.x < x || to.y < y || to.x > x + width - 1 || to.y > y + height - 1) {
      this.#view.setRegion({ ...region, x: to.x - width / 2, y: to.y - height / 2 });
    } else this.#view.draw();
  }
}
