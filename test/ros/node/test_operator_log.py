"""The log tells an operator of each answer, and of a camera that dies and returns."""
from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
from crosspoint_ros.msg import Correspondence, ImagePoint, QueryResult, Status
from two_camera_rig import run_rig

from crosspoint_ros.ros.node.matcher_runtime import PACKAGE, LogForwarder
from crosspoint_ros.ros.node.operator_log import AnswerLog, CameraWatch, format_answer_line
from crosspoint_ros.ros.node.query_queue import QueryRequest


class Lines:
    """A logger that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def info(self, text: str) -> None:
        self.lines.append(('INFO', text))

    def warning(self, text: str) -> None:
        self.lines.append(('WARN', text))


def make_result(accepted: bool) -> QueryResult:
    view = Correspondence(verdict=Correspondence.SURE if accepted else Correspondence.REFUSED,
                          found=ImagePoint(camera='side'))
    result = QueryResult(query_id='0123456789', clicked=ImagePoint(camera='front', x=3.0, y=4.0),
                         correspondences=[view], status=Status(code=Status.OK))
    if not accepted:
        result.status = Status(code=Status.NOT_VISIBLE, message='hidden')
    else:
        result.has_target = True
        result.target.header.frame_id = 'base'
        result.target.pose.pose.position.x = 0.5
    return result


def test_an_answer_is_one_line_with_camera_pixel_verdict_target_time_and_query():
    line = format_answer_line(make_result(True), 0.123)
    assert line == ('front (3.0, 4.0): side sure; target (0.500, 0.000, 0.000) m in base '
                    '(123 ms, query 01234567)')


def test_a_refusal_is_one_warning_with_its_code_and_reason():
    log = Lines()
    AnswerLog(log).log(make_result(False), 0.0)
    assert log.lines == [('WARN', 'front (3.0, 4.0): refused, NOT_VISIBLE; side refused: hidden '
                          '(0 ms, query 01234567)')]


def test_of_a_flood_a_few_lines_are_logged_and_the_rest_are_counted():
    log = Lines()
    answers = AnswerLog(log)
    for _ in range(1000):
        answers.log(make_result(False), 0.0)
    assert len(log.lines) <= 25
    answers._updated_s -= 10.0
    answers.log(make_result(True), 0.0)
    assert '(9' in log.lines[-1][1]
    assert 'are not logged' in log.lines[-1][1]


def make_camera(silent_s: float, age_s: float, newest: int | None = 1, subscribed: bool = True):
    return SimpleNamespace(
        config=SimpleNamespace(name='front'), topics=SimpleNamespace(image_topic='/front'),
        silent_s=silent_s, age_s=age_s, is_subscribed=subscribed,
        buffer=SimpleNamespace(get_newest_stamp_ns=lambda: newest))


@pytest.mark.parametrize(('camera', 'levels'), [
    (make_camera(0.1, 0.1), []),
    (make_camera(3.0, 3.0), ['WARN']),
    (make_camera(30.0, 0.1), []),  # a simulation is paused
    (make_camera(0.1, 30.0), []),  # the clock of the camera is wrong: not silent
    (make_camera(3.0, float('nan'), newest=None), []),  # a driver that starts
    (make_camera(9.0, float('nan'), newest=None), ['WARN']),
    (make_camera(9.0, 9.0, subscribed=False), [])])
def test_a_camera_is_logged_when_its_images_end(camera, levels):
    log = Lines()
    watch = CameraWatch(log, 1.0)
    for _ in range(3):
        watch.update(camera)
    assert [level for level, _ in log.lines] == levels


def test_a_camera_near_the_limit_does_not_fill_the_log():
    log = Lines()
    watch = CameraWatch(log, 1.0)
    for _ in range(50):
        watch.update(make_camera(1.1, 1.1))
        watch.update(make_camera(0.0, 0.0))
    assert [level for level, _ in log.lines] == ['WARN', 'INFO']


def test_activation_an_answer_a_refusal_and_a_camera_that_dies_and_returns_are_in_the_log(capfd):
    with run_rig() as rig:
        rig.discover()
        rig.send_frames()
        for earlier, camera in enumerate(('front', 'nowhere')):
            rig.run_in_executor(lambda camera=camera: rig.node._server.submit(
                QueryRequest(camera=camera, pixel=np.array([159.5, 119.5]))))
            rig.wait_for_result(earlier)  # another query would preempt it
        log: list[str] = []

        def is_logged(words: str) -> bool:
            log.extend(capfd.readouterr().err.splitlines())
            return any(words in line for line in log)

        rig.until(lambda: is_logged('camera front: no image on'))
        rig.send_frames()
        rig.until(lambda: is_logged('camera front: images again') or not rig.cameras.send_all())
    for words in ('[INFO] ', 'active: takes clicks on front, side', 'front (159.5, 119.5): side',
                  'nowhere (159.5, 119.5): refused, BAD_REQUEST'):
        assert is_logged(words), words


def test_the_package_s_log_level_is_as_before_when_the_forwarder_is_closed():
    source = logging.getLogger(PACKAGE)
    before = source.level
    source.setLevel(logging.WARNING)
    try:
        forwarder = LogForwarder(SimpleNamespace())
        assert source.isEnabledFor(logging.INFO)
        forwarder.close()
        assert source.level == logging.WARNING
    finally:
        source.setLevel(before)
