// How wide the views are: as wide as they can be with all of them in sight, on a screen with room.

const WORDS_PX = 88; // of a view, above and below its picture
const LEAST_PX = 240;
const GAP_PX = 12;
const SHAPE = 4 / 3;

export function widestView(count, width_px, height_px) {
  let widest = 0;
  for (let columns = 1; columns <= count; columns += 1) {
    const rows = Math.ceil(count / columns);
    const across = (width_px - GAP_PX * (columns - 1)) / columns;
    const down = ((height_px - GAP_PX * (rows - 1)) / rows - WORDS_PX) * SHAPE;
    widest = Math.max(widest, Math.min(across, down));
  }
  return Math.floor(Math.max(widest, LEAST_PX));
}

// On a narrow screen the style sheet puts one view below the other.
export function fitViews(root, narrow) {
  const top_px = root.getBoundingClientRect().top + window.scrollY;
  const height_px = window.innerHeight - top_px - 2 * GAP_PX;
  root.classList.toggle('fitted', !narrow);
  root.style.setProperty('--view', `${widestView(
    root.childElementCount, root.clientWidth, height_px)}px`);
}
