// Routes server events to the views and panels, and user actions to the server.

import { CameraView } from './camera_view.js';
import { Connection } from './connection.js';
import { HistoryPanel } from './history_panel.js';
import { fitViews } from './layout.js';
import { ResultPanel } from './result_panel.js';
import { Scene3D } from './scene_3d.js';
import { codeText, describeResult } from './text.js';

const byId = (id) => document.getElementById(id);
const views = new Map();
const pending = new Map(); // request id -> {kind, camera}
let state = { cameras: [], words: 'connecting…' };
let result = null;
let connection = null;
let announcedQuery = '';

const panel = new ResultPanel(byId('result'), byId('note'));
const history = new HistoryPanel(byId('history'), byId('undo'), byId('redo'));
const scene = new Scene3D(byId('scene'), byId('scene-frame'));

// Events of the server

const HANDLERS = {
  state(event) {
    state = event;
    showStatus(state.words ? 'away' : state.matcher ? 'matcher' : 'ready',
      state.words || state.matcher || `${state.node} is ready`);
    updateViews();
    byId('instruct').hidden = !state.can_ground;
    fit();
    panel.setTargetFrame(state.target_frame);
  },
  shown(event) {
    result = event.result;
    showResult(event);
    if (result && result.query_id !== announcedQuery) {
      byId('live').textContent = describeResult(result);
    }
    announcedQuery = result?.query_id ?? '';
  },
  history(event) { history.show(event); },
  scene(event) { scene.show(event); },
  target({ state: name, valid, message }) {
    const line = byId('target');
    line.textContent = name ? `${name.toLowerCase()}, ${valid ? 'go on' : 'stop'}: ${message}` : '';
    line.className = `note ${valid ? 'good' : 'bad'}`;
  },
  no_past({ camera }) { views.get(camera)?.onImageMissing(); },
  progress({ id, stage, elapsed_s }) {
    const request = pending.get(id);
    if (request?.camera) {
      views.get(request.camera)?.showMessage(
        `${stage.replace('_', ' ')} … ${elapsed_s.toFixed(1)} s`);
    }
  },
  reply({ id, ok, message }) {
    const request = pending.get(id);
    const isQuery = ['click', 'instruct'].includes(request?.kind);
    pending.delete(id);
    // A failed query may produce no result event: show the current result again.
    if (isQuery && !ok) showResult({ result });
    // Progress may arrive after the result and overwrite its caption.
    if (isQuery && ok) views.get(request.camera)?.showCaption();
    if (ok) panel.setNote(isQuery ? '' : message, 'good');
    else showRefusal(request, message);
  },
  bad_request({ message }) { panel.setNote(message, 'bad'); },
};

// On the view concerned, or below the result.
function showRefusal(request, message) {
  const view = views.get(request?.camera);
  if (view && message) view.showMessage(message);
  else panel.setNote(message, 'bad');
}

function showStatus(kind, text) {
  const status = byId('status');
  status.className = `status ${kind}`;
  status.querySelector('.text').textContent = text;
  status.title = text;
}

function updateViews() {
  const names = state.cameras.map((camera) => camera.name);
  if (names.join() !== [...views.keys()].join()) {
    views.clear();
    names.forEach((name, index) => views.set(name, new CameraView(name, index, viewActions)));
    byId('views').replaceChildren(...[...views.values()].map((view) => view.root));
    byId('where').replaceChildren(...names.map((name) => new Option(name)));
    showResult({ result });
    fit();
    for (const view of views.values()) view.requestNext();
  }
  updateBadges();
}

function updateBadges() {
  for (const { name, problem } of state.cameras) {
    views.get(name)?.updateBadge(connection?.isOpen ? problem : 'not connected');
  }
}

function showResult({ result: shown, now = {} }) {
  for (const [name, view] of views) {
    const found = shown?.found.find((answer) => answer.camera === name);
    if (found) view.setAnswer({ kind: 'found', ...found }, now[name]);
    else if (shown?.clicked.camera === name) {
      view.setAnswer({ kind: 'clicked', ...shown.clicked }, now[name]);
      if (!shown.found.length) view.showMessage(`${codeText(shown.code)}: ${shown.message}`);
    } else view.setAnswer(null);
  }
  panel.show(shown);
  byId('accept').disabled = !shown?.found.some((answer) => answer.verdict !== 'refused');
  byId('clear').disabled = !shown?.target;
}

// Requests of the user

function sendRequest(kind, content, camera = '') {
  const id = connection.request({ type: kind, ...content });
  if (id) pending.set(id, { kind, camera });
  else showRefusal({ camera }, 'Not connected to the server; nothing was sent.');
  return id;
}

// A result that is no longer displayed must not be accepted.
function showPending() {
  panel.showPending();
  byId('accept').disabled = true;
}

const viewActions = {
  next: (camera, after) => connection.send({ type: 'next', camera, after }),
  past: (camera, stamp) => connection.send({ type: 'past', camera, stamp }),
  click(camera, stamp, { x, y }) {
    const clicked = views.get(camera);
    if (clicked.isFrozen) {
      clicked.showMessage(`The last image is ${clicked.ageText} old; nothing was sent.`);
      return;
    }
    if (!sendRequest('click', { camera, stamp, x, y }, camera)) return;
    for (const view of views.values()) view.setAnswer(null);
    clicked.setAnswer({ kind: 'clicked', x, y, stamp });
    showPending();
  },
  correct(camera, { x, y }) {
    sendRequest('correct', { query_id: result.query_id, camera, x, y }, camera);
  },
};

const buttonActions = {
  accept: () => sendRequest('accept', { query_id: result.query_id }),
  undo: () => sendRequest('step', { step: 'undo' }),
  redo: () => sendRequest('step', { step: 'redo' }),
  clear: () => sendRequest('step', { step: 'clear' }),
};

for (const [id, action] of Object.entries(buttonActions)) {
  byId(id).addEventListener('click', action);
}

byId('instruct').addEventListener('submit', (event) => {
  event.preventDefault();
  const camera = byId('where').value;
  const instruction = byId('instruction').value.trim();
  if (!instruction) return;
  if (sendRequest('instruct', { camera, instruction }, camera)) showPending();
});

const KEYS = { a: 'accept', u: 'undo', r: 'redo', x: 'clear' };

addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches('input, select, textarea')) return;
  if (KEYS[event.key]) byId(KEYS[event.key]).click();
  else if (event.key === 'Escape') {
    connection.request({ type: 'cancel' });
    for (const view of views.values()) view.input.reset();
  } else if (/^[1-9]$/.test(event.key)) {
    [...views.values()][event.key - 1]?.svg.focus();
  }
});

document.addEventListener('visibilitychange', () => {
  for (const view of views.values()) view.requestNext();
});

const narrow = matchMedia('(max-width: 900px)');
const fit = () => fitViews(byId('views'), narrow.matches);
addEventListener('resize', fit);
setInterval(updateBadges, 500);

connection = new Connection({
  event: (event) => HANDLERS[event.type]?.(event),
  image: (header, blob) => views.get(header.camera)?.showImage(header, blob),
  status(kind, text) {
    if (kind === 'open') {
      pending.clear();
      panel.setNote('');
      for (const view of views.values()) view.onReconnect();
    } else showStatus(kind, text);
    document.body.classList.toggle('offline', kind !== 'open');
    byId('tools').inert = kind !== 'open';
  },
});
