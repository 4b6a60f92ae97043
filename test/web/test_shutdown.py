"""An exception in a background task or the ROS thread ends the server."""
from __future__ import annotations

import asyncio

import pytest
from rclpy.exceptions import InvalidTopicNameException
from sensor_msgs.msg import Image

from crosspoint_ros.web.cli import serve
from crosspoint_ros.web.hub import Hub
from crosspoint_ros.web.ros_bridge import RosBridge


def test_an_exception_in_the_ros_thread_is_reported():
    async def go():
        bridge = RosBridge('/crosspoint', asyncio.get_running_loop(), [])
        bridge.start()
        try:
            bridge.run_in_ros(lambda: bridge.node.create_subscription(Image, 'no topic', print, 1))
            with pytest.raises(InvalidTopicNameException):
                await asyncio.wait_for(bridge.failed, 20)
        finally:
            bridge.close()
    asyncio.run(go())


def test_an_exception_in_a_background_task_ends_the_server(monkeypatch):
    async def run(hub):
        raise ZeroDivisionError

    monkeypatch.setattr(Hub, 'run', run)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(asyncio.wait_for(serve('/crosspoint', '127.0.0.1', 0, ''), 30))
