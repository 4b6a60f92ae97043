"""The faults of the page's drill. Each begins with `prepare`, and restores what it broke."""
from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from crosspoint_ros.bench.node.synthetic_cameras import make_camera_messages
from crosspoint_ros.bench.web.drill import (
    CAMERAS,
    MAX_UNTRUE_S,
    NO_TARGET,
    ON_TF,
    REFUSED,
    SEEN,
    PageDrill,
)
from crosspoint_ros.bench.web.drill_rig import FAIL_ROW, SLOW_ROW, UNSURE_ROW
from crosspoint_ros.srv import Accept

SLOW, FAILS, UNSURE = ((SEEN[0], row - 20.0) for row in (SLOW_ROW, FAIL_ROW, UNSURE_ROW))
GATE = 'publish_target:=on_accept'
Act = Callable[[PageDrill], Any]


def _begin(*parameters: str, **options: bool) -> Act:
    return lambda drill: drill.prepare(*parameters, **options)


def _do(*acts: Act) -> Act:
    """Return a fault that does these, the first of them `_begin(…)`."""
    def run(drill: PageDrill) -> None:
        for act in acts:
            act(drill)
    return run


def _click(at: tuple[float, float]) -> Act:
    return lambda drill: drill.page.click(*at)


def _expect_named(**states: str) -> Act:
    return lambda drill: drill.expect(lambda page: states.items() <= {
        row['name']: row['state'] for row in page['named']}.items(), f'{states}')


def _click_two(drill: PageDrill) -> None:
    """Have targets of two names."""
    for name, offset_px in (('cup', 30), ('box', -30)):
        drill.click_sure(name=name, at=(SEEN[0] + offset_px, SEEN[1]))


def _press(button: str) -> Act:
    return lambda drill: drill.page.tab.click(f'#{button}')


def _on(method: str, *args: Any) -> Act:
    return lambda drill: getattr(drill, method)(*args)


_hold, _note, _state, _status = (partial(_on, method) for method in (
    'hold', 'expect_note', 'expect_state', 'expect_status'))
_click_again = _on('click_sure')


def _call(service: str) -> Act:
    return lambda drill: drill.robot.call(service)


def _reload(drill: PageDrill) -> None:
    drill.page.tab.reload()


def _accept_by_program(drill: PageDrill) -> None:
    drill.robot.call('accept', Accept.Request(query_id=drill.page.read()['query']))


def _click_by_program(drill: PageDrill) -> None:
    query_id = drill.robot.click(SEEN[0] - 30, SEEN[1]).query_id
    drill.expect(lambda page: page['query'] == query_id, 'the answer of the program')


def _expect_live(drill: PageDrill) -> None:
    drill.expect(lambda page: all(view['badge'] == 'live' for view in page['views']), 'live images')


def _view(page: dict[str, Any], camera: str = 'side') -> dict[str, Any]:
    return next(view for view in page['views'] if view['camera'] == camera)


# --- operators

def _operate(act: Callable[[PageDrill, Any], None]) -> Act:
    """Return a fault in which a second operator acts in another tab; both pages agree."""
    def run(drill: PageDrill) -> None:
        drill.prepare()
        other = drill.open_tab()
        try:
            drill.expect(lambda page: other.read()['query'] == page['query'], 'the same answer')
            act(drill, other)
            drill.expect(lambda page: other.read()['target'] == drill.page.read()['target'],
                         'the same target in both tabs')
        finally:
            other.close()
    return run


def _click_elsewhere(drill: PageDrill, other: Any) -> None:
    before = drill.page.read()['query']
    other.click(SEEN[0] + 40, SEEN[1])
    drill.expect(lambda page: page['query'] not in ('', before), 'the answer of the other')


def _clear_elsewhere(drill: PageDrill, other: Any) -> None:
    drill.expect(lambda page: other.read()['clear']['enabled'], 'something to clear')
    other.tab.click('#clear')
    drill.expect_state('CLEARED')


def _drag(by_px: tuple[float, float]) -> Act:
    """Drag the point that was found in side."""
    def drag(drill: PageDrill) -> None:
        page = drill.expect(lambda page: any(
            'standing' not in mark['kinds'] for mark in _view(page)['marks']), 'a mark in side')
        mark = next(m for m in _view(page)['marks'] if 'standing' not in m['kinds'])
        x, y = float(mark['x']), float(mark['y'])
        drill.page.drag((x, y), (x + by_px[0], y + by_px[1]), 'side')
    return drag


