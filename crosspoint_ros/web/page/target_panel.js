// The target that the robot has, or that waits for a person: always in sight.

import { createElement } from './dom.js';
import { listTexts, t } from './i18n.js';
import { formatAge, getAge_ms } from './robot_clock.js';
import { formatMetres, formatPercent, SIGNS, VERDICT_TEXT } from './text.js';

const STATE_TEXT = listTexts('state', ['UNKNOWN', 'NONE', 'PENDING', 'STANDING', 'TRACKING',
  'COASTING', 'MOVED', 'LOST', 'EXPIRED', 'CLEARED']);
const FOLLOWED_TEXT = t('state.FOLLOWED'); // MOVED with `follow.mode: track`
const ENDED = ['UNKNOWN', 'NONE', 'EXPIRED', 'CLEARED'];
const ENDED_TEXT = listTexts('ended', ['UNKNOWN', 'NONE', 'EXPIRED', 'CLEARED']);

export const nameClick = (number) => (number === null ? t('click.unknown')
  : t('click.numbered', { number }));

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
    if (this.#doubt || state === 'UNKNOWN') return t('target.not_known');
    if (!this.isActive) return t('target.none');
    return t(state === 'PENDING' ? 'target.pending' : 'target.active', { click: nameClick(number) });
  }

  // What has changed, for screen readers.
  get announcement() {
    const { number, state } = this.#target;
    if (!this.isActive) return t('target.ended', { state: ENDED_TEXT[state] });
    return t('target.announced', { click: nameClick(number), state: STATE_TEXT[state] });
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
    this.#state.textContent = this.#doubt && state !== 'UNKNOWN' ? t('target.last_known', { state })
      : state === 'UNKNOWN' ? text : `${state} · ${text}`;
    this.#state.title = this.#doubt;
    const last = createElement('p', 'latest', this.#doubt
      ? t('target.doubt', { reason: this.#doubt }) : message);
    last.title = message;
    this.#root.replaceChildren(...lines.map(([kind, text]) => createElement('p', kind, text)), last);
  }

  #describe() {
    const { position_m, base_frame, verdict, confidence, sigma_mm, number, since, since_ms, frame }
      = this.#target;
    const place = position_m ? `${[...'xyz'].map((axis, i) => (
      `${axis} ${formatMetres(position_m[i])}`)).join('   ')} m` : t('target.no_place');
    const sure = [verdict ? `${SIGNS[verdict]} ${VERDICT_TEXT[verdict]}` : t('target.no_verdict'),
      ...(confidence === null ? [] : [formatPercent(confidence)]),
      sigma_mm === null ? t('target.no_sigma') : `±${Math.round(sigma_mm)} mm`];
    const age_ms = getAge_ms(since_ms);
    const age = formatAge(Math.floor(Math.max(age_ms, 0) / 1000) * 1000).replace('.0', '');
    const click = nameClick(number);
    const when = age_ms > -1000 ? t('target.since_ago', { click, time: since, age })
      : t('target.since', { click, time: since });
    return [['place', place], [`verdict ${verdict ?? ''}`, sure.join(' · ')],
      ['', when], ['fine', t('target.frame', { frame, base: base_frame })]];
  }
}
