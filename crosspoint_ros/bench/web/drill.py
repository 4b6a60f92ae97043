"""`crosspoint dev page-drill`: provokes faults, and compares the page with TF and the node.

Real cameras, node, server and Chromium. A statement of the page may be out of date for
`MAX_UNTRUE_S`, the time within which it has to notice that something does not answer.
"""
from __future__ import annotations

import argparse
import math
import re
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rclpy.parameter import Parameter

from crosspoint_ros.bench.environment import describe_machine, write_figures
from crosspoint_ros.bench.stress.rig import START_TIMEOUT_S, StressRig
from crosspoint_ros.bench.web import browsers, drill_rig
from crosspoint_ros.bench.web.drill_rig import DrillCameras, PageTab, RobotObserver
from crosspoint_ros.ros.client.results import STATE_NAMES, VERDICTS, is_target_sure
from crosspoint_ros.ros.client.session import RosSession
from crosspoint_ros.ros.process import carry_images

CAMERAS = ('front', 'side', 'wrist')
MAX_UNTRUE_S = 5.0
MAX_STARTS = 3
WAIT_S, RETRY_S = 30.0, 5.0
SEEN, REFUSED = (320.0, 300.0), (40.0, 300.0)  # px in front: seen by side, outside of the others
NO_TARGET = ('NONE', 'EXPIRED', 'CLEARED', 'UNKNOWN')
ON_TF = ('STANDING', 'TRACKING', 'COASTING')
TF_SILENCE_S = 1.0  # that long after its last transform, a target is off TF
LIVE_MS, AGE_TOLERANCE_MS = 500.0, 600.0  # the page updates its badges four times a second
MAX_PLACE_ERROR_M = 0.0015  # the card has millimetres
IDENTIFIER = re.compile(r'[0-9a-f]{8}-[0-9a-f]{4}-|\b1\d{9}\b')


@dataclass(frozen=True)
class DrillRow:
    """One fault: the last words of node and page, for how long it was wrong, what was untrue."""

    fault: str
    node: str
    page: str
    longest_untrue_s: float
    untrue: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('--fault', action='append', metavar='NAME',
                        help='only this one; may be repeated (default: all)')
    parser.add_argument('--list', action='store_true', help='print the names of the faults')
    parser.add_argument('--json', type=Path, help='write the table')


def main(args: argparse.Namespace) -> int:
    """Provoke the faults; 1 if a statement of the page was untrue."""
    from crosspoint_ros.bench.web.drill_faults import FAULTS
    unknown = set(args.fault or ()) - FAULTS.keys()
    if unknown:
        raise ValueError(f'unknown fault {sorted(unknown)[0]!r}; --list prints them')
    if args.list:
        print('\n'.join(FAULTS))
        return 0
    if missing := browsers.find_missing_tool():
        raise ValueError(missing)
    print(describe_machine(), flush=True)
    rows = []
    with open_drill() as drill:
        for name in args.fault or FAULTS:
            rows.append(drill.run(name, FAULTS[name]))
            print(format_row(rows[-1]), flush=True)
    untrue = sum(bool(row.untrue) for row in rows)
    print(f'{len(rows)} faults, {untrue} with an untrue state; longest until the page was right: '
          f'{max(row.longest_untrue_s for row in rows):.1f} s (limit {MAX_UNTRUE_S:g} s)')
    write_figures(args.json, [asdict(row) for row in rows])
    return 1 if untrue else 0


def format_row(row: DrillRow) -> str:
    """Return a row of the table, and a line for each untruth."""
    return '\n'.join([f'{row.fault:34.34} | {row.node:46.46} | {row.page:70.70} | '
                      f'{row.longest_untrue_s:4.1f} s | {"UNTRUE" if row.untrue else "true"}',
                      *(f'  {text}' for text in row.untrue)])


