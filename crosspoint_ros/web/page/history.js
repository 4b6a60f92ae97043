// The last twenty answers, and where undo and redo stand among them.

import { DECISIONS } from './words.js';

const place = ({ x, y }) => (x === null ? '' : `(${Math.round(x)}, ${Math.round(y)})`);

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
    const rows = entries.map((entry, index) => this.#row(
      entry, entry.number === current, index >= kept));
    this.#list.replaceChildren(...rows.reverse());
    this.#list.classList.toggle('none', !rows.length);
  }

  #row({ number, query_id, decided, clicked }, isCurrent, isUndone) {
    const made = document.createElement('li');
    made.dataset.query = query_id;
    made.className = isUndone ? 'undone' : isCurrent ? 'current' : '';
    if (isCurrent) made.setAttribute('aria-current', 'step');
    const parts = [['b', `${number}`], ['span', `${clicked.camera} ${place(clicked)}`],
      ['em', isUndone ? 'undone' : DECISIONS[decided]]];
    made.append(...parts.map(([name, text]) => Object.assign(
      document.createElement(name), { textContent: text })));
    return made;
  }
}
