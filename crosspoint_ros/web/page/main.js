// Routes server events to the views and panels, and user actions to the server.

import { CameraView } from './camera_view.js';
import { CamerasPanel } from './cameras_panel.js';
import { Connection } from './connection.js';
import { announce, keepFocus } from './dom.js';
import { HistoryPanel } from './history_panel.js';
import { HoverLines } from './hover_lines.js';
import { localize, t } from './i18n.js';
import { Loupe } from './loupe.js';
import { ResultPanel } from './result_panel.js';
import { addBeat } from './robot_clock.js';
import { Scene3D } from './scene_3d.js';
import { Shortcuts } from './shortcuts.js';
import { DoctorPanel, LimitsPanel } from './settings_panel.js';
import { TargetList } from './target_list.js';
import { nameClick, TargetPanel } from './target_panel.js';
import { codeText, describeResult, stageText } from './text.js';

const NOTE_MS = 1500; // the reply to an act may come before the target that it changes
const byId = (id) => document.getElementById(id);
localize(byId('language'));
keepFocus();
const views = new Map();
const pending = new Map(); // request id -> {kind, camera}
let state = { cameras: [], words: t('status.connecting') };
let result = null;
let connection = null;
let announcedQuery = '';
let focused = ''; // camera
let refusal = ''; // of the last click, as a sentence
let refusedName = ''; // of its target
let lastQuery = 0; // request id of the last click
let acceptable; // the answer in sight that can be accepted: its entry in the history
let isMatching = false; // a query of this page runs, and its result is not displayed yet
let canAct = true; // a viewer may only look
let openQuery = ''; // the earlier answer that is shown instead of the current one
let noted_ms = 0; // when the note was set
let isNoteBad = false;

const panel = new ResultPanel(byId('result'), byId('note'));
const targetPanel = new TargetPanel(byId('target'), byId('target-state'), byId('more'),
  new TargetList(byId('targets'), byId('names'), {
    send: ({ query_id }) => sendRequest('accept', { query_id }),
    clear: ({ name }) => sendRequest('clear_target', { target_name: name }) }));
const loupe = new Loupe();
const history = new HistoryPanel(byId('history'), byId('undo'), byId('redo'), {
  open: (query_id) => (query_id === openQuery ? closeAnswer()
    : connection.send({ type: 'open', query_id })),
  thumbnail: (query_id) => connection?.send({ type: 'thumbnail', query_id }) });
const lines = new HoverLines((request) => connection.send(request), (shown) => {
  for (const [name, view] of views) view.setLine(shown[name] ?? null);
});
const limits = new LimitsPanel(byId('limits'), byId('sliders'), {
  request: () => connection.send({ type: 'limits' }),
  set: (limit, value) => sendRequest('set_limit', { limit, value }) });
const doctor = new DoctorPanel(byId('examine'), byId('findings'),
  () => connection.send({ type: 'doctor' }));
const cameras = new CamerasPanel(byId('cameras'), () => updateViews());
const scene = new Scene3D(byId('scene'), byId('scene-frame'), (camera) => {
  const view = views.get(camera);
  return view && view.stamp !== '0' && !view.isPaused ? view : null;
});

// Events of the server

