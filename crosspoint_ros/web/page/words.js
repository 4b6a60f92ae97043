// How things are said: verdicts, numbers, refusals.

export const VERDICTS = { sure: 'sure', check: 'to be checked', refused: 'refused' };

export const DECISIONS = {
  unreviewed: 'not reviewed', accepted: 'accepted', corrected: 'corrected', moved: 'moved' };

const CODES = {
  OK: 'found', PARTIAL: 'found in some views', NOT_VISIBLE: 'not visible there',
  LOW_CONFIDENCE: 'not confident enough', INCONSISTENT: 'measurements contradict each other',
  NO_DEPTH: 'no 3D point', NO_IMAGE: 'no image', STALE: 'the image is too old',
  NO_TF: 'no transform', BAD_REQUEST: 'not a good request', BUSY: 'busy',
  CANCELLED: 'cancelled', TIMEOUT: 'took too long', MATCHER_FAILED: 'the matcher failed',
  NOT_SUPPORTED: 'not supported' };

export const codeWords = (code) => CODES[code] ?? code;

export const pixel = ({ x, y }) => (x === null ? '' : `(${x.toFixed(1)}, ${y.toFixed(1)})`);

export const milliseconds = (ms) => (
  ms === null ? '' : ms < 10 ? `${ms.toFixed(1)} ms`
    : ms < 10000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

export const metres = (m) => (m < 0 ? '−' : '') + Math.abs(m).toFixed(3);

export const percent = (share) => `${Math.round(100 * share)} %`;

// One sentence on a result, for those who hear the page.
export function sentence(result) {
  const found = result.found.map((answer) => (answer.verdict === 'refused'
    ? `refused in ${answer.camera}, ${codeWords(answer.code)}`
    : `found in ${answer.camera}, ${VERDICTS[answer.verdict]}`));
  if (!found.length) found.push(`refused, ${result.message}`);
  const target = result.target
    ? `. Target at ${result.target.position_m.map(metres).join(', ')} metres` : '';
  return `${found.join('; ')}${target}.`;
}