def _answer_again(act: Act) -> Act:
    """Return what acts, and waits for another answer."""
    def run(drill: PageDrill) -> None:
        before = drill.page.read()['query']
        act(drill)
        drill.expect(lambda page: page['query'] not in ('', before), 'another answer')
    return run


def _open_again(drill: PageDrill) -> None:
    drill.page.close()
    query_id = drill.robot.click(SEEN[0] - 50, SEEN[1]).query_id
    drill.page = drill.open_tab()
    drill.expect(lambda page: page['query'] == query_id, 'the answer')


# --- processes

@contextmanager
def _stop(drill: PageDrill, name: str) -> Iterator[None]:
    drill.rig.send_signal(name, signal.SIGSTOP)
    drill.is_reachable, drill.is_node_up = name != 'server', name != 'node'
    try:
        yield
    finally:
        drill.rig.send_signal(name, signal.SIGCONT)
        drill.is_reachable = drill.is_node_up = True


def _hang(name: str, *acts: Act) -> Act:
    """Return what acts while a process is stopped; afterwards the page is ready again."""
    def run(drill: PageDrill) -> None:
        with _stop(drill, name):
            _do(*acts)(drill)
        drill.expect_status('is ready')
    return run


def _restart_server(*acts: Act) -> Act:
    """Return what kills the server, acts, and starts it again."""
    def run(drill: PageDrill) -> None:
        drill.is_reachable = False
        drill.rig.end('server', signal.SIGKILL)
        drill.expect_status('unreachable')
        _do(*acts)(drill)
        drill.rig.start('server')
        drill.is_reachable = True
        drill.expect_status('is ready')
        drill.expect(lambda page: not page['note'], 'no note')
    return run


def _restart_node(number: int) -> Act:
    """Return what ends the node, waits until the page must have noticed, and starts another."""
    def run(drill: PageDrill) -> None:
        drill.end_node(number)
        drill.expect(lambda page: 'is ready' not in page['status'], 'sign of its end')
        drill.hold(MAX_UNTRUE_S + 1.0)
        drill.start_node()
        drill.expect_state('NONE')
    return run


def _deactivate(drill: PageDrill) -> None:
    drill.robot.change_state('deactivate')
    drill.is_active = False
    drill.expect_status('inactive')
    drill.page.click(*SEEN)
    drill.expect_note('is not active')
    drill.robot.change_state('activate')
    drill.is_active = True
    drill.expect_status('is ready')


# --- network and clocks

def _go_offline(drill: PageDrill) -> None:
    """Lose the network while another client clears."""
    drill.page.set_link('offline')
    drill.is_reachable = False
    try:
        drill.expect(lambda page: 'lost' in page['statusKind'], 'a red status')
        drill.robot.call('clear')
        drill.page.click(*SEEN)
        drill.expect_note('nothing was sent')
    finally:
        drill.page.set_link('free')
        drill.is_reachable = True
    drill.expect_state('CLEARED')


def _slow_down(drill: PageDrill) -> None:
    drill.page.set_link('slow')
    try:
        drill.hold(3.0)
        drill.click_sure()
        drill.hold(3.0)
    finally:
        drill.page.set_link('free')


def _offset_clock(drill: PageDrill, hours: int) -> None:
    """Open the page in a browser with a wrong clock; a camera stops meanwhile."""
    drill.page.close()
    drill.page = drill.open_tab(clock_offset_ms=3_600_000 * hours)
    try:
        _expect_live(drill)
        drill.click_sure()
        with _break(drill, stopped=frozenset({'side'})):
            drill.hold(4.0)
    finally:
        drill.page.close()
        drill.page = drill.open_tab()
    drill.expect_status('is ready')


# --- cameras and TF

