// The last 20 answers and the current undo position. Rows stay in place; each opens its answer again.

import { createElement } from './dom.js';
import { t } from './i18n.js';
import { DECISION_TEXT, formatPixel, SIGNS, VERDICT_TEXT } from './text.js';

const PIXEL = 'data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==';

export class HistoryPanel {
  #list;
  #undo;
  #redo;
  #actions;
  #thumbnails = new Map(); // query_id -> JPEG as data URL, '' for one that was requested
  current = null; // {query_id, decided, …} of the newest answer that is not undone

  // actions: {open(query_id), thumbnail(query_id)}
  constructor(list, undo, redo, actions) {
    this.#list = list;
    this.#undo = undo;
    this.#redo = redo;
    this.#actions = actions;
    this.show({ entries: [], current: 0, undone: 0, can_undo: false, can_redo: false });
  }

  show({ entries, current, undone, can_undo, can_redo }) {
    this.#undo.disabled = !can_undo;
    this.#redo.disabled = !can_redo;
    const kept = entries.length - undone;
    this.current = entries[kept - 1] ?? null;
    while (this.#list.children.length < entries.length) this.#list.append(this.#createRow());
    while (this.#list.children.length > entries.length) this.#list.lastChild.remove();
    [...this.#list.children].forEach((row, place) => {
      const index = entries.length - 1 - place;
      const entry = entries[index];
      this.#fill(row, entry, entry.number === current, index >= kept);
    });
    this.#list.classList.toggle('none', !entries.length);
    const known = new Set(entries.map(({ query_id }) => query_id));
    for (const query_id of this.#thumbnails.keys()) {
      if (!known.has(query_id)) this.#thumbnails.delete(query_id);
    }
  }

  #createRow() {
    const image = createElement('img');
    image.alt = '';
    image.src = PIXEL;
    const button = createElement('button', '', createElement('b'), image, createElement('span'),
      createElement('i'), createElement('em'), createElement('time'));
    const row = createElement('li', '', button);
    button.addEventListener('click', () => this.#actions.open(row.dataset.query));
    return row;
  }

  #fill(row, { number, query_id, decided, clicked, verdict, time }, isCurrent, isUndone) {
    const [name, image, point, how, decision, when] = row.firstChild.children;
    row.className = isUndone ? 'undone' : isCurrent ? 'current' : '';
    name.textContent = number;
    point.textContent = `${clicked.camera} ${formatPixel(clicked, 0)}`;
    how.textContent = `${SIGNS[verdict]} ${VERDICT_TEXT[verdict]}`;
    how.className = `verdict ${verdict}`;
    decision.textContent = isUndone ? t('history.undone') : DECISION_TEXT[decided];
    when.textContent = time;
    row.firstChild.title = t('history.open', { click: t('click.numbered', { number }) });
    if (row.dataset.query !== query_id) {
      row.dataset.query = query_id;
      image.src = this.#thumbnails.get(query_id) || PIXEL;
    }
    if (isCurrent) row.setAttribute('aria-current', 'step');
    else row.removeAttribute('aria-current');
    if (this.#thumbnails.has(query_id)) return;
    if (this.#actions.thumbnail(query_id)) this.#thumbnails.set(query_id, '');
  }

  showThumbnail({ query_id, jpeg }) {
    if (!jpeg || !this.#thumbnails.has(query_id)) return;
    this.#thumbnails.set(query_id, `data:image/jpeg;base64,${jpeg}`);
    for (const row of this.#list.children) {
      if (row.dataset.query === query_id) {
        row.querySelector('img').src = this.#thumbnails.get(query_id);
      }
    }
  }

  name(query_id) {
    const row = [...this.#list.children].find((each) => each.dataset.query === query_id);
    return row ? t('click.numbered', { number: row.querySelector('b').textContent })
      : t('click.earlier');
  }

  // The row whose answer is open, '' for none.
  setOpen(query_id) {
    for (const row of this.#list.children) {
      row.firstChild.setAttribute('aria-pressed', String(row.dataset.query === query_id));
    }
  }
}
