// Orbit view of cameras, rays and target, drawn on a 2D canvas.

const COLOURS = { clicked: '#56b4e9', sure: '#2fd1a0', check: '#e69f00', refused: '#d55e00' };
const VIEW_DISTANCE = 8; // in radii of the scene

const sub = (a, b) => a.map((v, i) => v - b[i]);
const add = (a, b, s = 1) => a.map((v, i) => v + s * b[i]);

export class Scene3D {
  #canvas;
  #title;
  #scene = { frame: '', cameras: [], rays: [], target: null };
  #orbit = { yaw: -0.9, pitch: 0.5, zoom: 1 };
  #frame_request = 0;

  constructor(canvas, title) {
    this.#canvas = canvas;
    this.#title = title;
    canvas.addEventListener('pointermove', (event) => this.#onDrag(event));
    canvas.addEventListener('pointerdown', (event) => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener('wheel', (event) => this.#onWheel(event), { passive: false });
    canvas.addEventListener('keydown', (event) => this.#onKey(event));
    new ResizeObserver(() => this.#requestDraw()).observe(canvas);
    matchMedia('(prefers-color-scheme: dark)')
      .addEventListener('change', () => this.#requestDraw());
  }

  show(scene) {
    this.#scene = scene;
    this.#title.textContent = scene.frame;
    this.#requestDraw();
  }

  #onDrag(event) {
    if (!event.buttons) return;
    this.#rotate(event.movementX * 0.01, event.movementY * 0.01);
  }

  #rotate(yaw, pitch) {
    this.#orbit.yaw -= yaw;
    this.#orbit.pitch = Math.min(Math.max(this.#orbit.pitch + pitch, -1.5), 1.5);
    this.#requestDraw();
  }

  #onWheel(event) {
    event.preventDefault();
    this.#zoom(Math.exp(-event.deltaY * 0.001));
  }

  #zoom(factor) {
    this.#orbit.zoom = Math.min(Math.max(this.#orbit.zoom * factor, 0.2), 8);
    this.#requestDraw();
  }

  #onKey(event) {
    const turns = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1],
      ArrowDown: [0, 0.1] };
    if (turns[event.key]) this.#rotate(...turns[event.key]);
    else if (event.key === '+' || event.key === '=') this.#zoom(1.2);
    else if (event.key === '-') this.#zoom(1 / 1.2);
    else return;
    event.preventDefault();
  }

  #requestDraw() {
    if (this.#frame_request) return;
    this.#frame_request = requestAnimationFrame(() => {
      this.#frame_request = 0;
      this.#draw();
    });
  }

  // Centre and radius of the base frame's origin, the cameras and the target.
  #extent() {
    const { cameras, target } = this.#scene;
    const points = [[0, 0, 0], ...cameras.map((camera) => camera.position),
      ...(target ? [target.position] : [])];
    const ranges = [0, 1, 2].map((i) => [Math.min(...points.map((p) => p[i])),
      Math.max(...points.map((p) => p[i]))]);
    const centre = ranges.map(([low, high]) => (low + high) / 2);
    return { centre, radius: Math.max(...points.map((p) => Math.hypot(...sub(p, centre))), 0.1) };
  }

  #projection(width, height) {
    const { centre, radius } = this.#extent();
    const { yaw, pitch, zoom } = this.#orbit;
    const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
    const focal = (0.6 * Math.min(width, height) * zoom) / radius;
    return {
      radius,
      project: (point) => {
        const [x, y, z] = sub(point, centre);
        const right = cy * x + sy * y;
        const ahead = -sy * x + cy * y;
        const depth = (cp * ahead - sp * z) / (VIEW_DISTANCE * radius);
        const scale = focal / (1 + depth);
        return [width / 2 + scale * right, height / 2 - scale * (cp * z + sp * ahead)];
      } };
  }

  #draw() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const ratio = window.devicePixelRatio || 1;
    this.#canvas.width = width * ratio;
    this.#canvas.height = height * ratio;
    const context = this.#canvas.getContext('2d');
    context.scale(ratio, ratio);
    const style = getComputedStyle(this.#canvas);
    const view = this.#projection(width, height);
    context.font = style.font;
    context.strokeStyle = context.fillStyle = style.color;
    if (!this.#scene.cameras.length) {
      context.fillText('no camera pose on TF yet', 12, 24);
      return;
    }
    this.#drawGrid(context, view);
    this.#drawAxes(context, view);
    for (const camera of this.#scene.cameras) this.#drawCamera(context, view, camera);
    for (const ray of this.#scene.rays) this.#drawRay(context, view, ray);
    if (this.#scene.target) this.#drawTarget(context, view, this.#scene.target);
  }

  #drawLine(context, view, points) {
    context.beginPath();
    points.forEach((point, index) => (index ? context.lineTo(...view.project(point))
      : context.moveTo(...view.project(point))));
    context.stroke();
  }

  #drawGrid(context, view) {
    context.save();
    context.globalAlpha = 0.18;
    const step = 10 ** Math.round(Math.log10(view.radius / 2));
    for (let i = -5; i <= 5; i += 1) {
      this.#drawLine(context, view, [[-5 * step, i * step, 0], [5 * step, i * step, 0]]);
      this.#drawLine(context, view, [[i * step, -5 * step, 0], [i * step, 5 * step, 0]]);
    }
    context.restore();
  }

  #drawAxes(context, view) {
    context.save();
    [['#d55e00', 'x'], ['#2fa37a', 'y'], ['#3f8fd0', 'z']].forEach(([colour, name], index) => {
      const end = [0, 0, 0];
      end[index] = 0.25 * view.radius;
      context.strokeStyle = context.fillStyle = colour;
      this.#drawLine(context, view, [[0, 0, 0], end]);
      context.fillText(name, ...view.project(end));
    });
    context.restore();
  }

  // corners: rays through the image corners in the base frame, at a depth of 1 m.
  #drawCamera(context, view, { name, position, corners }) {
    const length = 0.22 * view.radius;
    const ends = corners.map((corner) => add(position, corner, length));
    context.lineWidth = 1.2;
    for (const end of ends) this.#drawLine(context, view, [position, end]);
    if (ends.length) this.#drawLine(context, view, [...ends, ends[0]]);
    const [x, y] = view.project(position);
    context.fillText(name, x + 6, y - 6);
  }

  #drawRay(context, view, { from, to, kind }) {
    context.save();
    context.strokeStyle = COLOURS[kind];
    context.lineWidth = 1.6;
    if (kind !== 'sure' && kind !== 'clicked') context.setLineDash([5, 4]);
    this.#drawLine(context, view, [from, to]);
    context.restore();
  }

  #drawTarget(context, view, { position, approach, kind }) {
    const [x, y] = view.project(position);
    context.save();
    context.lineWidth = 2;
    context.strokeStyle = context.fillStyle = COLOURS[kind];
    if (approach) {
      this.#drawLine(context, view, [position, add(position, approach, -0.3 * view.radius)]);
    }
    context.beginPath();
    if (kind === 'sure') context.arc(x, y, 5, 0, 7);
    else [[0, -7], [7, 5], [-7, 5]].forEach(([dx, dy]) => context.lineTo(x + dx, y + dy));
    context.fill();
    context.restore();
  }
}
