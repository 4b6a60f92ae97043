// Text of verdicts, decisions, status codes and numbers.

import { listTexts, t } from './i18n.js';

export const VERDICT_TEXT = listTexts('verdict', ['sure', 'check', 'refused']);

export const SIGNS = { sure: '○', check: '△', refused: '✕' };

export const DECISION_TEXT = listTexts('decision', [
  'unreviewed', 'accepted', 'corrected', 'moved']);

const CODE_TEXT = listTexts('code', [
  'OK', 'PARTIAL', 'NOT_VISIBLE', 'LOW_CONFIDENCE', 'INCONSISTENT', 'NO_DEPTH', 'NO_IMAGE',
  'STALE', 'NO_TF', 'BAD_REQUEST', 'BUSY', 'CANCELLED', 'TIMEOUT', 'MATCHER_FAILED',
  'NOT_SUPPORTED']);

export const codeText = (code) => CODE_TEXT[code] ?? code;

const STAGE_TEXT = listTexts('stage', [
  'queued', 'wait_images', 'transforms', 'match', 'verify', 'lift', 'publish']);

export const stageText = (stage) => STAGE_TEXT[stage] ?? stage;

export const formatPixel = ({ x, y }, digits = 1) => (
  x === null ? '' : `(${x.toFixed(digits)}, ${y.toFixed(digits)})`);

export const formatDuration = (ms) => (
  ms === null ? '' : ms < 10 ? `${ms.toFixed(1)} ms`
    : ms < 10000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

export const formatMetres = (m) => (m < 0 ? '−' : '') + Math.abs(m).toFixed(3);

export const formatPercent = (ratio) => `${Math.round(100 * ratio)} %`;

export const nameTarget = (name) => (name ? t('target.named', { name }) : t('target.unnamed'));

// One sentence about a result, for screen readers.
export function describeResult(result) {
  const found = result.found.map(({ camera, verdict, code }) => (verdict === 'refused'
    ? t('speech.refused', { camera, reason: codeText(code) })
    : t('speech.found', { camera, verdict: VERDICT_TEXT[verdict] })));
  if (!found.length) found.push(t('speech.none', { reason: result.message }));
  const target = result.target ? t('speech.target', { target: nameTarget(result.target.name),
    position: result.target.position_m.map(formatMetres).join(', ') }) : '';
  return `${found.join('; ')}${target}.`;
}
