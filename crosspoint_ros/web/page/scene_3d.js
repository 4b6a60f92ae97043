// Orbit view of cameras with their pictures, depth, rays and target, drawn on a 2D canvas.

import { t } from './i18n.js';
import { PointCloud } from './point_cloud.js';

const COLOURS = { clicked: '#56b4e9', sure: '#2fd1a0', check: '#f0b429', refused: '#f08a4b' };
const VIEW_DISTANCE = 8; // in radii of the scene
const REFRESH_MS = 1000; // of the pictures
// Outline of a gripper with two fingers, in the target's x and z, m: +z goes into the surface.
const GRIPPER = [[[-0.04, 0.01], [-0.04, -0.06], [0.04, -0.06], [0.04, 0.01]],
  [[0, -0.06], [0, -0.12]]];

const sub = (a, b) => a.map((v, i) => v - b[i]);
const add = (a, b, s = 1) => a.map((v, i) => v + s * b[i]);

export class Scene3D {
  #canvas;
  #title;
  #scene = { frame: '', cameras: [], rays: [], targets: [] };
  #orbit = { yaw: -0.9, pitch: 0.5, zoom: 1 };
  #frame_request = 0;
  #cloud = new PointCloud();
  #getPicture;
  #touches = new Map(); // pointer id -> event
  #isOnScreen = false;

