// The last 20 answers and the current undo position. Rows stay in place, only their text changes.

import { createElement } from './dom.js';
import { DECISION_TEXT, formatPixel } from './text.js';

export class HistoryPanel {
  #list;
  #undo;
  #redo;
  current = null; // {query_id, decided, …} of the newest answer that is not undone

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
    this.current = entries[kept - 1] ?? null;
    while (this.#list.children.length < entries.length) {
      this.#list.append(createElement('li', '', createElement('b'), createElement('span'),
        createElement('em')));
    }
    while (this.#list.children.length > entries.length) this.#list.lastChild.remove();
    [...this.#list.children].forEach((row, place) => {
      const index = entries.length - 1 - place;
      const entry = entries[index];
      this.#fill(row, entry, entry.number === current, index >= kept);
    });
    this.#list.classList.toggle('none', !entries.length);
  }

  #fill(row, { number, query_id, decided, clicked }, isCurrent, isUndone) {
    const [name, point, decision] = row.children;
    row.className = isUndone ? 'undone' : isCurrent ? 'current' : '';
    name.textContent = number;
    point.textContent = `${clicked.camera} ${formatPixel(clicked, 0)}`;
    decision.textContent = isUndone ? 'undone' : DECISION_TEXT[decided];
    row.dataset.query = query_id;
    if (isCurrent) row.setAttribute('aria-current', 'step');
    else row.removeAttribute('aria-current');
  }
}
