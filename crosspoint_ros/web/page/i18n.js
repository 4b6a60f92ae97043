// The words of the page, in the language of the browser or the one that was selected.

import de from './strings_de.js';
import en from './strings_en.js';

const KEY = 'crosspoint language';
const LANGUAGES = { en, de };
const ATTRIBUTES = ['title', 'placeholder', 'aria-label', 'data-empty'];

function choose() {
  let selected = '';
  try {
    selected = localStorage.getItem(KEY) ?? '';
  } catch { /* storage is off */ }
  return [selected, ...navigator.languages.map((name) => name.split('-')[0]), 'en']
    .find((name) => Object.hasOwn(LANGUAGES, name));
}

export const language = choose();

// The text of a key; {name} in it is replaced by the value of that name.
export function t(key, values = {}) {
  return LANGUAGES[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

// The texts of `prefix.name`, by name.
export const listTexts = (prefix, names) => Object.fromEntries(
  names.map((name) => [name, t(`${prefix}.${name}`)]));

// Fills in the document: data-text="key" for the text, data-text-title="key" for an attribute. What
// is in backquotes is a key of the keyboard.
export function localize(selector) {
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll('[data-text]')) {
    element.append(...t(element.dataset.text).split('`').map((part, index) => {
      if (index % 2 === 0) return part;
      const key = document.createElement('kbd');
      key.textContent = part;
      return key;
    }));
  }
  for (const attribute of ATTRIBUTES) {
    for (const element of document.querySelectorAll(`[data-text-${attribute}]`)) {
      element.setAttribute(attribute, t(element.getAttribute(`data-text-${attribute}`)));
    }
  }
  selector.replaceChildren(...Object.entries(LANGUAGES).map(([name, texts]) => {
    const option = new Option(texts['language.name'], name, false, name === language);
    option.lang = name;
    return option;
  }));
  selector.addEventListener('change', () => {
    try {
      localStorage.setItem(KEY, selector.value);
      location.reload();
    } catch { /* without storage the browser's language stays */
      selector.value = language;
    }
  });
}
