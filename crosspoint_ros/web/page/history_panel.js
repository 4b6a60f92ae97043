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
  #kept = []; // answers that are not undone: {query_id, name, decided, …}, the newest last

  // actions: {open(query_id), thumbnail(query_id)}
  constructor(list, undo, redo, actions) {
    this.#list = list;
    this.#undo = undo;
    this.#redo = redo;
    this.#actions = actions;
    this.show({ entries: [], active: [], undone: 0, can_undo: false, can_redo: false });
  }

  show({ entries, active, undone, can_undo, can_redo }) {
    this.#undo.disabled = !can_undo;
    this.#redo.disabled = !can_redo;
    const kept = entries.length - undone;
    this.#kept = entries.slice(0, kept);
    while (this.#list.children.length < entries.length) this.#list.append(this.#createRow());
    while (this.#list.children.length > entries.length) this.#list.lastChild.remove();
    [...this.#list.children].forEach((row, place) => {
      const index = entries.length - 1 - place;
      const entry = entries[index];
      this.#fill(row, entry, active.includes(entry.number), index >= kept);
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

  #fill(row, { number, query_id, name: target, decided, clicked, verdict, time }, isActive, isUndone) {
    const [name, image, point, how, decision, when] = row.firstChild.children;
    row.className = isUndone ? 'undone' : isActive ? 'current' : '';
    name.textContent = number;
    point.textContent = `${target && `${target} · `}${clicked.camera} ${formatPixel(clicked, 0)}`;
    how.textContent = `${SIGNS[verdict]} ${VERDICT_TEXT[verdict]}`;
    how.className = `verdict ${verdict}`;
    decision.textContent = isUndone ? t('history.undone') : DECISION_TEXT[decided];
    when.textContent = time;
    row.firstChild.title = t(isActive ? 'history.open_active' : 'history.open', {
      click: t('click.numbered', { number }) });
    if (row.dataset.query !== query_id) {
      row.dataset.query = query_id;
      image.src = this.#thumbnails.get(query_id) || PIXEL;
    }
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

  // The answer of a query, if it is the newest of its target's name; else undefined.
  findCurrent(query_id) {
    const entry = this.#kept.findLast((each) => each.query_id === query_id);
    return entry && this.#kept.findLast(({ name }) => name === entry.name) === entry ? entry : undefined;
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
