// The cameras, their rays and the target in 3D: a small orbit view on a plain canvas.

const COLOURS = { clicked: '#56b4e9', sure: '#2fd1a0', check: '#e69f00', refused: '#d55e00' };
const FAR = 8;

const sub = (a, b) => a.map((v, i) => v - b[i]);
const add = (a, b, s = 1) => a.map((v, i) => v + s * b[i]);

export class Scene {
  #canvas;
  #title;
  #news = { frame: '', cameras: [], rays: [], target: null };
  #turn = { yaw: -0.9, pitch: 0.5, zoom: 1 };
  #drawing = 0;

  constructor(canvas, title) {
    this.#canvas = canvas;
    this.#title = title;
    canvas.addEventListener('pointermove', (event) => this.#drag(event));
    canvas.addEventListener('pointerdown', (event) => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener('wheel', (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener('keydown', (event) => this.#key(event));
    new ResizeObserver(() => this.#redraw()).observe(canvas);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.#redraw());
  }

  show(news) {
    this.#news = news;
    this.#title.textContent = news.frame;
    this.#redraw();
  }

  #drag(event) {
    if (!event.buttons) return;
    this.#orbit(event.movementX * 0.01, event.movementY * 0.01);
  }

  #orbit(yaw, pitch) {
    this.#turn.yaw -= yaw;
    this.#turn.pitch = Math.min(Math.max(this.#turn.pitch + pitch, -1.5), 1.5);
    this.#redraw();
  }

  #wheel(event) {
    event.preventDefault();
    this.#zoom(Math.exp(-event.deltaY * 0.001));
  }

  #zoom(factor) {
    this.#turn.zoom = Math.min(Math.max(this.#turn.zoom * factor, 0.2), 8);
    this.#redraw();
  }

  #key(event) {
    const turns = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1],
      ArrowDown: [0, 0.1] };
    if (turns[event.key]) this.#orbit(...turns[event.key]);
    else if (event.key === '+' || event.key === '=') this.#zoom(1.2);
    else if (event.key === '-') this.#zoom(1 / 1.2);
    else return;
    event.preventDefault();
  }

  #redraw() {
    if (this.#drawing) return;
    this.#drawing = requestAnimationFrame(() => {
      this.#drawing = 0;
      this.#draw();
    });
  }

  // Everything that must be seen, to know the middle and the size of it.
  #extent() {
    const { cameras, target } = this.#news;
    const points = [[0, 0, 0], ...cameras.map((camera) => camera.position),
      ...(target ? [target.position] : [])];
    const ends = [0, 1, 2].map((i) => [Math.min(...points.map((p) => p[i])),
      Math.max(...points.map((p) => p[i]))]);
    const middle = ends.map(([low, high]) => (low + high) / 2);
    return { middle, size: Math.max(...points.map((p) => Math.hypot(...sub(p, middle))), 0.1) };
  }

  #projection(width, height) {
    const { middle, size } = this.#extent();
    const { yaw, pitch, zoom } = this.#turn;
    const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
    const scale = (0.6 * Math.min(width, height) * zoom) / size;
    return {
      unit: size,
      at: (point) => {
        const [x, y, z] = sub(point, middle);
        const right = cy * x + sy * y;
        const ahead = -sy * x + cy * y;
        const depth = (cp * ahead - sp * z) / (FAR * size);
        const near = scale / (1 + depth);
        return [width / 2 + near * right, height / 2 - near * (cp * z + sp * ahead)];
      } };
  }

  #draw() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const ratio = window.devicePixelRatio || 1;
    this.#canvas.width = width * ratio;
    this.#canvas.height = height * ratio;
    const pen = this.#canvas.getContext('2d');
    pen.scale(ratio, ratio);
    const style = getComputedStyle(this.#canvas);
    const view = this.#projection(width, height);
    pen.font = style.font;
    pen.strokeStyle = pen.fillStyle = style.color;
    if (!this.#news.cameras.length) {
      pen.fillText('no poses on TF yet', 12, 24);
      return;
    }
    this.#floor(pen, view);
    this.#axes(pen, view);
    for (const camera of this.#news.cameras) this.#camera(pen, view, camera);
    for (const ray of this.#news.rays) this.#ray(pen, view, ray);
    if (this.#news.target) this.#target(pen, view, this.#news.target);
  }

  #line(pen, view, points) {
    pen.beginPath();
    points.forEach((point, index) => (index ? pen.lineTo(...view.at(point))
      : pen.moveTo(...view.at(point))));
    pen.stroke();
  }

  #floor(pen, view) {
    pen.save();
    pen.globalAlpha = 0.18;
    const step = 10 ** Math.round(Math.log10(view.unit / 2));
    for (let i = -5; i <= 5; i += 1) {
      this.#line(pen, view, [[-5 * step, i * step, 0], [5 * step, i * step, 0]]);
      this.#line(pen, view, [[i * step, -5 * step, 0], [i * step, 5 * step, 0]]);
    }
    pen.restore();
  }

  #axes(pen, view) {
    pen.save();
    [['#d55e00', 'x'], ['#2fa37a', 'y'], ['#3f8fd0', 'z']].forEach(([colour, name], index) => {
      const end = [0, 0, 0];
      end[index] = 0.25 * view.unit;
      pen.strokeStyle = pen.fillStyle = colour;
      this.#line(pen, view, [[0, 0, 0], end]);
      pen.fillText(name, ...view.at(end));
    });
    pen.restore();
  }

  // corners: rays through the image's corners, in the base frame, at a depth of 1 m.
  #camera(pen, view, { name, position, corners }) {
    const reach = 0.22 * view.unit;
    const ends = corners.map((corner) => add(position, corner, reach));
    pen.lineWidth = 1.2;
    for (const end of ends) this.#line(pen, view, [position, end]);
    if (ends.length) this.#line(pen, view, [...ends, ends[0]]);
    const [x, y] = view.at(position);
    pen.fillText(name, x + 6, y - 6);
  }

  #ray(pen, view, { from, to, kind }) {
    pen.save();
    pen.strokeStyle = COLOURS[kind];
    pen.lineWidth = 1.6;
    if (kind !== 'sure' && kind !== 'clicked') pen.setLineDash([5, 4]);
    this.#line(pen, view, [from, to]);
    pen.restore();
  }

  #target(pen, view, { position, approach }) {
    const [x, y] = view.at(position);
    pen.save();
    pen.lineWidth = 2;
    pen.strokeStyle = pen.fillStyle = COLOURS.sure;
    if (approach) this.#line(pen, view, [position, add(position, approach, -0.3 * view.unit)]);
    pen.beginPath();
    pen.arc(x, y, 5, 0, 7);
    pen.fill();
    pen.restore();
  }
}
