"""`crosspoint calibrate --live` gets the messages of the graph."""
from __future__ import annotations

import threading

import pytest
from two_camera_rig import run_rig

from crosspoint_ros.ros.tools.live_messages import open_live


def test_images_infos_and_tf_arrive(monkeypatch):
    with run_rig() as rig:
        rig.discover()
        monkeypatch.setenv('ROS_DOMAIN_ID', str(rig.domain))
        types, iterate = open_live('front', 3.0)
        assert types['/front/color/camera_info'] == 'sensor_msgs/msg/CameraInfo'
        topics = {'/front/color/image_raw', '/front/color/camera_info', '/tf', '/tf_static'}
        seen: set[str] = set()
        listener = threading.Thread(target=lambda: seen.update(
            topic for topic, _ in iterate(topics)))
        listener.start()
        while listener.is_alive() and not topics - {'/tf_static'} <= seen:
            rig.send_frames()
            listener.join(0.2)
        listener.join()
        assert topics - {'/tf', '/tf_static'} <= seen


def test_a_camera_that_is_not_there_is_an_error_with_the_topics_there_are(monkeypatch):
    monkeypatch.setattr('crosspoint_ros.ros.tools.live_messages.DISCOVERY_S', 0.3)
    with pytest.raises(ValueError, match='there are no images on /nowhere/'):
        open_live('nowhere', 3.0)


@pytest.mark.parametrize('seconds', [0.0, -1.0, 4000.0])
def test_the_seconds_have_limits(seconds):
    with pytest.raises(ValueError, match='--live takes'):
        open_live('front', seconds)
