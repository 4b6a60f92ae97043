// The robot's time, by the server's beats: a browser's own clock may be wrong.

const WINDOW = 8; // beats; the one that came with the least delay counts
const JUMP_MS = 1000;
export const OLD_MS = 500; // an older image shows its age

const offsets_ms = [];

export function addBeat(now_ms) {
  if (now_ms === null) return;
  const offset_ms = now_ms - performance.now();
  const last_ms = offsets_ms.at(-1);
  // A beat that is late has a smaller offset; a larger one means that time has jumped.
  if (offset_ms - last_ms > JUMP_MS || last_ms - offset_ms > 10 * JUMP_MS) offsets_ms.length = 0;
  offsets_ms.push(offset_ms);
  if (offsets_ms.length > WINDOW) offsets_ms.shift();
}

// NaN before the first beat.
export function getAge_ms(stamp_ms) {
  if (!offsets_ms.length) return NaN;
  return Math.max(...offsets_ms) + performance.now() - stamp_ms;
}

export function formatAge(ms) {
  const s = Math.max(ms, 0) / 1000;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.round(s)} s`;
  return s < 7200 ? `${Math.round(s / 60)} min` : `${Math.round(s / 3600)} h`;
}
