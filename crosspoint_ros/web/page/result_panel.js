// The result next to the images: verdict per view, target, and timing.

import { createElement } from './dom.js';
import { t } from './i18n.js';
import {
  codeText, formatDuration, formatMetres, formatPercent, SIGNS, VERDICT_TEXT } from './text.js';

function createRow(name, ...values) {
  return createElement('div', '', createElement('dt', '', name),
    createElement('dd', '', ...values));
}

function createVerdict(answer) {
  const sign = createElement('i', '', SIGNS[answer.verdict]);
  sign.ariaHidden = 'true';
  const text = answer.verdict === 'refused'
    ? [codeText(answer.code), answer.message].filter(Boolean).join(': ')
    : `${VERDICT_TEXT[answer.verdict]}, ${formatPercent(answer.confidence)}`;
  return createElement('span', `verdict ${answer.verdict}`, sign, ` ${text}`);
}

// Why: what geometry measured, and whether it agrees.
function createReasons({ epipolar_error_px, depth_gap_m, check, verdict, message }) {
  const reasons = [
    epipolar_error_px === null ? '' : t('why.epipolar', { px: epipolar_error_px.toFixed(1) }),
    depth_gap_m === null ? '' : t('why.depth', { mm: Math.round(1000 * depth_gap_m) }),
    ['pass', 'fail', 'unknown'].includes(check) ? t(`why.${check}`) : '', verdict === 'refused' ? '' : message].filter(Boolean);
  return [createElement('span', 'why fine', reasons.join(' · '))];
}

export class ResultPanel {
  #root;
  #note;
  #target_frame = '';
  #result = null;
  #isDiverted = false;

  constructor(root, note) {
    this.#root = root;
    this.#note = note;
    this.show(null);
  }

  setTargetFrame(target_frame) {
    this.#target_frame = target_frame;
    if (this.#result) this.show(this.#result, this.#isDiverted);
  }

  showPending() {
    this.#result = null;
    this.#showText(t('result.matching'), 'pending');
  }

  // isDiverted: its click had no name, and the target without one was held.
  show(result, isDiverted = false) {
    this.#result = result;
    this.#isDiverted = isDiverted;
    this.#root.dataset.query = result?.query_id ?? '';
    this.#root.dataset.matchMs = result?.match_ms ?? '';
    if (!result) {
      this.#showText(t('result.none'), 'empty');
      return;
    }
    const list = createElement('dl');
    for (const answer of result.found) {
      list.append(createRow(answer.camera, createVerdict(answer), ...createReasons(answer)));
    }
    if (result.target) list.append(...this.#createTargetRows(result.target));
    if (!result.found.length) list.append(createRow(t('result.refused'), result.message));
    else if (!result.target && result.message) list.append(createRow(t('result.no_target'), result.message));
    list.append(createRow(t('result.total'), formatDuration(result.ms)));
    if (result.match_ms !== null) {
      list.append(createRow(t('result.matching_time'), formatDuration(result.match_ms)));
    }
    this.#root.replaceChildren(list);
  }

  #createTargetRows(target) {
    const position = createElement('span', 'position', ...[...'xyz'].map((axis, index) => (
      createElement('span', '', createElement('i', '', axis),
        ` ${formatMetres(target.position_m[index])}`))));
    position.dataset.position = target.position_m.join(' ');
    const { name } = target;
    const named = name ? [createRow(t('result.name'), name, ...(this.#isDiverted
      ? [createElement('span', 'why fine', t('note.next', { name }))] : []))] : [];
    const spread = target.spread_mm === null ? '' : `, ±${Math.round(target.spread_mm)} mm (1σ)`;
    return [...named, createRow(t('result.at'), position), createRow(t('result.frame'), `${target.frame}${spread}`),
      createRow(t('result.tf_frame'), name ? `${this.#target_frame}_${name}` : this.#target_frame), createRow(t('result.method'), target.method)];
  }

  #showText(text, kind) {
    this.#root.replaceChildren(createElement('p', kind, text));
  }

  setNote(text, kind = '') {
    this.#note.textContent = this.#note.title = text;
    this.#note.className = `note ${kind}`;
  }
}
