"""The demo scores every answer, prints its page first, and leaves nothing behind."""
from __future__ import annotations

import dataclasses
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.request import urlopen

import cv2
import numpy as np
import pytest
import yaml
from crosspoint_ros.msg import Correspondence, GraspTarget, ImagePoint, QueryResult, Status

from crosspoint_ros.core.datatypes import Code
from crosspoint_ros.data.scenes.known_scene import KnownScene
from crosspoint_ros.demo.report import (
    ClickOutcome,
    draw_result,
    format_header,
    format_row,
    format_summary,
    format_verdict,
    is_wrong,
    score_result,
)
from crosspoint_ros.demo.run import TICK_NS, click_visible_point, is_port_free, serve_page
from crosspoint_ros.ros.conversions import time_from_ns
from crosspoint_ros.scenes import KITCHEN

ROOT = Path(__file__).resolve().parents[2]
START_NS = 1760000000000000000
GOOD = ClickOutcome('handle', 'side', 0, True, True, True, 0.9, (100.0, 100.0), 1.0, 2.0, 50.0, 0,
                    '')


def outcome(**changes):
    return dataclasses.replace(GOOD, **changes)


def refused(code=Code.NOT_VISIBLE, **changes):
    return outcome(accepted=False, sure=False, found_px=(math.nan, math.nan), error_px=math.nan,
                   code=code, **changes)


@pytest.mark.parametrize(('what', 'expected', 'wrong'), [
    (GOOD, 'sure', False),
    (outcome(sure=False), 'to be checked', False),
    (outcome(error_px=20.5), 'WRONG: answered 20 px off', True),
    (outcome(visible=False), 'WRONG: answered, but not visible there', True),
    (refused(visible=False), 'rightly refused: not visible', False),
    (refused(Code.LOW_CONFIDENCE), 'wrongly refused: low confidence', False),
])
def test_a_verdict_says_whether_answer_or_refusal_was_right(what, expected, wrong):
    assert format_verdict(what) == expected
    assert is_wrong(what) == wrong


def test_images_of_later_rounds_are_those_of_the_recording():
    hz = yaml.safe_load((ROOT / 'config/demo.yaml').read_text())['/**/play_bag'][
        'ros__parameters']['clock_hz']
    assert 1e9 / hz == TICK_NS
    recording = KnownScene(KITCHEN, TICK_NS)
    assert recording.find_frame('front', START_NS + 3 * 5_840_000_000 + 10**9) == (
        'front', START_NS + 10**9)
    with pytest.raises(KeyError):
        recording.find_frame('front', START_NS + 5_900_000_000)


@pytest.mark.parametrize('code', [c for c in Code if c not in (Code.OK, Code.PARTIAL)])
def test_every_refusal_has_words(code):
    assert format_verdict(refused(code)) != 'wrongly refused: '


@pytest.fixture(scope='module')
def kitchen():
    return KnownScene(KITCHEN)


@pytest.fixture
def handle(kitchen):
    return next(a for a in kitchen.points if a.name == 'drawer handle')


def image_point(camera, pixel):
    point = ImagePoint(camera=camera, x=float(pixel[0]), y=float(pixel[1]))
    point.header.stamp.sec = START_NS // 10**9
    return point


def correspondence(camera, pixel, verdict_):
    found = image_point(camera, pixel)
    return Correspondence(header=found.header, found=found, verdict=verdict_, confidence=0.9,
                          covariance_px2=[4.0, 0.0, 0.0, 4.0],
                          status=Status(code=Status.OK if verdict_ else Status.NOT_VISIBLE,
                                        message='' if verdict_ else 'something hides it'))


@pytest.fixture
def result(handle):
    moments = {moment.camera: seen for moment, seen in handle.projections.items()
               if moment.stamp_ns == START_NS}
    target = GraspTarget()
    at = target.pose.pose.position
    at.x, at.y, at.z = (float(v) for v in np.add(handle.point_base_m, (3e-3, 0, 4e-3)))
    clicked = image_point('front', handle.pixel)
    return QueryResult(
        header=clicked.header, clicked=clicked, has_target=True, target=target, correspondences=[
            correspondence('side', np.add(moments['side'].pixel, (3, 4)), Correspondence.SURE),
            correspondence('wrist', (math.nan, math.nan), Correspondence.REFUSED)])


def test_an_answer_is_measured_against_the_truth_of_its_own_image(kitchen, result, handle):
    side, wrist = score_result(kitchen, result, handle, 12.0)
    assert (side.camera, side.accepted, side.sure) == ('side', True, True)
    assert side.error_px == pytest.approx(5.0)
    assert side.error_3d_mm == pytest.approx(5.0)
    assert not wrist.accepted
    assert wrist.visible  # at its first stamp
    assert wrist.reason == 'something hides it'


def test_a_query_that_is_refused_as_a_whole_has_a_row_too(kitchen, handle):
    result = QueryResult(status=Status(code=Status.TIMEOUT, message='10.0 s, the limit is 10 s'))
    (only,) = score_result(kitchen, result, handle, 1.0)
    assert format_verdict(only) == 'wrongly refused: timeout'


def test_rows_stand_under_the_header(kitchen, result, handle):
    outcomes = score_result(kitchen, result, handle, 12.0)
    lines = [format_row(o, handle, i) for i, o in enumerate(outcomes)]
    at = format_header().index('verdict')
    assert lines[0][at:].split()[0] == 'sure'
    assert lines[1][at:].startswith('wrongly refused')
    assert '(122, 227)' in lines[0]
    assert '(122, 227)' not in lines[1]


