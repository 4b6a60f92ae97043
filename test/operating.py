"""A person at the node of a rig: every service, the history, the target on TF, the log."""
from __future__ import annotations

from typing import Any

import numpy as np
from crosspoint_ros.msg import History, QueryResult
from crosspoint_ros.srv import Accept, Correct
from geometry_msgs.msg import PoseStamped
from rcl_interfaces.msg import Log
from rclpy.client import Client
from rclpy.qos import QoSProfile
from rclpy.task import Future
from rig import LATCHED, Rig, pixel_of
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from crosspoint_ros.core.datatypes import Transform
from crosspoint_ros.ros.convert import transform_from_msg, transform_from_pose
from crosspoint_ros.ros.queries import Job, Request

POINT_BASE_M = (0.05, 0.02, 0.0)
SERVICES = {'accept': Accept, 'correct': Correct, 'undo': Trigger, 'redo': Trigger,
            'clear': Trigger}


class Operator:
    """Sees what the node publishes, and calls what it offers."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.histories: list[History] = []
        self.on_tf: list[Transform] = []
        self.said: list[str] = []
        deep = QoSProfile(depth=200, durability=LATCHED.durability)
        node = rig.cameras
        node.create_subscription(History, '/crosspoint/history', self.histories.append, deep)
        node.create_subscription(TFMessage, '/tf', self._on_tf, QoSProfile(depth=100))
        node.create_subscription(Log, '/rosout', lambda log: self.said.append(log.msg),
                                 QoSProfile(depth=100))
        self._clients: dict[str, Client] = {
            name: node.create_client(kind, f'/crosspoint/{name}')
            for name, kind in SERVICES.items()}
        rig.until(lambda: all(c.service_is_ready() for c in self._clients.values()))
        rig.until(lambda: self.histories, what='the first history')

    def _on_tf(self, message: TFMessage) -> None:
        self.on_tf += [transform_from_msg(t.transform) for t in message.transforms
                       if t.child_frame_id == 'crosspoint_target']

    def begin(self, name: str, **fields: Any) -> Future:
        """Call a service without waiting."""
        return self._clients[name].call_async(SERVICES[name].Request(**fields))

    def call(self, name: str, **fields: Any) -> Any:
        """Call a service."""
        future = self.begin(name, **fields)
        self.rig.until(future.done, what=f'a reply of {name}')
        return future.result()

    def ask(self, point_base_m: tuple[float, float, float] = POINT_BASE_M, **fields: Any) -> Job:
        """Click on a point of the plane, in `front`, without waiting."""
        request = Request(camera='front', pixel=pixel_of('front', point_base_m), **fields)
        return self.rig.on_executor(lambda: self.rig.node._server.ask(request))

    def result_of(self, job: Job) -> QueryResult:
        """Wait for the one result of a query."""
        return self.rig.until(lambda: next((r for r in self.rig.results
                                            if r.query_id == job.query_id), None))

    def click(self, point_base_m: tuple[float, float, float] = POINT_BASE_M) -> QueryResult:
        """Click on a point of the plane, in `front`, and wait until its step is there."""
        self.rig.show()
        result = self.result_of(self.ask(point_base_m))
        if result.has_target:
            self.history(current=result.query_id)
        return result

    def history(self, current: str | None = None) -> History:
        """Wait until the newest history says that the target of this query stands ('': none)."""
        if current is None:
            return self.histories[-1]

        def says_so() -> bool:
            named = {e.number: e.result.query_id for e in self.histories[-1].entries}
            return named.get(self.histories[-1].current, '') == current

        self.rig.until(says_so, what=f'history with the target of {current!r}')
        return self.histories[-1]

    def target_at(self, point_base_m: tuple[float, float, float], within_m: float = 3e-3) -> None:
        """Wait until the newest transform of the target is there, and stays for two more.

        A click of the rig is answered within a pixel's depth, some 2 mm.
        """
        def near() -> bool:
            return bool(self.on_tf) and float(
                np.linalg.norm(self.on_tf[-1].t_m - point_base_m)) < within_m

        self.rig.until(near, what=f'a target at {point_base_m}')
        before = len(self.on_tf)
        self.rig.until(lambda: len(self.on_tf) >= before + 2, what='two more transforms')
        assert near(), f'{self.on_tf[-1].t_m}, not {point_base_m}'

    def no_target(self) -> None:
        """Wait until nobody broadcasts the target any more."""
        def silent() -> bool:
            before, ticks = len(self.on_tf), self.rig.ticks
            self.rig.until(lambda: self.rig.ticks > ticks + 3)
            return len(self.on_tf) == before

        self.rig.until(silent, what='no target on TF')

    def newest_pose(self) -> PoseStamped:
        """What `~/grasp_target` said last."""
        return self.rig.targets[-1]


def at(message: PoseStamped) -> tuple[float, ...]:
    """Where a pose is."""
    return tuple(transform_from_pose(message.pose).t_m)
