"""A node with `record_dir` keeps what it answered and what people made of it; a bad disk costs
it nothing but the recording."""
from __future__ import annotations

import numpy as np
import pytest
from crosspoint_ros.srv import Accept, Correct
from geometry_msgs.msg import PointStamped
from std_srvs.srv import Trigger
from two_camera_rig import project_point, run_rig

from crosspoint_ros.data.answer_log import read_answers
from crosspoint_ros.ros.conversions import time_from_ns

POINT = (0.02, 0.03, 0.0)


def click(rig, point=POINT):
    """Click once, and return the result."""
    stamp_ns, before = rig.send_frames(), len(rig.results)
    publisher = rig.cameras.create_publisher(PointStamped, '/crosspoint/front/click', 10)
    rig.until(publisher.get_subscription_count, what='the click topic')
    message = PointStamped()
    message.header.stamp = time_from_ns(stamp_ns)
    message.point.x, message.point.y = project_point('front', point)
    publisher.publish(message)
    result = rig.wait_for_result(before)
    rig.cameras.destroy_publisher(publisher)
    return result


def call(rig, kind, name, request):
    client = rig.cameras.create_client(kind, name)
    rig.until(client.service_is_ready, what=name)
    future = client.call_async(request)
    rig.until(future.done, what=f'the answer of {name}')
    rig.cameras.destroy_client(client)
    return future.result()


def stands(folder):
    if not (folder / 'answers.jsonl').exists():
        return []
    return [(a.id, a.decision) for a in read_answers(folder)]


def test_answers_and_what_people_made_of_them_are_kept(tmp_path):
    folder = tmp_path / 'answers'
    with run_rig(record_dir=str(folder)) as rig:
        rig.discover()
        first = click(rig)
        rig.until(lambda: stands(folder) == [(first.query_id, 'unreviewed')], what='the answer')
        assert call(rig, Accept, '/crosspoint/accept',
                    Accept.Request(query_id=first.query_id)).success
        rig.until(lambda: stands(folder) == [(first.query_id, 'accepted')], what='the acceptance')
        found = first.correspondences[0].found
        fixed = call(rig, Correct, '/crosspoint/correct', Correct.Request(
            query_id=first.query_id, camera='side', x=found.x + 2, y=found.y)).result
        rig.until(lambda: stands(folder) == [(fixed.query_id, 'corrected')], what='the correction')
        (answer,) = read_answers(folder)
        assert answer.corrects == first.query_id
        np.testing.assert_allclose(answer.matches[0].pixel, (found.x + 2, found.y))
        np.testing.assert_allclose(answer.matches[0].model_pixel, (found.x, found.y))
        np.testing.assert_allclose(answer.pixel, project_point('front', POINT))
        assert answer.base_from_target is not None
        assert answer.clicked.read().base_from_cam is not None
        assert call(rig, Trigger, '/crosspoint/undo', Trigger.Request()).success
        rig.until(lambda: stands(folder) == [(first.query_id, 'accepted')], what='the undo')
    assert stands(folder) == [(first.query_id, 'accepted')]


@pytest.mark.parametrize('name', ['/proc/answers', '/dev/null/answers'])
def test_a_folder_that_cannot_be_written_costs_nothing_but_the_recording(name, capfd):
    with run_rig(record_dir=name) as rig:
        rig.discover()
        assert all(click(rig).has_target for _ in range(2))
    said = [line for line in capfd.readouterr().err.splitlines() if 'record_dir' in line]
    assert len(said) == 1
    assert name in said[0]


def test_without_record_dir_nothing_is_written_and_no_thread_waits():
    with run_rig() as rig:
        rig.discover()
        assert click(rig).has_target
        assert rig.node._server.review._step_logger is None
