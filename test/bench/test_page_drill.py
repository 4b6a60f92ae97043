"""The drill of the page: it finds what is untrue, and a short one of real faults finds nothing."""
from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from crosspoint_ros.msg import Correspondence, History, HistoryEntry, QueryResult, TargetState

from crosspoint_ros.bench.web.browsers import find_missing_tool
from crosspoint_ros.bench.web.drill import PageDrill, find_untruths
from crosspoint_ros.bench.web.drill_faults import FAULTS

NOW_NS = 1_000_000_000_000
SHORT = ('refuse-click', 'name-two-targets', 'go-offline')


@pytest.fixture
def robot():
    result = QueryResult(query_id='a', has_target=True)
    found = Correspondence(verdict=Correspondence.SURE)
    found.found.camera, found.found.x, found.found.y = 'side', 10.0, 20.0
    result.correspondences = [found]
    state = TargetState(state=TargetState.STANDING, valid=True, query_id='a')
    state.pose.pose.position.x = 0.25
    cup = TargetState(name='cup', state=TargetState.STANDING, valid=True)
    cup.pose.pose.position.x = 0.5
    return SimpleNamespace(
        state=state, named={'cup': cup}, results={'a': result}, sent_s=time.monotonic() + 3600,
        sent_at_m=(0.25, 0.0, 0.0),
        history=History(entries=[HistoryEntry(number=1, result=result)], can_undo=True))


def button(enabled, text=''):
    return {'enabled': enabled, 'text': text}


@pytest.fixture
def page():
    mark = {'kinds': ['mark', 'sure'], 'x': '10', 'y': '20'}
    view = {'camera': 'side', 'stamp': str(NOW_NS - 100_000_000), 'badge': 'live', 'marks': [mark],
            'isPrevious': False, 'offersMatched': False}
    return {'all': 'words', 'status': '', 'statusKind': 'status ready', 'views': [view],
            'target': {'state': 'STANDING', 'text': 'STANDING · sent, as clicked',
                       'isDoubtful': False, 'place': 'x 0.250   y 0.000   z 0.000 m',
                       'verdict': 'verdict sure'},
            'named': [{'name': 'cup', 'state': 'STANDING', 'text':
                       'cup go on: sent, as clicked\nx 0.500 y 0.000 z 0.000 m \u00b7 click 2'}],
            'note': '', 'query': 'a', 'rows': ['a'], 'accept': button(True, 'Confirm'),
            'clear': button(True), 'undo': button(True), 'redo': button(False)}


def compare(page, robot, is_node_heard=True, is_reachable=True):
    return find_untruths(page, robot, is_node_heard, is_reachable, (NOW_NS, NOW_NS))


def test_a_true_page_has_no_untruth(page, robot):
    assert compare(page, robot) == {}


@pytest.mark.parametrize(('about', 'change'), [
    ('wording', lambda page: page.update(all='query 1a2b3c4d-0000-4000-8000-000000000000')),
    ('target', lambda page: page['target'].update(state='CLEARED')),
    ('target', lambda page: page['target'].update(isDoubtful=True)),
    ('place', lambda page: page['target'].update(place='x 0.253   y 0.000   z 0.000 m')),
    ('place', lambda page: page['target'].update(place='')),
    ('validity', lambda page: page['target'].update(text='MOVED · stop: seen elsewhere')),
    ('TF', lambda page: page['target'].update(text='PENDING · waits for a person')),
    ('verdict', lambda page: page['target'].update(verdict='verdict check')),
    ('clear', lambda page: page.update(clear=button(False))),
    ('undo', lambda page: page.update(undo=button(False))),
    ('redo', lambda page: page.update(redo=button(True))),
    ('note', lambda page: page.update(note='The robot has no target. This click was refused')),
    ('target cup', lambda page: page.update(named=[])),
    ('target cup', lambda page: page['named'][0].update(state='CLEARED')),
    ('target cup', lambda page: page['named'][0].update(text='cup x 0.500 y 0.000 z 0.000 m')),
    ('place of cup', lambda page: page['named'][0].update(text='go on x 0.250 y 0.000 z 0.000 m')),
    ('target box', lambda page: page['named'].append({**page['named'][0], 'name': 'box'})),
    ('history', lambda page: page.update(rows=[])),
    ('answer', lambda page: page.update(query='b')),
    ('mark in side', lambda page: page['views'][0]['marks'][0].update(x='11')),
    ('mark in side', lambda page: page['views'][0]['marks'].clear()),
    ('mark in side', lambda page: page['views'][0]['marks'][0]['kinds'].append('standing')),
    ('mark in side', lambda page: page['views'][0]['marks'][0].update(kinds=['mark', 'check'])),
    ('badge of side', lambda page: page['views'][0].update(badge='3.0 s old')),
    ('badge of side', lambda page: page['views'][0].update(stamp=str(NOW_NS - 2_000_000_000)))])
