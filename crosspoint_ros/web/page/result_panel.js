// The result next to the images: verdict per view, target, and timing.

import {
  codeText, formatDuration, formatMetres, formatPercent, VERDICT_TEXT } from './text.js';

const SIGNS = { sure: '●', check: '▲', refused: '✕' };

function createRow(name, ...values) {
  const row = document.createElement('div');
  const term = document.createElement('dt');
  const value = document.createElement('dd');
  term.textContent = name;
  value.append(...values);
  row.append(term, value);
  return row;
}

function createVerdict(answer) {
  const verdict = document.createElement('span');
  verdict.className = `verdict ${answer.verdict}`;
  const sign = document.createElement('i');
  sign.ariaHidden = 'true';
  sign.textContent = SIGNS[answer.verdict];
  const text = answer.verdict === 'refused' ? codeText(answer.code)
    : `${VERDICT_TEXT[answer.verdict]}, ${formatPercent(answer.confidence)}`;
  verdict.append(sign, ` ${text}`);
  return verdict;
}

export class ResultPanel {
  #root;
  #note;
  #target_frame = '';
  #result = null;

  constructor(root, note) {
    this.#root = root;
    this.#note = note;
    this.show(null);
  }

  setTargetFrame(target_frame) {
    this.#target_frame = target_frame;
    if (this.#result) this.show(this.#result);
  }

  showPending() {
    this.#result = null;
    this.setNote('');
    this.#showText('Matching…', 'pending');
  }

  show(result) {
    this.#result = result;
    this.#root.dataset.query = result?.query_id ?? '';
    this.#root.dataset.matchMs = result?.match_ms ?? '';
    if (!result) {
      this.#showText('Nothing clicked yet.', 'empty');
      return;
    }
    const list = document.createElement('dl');
    for (const answer of result.found) list.append(createRow(answer.camera, createVerdict(answer)));
    if (result.target) list.append(...this.#createTargetRows(result.target));
    if (!result.found.length) list.append(createRow('refused', result.message));
    else if (!result.target && result.message) list.append(createRow('no target', result.message));
    list.append(createRow('total', formatDuration(result.ms)));
    if (result.match_ms !== null) {
      list.append(createRow('matching', formatDuration(result.match_ms)));
    }
    this.#root.replaceChildren(list);
  }

  #createTargetRows(target) {
    const position = document.createElement('span');
    position.className = 'position';
    position.dataset.position = target.position_m.join(' ');
    'xyz'.split('').forEach((axis, index) => {
      const part = document.createElement('span');
      part.append(Object.assign(document.createElement('i'), { textContent: axis }),
        ` ${formatMetres(target.position_m[index])}`);
      position.append(part);
    });
    const spread = target.spread_mm === null ? '' : `, ±${Math.round(target.spread_mm)} mm (1σ)`;
    return [createRow('target, m', position), createRow('in frame', `${target.frame}${spread}`),
      createRow('TF frame', this.#target_frame), createRow('method', target.method)];
  }

  #showText(text, kind) {
    const paragraph = document.createElement('p');
    paragraph.className = kind;
    paragraph.textContent = text;
    this.#root.replaceChildren(paragraph);
  }

  setNote(text, kind = '') {
    this.#note.textContent = text;
    this.#note.className = `note ${kind}`;
  }
}
