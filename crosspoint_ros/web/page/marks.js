// Marks on a picture, as SVG: each verdict has a shape of its own, not only a colour.

const SVG = 'http://www.w3.org/2000/svg';

export function make(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// Each path is drawn twice, dark and wide first, so that it shows on any picture.
function haloed(kind, shapes) {
  const dark = make('g', { class: 'halo' }, ...shapes.map((s) => make(...s)));
  const bright = make('g', { class: 'line' }, ...shapes.map((s) => make(...s)));
  return make('g', { class: `mark ${kind}` }, dark, bright);
}

const SHAPES = {
  clicked: [['path', { d: 'M-13 0H-4M4 0H13M0-13V-4M0 4V13' }]],
  sure: [['circle', { r: 9 }], ['circle', { r: 1.5 }]],
  check: [['path', { d: 'M0-11L10.5 7.5H-10.5Z' }], ['circle', { r: 1.5 }]],
  aim: [['path', { d: 'M-22 0H-3M3 0H22M0-22V-3M0 3V22' }]],
};

// A mark at the origin, in pixels of the screen; `place` puts it on the picture.
export function mark(kind, label) {
  const group = haloed(kind, SHAPES[kind]);
  if (label) {
    const text = { class: 'label', x: 15, y: 5 };
    group.append(make('text', { ...text, class: 'label back' }, label), make('text', text, label));
  }
  return group;
}

export function place(group, point, scale) {
  group.setAttribute('transform', `translate(${point.x} ${point.y}) scale(${scale})`);
}

// Where the point lies with 95 %: the covariance's ellipse, in pixels of the picture.
export function ellipse(point, [a, b, , c]) {
  const middle = (a + c) / 2;
  const reach = Math.hypot((a - c) / 2, b);
  const radii = [middle + reach, Math.max(middle - reach, 0)].map((v) => 2.45 * Math.sqrt(v));
  const turn = (90 / Math.PI) * Math.atan2(2 * b, a - c);
  return make('ellipse', {
    class: 'spread', rx: radii[0], ry: radii[1],
    transform: `translate(${point.x} ${point.y}) rotate(${turn})` });
}
