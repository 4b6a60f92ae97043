// SVG marks on an image. Verdicts differ in shape as well as colour; all leave their pixel free.

const SVG = 'http://www.w3.org/2000/svg';

export function createSvg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// Each path is drawn twice, first dark and wide, so that it is visible on any image.
function createHaloed(kind, shapes) {
  const halo = createSvg('g', { class: 'halo' }, ...shapes.map((s) => createSvg(...s)));
  const line = createSvg('g', { class: 'line' }, ...shapes.map((s) => createSvg(...s)));
  return createSvg('g', { class: `mark ${kind}` }, halo, line);
}

const SHAPES = {
  clicked: [['path', { d: 'M-13 0H-4M4 0H13M0-13V-4M0 4V13' }]],
  sure: [['circle', { r: 10 }]],
  check: [['path', { d: 'M0-15L13.5 9H-13.5Z' }]],
  refused: [['path', { d: 'M4.9 1.4L12.4 8.8L8.8 12.4L1.4 4.9ZM-1.4 4.9L-8.8 12.4L-12.4 8.8L-4.9 1.4Z'
    + 'M-4.9 -1.4L-12.4 -8.8L-8.8 -12.4L-1.4 -4.9ZM1.4 -4.9L8.8 -12.4L12.4 -8.8L4.9 -1.4Z' }]],
  crosshair: [['path', { d: 'M-22 0H-3M3 0H22M0-22V-3M0 3V22' }]],
};

// A mark at the origin, in screen pixels; `placeMark` moves it to its image pixel.
export function createMark(kind, label) {
  const group = createHaloed(kind, SHAPES[kind]);
  if (label) {
    const text = { class: 'label', x: 18, y: 5 };
    group.append(createSvg('text', { ...text, class: 'label back' }, label),
      createSvg('text', text, label));
  }
  return group;
}

export function placeMark(group, point, scale) {
  group.setAttribute('transform', `translate(${point.x} ${point.y}) scale(${scale})`);
}

// A line of pixels, dark below and light above.
export function createLine(points) {
  const d = points.map(([x, y], index) => `${index ? 'L' : 'M'}${x} ${y}`).join('');
  return createSvg('g', { class: 'epipolar' }, createSvg('path', { class: 'halo', d }),
    createSvg('path', { class: 'line', d }));
}

// Two-sigma (86 %) ellipse of a 2x2 covariance (row-major), in image pixels, as in the overlays.
export function createEllipse(point, [a, b, , c]) {
  const mean = (a + c) / 2;
  const offset = Math.hypot((a - c) / 2, b);
  const radii = [mean + offset, Math.max(mean - offset, 0)].map((v) => 2 * Math.sqrt(v));
  const angle_deg = (90 / Math.PI) * Math.atan2(2 * b, a - c);
  return createSvg('ellipse', {
    class: 'spread', rx: radii[0], ry: radii[1],
    transform: `translate(${point.x} ${point.y}) rotate(${angle_deg})` });
}
