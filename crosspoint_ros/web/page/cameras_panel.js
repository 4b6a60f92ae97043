// The order of the cameras, and which are hidden: kept by this browser.

import { createElement } from './dom.js';
import { t } from './i18n.js';

const KEY = `crosspoint cameras ${location.pathname}`; // a proxy may have several robots

export class CamerasPanel {
  #root;
  #onChange;
  #names = [];
  #drawn = '';
  #settings = { order: [], hidden: [] };

  constructor(root, onChange) {
    this.#root = root;
    this.#onChange = onChange;
    try {
      const { order, hidden } = JSON.parse(localStorage.getItem(KEY) ?? '{}');
      if (Array.isArray(order) && Array.isArray(hidden)) this.#settings = { order, hidden };
    } catch { /* storage is off, or holds something else */ }
  }

  // The names of the node's cameras as this person wants them; never none.
  arrange(names) {
    const { order, hidden } = this.#settings;
    const place = (name) => (order.includes(name) ? order.indexOf(name) : order.length);
    this.#names = [...names].sort((a, b) => place(a) - place(b));
    const visible = this.#names.filter((name) => !hidden.includes(name));
    this.#draw(visible);
    return visible.length ? visible : this.#names.slice(0, 1);
  }

  #draw(visible) {
    const drawn = JSON.stringify([this.#names, visible]);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    const focused = document.activeElement?.dataset.key;
    this.#root.replaceChildren(...this.#names.map((name, index) => {
      const box = createElement('input');
      Object.assign(box, { type: 'checkbox', checked: visible.includes(name) });
      box.disabled = box.checked && visible.length === 1;
      box.dataset.key = `show ${name}`;
      box.addEventListener('change', () => this.#hide(name, !box.checked));
      const up = createElement('button', '', '↑');
      Object.assign(up, { type: 'button', ariaLabel: t('cameras.up', { camera: name }), disabled: index === 0 });
      up.dataset.key = `up ${name}`;
      up.addEventListener('click', () => this.#raise(index));
      return createElement('li', '', createElement('label', '', box, ` ${name}`), up);
    }));
    if (focused) this.#root.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  #hide(name, isHidden) {
    const others = this.#settings.hidden.filter((each) => each !== name);
    this.#save({ order: this.#names, hidden: isHidden ? [...others, name] : others });
  }

  #raise(index) {
    const order = [...this.#names];
    [order[index - 1], order[index]] = [order[index], order[index - 1]];
    this.#save({ order, hidden: this.#settings.hidden });
  }

  #save(settings) {
    this.#settings = settings;
    try {
      localStorage.setItem(KEY, JSON.stringify(settings));
    } catch { /* kept until the page is closed */ }
    this.#onChange();
  }
}