def test_the_picture_shows_all_views_of_the_click(result, handle, kitchen, tmp_path):
    draw_result(kitchen, result, handle, tmp_path / 'click.png')
    height, width = cv2.imread(str(tmp_path / 'click.png')).shape[:2]
    assert width >= 3 * 640
    assert height > 480


def test_the_summary_counts_wrong_answers_apart_from_refusals():
    told = format_summary([GOOD, outcome(sure=False), refused(), refused(visible=False),
                    outcome(visible=False), outcome(error_px=99.0)])
    assert '4 views show the point: found in 2 (1 of them sure)' in told
    assert 'refused in 1' in told
    assert '2 views do not show it: rightly refused in 1' in told
    assert 'wrongly answered: 2' in told


def test_a_click_that_was_refused_as_a_whole_is_made_again():
    scene = KnownScene(KITCHEN, TICK_NS)
    point = next(p for p in scene.points if p.clicked.camera == 'front' and scene.is_visible(
        scene.find_frame('front', START_NS), p.point_base_m))
    late, answered = QueryResult(status=Status(code=Status.TIMEOUT)), QueryResult(
        correspondences=[Correspondence()])
    for result, at_ns in ((late, START_NS + 5_760_000_000), (answered, START_NS)):
        result.clicked = ImagePoint(camera='front')
        result.clicked.header.stamp = time_from_ns(at_ns)
    results = iter([late, answered])
    client = SimpleNamespace(click=lambda *at, **of: next(results), spin_for=lambda seconds: None)
    assert click_visible_point(client, scene, point, START_NS)[0] is answered


def start_demo(output, *options):
    return subprocess.Popen(
        [sys.executable, '-m', 'crosspoint_ros.cli', 'demo', '--count', '2', '--output',
         str(output), *options], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env={**os.environ, 'PYTHONUNBUFFERED': '1'})


def children_of(pid):
    tasks = Path(f'/proc/{pid}/task/{pid}/children')
    return [int(child) for child in tasks.read_text().split()] if tasks.exists() else []


def test_the_demo_clicks_tells_draws_and_ends_by_itself(tmp_path):
    demo = start_demo(tmp_path, '--once')
    told, _ = demo.communicate(timeout=120)
    assert demo.returncode == 0, told
    assert 'wrongly answered: 0' in told
    assert len(re.findall(r'^(?:wall tile|board edge) ', told, re.MULTILINE)) == 2, told
    assert sorted(p.name for p in tmp_path.glob('*.png')) == ['01_wall_tile.png',
                                                              '02_board_edge.png']
    index = (tmp_path / 'index.html').read_text()
    assert re.findall(r'<img src="([^"]+)"', index) == ['01_wall_tile.png', '02_board_edge.png']
    assert 'wrongly answered: 0' in index
    assert re.search('(sure|to be checked|rightly refused)', index)
    assert f'All pictures: {tmp_path}' in told


def test_without_aiohttp_the_demo_says_what_to_install_and_goes_on(tmp_path, monkeypatch, capsys):
    (tmp_path / 'aiohttp.py').write_text(
        "raise ModuleNotFoundError('No module named aiohttp', name='aiohttp')")
    monkeypatch.setenv('PYTHONPATH', str(tmp_path), prepend=os.pathsep)
    with serve_page(tmp_path) as check:
        check()
    assert 'apt install python3-aiohttp' in capsys.readouterr().out


def test_the_page_takes_another_port_where_its_own_is_taken(tmp_path, capsys):
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_port_free(8088):
            taken.bind(('127.0.0.1', 8088))
            taken.listen()
        with serve_page(tmp_path):
            address = re.search(r'http://127\.0\.0\.1:(\d+)/', capsys.readouterr().out)
            assert int(address[1]) not in (0, 8088)
            assert urlopen(address[0], timeout=10).status == 200


def test_the_demo_answers_the_click_it_advertises_and_ends_its_nodes_on_sigterm(tmp_path):
    demo = start_demo(tmp_path)
    lines = []
    for line in demo.stdout:
        lines.append(line)
        if line.startswith('Ctrl-C ends'):
            break
    told = ''.join(lines)
    assert demo.poll() is None, told
    address = re.search(r'^  (http://.*)$', told, re.MULTILINE)
    assert address.start() < told.index(format_header())  # the page opens while the table fills
    with urlopen(address[1], timeout=10) as served:
        assert b'<title>crosspoint</title>' in served.read()
    command = re.search(r'^  (\S+) -c "(from crosspoint_ros.*)"$', told, re.MULTILINE)
    python = ROOT / command[1] if '/' in command[1] else command[1]
    clicked = subprocess.run([str(python), '-c', command[2]], cwd=ROOT, capture_output=True,
                             text=True, timeout=60)
    assert clicked.stdout.startswith('front (122.0, 227.0)\n  in side: '), clicked.stderr
    nodes = children_of(demo.pid)
    assert len(nodes) == 3
    demo.send_signal(signal.SIGTERM)
    rest, _ = demo.communicate(timeout=30)
    assert demo.returncode == 0, rest
    assert 'front (122.0, 227.0)' in rest  # the demo tells it too
    end_s = time.monotonic() + 10
    while any(Path(f'/proc/{pid}').exists() for pid in nodes) and time.monotonic() < end_s:
        time.sleep(0.05)
    assert not any(Path(f'/proc/{pid}').exists() for pid in nodes)
