// The answer beside the pictures: what was found where, the target, and how long it took.

import { codeWords, metres, milliseconds, percent, VERDICTS } from './words.js';

const SIGNS = { sure: '●', check: '▲', refused: '✕' };

function row(name, ...values) {
  const made = document.createElement('div');
  const term = document.createElement('dt');
  const told = document.createElement('dd');
  term.textContent = name;
  told.append(...values);
  made.append(term, told);
  return made;
}

function verdict(answer) {
  const made = document.createElement('span');
  made.className = `verdict ${answer.verdict}`;
  const sign = document.createElement('i');
  sign.ariaHidden = 'true';
  sign.textContent = SIGNS[answer.verdict];
  const words = answer.verdict === 'refused' ? codeWords(answer.code)
    : `${VERDICTS[answer.verdict]}, ${percent(answer.confidence)}`;
  made.append(sign, ` ${words}`);
  return made;
}

export class AnswerPanel {
  #root;
  #note;
  #target_frame = '';

  constructor(root, note) {
    this.#root = root;
    this.#note = note;
    this.show(null);
  }

  frames(target_frame) {
    this.#target_frame = target_frame;
  }

  wait() {
    this.note('');
    this.#say('Looking for it in the other pictures…', 'waiting');
  }

  show(result) {
    this.#root.dataset.query = result?.query_id ?? '';
    this.#root.dataset.matchMs = result?.match_ms ?? '';
    if (!result) {
      this.#say('Nothing clicked yet.', 'empty');
      return;
    }
    const list = document.createElement('dl');
    for (const answer of result.found) list.append(row(answer.camera, verdict(answer)));
    if (result.target) list.append(...this.#target(result.target));
    if (!result.found.length) list.append(row('refused', result.message));
    else if (!result.target && result.message) list.append(row('no target', result.message));
    list.append(row('took', milliseconds(result.ms)));
    if (result.match_ms !== null) list.append(row('matching', milliseconds(result.match_ms)));
    this.#root.replaceChildren(list);
  }

  #target(target) {
    const position = document.createElement('span');
    position.className = 'position';
    position.dataset.position = target.position_m.join(' ');
    'xyz'.split('').forEach((axis, index) => {
      const part = document.createElement('span');
      part.append(Object.assign(document.createElement('i'), { textContent: axis }),
        ` ${metres(target.position_m[index])}`);
      position.append(part);
    });
    const spread = target.spread_mm === null ? '' : `, ±${Math.round(target.spread_mm)} mm`;
    return [row('target, m', position), row('in', `${target.frame}${spread}`),
      row('TF frame', this.#target_frame), row('by', target.method)];
  }

  #say(words, kind) {
    const made = document.createElement('p');
    made.className = kind;
    made.textContent = words;
    this.#root.replaceChildren(made);
  }

  note(words, kind = '') {
    this.#note.textContent = words;
    this.#note.className = `note ${kind}`;
  }
}
