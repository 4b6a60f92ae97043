// The target that the robot has, or that waits for a person: always in sight.

import { createElement } from './dom.js';
import { formatAge, getAge_ms } from './robot_clock.js';
import { formatMetres, formatPercent, SIGNS, VERDICT_TEXT } from './text.js';

const STATE_TEXT = {
  UNKNOWN: 'not known yet', NONE: 'none yet', PENDING: 'waits for a person', STANDING: 'sent, as clicked',
  TRACKING: 'sent, seen and followed', COASTING: 'sent, not seen for a moment',
  MOVED: 'stop: seen elsewhere', LOST: 'stop: not seen for too long', EXPIRED: 'none: expired',
  CLEARED: 'none: cleared' };
const FOLLOWED_TEXT = 'sent, moved and followed'; // MOVED with `follow.mode: track`
const ENDED = ['UNKNOWN', 'NONE', 'EXPIRED', 'CLEARED'];

export const nameClick = (number) => (number === null ? 'a click' : `click ${number}`);

export class TargetPanel {
  #root;
  #state;
  #target = { state: 'UNKNOWN', valid: false, query_id: '', number: null, position_m: null,
    message: '', since_ms: 0 };
  #doubt = ''; // why it is not known whether this is still so
  #shown = '';

  constructor(root, state) {
    this.#root = root;
    this.#state = state;
    this.#draw();
    setInterval(() => this.#draw(), 1000);
  }

  get target() { return this.#target; }

  get isActive() { return !ENDED.includes(this.#target.state); }

  // What remains after a refused click, as a sentence.
  get sentence() {
    const { number, state } = this.#target;
    if (this.#doubt || state === 'UNKNOWN') return 'Whether the robot has a target is not known.';
    if (!this.isActive) return 'The robot has no target.';
    const name = number === null ? 'The target' : `The target of ${nameClick(number)}`;
    return `${name} ${state === 'PENDING' ? 'still waits for a person' : 'is still active'}.`;
  }

  // What has changed, for screen readers.
  get announcement() {
    const { number, state } = this.#target;
    if (!this.isActive) return `The robot has no target: ${state.toLowerCase()}.`;
    return `Target of ${nameClick(number)}: ${STATE_TEXT[state]}.`;
  }

  show(target) {
    this.#target = target;
    this.#draw();
  }

  setDoubt(reason) {
    this.#doubt = reason;
    this.#draw();
  }

  #draw() {
    const { state, valid, message } = this.#target;
    const lines = this.isActive ? this.#describe() : [];
    const shown = JSON.stringify([state, valid, lines, message, this.#doubt]);
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.#root.dataset.state = this.#state.dataset.state = state;
    this.#root.classList.toggle('doubtful', Boolean(this.#doubt));
    this.#state.className = `state ${this.#doubt ? 'check' : valid ? 'sure'
      : ENDED.includes(state) ? '' : 'check'}`;
    const text = state === 'MOVED' && valid ? FOLLOWED_TEXT : STATE_TEXT[state] ?? '';
    this.#state.textContent = this.#doubt && state !== 'UNKNOWN' ? `last known: ${state}`
      : state === 'UNKNOWN' ? text : `${state} · ${text}`;
    this.#state.title = this.#doubt;
    const last = createElement('p', 'latest', this.#doubt
      ? `Not known whether this is still so: ${this.#doubt}` : message);
    last.title = message;
    this.#root.replaceChildren(...lines.map(([kind, text]) => createElement('p', kind, text)), last);
  }

  #describe() {
    const { position_m, base_frame, verdict, confidence, sigma_mm, number, since, since_ms, frame }
      = this.#target;
    const place = position_m ? `${[...'xyz'].map((axis, i) => (
      `${axis} ${formatMetres(position_m[i])}`)).join('   ')} m` : 'place unknown';
    const sure = [verdict ? `${SIGNS[verdict]} ${VERDICT_TEXT[verdict]}` : 'not known how sure',
      ...(confidence === null ? [] : [formatPercent(confidence)]),
      sigma_mm === null ? 'exactness not measured' : `±${Math.round(sigma_mm)} mm`];
    const age_ms = getAge_ms(since_ms);
    const ago = age_ms > -1000 ? ` (${formatAge(Math.floor(Math.max(age_ms, 0) / 1000) * 1000)
      .replace('.0', '')} ago)` : '';
    return [['place', place], [`verdict ${verdict ?? ''}`, sure.join(' · ')],
      ['', `${nameClick(number)} · since ${since}${ago}`], ['fine', `${frame} in ${base_frame}`]];
  }
}
