// Creates HTML elements.

export function createElement(name, className = '', ...children) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

// For screen readers; the last three texts stay, since two may come at once.
export function announce(text) {
  const live = document.getElementById('live');
  live.append(createElement('p', '', text));
  while (live.children.length > 3) live.firstChild.remove();
}
