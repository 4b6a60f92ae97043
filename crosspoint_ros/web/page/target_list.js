// The targets with names, each with its state; and the name for the next click.

import { createElement } from './dom.js';
import { t } from './i18n.js';
import { getAge_ms } from './robot_clock.js';
import { formatMetres, nameTarget, SIGNS } from './text.js';

const LATELY_MS = 60000; // a target that has ended stays for so long

export class TargetList {
  #list;
  #names;
  #actions;

  // list, names: <ol>, and <datalist> of the names; actions: {send(target), clear(target)}
  constructor(list, names, actions) {
    this.#list = list;
    this.#names = names;
    this.#actions = actions;
  }

  // describe(target): [words, kind] of its state. isActive(target): it has not ended.
  show(targets, isActive, describe) {
    const named = targets.filter(({ name }) => name);
    const listed = named.filter((target) => isActive(target) || !(getAge_ms(target.since_ms) > LATELY_MS));
    // Where there are others, the one without a name can be cleared alone.
    if (listed.some(isActive)) listed.push(...targets.filter((target) => !target.name && isActive(target)));
    if (listed.length) this.#list.classList.add('used'); // and its place stays
    this.#list.classList.toggle('none', !listed.length);
    const rows = new Map([...this.#list.children].map((row) => [row.dataset.name, row]));
    const shown = listed.map((target) => {
      const row = rows.get(target.name) ?? this.#createRow(target.name);
      this.#fill(row, target, isActive(target), describe(target));
      return row;
    });
    // Rows are not moved: one of their buttons may have the focus.
    for (const row of rows.values()) if (!shown.includes(row)) row.remove();
    shown.forEach((row, index) => {
      const { [index]: place = null } = this.#list.children;
      if (row !== place) this.#list.insertBefore(row, place);
    });
    const fresh = shown.find((row) => row.isNew);
    if (fresh) this.#list.scrollTop = fresh.offsetTop; // the page itself does not move
    const options = named.map(({ name }) => name);
    if (options.join() !== [...this.#names.children].map((each) => each.value).join()) {
      this.#names.replaceChildren(...options.map((name) => new Option(name, name)));
    }
  }

  #createRow(name) {
    const [send, clear] = ['send', 'clear'].map((act) => {
      const button = createElement('button', act, t(`list.${act}`));
      button.ariaLabel = t(`list.${act}_target`, { target: nameTarget(name) });
      button.addEventListener('click', () => this.#actions[act](row.target));
      return button;
    });
    const row = createElement('li', '', createElement('p', '', createElement('b', '',
      name || t('target.unnamed')), ' ', createElement('span', 'state')),
    createElement('p', 'fine'), send, clear);
    row.dataset.name = name;
    return row;
  }

  #fill(row, target, isActive, [words, kind]) {
    const { state, number, verdict, position_m } = target;
    const [title, place, send, clear] = row.children;
    const place_m = position_m ? `${[...'xyz'].map((axis, i) => (
      `${axis} ${formatMetres(position_m[i])}`)).join(' ')} m` : t('target.no_place');
    const lines = [words, isActive ? [`${SIGNS[verdict] ?? ''} ${place_m}`.trim(), number === null ? ''
      : t('click.numbered', { number })].filter(Boolean).join(' · ') : target.message];
    row.isNew = isActive && target.query_id !== row.target?.query_id;
    row.target = target;
    row.dataset.state = state;
    send.hidden = state !== 'PENDING';
    clear.disabled = !isActive;
    title.lastChild.className = `state ${kind}`;
    [title.lastChild, place].forEach((element, index) => {
      if (element.textContent !== lines[index]) element.textContent = lines[index];
      element.title = lines[index];
    });
  }
}