const HANDLERS = {
  state(event) {
    state = event;
    showStatus(state.words ? 'away' : state.matcher ? 'matcher' : 'ready',
      state.words || state.matcher || t('status.ready', { node: state.node }));
    updateViews();
    byId('instruct').hidden = !state.can_ground;
    byId('points').hidden = !state.cameras.some((camera) => camera.has_depth);
    panel.setTargetFrame(state.target_frame);
    updateTools();
  },
  shown(event) {
    result = event.result;
    isMatching = false;
    showLast(event.now);
    requestPoints();
    if (result && result.query_id !== announcedQuery) {
      announce(describeResult(result));
    }
    announcedQuery = result?.query_id ?? '';
  },
  history(event) {
    history.show(event);
    updateTools();
  },
  targets({ targets }) {
    const isFirst = targetPanel.target.state === 'UNKNOWN';
    const changed = targetPanel.show(targets);
    // An older note about a target is no longer true.
    if (changed.length && performance.now() - noted_ms > NOTE_MS && !refusal) setNote('');
    if (!isFirst) for (const target of changed) announce(targetPanel.announce(target));
    showStanding();
    showRefusalNote();
    updateTools();
  },
  role({ can_act }) {
    canAct = can_act;
    document.body.classList.toggle('viewer', !canAct);
    for (const id of ['tools', 'naming', 'instruct', 'limits', 'examine']) byId(id).inert = !canAct;
  },
  acted({ message }) { if (!refusal && !isNoteBad) setNote(message); }, // by another operator
  lines: (event) => lines.receive(event),
  thumbnail: (event) => history.showThumbnail(event),
  opened: (event) => openAnswer(event),
  limits: (event) => limits.show(event),
  doctor: (event) => doctor.show(event),
  depth: (event) => views.get(event.camera)?.layers.showDepth(event),
  cloud: (event) => {
    if (!arePointsOn()) return;
    scene.showCloud(event);
    const missing = Object.keys(event.missing);
    byId('points').title = Object.values(event.missing).join('; ');
    byId('points').textContent = t(missing.length ? 'points.missing' : 'points.count', {
      count: event.count, cameras: missing.join(', ') });
  },
  beat({ now_ms }) { addBeat(now_ms); },
  scene(event) { scene.show(event); },
  no_past({ camera }) { views.get(camera)?.onImageMissing(); },
  progress({ id, stage, elapsed_s }) {
    const request = pending.get(id);
    if (request?.camera) {
      views.get(request.camera)?.showMessage(
        `${stageText(stage)} … ${elapsed_s.toFixed(1)} s`);
    }
  },
  reply({ id, ok, code, message, name }) {
    const request = pending.get(id);
    const wasQuery = isQuery(request?.kind);
    pending.delete(id);
    if (wasQuery) isMatching = false;
    // A failed query may produce no result event: show the current result again.
    if (wasQuery && !ok) showLast();
    updateTools();
    // Progress may arrive after the result and overwrite its caption.
    if (wasQuery && ok) views.get(request.camera)?.showCaption();
    if (request?.kind === 'set_limit') connection.send({ type: 'limits' });
    if (!ok) showRefusal(request, message);
    else if (!wasQuery) setNote(message, 'good');
    else setNote(name && name !== request.name ? t('note.next', { name }) : '');
    if (wasQuery && !ok) {
      // It may be tried again, unless another click or name has come since.
      if (id === lastQuery && !readName()) putNameBack(request.name);
      refusedName = request.name;
      refusal = code === 'CANCELLED' ? t('note.cancelled')
        : t('note.refused', { reason: message.replace(/[.;]*$/, '') });
      showRefusalNote();
    }
  },
  bad_request({ message }) { setNote(message, 'bad'); },
};

// On the view concerned, or below the result.
function showRefusal(request, message) {
  const view = views.get(request?.camera);
  if (view && message) view.showMessage(message);
  else setNote(message, 'bad');
}

function setNote(text, kind = '') {
  refusal = '';
  noted_ms = performance.now();
  isNoteBad = kind === 'bad';
  panel.setNote(text, kind);
}

// What became of its target, then of the click: a refused click leaves the target as it is.
function showRefusalNote() {
  if (refusal) panel.setNote(`${targetPanel.describeRemaining(refusedName)} ${refusal}`, 'bad');
}

function showStatus(kind, text) {
  const status = byId('status');
  status.className = `status ${kind}`;
  status.querySelector('.text').textContent = text;
  status.title = text;
  const isSilent = ['lost', 'refused'].includes(kind) || (kind === 'away' && state.is_silent);
  targetPanel.setDoubt(isSilent ? text : '');
}

// Accept names an answer that must be in sight: the displayed one; if that has no target, the one of
// the target's card. Its entry in the history comes after the answer: until then there is none.
function updateTools() {
  const { active, target } = targetPanel;
  acceptable = history.findCurrent(result?.query_id)
    ?? (!result?.target && active.includes(target) ? history.findCurrent(target.query_id)
      : undefined);
  const isPending = active.some(({ query_id, state: each }) => (
    each === 'PENDING' && query_id === acceptable?.query_id));
  const isDecided = acceptable?.decided === 'accepted' && !isPending;
  byId('accept').disabled = isMatching || isDecided || Boolean(openQuery) || !acceptable;
  const act = state.publish_target === 'on_accept' || (state.publish_target === 'sure' && isPending)
    ? 'send' : 'confirm';
  const name = acceptable?.name; // the card is of another target
  byId('accept').textContent = t(`button.${act}${name ? '_named' : ''}`, { name });
  byId('clear').disabled = !active.length;
  byId('clear').textContent = t(active.length > 1 ? 'button.clear_all' : 'button.clear');
}

