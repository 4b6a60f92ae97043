"""A bug behind the page ends the server: half of it must not pass for the whole."""
from __future__ import annotations

import asyncio

import pytest
from rclpy.exceptions import InvalidTopicNameException
from sensor_msgs.msg import Image

from crosspoint_ros.web.cli import serve
from crosspoint_ros.web.hub import Hub
from crosspoint_ros.web.ros_bridge import RosBridge


def test_a_thread_of_ros_that_ends_by_a_bug_is_told():
    async def go():
        link = RosBridge('/crosspoint', asyncio.get_running_loop(), [])
        link.start()
        try:
            link.run_in_ros(lambda: link.node.create_subscription(Image, 'no topic', print, 1))
            with pytest.raises(InvalidTopicNameException):
                await asyncio.wait_for(link.failed, 20)
        finally:
            link.close()
    asyncio.run(go())


def test_a_server_ends_by_a_bug_behind_its_page(monkeypatch):
    async def tick(hub):
        raise ZeroDivisionError

    monkeypatch.setattr(Hub, 'tick', tick)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(asyncio.wait_for(serve('/crosspoint', '127.0.0.1', 0, ''), 30))