@contextmanager
def open_drill() -> Any:
    """Start cameras, server and browser; yield a drill. The first fault starts the node."""
    carry_images()
    with ExitStack() as stack:
        session = stack.enter_context(RosSession())
        cameras = session.add_node(DrillCameras(context=session.context, parameter_overrides=[
            Parameter('cameras', value=[*CAMERAS]), Parameter('width', value=640),
            Parameter('height', value=480), Parameter('rate_hz', value=10.0),
            Parameter('kitchen', value=True)]))
        robot = RobotObserver(session, cameras)
        stack.callback(robot.close)
        rig = stack.enter_context(StressRig(cameras=CAMERAS))
        rig.start('server')
        yield PageDrill(rig, robot, stack.enter_context(browsers.launch_chromium()))


class PageDrill:
    """Brings about one fault after the other, and watches the page all the time."""

    def __init__(self, rig: StressRig, robot: RobotObserver, browser: Any) -> None:
        self.rig, self.robot, self.cameras = rig, robot, robot.cameras
        self._browser = browser
        self.address = f'http://127.0.0.1:{rig.port}/'
        self._parameters: tuple[str, ...] | None = None  # of the running node
        self.is_reachable, self.is_node_up = True, False  # the server for the page; the node
        self.is_active = True  # the node
        self._since_s: dict[str, float] = {}  # of each untruth
        self._untrue: dict[str, str] = {}
        self._longest_s = 0.0
        self.page = self.open_tab()

    def open_tab(self, **options: Any) -> PageTab:
        """Open the page in a new tab."""
        return PageTab(self._browser, self.address, **options)

    def run(self, name: str, fault: Callable[[PageDrill], None]) -> DrillRow:
        """Provoke a fault that restores what it broke; return what was untrue."""
        self._since_s, self._untrue, self._longest_s = {}, {}, 0.0
        try:
            fault(self)
            self.hold(0.5)
            self.expect(lambda page: not self._since_s, 'the truth at the end')
            self.rig.check()
        except (TimeoutError, RuntimeError, browsers.load_timeout_error()) as error:
            self._untrue['expected'] = str(error)
            self.is_active = self.is_reachable = True
            if self.is_node_up:  # the next fault begins with a new one
                self.end_node()
        if self.page.script_errors:
            self._untrue['script'] = f'script error: {self.page.script_errors.pop()}'
        page = self.page.read()
        state = self.robot.state
        node = 'nothing' if state is None else f'{STATE_NAMES[state.state]}: {state.message}'
        words = f'{page["status"]}; {page["target"]["text"]}; {page["note"]}'
        return DrillRow(name, node, words, round(self._longest_s, 1), list(self._untrue.values()))

    def sample(self) -> dict[str, Any]:
        """Read the page, and compare it with the robot."""
        begun_ns = time.time_ns()
        page = self.page.read()
        now_s = time.monotonic()
        is_node_heard = (self.is_reachable and self.is_node_up
                         and self.robot.state is not None)  # a new one takes its time
        found = find_untruths(page, self.robot, is_node_heard, self.is_reachable,
                              (begun_ns, time.time_ns()))
        is_ready = not {'ready', 'matcher'}.isdisjoint(page['statusKind'].split())
        if is_ready != (is_node_heard and self.is_active):
            found['status'] = f'{page["status"]!r} ({page["statusKind"]})'
        self._since_s = {about: self._since_s.get(about, now_s) for about in found}
        for about, begun_s in self._since_s.items():
            self._longest_s = max(self._longest_s, now_s - begun_s)
            if now_s - begun_s > MAX_UNTRUE_S:
                self._untrue.setdefault(about, f'{about}, for {now_s - begun_s:.1f} s: '
                                               f'{found[about]}')
        return page

    def expect(self, condition: Callable[[dict[str, Any]], Any], what: str) -> dict[str, Any]:
        """Watch until the page meets a condition. Raises TimeoutError with what it says."""
        end_s = time.monotonic() + WAIT_S
        while not condition(page := self.sample()):
            if time.monotonic() > end_s:
                raise TimeoutError(f'after {WAIT_S:g} s not on the page: {what}; it says '
                                   f'{page["status"]!r}, {page["target"]["text"]!r}, '
                                   f'{page["note"]!r}, {[v["badge"] for v in page["views"]]}, '
                                   f'{[v["message"] for v in page["views"]]}')
            self.page.tab.wait_for_timeout(50)
        return page

    def expect_note(self, text: str) -> dict[str, Any]:
        """Wait for a note or a view's message with that text."""
        return self.expect(lambda page: text in page['note'] or any(
            text in view['message'] for view in page['views']), f'{text!r}')

    def expect_state(self, *states: str) -> dict[str, Any]:
        """Wait for one of these states of the target."""
        return self.expect(lambda page: page['target']['state'] in states, ' or '.join(states))

    def expect_active(self, name: str) -> None:
        """Wait until the target of a name is active."""
        active = ('PENDING', *ON_TF)
        if not name:
            self.expect_state(*active)
        else:
            self.expect(lambda page: any(row['name'] == name and row['state'] in active
                                         for row in page['named']), f'target {name}')

    def expect_status(self, text: str) -> dict[str, Any]:
        """Wait for a status with that text."""
        return self.expect(lambda page: text in page['status'], f'{text!r}')

    def hold(self, seconds: float) -> None:
        """Watch for that long."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self.sample()
            self.page.tab.wait_for_timeout(50)

    def prepare(self, *parameters: str, target: bool = True) -> None:
        """Have a node with these parameters, and a target or none."""
        if parameters != self._parameters or not self.is_node_up:
            if self.is_node_up:
                self.end_node()
            self.rig.node_parameters = (
                f'matcher:={drill_rig.__name__}:RowMatcher', 'limits.wait_tf_s:=2.0',
                'history_s:=6.0', *parameters)
            self._parameters = parameters
            self.start_node()
        self.page.tab.keyboard.press('Escape')
        if target:
            self.click_sure(START_TIMEOUT_S)
        elif self.page.read()['clear']['enabled']:
            self.page.tab.click('#clear')
            self.expect_state(*NO_TARGET)

    def start_node(self) -> None:
        """Start the node, and wait until the page can use it.

        Until then the page must not say anything as certain. After a killed node, the middleware
        may leave the next one deaf (its port in /dev/shm): such a node is started again.
        """
        for attempt in range(MAX_STARTS):
            if attempt:
                print('  the node is deaf: started again', flush=True)
                self.rig.end('node', signal.SIGINT)
            self.rig.start('node')
            end_s = time.monotonic() + START_TIMEOUT_S / 2
            while time.monotonic() < end_s:
                if self.sample()['status'].endswith('is ready'):
                    self.is_node_up = True
                    self.expect(lambda page: len(page['views']) == len(CAMERAS) and all(
                        view['stamp'] != '0' for view in page['views']), 'images')
                    return
                self.page.tab.wait_for_timeout(50)
        raise TimeoutError(f'the node is not ready after {MAX_STARTS} starts')

    def end_node(self, number: int = signal.SIGINT) -> None:
        """End the node by a signal, SIGINT by default."""
        self.is_node_up = False
        self.rig.end('node', number)
        self.robot.forget()

    def click_sure(self, timeout_s: float = WAIT_S, name: str = '',
                   at: tuple[float, float] = SEEN) -> None:
        """Click until the page shows a target: a busy computer may be late with the image."""
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            before, begun_s = self.page.read()['query'], time.monotonic()
            self.page.name_next(name)
            self.page.click(*at)
            while time.monotonic() - begun_s < RETRY_S:
                page = self.sample()
                result = self.robot.results.get(page['query'])
                if page['query'] != before and result is not None and result.has_target:
                    self.expect_active(name)
                    return
                self.page.tab.wait_for_timeout(50)
        raise TimeoutError(f'no target within {timeout_s:g} s; the page says {page["note"]!r}, '
                           f'{[view["message"] for view in page["views"]]}')


def find_untruths(page: dict[str, Any], robot: RobotObserver, is_node_heard: bool,
                  is_reachable: bool, now_ns: tuple[int, int]) -> dict[str, str]:
    """Compare what the page says with TF and the node; return the differences by subject.

    is_node_heard: the page can know what the node says. now_ns: before and after it was read.
    """
    found = dict[str, str]()
    if match := IDENTIFIER.search(page['all']):
        found['wording'] = f'{match[0]!r} is not for people'
    if not is_reachable and any(view['badge'] == 'live' for view in page['views']):
        found['badge'] = 'live, although nothing arrives'
    if not is_node_heard:
        target = page['target']
        if target['state'] != 'UNKNOWN' and not target['isDoubtful']:
            found['target'] = f'{target["text"]!r} as certain, although nothing is heard'
        for row in page['named']:
            if 'last known' not in row['text']:
                found[f'target {row["name"]}'] = f'{row["text"]!r}, although nothing is heard'
        return found
    return (found | _compare_ages(page, now_ns) | _compare_target(page, robot)
            | _compare_named(page, robot) | _compare_answer(page, robot))


def _compare_ages(page: dict[str, Any], now_ns: tuple[int, int]) -> dict[str, str]:
    found = dict[str, str]()
    for view in page['views']:
        ages_ms = [(at - int(view['stamp'])) / 1e6 for at in now_ns]
        badge, words = f'badge of {view["camera"]}', view['badge']
        shown = re.fullmatch(r'(\d+\.?\d*) s old', words)
        if words == 'live' and ages_ms[0] > LIVE_MS + AGE_TOLERANCE_MS:
            found[badge] = f'live, but the image is {ages_ms[0] / 1000:.1f} s old'
        elif shown and not (ages_ms[0] - AGE_TOLERANCE_MS < 1000 * float(shown[1])
                            < ages_ms[1] + AGE_TOLERANCE_MS):
            found[badge] = f'{words}, but the image is {ages_ms[0] / 1000:.1f} s old'
    return found


def _compare_target(page: dict[str, Any], robot: RobotObserver) -> dict[str, str]:
    found, state, target = dict[str, str](), robot.state, page['target']
    if state is None:
        return found
    name = STATE_NAMES[state.state]
    is_active = name not in NO_TARGET
    if target['state'] != name or target['isDoubtful']:
        found['target'] = f'{target["text"]!r}, the node says {name}'
    if 'stop' in target['text'] and state.valid:
        found['validity'] = f'{target["text"]!r}, but the node says it is valid'
    at = state.pose.pose.position
    if is_active and _measure_error_m(target['place'], (at.x, at.y, at.z)) > MAX_PLACE_ERROR_M:
        found['place'] = f'{target["place"]!r}, the node says {at.x:.3f} {at.y:.3f} {at.z:.3f}'
    is_sent = time.monotonic() - robot.sent_s < TF_SILENCE_S
    if is_sent != ('sent' in target['text']):
        found['TF'] = f'{target["text"]!r}, but it is {"" if is_sent else "not "}on TF'
    elif is_sent and _measure_error_m(
            target['place'], robot.sent_at_m) > MAX_PLACE_ERROR_M:
        found['TF'] = f'{target["place"]!r}, TF says {robot.sent_at_m}'
    result = robot.results.get(state.query_id)
    if is_active and result is not None:
        verdict = 'sure' if is_target_sure(result) else 'check'
        if verdict not in target['verdict'].split():
            found['verdict'] = f'{target["verdict"]!r}, the node says {verdict}'
    is_any_active = is_active or bool(_list_active(robot))
    if page['clear']['enabled'] != is_any_active:
        found['clear'] = f'enabled: {page["clear"]["enabled"]}, the target is {name}'
    if name == 'PENDING' and not (page['accept']['enabled']
                                  and page['accept']['text'].startswith('Send ')):
        found['send'] = f'{page["accept"]}, but the target waits for a person'
    says_active = re.search(r'\b(is still active|still waits)\b', page['note'])
    if (says_active and not is_any_active) or ('has no target' in page['note'] and is_any_active):
        found['note'] = f'{page["note"]!r}, the target is {name}'
    return found


def _list_active(robot: RobotObserver) -> list[str]:
    """Return the names of the targets that have one and are active."""
    return [name for name, state in robot.named.items()
            if STATE_NAMES[state.state] not in NO_TARGET]


def _compare_named(page: dict[str, Any], robot: RobotObserver) -> dict[str, str]:
    found, rows = dict[str, str](), {row['name']: row for row in page['named']}
    for name in {*_list_active(robot), *rows}:
        state, row = robot.named.get(name), rows.get(name)
        expected = 'NONE' if state is None else STATE_NAMES[state.state]
        if row is None or row['state'] != expected or 'last known' in row['text']:
            found[f'target {name}'] = f'{row}, the node says {expected}'
        elif state is not None and expected not in NO_TARGET:
            at = state.pose.pose.position
            if ('go on' in row['text']) != state.valid:
                found[f'target {name}'] = f'{row["text"]!r}, but valid is {state.valid}'
            if math.isfinite(at.x) and _measure_error_m(row['text'].rpartition('x')[2], (
                    at.x, at.y, at.z)) > MAX_PLACE_ERROR_M:
                found[f'place of {name}'] = f'{row["text"]!r}, the node says {at}'
    return found


def _measure_error_m(place: str, at_m: tuple[float, float, float]) -> float:
    """Return the largest difference along an axis; infinity if the text is not a place."""
    words = [float(word.replace('−', '-')) for word in re.findall(r'−?\d+\.\d+', place)]
    return max(abs(a - b) for a, b in zip(words, at_m, strict=True)) if len(words) == 3 \
        else float('inf')


def _compare_answer(page: dict[str, Any], robot: RobotObserver) -> dict[str, str]:
    found, history = dict[str, str](), robot.history
    if history is not None:
        for name, can in (('undo', history.can_undo), ('redo', history.can_redo)):
            if page[name]['enabled'] != can:
                found[name] = f'enabled: {page[name]["enabled"]}, the node says {can}'
        ids = [entry.result.query_id for entry in reversed(history.entries)]
        if page['rows'] != ids:
            found['history'] = f'{len(page["rows"])} rows, the node has {len(ids)}'
    is_matching = any(view['isPrevious'] for view in page['views']) or not page['query']
    if is_matching:
        return found
    result = robot.results.get(page['query'])
    if result is None:
        return found | {'answer': 'it is not one of this node'}
    answers = {each.found.camera: each for each in result.correspondences}
    for view in page['views']:
        for mark in view['marks']:
            verdict = next((kind for kind in ('sure', 'check') if kind in mark['kinds']), '')
            if verdict and 'standing' not in mark['kinds']:
                answer = answers.get(view['camera'])
                is_right = answer is not None and VERDICTS[answer.verdict] == verdict and (
                    abs(answer.found.x - float(mark['x'])) + abs(answer.found.y - float(mark['y']))
                    < 0.02)
                if not is_right:
                    found[f'mark in {view["camera"]}'] = f'{verdict} at {mark["x"]} {mark["y"]}'
        answer = answers.get(view['camera'])
        verdict = 'refused' if answer is None else VERDICTS[answer.verdict]
        # Where the camera has moved, the point may be outside the live image.
        if verdict != 'refused' and not view['offersMatched'] and not any(
                verdict in mark['kinds'] and 'standing' not in mark['kinds']
                for mark in view['marks']):
            found[f'mark in {view["camera"]}'] = f'none, the node says {verdict}'
    return found