function updateViews() {
  const names = cameras.arrange(state.cameras.map((camera) => camera.name));
  if (names.join() !== [...views.keys()].join()) {
    views.clear();
    names.forEach((name, index) => views.set(name, new CameraView(name, index, viewActions)));
    byId('where').replaceChildren(...names.map((name) => new Option(name)));
    focusView(views.has(focused) ? focused : names[0]);
    showLast();
    for (const view of views.values()) view.requestNext();
  }
  updateBadges();
}

const arePointsOn = () => byId('points').getAttribute('aria-pressed') === 'true';

// The depth at this moment; a new answer asks again.
function requestPoints() {
  if (arePointsOn()) connection.send({ type: 'cloud' });
}

byId('points').addEventListener('click', () => {
  byId('points').setAttribute('aria-pressed', String(!arePointsOn()));
  byId('points').textContent = t('button.points');
  byId('points').title = '';
  if (arePointsOn()) requestPoints();
  else scene.showCloud(null);
});

function focusView(camera) {
  focused = camera;
  loupe.hide();
  for (const [name, view] of views) view.setFocused(name === camera);
  const chips = [...views.values()].filter((view) => !view.isFocused);
  byId('focus').replaceChildren(...(camera ? [views.get(camera).root] : []));
  byId('chips').replaceChildren(...chips.map((view) => view.root));
  byId('chips').dataset.count = chips.length;
  if (camera) byId('where').value = camera;
}

function updateBadges() {
  for (const { name, problem, has_depth } of state.cameras) {
    views.get(name)?.setHasDepth(has_depth);
    views.get(name)?.updateBadge(connection?.isOpen ? problem : t('status.not_connected'));
  }
}

// An earlier answer, each point on the image where it was found; nothing can be done with it.
function openAnswer({ query_id, result: opened }) {
  if (!opened) {
    setNote(t('note.unknown_answer'), 'bad');
    return;
  }
  openQuery = query_id;
  const click = history.name(query_id);
  history.setOpen(query_id);
  lines.clear();
  byId('result-title').textContent = t('result.earlier', { click });
  showResult({ result: opened }, t('view.opened', { click }));
  if (views.has(opened.clicked.camera)) focusView(opened.clicked.camera);
  setNote(t('note.opened', { click }));
}

function closeAnswer() {
  if (openQuery) showLast();
}

// The one way back to the last answer; while a click runs, to that.
function showLast(now) {
  if (openQuery) setNote('');
  openQuery = '';
  history.setOpen('');
  byId('result-title').textContent = t('result.last');
  showResult({ result, now });
  if (isMatching) showRunning();
}

function showRunning() {
  for (const view of views.values()) view.markPrevious();
  const { camera, point } = [...pending.values()].reverse()
    .find(({ kind }) => isQuery(kind)) ?? {};
  if (point) views.get(camera)?.setAnswer({ kind: 'clicked', camera, ...point });
  panel.showPending();
  updateTools();
}

function showResult({ result: shown, now = {} }, opened = '') {
  for (const [name, view] of views) {
    const found = shown?.found.find((answer) => answer.camera === name);
    if (found) view.setAnswer({ kind: 'found', ...found }, now[name], opened);
    else if (shown?.clicked.camera === name) {
      view.setAnswer({ kind: 'clicked', isRefused: !shown.target && shown.found.every(
        (answer) => answer.verdict === 'refused'), ...shown.clicked }, now[name], opened);
      if (!shown.found.length) view.showMessage(`${codeText(shown.code)}: ${shown.message}`);
    } else view.setAnswer(null);
  }
  const { held_until_ms } = targetPanel.target;
  panel.show(shown, shown?.target?.name === 'next' && held_until_ms > Number(shown.clicked.stamp) / 1e6);
  limits.setResult(shown);
  showStanding();
  updateTools();
}

