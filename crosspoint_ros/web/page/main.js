// The page: what comes from the server goes to the views and panels, what is done goes back.

import { AnswerPanel } from './answer.js';
import { Connection } from './connection.js';
import { HistoryPanel } from './history.js';
import { fitViews } from './layout.js';
import { Scene } from './scene.js';
import { View } from './view.js';
import { codeWords, sentence } from './words.js';

const find = (id) => document.getElementById(id);
const views = new Map();
const pending = new Map(); // id of a request -> {camera, kind, since_ms}
let state = { cameras: [], words: 'connecting…' };
let shown = null;
let connection = null;
let said = '';

const panel = new AnswerPanel(find('answer'), find('note'));
const history = new HistoryPanel(find('history'), find('undo'), find('redo'));
const scene = new Scene(find('scene'), find('scene-frame'));

// What comes in

const HEARD = {
  state(news) {
    state = news;
    showStatus(state.words ? 'away' : state.matcher ? 'matcher' : 'ready',
      state.words || state.matcher || `${state.node} is ready`);
    arrangeViews();
    find('instruct').hidden = !state.can_ground;
    fit();
    panel.frames(state.target_frame);
  },
  shown(news) {
    shown = news.result;
    showAnswer(news);
    if (shown && shown.query_id !== said) find('live').textContent = sentence(shown);
    said = shown?.query_id ?? '';
  },
  history(news) { history.show(news); },
  scene(news) { scene.show(news); },
  no_past({ camera }) { views.get(camera)?.noPast(); },
  progress({ id, stage, elapsed_s }) {
    const asked = pending.get(id);
    if (asked?.camera) {
      views.get(asked.camera)?.say(`${stage.replace('_', ' ')} … ${elapsed_s.toFixed(1)} s`);
    }
  },
  reply({ id, ok, message }) {
    const asked = pending.get(id);
    const isQuery = ['click', 'instruct'].includes(asked?.kind);
    pending.delete(id);
    // There may come no other result: what stands is shown again.
    if (isQuery && !ok) showAnswer({ result: shown });
    // Progress may have come after the answer, and stand in its place.
    if (isQuery && ok) views.get(asked.camera)?.sayAnswer();
    if (ok) panel.note(isQuery ? '' : message, 'good');
    else refuse(asked, message);
  },
  bad_request({ message }) { panel.note(message, 'bad'); },
};

// A refusal belongs on the view it speaks of; what has no view is said beside the answer.
function refuse(asked, message) {
  const view = views.get(asked?.camera);
  if (view && message) view.say(message);
  else panel.note(message, 'bad');
}

function showStatus(kind, words) {
  const status = find('status');
  status.className = `status ${kind}`;
  status.querySelector('.words').textContent = words;
  status.title = words;
}

function arrangeViews() {
  const names = state.cameras.map((camera) => camera.name);
  if (names.join() !== [...views.keys()].join()) {
    views.clear();
    names.forEach((name, index) => views.set(name, new View(name, index, asking)));
    find('views').replaceChildren(...[...views.values()].map((view) => view.root));
    find('where').replaceChildren(...names.map((name) => new Option(name)));
    showAnswer({ result: shown });
    fit();
    for (const view of views.values()) view.askNext();
  }
  checkAges();
}

function checkAges() {
  for (const { name, problem } of state.cameras) {
    views.get(name)?.checkAge(connection?.isOpen ? problem : 'not connected');
  }
}

function showAnswer({ result, now = {} }) {
  for (const [name, view] of views) {
    const found = result?.found.find((answer) => answer.camera === name);
    if (found) view.setAnswer({ kind: 'found', ...found }, now[name]);
    else if (result?.clicked.camera === name) {
      view.setAnswer({ kind: 'clicked', ...result.clicked }, now[name]);
      if (!result.found.length) view.say(`${codeWords(result.code)}: ${result.message}`);
    } else view.setAnswer(null);
  }
  panel.show(result);
  find('accept').disabled = !result?.found.some((answer) => answer.verdict !== 'refused');
  find('clear').disabled = !result?.target;
}

// What goes out

function request(kind, content, camera = '') {
  const id = connection.ask({ type: kind, ...content });
  if (id) pending.set(id, { kind, camera, since_ms: performance.now() });
  else refuse({ camera }, 'The server is not there: nothing was sent.');
  return id;
}

// Nobody may accept an answer that is not to be seen any more.
function wait() {
  panel.wait();
  find('accept').disabled = true;
}

const asking = {
  next: (camera, after) => connection.send({ type: 'next', camera, after }),
  past: (camera, stamp) => connection.send({ type: 'past', camera, stamp }),
  click(camera, stamp, { x, y }) {
    const view = views.get(camera);
    if (view.isFrozen) {
      view.say(`This picture is ${view.age} old and no other comes: nothing was sent.`);
      return;
    }
    if (!request('click', { camera, stamp, x, y }, camera)) return;
    for (const each of views.values()) each.setAnswer(null);
    view.setAnswer({ kind: 'clicked', x, y, stamp });
    wait();
  },
  correct(camera, { x, y }) {
    request('correct', { query_id: shown.query_id, camera, x, y }, camera);
  },
};

const actions = {
  accept: () => request('accept', { query_id: shown.query_id }),
  undo: () => request('step', { step: 'undo' }),
  redo: () => request('step', { step: 'redo' }),
  clear: () => request('step', { step: 'clear' }),
};

for (const [id, act] of Object.entries(actions)) find(id).addEventListener('click', act);

find('instruct').addEventListener('submit', (event) => {
  event.preventDefault();
  const camera = find('where').value;
  const instruction = find('instruction').value.trim();
  if (!instruction) return;
  if (request('instruct', { camera, instruction }, camera)) wait();
});

const KEYS = { a: 'accept', u: 'undo', r: 'redo', x: 'clear' };

addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches('input, select, textarea')) return;
  if (KEYS[event.key]) find(KEYS[event.key]).click();
  else if (event.key === 'Escape') {
    connection.ask({ type: 'cancel' });
    for (const view of views.values()) view.hands.letGo();
  } else if (/^[1-9]$/.test(event.key)) {
    [...views.values()][event.key - 1]?.svg.focus();
  }
});

document.addEventListener('visibilitychange', () => {
  for (const view of views.values()) view.askNext();
});

const narrow = matchMedia('(max-width: 900px)');
const fit = () => fitViews(find('views'), narrow.matches);
addEventListener('resize', fit);
setInterval(checkAges, 500);

connection = new Connection({
  event: (news) => HEARD[news.type]?.(news),
  picture: (header, blob) => views.get(header.camera)?.show(header, blob),
  status(kind, words) {
    if (kind === 'open') {
      pending.clear();
      panel.note('');
      for (const view of views.values()) view.reconnected();
    } else showStatus(kind, words);
    document.body.classList.toggle('offline', kind !== 'open');
    find('tools').inert = kind !== 'open';
  },
});
