// The targets that the robot has, or that wait for a person: always in sight. The card is that of the
// target without a name.

import { createElement } from './dom.js';
import { listTexts, t } from './i18n.js';
import { formatAge, getAge_ms } from './robot_clock.js';
import { formatMetres, formatPercent, nameTarget, SIGNS, VERDICT_TEXT } from './text.js';

const STATE_TEXT = listTexts('state', ['UNKNOWN', 'NONE', 'PENDING', 'STANDING', 'TRACKING',
  'COASTING', 'MOVED', 'LOST', 'EXPIRED', 'CLEARED']);
const FOLLOWED_TEXT = t('state.FOLLOWED'); // MOVED with `follow.mode: track`
const ENDED = ['UNKNOWN', 'NONE', 'EXPIRED', 'CLEARED'];
const ENDED_TEXT = listTexts('ended', ['UNKNOWN', 'NONE', 'EXPIRED', 'CLEARED']);

export const nameClick = ({ number, name = '' }) => (number === null ? t('click.unknown')
  : t('click.numbered', { number })) + (name && ` (${name})`);

const isActive = ({ state }) => !ENDED.includes(state);

export class TargetPanel {
  #root;
  #state;
  #more;
  #list;
  #targets = [{ name: '', state: 'UNKNOWN', valid: false, query_id: '', number: null,
    position_m: null, message: '', since_ms: 0, held_until_ms: 0, points: [] }];
  #doubt = ''; // why it is not known whether this is still so
  #shown = '';

  // more: how many targets have names; list: a TargetList
  constructor(root, state, more, list) {
    this.#root = root;
    this.#state = state;
    this.#more = more;
    this.#list = list;
    this.#draw();
    setInterval(() => this.#draw(), 1000);
  }

  // The one without a name.
  get target() { return this.#targets[0]; }

  // Those that have not ended.
  get active() { return this.#targets.filter(isActive); }

  // What remains after a refused click, as a sentence; name: of the target that it was for.
  describeRemaining(name) {
    const { active } = this;
    if (this.#doubt || this.target.state === 'UNKNOWN') return t('target.not_known');
    if (!active.length) return t('target.none');
    const target = active.find((each) => each.name === name);
    if (!target) {
      return t('target.others', { others: active.map((each) => each.name || t('target.unnamed')).join(', ') });
    }
    return t(target.state === 'PENDING' ? 'target.pending' : 'target.active', { click: nameClick(target) });
  }

  // Takes the targets; returns those whose state or answer has changed.
  show(targets) {
    const changed = targets.filter(({ name, state, query_id }) => {
      const before = this.#targets.find((each) => each.name === name);
      return state !== before?.state || query_id !== before.query_id;
    });
    this.#targets = targets;
    this.#draw();
    return changed;
  }

  // A change, for screen readers.
  announce(target) {
    if (isActive(target)) {
      return t('target.announced', { click: nameClick(target), state: STATE_TEXT[target.state] });
    }
    const state = ENDED_TEXT[target.state];
    return target.name || this.active.length
      ? t('target.ended_one', { target: nameTarget(target.name), state }) : t('target.ended', { state });
  }

  setDoubt(reason) {
    this.#doubt = reason;
    this.#draw();
  }

  // Of the state: its words, and whether they are good news.
  #describeState({ state, valid }) {
    const words = state === 'MOVED' && valid ? FOLLOWED_TEXT : STATE_TEXT[state] ?? '';
    return [words, this.#doubt ? 'check' : valid ? 'sure' : ENDED.includes(state) ? '' : 'check'];
  }

  #describeRow(target) {
    const [words, kind] = this.#describeState(target);
    if (this.#doubt) return [t('target.last_known', { state: target.state }), kind];
    return [target.valid ? t('list.go_on', { state: words }) : words, kind];
  }

  #draw() {
    const { state, valid, message } = this.target;
    this.#list.show(this.#targets, isActive, (target) => this.#describeRow(target));
    const named = this.active.filter(({ name }) => name).map(({ name }) => name);
    const lines = isActive(this.target) ? this.#describe() : [];
    const shown = JSON.stringify([state, valid, lines, message, this.#doubt, named]);
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.#more.textContent = named.length ? t('target.more', { count: named.length }) : '';
    this.#more.title = named.join(', ');
    this.#root.dataset.state = this.#state.dataset.state = state;
    this.#root.classList.toggle('doubtful', Boolean(this.#doubt));
    const [text, kind] = this.#describeState(this.target);
    this.#state.className = `state ${kind}`;
    this.#state.textContent = this.#doubt && state !== 'UNKNOWN' ? t('target.last_known', { state })
      : state === 'UNKNOWN' ? text : `${state} · ${text}`;
    this.#state.title = this.#doubt;
    const last = createElement('p', 'latest', this.#doubt
      ? t('target.doubt', { reason: this.#doubt }) : message);
    last.title = message;
    this.#root.replaceChildren(...lines.map(([kind_, text_]) => createElement('p', kind_, text_)), last);
  }

  #describe() {
    const { position_m, base_frame, verdict, confidence, sigma_mm, since, since_ms, held_until_ms,
      frame } = this.target;
    const place = position_m ? `${[...'xyz'].map((axis, i) => (
      `${axis} ${formatMetres(position_m[i])}`)).join('   ')} m` : t('target.no_place');
    const sure = [verdict ? `${SIGNS[verdict]} ${VERDICT_TEXT[verdict]}` : t('target.no_verdict'),
      ...(confidence === null ? [] : [formatPercent(confidence)]),
      sigma_mm === null ? t('target.no_sigma') : `±${Math.round(sigma_mm)} mm`];
    const click = nameClick(this.target);
    const formatSeconds = (ms) => formatAge(Math.floor(Math.max(ms, 0) / 1000) * 1000).replace('.0', '');
    const age_ms = getAge_ms(since_ms);
    const held_ms = -getAge_ms(held_until_ms);
    const when = held_ms > 0 ? t('target.held', { click, time: since, left: formatSeconds(held_ms) })
      : age_ms > -1000 ? t('target.since_ago', { click, time: since, age: formatSeconds(age_ms) })
        : t('target.since', { click, time: since });
    return [['place', place], [`verdict ${verdict ?? ''}`, sure.join(' · ')],
      ['', when], ['fine', t('target.frame', { frame, base: base_frame })]];
  }
}
