// HTML elements, and which one has the keyboard's focus.

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

const isUsable = (element) => element.isConnected && element.checkVisibility()
  && !element.matches(':disabled') && !element.closest('[inert]');

// A control that is hidden, disabled or removed while it has the focus hands it to the group around
// it (tabindex="-1"); browsers drop it. Never to another control: Enter pressed twice would press it.
export function keepFocus() {
  let path = []; // the element with the focus, then the groups around it
  const restore = () => {
    const [focused] = path;
    const { activeElement } = document;
    if (!focused || (activeElement !== focused && activeElement !== document.body)) return;
    const kept = path.find(isUsable);
    if (kept !== activeElement) kept?.focus({ preventScroll: true });
  };
  document.addEventListener('focusin', (event) => {
    path = event.composedPath().filter((element) => element === event.target
      || element.hasAttribute?.('tabindex'));
  });
  document.addEventListener('focusout', () => setTimeout(() => {
    if (document.activeElement === document.body && path.length && isUsable(path[0])) path = [];
    else restore();
  }));
  new MutationObserver(restore).observe(document.body, { subtree: true, childList: true,
    attributeFilter: ['hidden', 'disabled', 'inert', 'open'] });
}