// The marks of the active targets stay, dimmed, where the displayed answer is another.
function showStanding() {
  const points = targetPanel.active.filter(({ query_id }) => query_id !== result?.query_id)
    .flatMap((target) => target.points.map((point) => ({ ...point, name: target.name,
      label: target.name || t('view.standing', { click: nameClick(target) }) })));
  for (const [name, view] of views) {
    view.setStanding(points.filter(({ camera, x }) => camera === name && x !== null));
  }
}

// Requests of the user

const isQuery = (kind) => ['click', 'instruct'].includes(kind);

// Of the next click's target; '' for the one without a name.
const readName = () => byId('target-name').value.trim();

// Selected if its field has the focus, so that what is typed replaces it.
function putNameBack(name) {
  const field = byId('target-name');
  field.value = name;
  if (document.activeElement === field) field.select();
}

function sendRequest(kind, content, camera = '') {
  const id = connection.request({ type: kind, ...content });
  if (id) pending.set(id, { kind, camera, name: content.target_name, point: kind === 'click' ? content : null });
  else showRefusal({ camera }, t('status.not_sent'));
  return id;
}

// A result that is no longer displayed must not be accepted. The name was for this click.
function showPending(id) {
  lastQuery = id;
  byId('target-name').value = '';
  if (openQuery) showLast();
  isMatching = true;
  setNote('');
  showRunning();
}

const viewActions = {
  next: (camera, after, width, late) => connection.send({
    type: 'next', camera, after, width, late }),
  past: (camera, stamp) => connection.send({ type: 'past', camera, stamp }),
  depth: (camera) => connection.send({ type: 'depth', camera }),
  hover(camera, stamp, pixel) {
    if (!openQuery) lines.request(camera, stamp, pixel);
  },
  hoverClicked() {
    if (result) lines.request(result.clicked.camera, result.clicked.stamp, result.clicked);
  },
  unhover: () => lines.clear(),
  click(camera, stamp, { x, y }) {
    const clicked = views.get(camera);
    if (openQuery) {
      clicked.showMessage(t('view.earlier_open'));
      return;
    }
    if (clicked.isFrozen) {
      clicked.showMessage(t('view.not_sent', { age: clicked.ageText }));
      return;
    }
    const id = sendRequest('click', { camera, stamp, x, y, target_name: readName() }, camera);
    if (!id) return;
    showPending(id);
    clicked.setUnmoved(); // the click is on the picture that is displayed
  },
  correct(camera, { x, y }) {
    sendRequest('correct', { query_id: result.query_id, camera, x, y }, camera);
  },
  focus(camera) {
    focusView(camera);
    views.get(camera).svg.focus();
  },
  loupe,
};

const buttonActions = {
  accept: () => sendRequest('accept', { query_id: acceptable.query_id }),
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
  const id = sendRequest('instruct', { camera, instruction, target_name: readName() }, camera);
  if (id) showPending(id);
});

new Shortcuts(byId('shortcuts'), {
  a: byId('accept'), u: byId('undo'), r: byId('redo'), x: byId('clear') }, (character) => {
  if (character === 'l') {
    loupe.isOn = !loupe.isOn;
    loupe.hide();
  } else if (/^[1-9]$/.test(character)) {
    const camera = [...views.keys()][character - 1];
    if (camera) viewActions.focus(camera);
  }
});

addEventListener('keydown', (event) => {
  if (event.key !== 'Escape' || event.target.matches('input:not([type=checkbox]), select')) return;
  closeAnswer();
  if (canAct && pending.size) connection.request({ type: 'cancel' });
  for (const view of views.values()) view.input.reset();
});

document.addEventListener('visibilitychange', () => {
  for (const view of views.values()) view.requestNext();
});

setInterval(updateBadges, 250);

connection = new Connection({
  event: (event) => HANDLERS[event.type]?.(event),
  image: (header, blob) => views.get(header.camera)?.showImage(header, blob),
  status(kind, text) {
    if (kind === 'open') {
      pending.clear();
      isMatching = false;
      setNote('');
      lines.onReconnect();
      doctor.onReconnect();
      if (state.node) HANDLERS.state(state);
      for (const view of views.values()) view.onReconnect();
    } else showStatus(kind, text);
    document.body.classList.toggle('offline', kind !== 'open');
    byId('tools').inert = kind !== 'open' || !canAct;
  },
});
