// View width: nearly as wide as possible with all views on the screen, in few rows.

const CAPTION_PX = 92; // height of a view's header and message
const MIN_WIDTH_PX = 240;
const GAP_PX = 12;
const ASPECT_RATIO = 4 / 3;
const ROW_GAIN = 1.1; // another row must make the views this much wider

export function maxViewWidth(count, width_px, height_px) {
  let widest = 0;
  for (let columns = count; columns >= 1; columns -= 1) {
    const rows = Math.ceil(count / columns);
    const byWidth = (width_px - GAP_PX * (columns - 1)) / columns;
    const byHeight = ((height_px - GAP_PX * (rows - 1)) / rows - CAPTION_PX) * ASPECT_RATIO;
    const width = Math.min(byWidth, byHeight);
    if (width > ROW_GAIN * widest) widest = width;
  }
  return Math.floor(Math.max(widest, MIN_WIDTH_PX));
}

// On a narrow screen the style sheet stacks the views.
export function fitViews(root, narrow) {
  const top_px = root.getBoundingClientRect().top + window.scrollY;
  const below_px = root.nextElementSibling.offsetHeight + 2 * GAP_PX;
  const height_px = window.innerHeight - top_px - below_px - GAP_PX;
  root.classList.toggle('fitted', !narrow);
  root.style.setProperty('--view', `${maxViewWidth(
    root.childElementCount, root.clientWidth, height_px)}px`);
}