  // getPicture(camera): {canvas, size} of its live image, or null
  constructor(canvas, title, getPicture) {
    this.#canvas = canvas;
    this.#title = title;
    this.#getPicture = getPicture;
    canvas.addEventListener('pointermove', (event) => this.#onDrag(event));
    canvas.addEventListener('pointerdown', (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.#touches.set(event.pointerId, event);
    });
    for (const end of ['pointerup', 'pointercancel']) {
      canvas.addEventListener(end, (event) => this.#touches.delete(event.pointerId));
    }
    new IntersectionObserver((entries) => {
      this.#isOnScreen = entries.at(-1).isIntersecting;
      this.#requestDraw();
    }).observe(canvas);
    setInterval(() => this.#requestDraw(), REFRESH_MS);
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

  // cloud: of the server, null for none
  showCloud(cloud) {
    if (cloud) this.#cloud.load(cloud, (camera) => this.#readPicture(camera));
    else this.#cloud.clear();
    this.#canvas.dataset.points = this.#cloud.count;
    this.#requestDraw();
  }

  #readPicture(camera) {
    const picture = this.#getPicture(camera);
    if (!picture) return null;
    const { canvas, size } = picture;
    const image = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    return { data: new Uint32Array(image.data.buffer), width: canvas.width,
      ratio: canvas.width / size.width };
  }

  // One finger or the mouse rotates, two fingers zoom.
  #onDrag(event) {
    const before = this.#touches.get(event.pointerId);
    if (!before) return;
    const other = [...this.#touches.values()].find((e) => e.pointerId !== event.pointerId);
    if (other) {
      const distance = (e) => Math.hypot(e.clientX - other.clientX, e.clientY - other.clientY);
      this.#zoom(distance(event) / Math.max(distance(before), 1));
    } else {
      this.#rotate((event.clientX - before.clientX) * 0.01,
        (event.clientY - before.clientY) * 0.01);
    }
    this.#touches.set(event.pointerId, event);
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
    if (this.#frame_request || !this.#isOnScreen || document.hidden) return;
    this.#frame_request = requestAnimationFrame(() => {
      this.#frame_request = 0;
      this.#draw();
    });
  }

  // Centre and radius of the base frame's origin, the cameras and the targets.
  #extent() {
    const { cameras, targets } = this.#scene;
    const points = [[0, 0, 0], ...cameras.map((camera) => camera.position),
      ...targets.map((target) => target.position)];
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
    const projectTo = (px, py, pz, out) => {
      const [x, y, z] = [px - centre[0], py - centre[1], pz - centre[2]];
      const right = cy * x + sy * y;
      const ahead = -sy * x + cy * y;
      const depth = (cp * ahead - sp * z) / (VIEW_DISTANCE * radius);
      const scale = focal / (1 + depth);
      out[0] = width / 2 + scale * right;
      out[1] = height / 2 - scale * (cp * z + sp * ahead);
      out[2] = depth;
      return out;
    };
    return { radius, projectTo, project: ([x, y, z]) => projectTo(x, y, z, []).slice(0, 2) };
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
      context.fillText(t('scene.no_pose'), 12, 24);
      return;
    }
    this.#canvas.dataset.yaw = this.#orbit.yaw.toFixed(2);
    this.#canvas.dataset.zoom = this.#orbit.zoom.toFixed(2);
    if (this.#cloud.count) {
      this.#cloud.draw(context, Math.round(width * ratio), Math.round(height * ratio),
        (x, y, z, out) => {
          view.projectTo(x, y, z, out);
          out[0] *= ratio;
          out[1] *= ratio;
        });
    }
    this.#drawGrid(context, view);
    this.#drawAxes(context, view);
    for (const camera of this.#scene.cameras) this.#drawCamera(context, view, camera);
    for (const ray of this.#scene.rays) this.#drawRay(context, view, ray);
    for (const target of this.#scene.targets) this.#drawTarget(context, view, target);
    this.#canvas.dataset.targets = this.#scene.targets.map(({ name }) => name).join(' ');
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
    const picture = this.#getPicture(name);
    if (picture && ends.length) this.#drawPicture(context, view, picture.canvas, ends);
    context.lineWidth = 1.2;
    for (const end of ends) this.#drawLine(context, view, [position, end]);
    if (ends.length) this.#drawLine(context, view, [...ends, ends[0]]);
    const [x, y] = view.project(position);
    context.fillText(name, x + 6, y - 6);
  }

  // The picture on the far side of the frustum, in two triangles of its corners.
  #drawPicture(context, view, canvas, corners) {
    const [w, h] = [canvas.width, canvas.height];
    const [a, b, c, d] = corners.map((corner) => view.project(corner));
    const ratio = window.devicePixelRatio || 1;
    // Of each triangle: its screen corners, and the screen steps of the picture's width and height.
    for (const [triangle, origin, across, down] of [
      [[a, b, d], a, sub(b, a), sub(d, a)],
      [[c, d, b], sub(add(d, b), c), sub(c, d), sub(c, b)]]) {
      context.save();
      context.globalAlpha = 0.85;
      context.beginPath();
      triangle.forEach(([x, y]) => context.lineTo(x, y));
      context.clip();
      context.setTransform(ratio * across[0] / w, ratio * across[1] / w, ratio * down[0] / h,
        ratio * down[1] / h, ratio * origin[0], ratio * origin[1]);
      context.drawImage(canvas, 0, 0);
      context.restore();
    }
  }

  // Axes, gripper and the ellipsoid of two sigma around the target.
  #drawPose(context, view, { position, axes, sigmas }) {
    context.save();
    context.lineWidth = 1.6;
    ['#d55e00', '#2fa37a', '#3f8fd0'].forEach((colour, index) => {
      context.strokeStyle = colour;
      this.#drawLine(context, view, [position, add(position, axes[index], 0.12 * view.radius)]);
    });
    context.strokeStyle = context.fillStyle;
    context.lineWidth = 1;
    for (const line of GRIPPER) {
      this.#drawLine(context, view, line.map(([x, z]) => add(add(position, axes[0], x),
        axes[2], z)));
    }
    for (const [i, j] of sigmas.length ? [[0, 1], [0, 2], [1, 2]] : []) {
      this.#drawLine(context, view, Array.from({ length: 33 }, (_, k) => {
        const turn = (k * Math.PI) / 16;
        return add(add(position, sigmas[i], 2 * Math.cos(turn)), sigmas[j], 2 * Math.sin(turn));
      }));
    }
    context.restore();
  }

  #drawRay(context, view, { from, to, kind }) {
    context.save();
    context.strokeStyle = COLOURS[kind];
    context.lineWidth = 1.6;
    if (kind !== 'sure' && kind !== 'clicked') context.setLineDash([5, 4]);
    this.#drawLine(context, view, [from, to]);
    context.restore();
  }

  #drawTarget(context, view, target) {
    const { position, approach, kind, name } = target;
    this.#drawPose(context, view, target);
    const [x, y] = view.project(position);
    context.save();
    context.lineWidth = 2;
    context.strokeStyle = context.fillStyle = COLOURS[kind];
    if (approach) {
      this.#drawLine(context, view, [position, add(position, approach, -0.3 * view.radius)]);
    }
    context.beginPath();
    if (kind === 'sure') context.arc(x, y, 6, 0, 7);
    else [[0, -9], [8, 6], [-8, 6]].forEach(([dx, dy]) => context.lineTo(x + dx, y + dy));
    context.closePath();
    context.stroke();
    context.fillText(name, x + 10, y - 8);
    context.restore();
  }
}
