// Shortcuts of a single character, which can be switched off (WCAG 2.1.4): who speaks to the computer,
// or hits keys by mistake, would act on the robot. Kept by this browser.

import { t } from './i18n.js';

const STORAGE_KEY = 'crosspoint shortcuts';

export class Shortcuts {
  #box;
  #buttons; // [letter, button]

  // letters: {letter: button that it presses}; press(character) serves the others.
  constructor(box, letters, press) {
    this.#box = box;
    this.#buttons = Object.entries(letters);
    try {
      box.checked = localStorage.getItem(STORAGE_KEY) !== 'off';
    } catch { /* storage is off */ }
    box.addEventListener('change', () => {
      try {
        localStorage.setItem(STORAGE_KEY, box.checked ? 'on' : 'off');
      } catch { /* kept until the page is closed */ }
      this.#describe();
    });
    addEventListener('keydown', (event) => {
      if (!box.checked || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.target.matches('input:not([type=checkbox]), select, textarea')) return;
      if (letters[event.key]) letters[event.key].click();
      else press(event.key);
    });
    this.#describe();
  }

  #describe() {
    for (const [letter, button] of this.#buttons) {
      if (this.#box.checked) button.setAttribute('aria-keyshortcuts', letter);
      else button.removeAttribute('aria-keyshortcuts');
      button.title = this.#box.checked ? t('shortcuts.key', { key: letter.toUpperCase() }) : '';
    }
  }
}