@contextmanager
def _break(drill: PageDrill, **settings: Any) -> Iterator[None]:
    """Set attributes of the cameras until the block ends."""
    before = {name: getattr(drill.cameras, name) for name in settings}
    try:
        for name, value in settings.items():
            setattr(drill.cameras, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(drill.cameras, name, value)


def _while_broken(*acts: Act, **settings: Any) -> Act:
    """Return what acts while attributes of the cameras are set."""
    def run(drill: PageDrill) -> None:
        with _break(drill, **settings):
            _do(*acts)(drill)
    return run


def _expect_badge(text: str, *cameras: str) -> Act:
    return lambda drill: drill.expect(lambda page: all(
        text in _view(page, camera)['badge'] for camera in cameras), f'{text!r} at {cameras}')


def _all_see(**scene: Any) -> dict[str, Any]:
    return dict.fromkeys(CAMERAS, make_camera_messages(640, 480, **scene))


def _make_broken_images() -> dict[str, Any]:
    image, depth, info = make_camera_messages(640, 480)
    image.encoding = 'nonsense'
    return {'front': (image, depth, info)}


def _break_tf(delay_s: float | None) -> Act:
    return _do(_begin(), _while_broken(_hold(2.0), _click(SEEN), _note('This click was refused'),
                                       _hold(3.0), tf_delay_s=delay_s), _hold(1.0), _click_again)


TRACK = 'follow.mode:=track', 'follow.coast_s:=3.0'
KEPT, REFUSAL = 'The target of click', 'This click was refused'
FAULTS: dict[str, Act] = {
    'refuse-click': _do(_begin(), _click(REFUSED), _note(KEPT), _note(REFUSAL)),
    'refuse-first-click': _do(_begin(target=False), _click(REFUSED),
                              _note(f'The robot has no target. {REFUSAL}')),
    'fail-matcher': _do(_begin(), _click(FAILS), _note('the drill has this matcher fail')),
    'answer-unsure': _do(_begin(), _click(UNSURE), lambda drill: drill.expect(
        lambda page: 'check' in page['target']['verdict'], 'to be checked')),
    'cancel-click': _do(_begin(), _click(SLOW), _hold(0.5),
                        lambda drill: drill.page.tab.keyboard.press('Escape'),
                        _note('This click was cancelled')),
    'click-twice': _do(_begin(), _click(SLOW), _hold(0.3), _click_again),
    'clear-during-click': _do(_begin(), _click(SLOW), _hold(0.3), _call('clear'),
                              _state('CLEARED')),
    'click-old-image': _do(_begin(), _while_broken(
        _expect_badge('old', 'front'), _hold(1.5), _click(SEEN), _note(REFUSAL),
        stamp_delay_s=8.0), _expect_live),  # beyond the node's history
    'click-elsewhere': _operate(_click_elsewhere),
    'clear-elsewhere': _operate(_clear_elsewhere),
    'click-by-program': _do(_begin(), _click_by_program),
    'refuse-program': _do(_begin(), lambda drill: drill.robot.click(*REFUSED), _hold(1.0),
                          _state(*ON_TF)),
    'clear-by-program': _do(_begin(), _call('clear'), _state('CLEARED')),
    'undo-by-program': _do(_begin(), _call('undo'), _hold(1.0), _call('redo'), _hold(1.0)),
    'accept-by-program': _do(_begin(), _accept_by_program, _on(
        'expect', lambda page: not page['accept']['enabled'], 'nothing left to confirm')),
    'hold-by-program': _do(_begin(), _call('hold'), _hold(2.0), _call('resume')),
    'clear-and-undo': _do(_begin(), _press('clear'), _state('CLEARED'), _press('undo'),
                          _state(*ON_TF)),
    'undo-and-redo': _do(
        _begin(), _click_again, _press('undo'),
        lambda drill: drill.expect(lambda page: page['redo']['enabled'], 'something to redo'),
        _press('redo'),
        lambda drill: drill.expect(lambda page: not page['redo']['enabled'], 'nothing to redo')),
    'name-two-targets': _do(
        _begin(), _click_two, lambda drill: drill.page.name_next('box'), _click(REFUSED),
        _note('(box) is still active'), _press('targets li[data-name=cup] .clear'),
        _expect_named(box='STANDING', cup='CLEARED'), _state(*ON_TF), _reload,
        _expect_named(box='STANDING'), _press('clear'), _expect_named(box='CLEARED')),
    'hang-server-with-two-targets': _do(
        _begin(), _click_two, _hang('server', _call('clear'), _status('does not answer')),
        _state('CLEARED'), _expect_named(box='CLEARED', cup='CLEARED')),
    'refuse-drag': _do(_begin(), _drag((90.0, -90.0)), _note('px')),
    'accept-drag': _do(_begin(), _answer_again(_drag((3.0, 0.0)))),
    'reload': _do(_begin(), _reload, _state(*ON_TF)),
    'reload-during-click': _do(_begin(), _answer_again(_do(_click(SLOW), _hold(0.3), _reload))),
    'open-again': _do(_begin(), _open_again),
    'hang-server': _do(_begin(), _hang('server', _status('does not answer'), _click(SEEN),
                                       _note('nothing was sent'))),
    'hang-server-and-clear': _do(_begin(), _hang('server', _call('clear'),
                                                 _status('does not answer')), _state('CLEARED')),
    'hang-server-during-click': _do(_begin(), _click(SLOW), _hold(0.3),
                                    _hang('server', _status('does not answer'))),
    'kill-server': _do(_begin(), _restart_server(
        lambda drill: drill.robot.click(SEEN[0] + 20, SEEN[1]))),
    'kill-server-during-click': _do(_begin(), _click(SLOW), _hold(0.3), _restart_server()),
    'hang-node': _do(_begin(), _hang('node', _click(SEEN), _status('has not replied'),
                                     _note('has not replied'))),
    'kill-node': _do(_begin(), _restart_node(signal.SIGKILL)),
    'kill-node-during-click': _do(_begin(), _click(SLOW), _hold(0.3),
                                  _restart_node(signal.SIGKILL)),
    'restart-node': _do(_begin(), _restart_node(signal.SIGINT)),
    'deactivate-node': _do(_begin(), _deactivate),
    'go-offline': _do(_begin(), _go_offline),
    'slow-link': _do(_begin(), _slow_down),
    'clock-ahead': _do(_begin(), partial(_offset_clock, hours=1)),
    'clock-behind': _do(_begin(), partial(_offset_clock, hours=-1)),
    'stop-camera': _do(_begin(), _while_broken(
        _expect_badge('frozen', 'side'), stopped=frozenset({'side'})), _expect_live),
    'stop-cameras': _do(_begin(), _while_broken(
        _expect_badge('frozen', *CAMERAS), _click(SEEN), _note('nothing was sent'),
        stopped=frozenset(CAMERAS)), _expect_live),
    'resize-camera': _do(_begin(), _while_broken(
        _hold(2.0), _click_again, messages={'side': make_camera_messages(320, 240)}),
        _hold(2.0), _click_again),
    'break-images': _do(_begin(), _while_broken(
        _expect_badge('nonsense', 'front'), messages=_make_broken_images()), _expect_live),
    'age-images': _do(_begin(), _while_broken(
        _expect_badge('old', 'front'), _hold(3.0), stamp_delay_s=1.0), _expect_live),
    'delay-tf': _do(_begin(), _while_broken(_hold(1.0), _click_again, tf_delay_s=0.15)),
    'delay-tf-too-long': _break_tf(4.0),
    'stop-tf': _break_tf(None),
    'lose-target': _do(_begin(), _while_broken(  # its place is seen without it
        _state('LOST', 'MOVED'), _hold(1.0), messages=_all_see(kitchen=False, depth_mm=2000))),
    'hide-target': _do(_begin(), _while_broken(  # something is before it
        _state('COASTING', 'LOST'), _hold(1.0), messages=_all_see(kitchen=False, depth_mm=300)),
        _hold(2.0)),
    'follow-target': _do(_begin(*TRACK), _state('TRACKING'), _hold(2.0), _while_broken(
        _state('COASTING'), _state('LOST'), stopped=frozenset(CAMERAS))),
    'move-target': _do(_begin(*TRACK), _state('TRACKING'), _while_broken(
        _state('MOVED'), _hold(MAX_UNTRUE_S + 1.0), messages=_all_see(depth_mm=670)), _hold(1.0)),
    'expire-target': _do(_begin('target_ttl_s:=4.0'), _state('EXPIRED')),
    'withdraw-on-refusal': _do(_begin('on_refusal:=clear'), _click(REFUSED), _state('CLEARED'),
                               _note(REFUSAL)),
    'hold-back-unsure': _do(_begin('publish_target:=sure'), _click(UNSURE), _state('PENDING'),
                            _press('accept'), _state(*ON_TF)),
    'wait-for-person': _do(_begin(GATE), _state('PENDING'), _hold(1.5), _press('accept'),
                           _state(*ON_TF)),
    'wait-behind-target': _do(_begin(GATE), _state('PENDING'), _press('accept'), _state(*ON_TF),
                              _click_again, _hold(2.0)),
    'refuse-while-pending': _do(_begin(GATE), _click(REFUSED), _note('still waits for a person')),
    'send-by-program': _do(_begin(GATE), _state('PENDING'), _accept_by_program, _state(*ON_TF)),
    'clear-while-pending': _do(_begin(GATE), _press('clear'), _state(*NO_TARGET), _press('undo'),
                               _state('PENDING')),
    'reload-while-pending': _do(_begin(GATE), _reload, _state('PENDING')),
    'hang-server-while-pending': _do(_begin(GATE), _state('PENDING'), _hang(
        'server', _status('does not answer'), _accept_by_program), _state(*ON_TF)),
}