def test_what_the_page_says_wrong_is_found(page, robot, about, change):
    change(page)
    assert about in compare(page, robot)


@pytest.mark.parametrize(('about', 'change'), [
    ('TF', lambda robot: setattr(robot, 'sent_s', 0.0)),
    ('TF', lambda robot: setattr(robot, 'sent_at_m', (0.26, 0.0, 0.0))),
    ('target', lambda robot: setattr(robot.state, 'state', TargetState.LOST)),
    ('send', lambda robot: setattr(robot.state, 'state', TargetState.PENDING))])
def test_what_the_robot_does_otherwise_is_found(page, robot, about, change):
    change(robot)
    assert about in compare(page, robot)


def test_while_nothing_is_heard_the_target_must_be_in_doubt(page, robot):
    assert 'target' in compare(page, robot, is_node_heard=False)
    assert 'badge' in compare(page, robot, is_node_heard=False, is_reachable=False)
    doubtful = copy.deepcopy(page)
    doubtful['target']['isDoubtful'] = True
    assert 'target cup' in compare(doubtful, robot, is_node_heard=False)
    doubtful['named'][0]['text'] = 'cup last known: STANDING'
    assert compare(doubtful, robot, is_node_heard=False) == {}


def test_a_point_outside_of_the_moved_view_needs_no_mark(page, robot):
    page['views'][0]['marks'].clear()
    page['views'][0]['offersMatched'] = True
    assert compare(page, robot) == {}


def test_an_element_that_does_not_come_is_a_failed_row_and_ends_no_drill(page):
    error = pytest.importorskip('playwright.sync_api').TimeoutError
    drill = PageDrill.__new__(PageDrill)
    drill.is_node_up = False
    drill.robot = SimpleNamespace(state=None)
    drill.page = SimpleNamespace(script_errors=[], read=lambda: page)

    def fail(drill):
        raise error('no button within 30 s')
    assert drill.run('fault', fail).untrue == ['no button within 30 s']


def test_there_are_at_least_forty_faults():
    assert len(FAULTS) >= 40
    assert set(SHORT) < FAULTS.keys()


def test_a_short_drill_finds_nothing_untrue(tmp_path):
    if missing := find_missing_tool():
        pytest.skip(missing)
    table = tmp_path / 'table.json'
    options = [word for fault in SHORT for word in ('--fault', fault)]
    run = subprocess.run([sys.executable, '-m', 'crosspoint_ros.cli', 'dev', 'page-drill', *options,
                          '--json', str(table)], text=True, capture_output=True, timeout=170)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f'{len(SHORT)} faults, 0 with an untrue state' in run.stdout
    rows = json.loads(table.read_text())
    assert [row['fault'] for row in rows] == list(SHORT)
    assert all(row['longest_untrue_s'] <= 5 for row in rows)


def test_an_unknown_fault_is_refused():
    run = subprocess.run([sys.executable, '-m', 'crosspoint_ros.cli', 'dev', 'page-drill',
                          '--fault', 'nothing'], text=True, capture_output=True, timeout=60)
    assert run.returncode == 1
    assert "unknown fault 'nothing'; --list prints them" in run.stderr
