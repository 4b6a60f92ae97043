"""A ROS node that looks on: it subscribes and asks, and cannot publish."""
from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter

NAME = 'crosspoint_doctor'


class Onlooker(Node):
    """Has no publisher, no service and no action server; its parameters are its own affair."""

    def __init__(self, context: Context, parameters: Sequence[Parameter] = ()) -> None:
        """`parameters`: values for the node to declare, `use_sim_time` among them."""
        # Where rclpy offers a service with its types, this switches it off.
        quiet = [Parameter('start_type_description_service', value=False)] * bool(
            importlib.util.find_spec('rclpy.type_description_service'))
        super().__init__(NAME, context=context, use_global_arguments=False, enable_rosout=False,
                         start_parameter_services=False,
                         parameter_overrides=[*parameters, *quiet])

    def create_publisher(self, *args: Any, **options: Any) -> Any:
        """Return what looks like a publisher to rclpy, which wants one for /parameter_events."""
        return Silence()


class Silence:
    """Takes messages, and tells nobody."""

    def publish(self, message: object) -> None:
        """Drop it."""
