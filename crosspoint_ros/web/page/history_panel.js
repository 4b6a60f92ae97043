// The last 20 results and the current undo position.

import { createElement } from './dom.js';
import { DECISION_TEXT, formatPixel } from './text.js';

export class HistoryPanel {
  #list;
  #undo;
  #redo;

  constructor(list, undo, redo) {
    this.#list = list;
    this.#undo = undo;
    this.#redo = redo;
    this.show({ entries: [], current: 0, undone: 0, can_undo: false, can_redo: false });
  }

  show({ entries, current, undone, can_undo, can_redo }) {
    this.#undo.disabled = !can_undo;
    this.#redo.disabled = !can_redo;
    const kept = entries.length - undone;
    const rows = entries.map((entry, index) => this.#createRow(
      entry, entry.number === current, index >= kept));
    this.#list.replaceChildren(...rows.reverse());
    this.#list.classList.toggle('none', !rows.length);
  }

  #createRow({ number, query_id, decided, clicked }, isCurrent, isUndone) {
    const row = createElement('li', isUndone ? 'undone' : isCurrent ? 'current' : '',
      createElement('b', '', `${number}`),
      createElement('span', '', `${clicked.camera} ${formatPixel(clicked, 0)}`),
      createElement('em', '', isUndone ? 'undone' : DECISION_TEXT[decided]));
    row.dataset.query = query_id;
    if (isCurrent) row.setAttribute('aria-current', 'step');
    return row;
  }
}
