// The node's limits with their effect on the shown answer, and the findings of the doctor.

import { createElement } from './dom.js';
import { listTexts, t } from './i18n.js';

const REFRESH_MS = 5000; // another person, or a program, may set a limit
const NAMES = listTexts('limit', ['min_confidence', 'sure_confidence', 'max_epipolar_px',
  'max_depth_gap_m', 'max_target_sigma_m']);

const isRefused = (answer) => answer.verdict === 'refused';

// What each view of an answer would be with that limit: [camera or target, sentence, differs].
function predict(name, value, { found, target }) {
  const ofViews = (measure, describe) => found.filter((answer) => measure(answer) !== null)
    .map((answer) => [answer.camera, ...describe(answer, measure(answer))]);
  const ofDistance = (key, unit, scale) => ofViews((answer) => answer[key], (answer, measured) => {
    const text = { measured: `${(scale * measured).toFixed(1)} ${unit}` };
    if (measured <= value) return [t('effect.within', text), false];
    return [t('effect.beyond', text), !isRefused(answer)];
  });
  if (name === 'max_epipolar_px') return ofDistance('epipolar_error_px', 'px', 1);
  if (name === 'max_depth_gap_m') return ofDistance('depth_gap_m', 'mm', 1000);
  if (name === 'max_target_sigma_m') {
    if (!target || target.spread_mm === null) return [];
    const isExact = target.spread_mm <= 1000 * value;
    return [[t('effect.target'), t(isExact ? 'effect.kept' : 'effect.refused', {
      measured: `±${Math.round(target.spread_mm)} mm` }), !isExact]];
  }
  return ofViews((answer) => answer.confidence || null, (answer, confidence) => {
    const percent = { measured: `${Math.round(100 * confidence)} %` };
    const isOver = confidence >= value;
    if (name === 'min_confidence') {
      return [t(isOver ? 'effect.enough' : 'effect.refused', percent), isOver === isRefused(answer)
        && (!isOver || answer.code === 'LOW_CONFIDENCE')];
    }
    if (isRefused(answer)) return [t('effect.still_refused', percent), false];
    return [t(isOver ? 'effect.sure' : 'effect.check', percent),
      isOver !== (answer.verdict === 'sure')];
  });
}

export class LimitsPanel {
  #details;
  #root;
  #actions;
  #rows = new Map(); // name -> {slider, output, effect, button, value}
  #result = null;

  // actions: {request(), set(limit, value)}
  constructor(details, root, actions) {
    this.#details = details;
    this.#root = root;
    this.#actions = actions;
    details.addEventListener('toggle', () => this.#refresh());
    setInterval(() => this.#refresh(), REFRESH_MS);
  }

  #refresh() {
    if (this.#details.open) this.#actions.request();
  }

  show({ limits }) {
    for (const limit of limits) {
      if (!this.#rows.has(limit.name)) this.#createRow(limit);
      const row = this.#rows.get(limit.name);
      const isTouched = Number(row.slider.value) !== row.shown;
      row.value = limit.value;
      Object.assign(row.slider, { min: limit.low, max: limit.high, step: limit.step });
      if (!isTouched) row.slider.value = limit.value;
      if (!isTouched) row.shown = Number(row.slider.value);
      this.#update(limit.name);
    }
  }

  setResult(result) {
    this.#result = result;
    for (const name of this.#rows.keys()) this.#update(name);
  }

  #createRow({ name, meaning }) {
    const slider = createElement('input');
    Object.assign(slider, { type: 'range', id: `limit-${name}`, min: 0, max: 1e9, step: 'any' });
    const label = createElement('label', '', NAMES[name] ?? name);
    label.htmlFor = slider.id;
    label.title = meaning;
    const output = createElement('output');
    const effect = createElement('p', 'effect');
    const button = createElement('button', '', t('button.set'));
    button.type = 'button';
    button.setAttribute('aria-label', t('limits.set', { limit: NAMES[name] ?? name }));
    const row = { slider, output, effect, button, value: NaN, shown: Number(slider.value) };
    slider.addEventListener('input', () => this.#update(name));
    button.addEventListener('click', () => {
      row.shown = Number(slider.value);
      this.#actions.set(name, Number(slider.value));
    });
    this.#rows.set(name, row);
    this.#root.append(createElement('div', 'limit', label, output, slider, button, effect));
  }

  #update(name) {
    const { slider, output, effect, button, value } = this.#rows.get(name);
    const proposed = Number(slider.value);
    const isSame = Math.abs(proposed - value) < Number(slider.step) / 2;
    button.disabled = isSame;
    const short = (number) => Number(number.toPrecision(3));
    output.textContent = isSame ? short(value) : `${short(value)} → ${short(proposed)}`;
    const views = this.#result ? predict(name, isSame ? value : proposed, this.#result) : [];
    effect.replaceChildren(...views.map(([whose, text, differs]) => createElement(
      'span', differs ? 'differs' : '', `${whose} ${text}`)));
  }
}

export class DoctorPanel {
  #button;
  #root;

  constructor(button, root, examine) {
    this.#button = button;
    this.#root = root;
    button.addEventListener('click', () => {
      if (!examine()) return;
      button.disabled = true;
      root.replaceChildren(createElement('p', 'pending', t('doctor.running')));
    });
  }

  // The report of the earlier connection does not come any more.
  onReconnect() {
    if (this.#button.disabled) this.show({ problem: t('doctor.lost') });
  }

  show({ problem, findings = [] }) {
    this.#button.disabled = false;
    if (problem) this.#root.replaceChildren(createElement('p', 'note bad', problem));
    else if (!findings.length) this.#root.replaceChildren(createElement('p', '', t('doctor.none')));
    else {
      this.#root.replaceChildren(createElement('ul', 'findings', ...findings.map((finding) => (
        createElement('li', finding.severity, createElement('b', '',
          `${finding.severity}${finding.camera ? `, ${finding.camera}` : ''}: `), finding.sentence,
        createElement('p', 'cure', finding.cure))))));
    }
  }
}
