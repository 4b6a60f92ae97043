// Text of verdicts, decisions, status codes and numbers.

export const VERDICT_TEXT = { sure: 'sure', check: 'to be checked', refused: 'refused' };

export const SIGNS = { sure: '○', check: '△', refused: '✕' };

export const DECISION_TEXT = {
  unreviewed: 'not reviewed', accepted: 'accepted', corrected: 'corrected', moved: 'moved' };

const CODE_TEXT = {
  OK: 'found', PARTIAL: 'found in some views', NOT_VISIBLE: 'not visible',
  LOW_CONFIDENCE: 'confidence too low', INCONSISTENT: 'measurements disagree',
  NO_DEPTH: 'no 3D point', NO_IMAGE: 'no image', STALE: 'image too old',
  NO_TF: 'no transform', BAD_REQUEST: 'invalid request', BUSY: 'busy',
  CANCELLED: 'cancelled', TIMEOUT: 'timed out', MATCHER_FAILED: 'matcher failed',
  NOT_SUPPORTED: 'not supported' };

export const codeText = (code) => CODE_TEXT[code] ?? code;

export const formatPixel = ({ x, y }, digits = 1) => (
  x === null ? '' : `(${x.toFixed(digits)}, ${y.toFixed(digits)})`);

export const formatDuration = (ms) => (
  ms === null ? '' : ms < 10 ? `${ms.toFixed(1)} ms`
    : ms < 10000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

export const formatMetres = (m) => (m < 0 ? '−' : '') + Math.abs(m).toFixed(3);

export const formatPercent = (ratio) => `${Math.round(100 * ratio)} %`;

// One sentence about a result, for screen readers.
export function describeResult(result) {
  const found = result.found.map((answer) => (answer.verdict === 'refused'
    ? `refused in ${answer.camera}, ${codeText(answer.code)}`
    : `found in ${answer.camera}, ${VERDICT_TEXT[answer.verdict]}`));
  if (!found.length) found.push(`refused, ${result.message}`);
  const target = result.target
    ? `. Target at ${result.target.position_m.map(formatMetres).join(', ')} metres` : '';
  return `${found.join('; ')}${target}.`;
}
