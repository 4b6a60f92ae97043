"""The clicked thing in the node: `~/<camera>/mask`, `~/target_cloud`, `~/target_shape` and the box.

Computed while one of them has a subscriber, for the newest target that is sent, in another thread.
"""
from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import Image, PointCloud2

from crosspoint_ros.core.grasp.segment import Thing, Unclear
from crosspoint_ros.core.grasp.target_thing import TargetThing, measure_thing
from crosspoint_ros.core.pipeline import LocateResult
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.msg import HistoryEntry, TargetShape
from crosspoint_ros.ros.config import Config
from crosspoint_ros.ros.conversions import transform_from_pose
from crosspoint_ros.ros.grasp.messages import (
    build_box_array,
    build_cloud,
    build_mask,
    build_shape,
    load_box_type,
)
from crosspoint_ros.ros.node.outputs import LATCHED_QOS
from crosspoint_ros.ros.node.query_messages import make_header
from crosspoint_ros.ros.target.history import MAX_LOCATE_RESULTS
from crosspoint_ros.ros.target.targets import ActiveTarget, Targets

log = logging.getLogger(__name__)
THREAD = 'crosspoint_shape'


class ShapeServer:
    """Publishes the clicked thing; all but the thread's own work runs in the executor."""

    def __init__(self, node: Node, config: Config, targets: Targets,
                 find_located: Callable[[str], LocateResult | None],
                 get_limits: Callable[[], Limits],
                 call_in_executor: Callable[[Callable[[], None]], None]) -> None:
        """find_located: an answer with its images, by query; None if they are no longer kept."""
        self._node, self._targets, self._find_located = node, targets, find_located
        self._get_limits, self._call_in_executor = get_limits, call_in_executor
        box_type = load_box_type()
        self._types = {'~/target_shape': TargetShape, '~/target_cloud': PointCloud2,
                       **({'~/target_box': box_type} if box_type is not None else {}),
                       **{_name_mask(camera.name): Image for camera in config.cameras}}
        self._latched = {name: self._create(name) for name in self._types}
        self._put: Any = None  # the GraspTarget of which the thing is published, or computed
        self._is_published = False
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
        self._thread.start()
        targets.listeners.append(self._on_target)

    def close(self) -> None:
        """End the thread when its work is done, and take everything off the graph."""
        self._jobs.put(None)
        for publisher in self._latched.values():
            self._node.destroy_publisher(publisher)

    def tick(self) -> None:
        """Begin for a subscriber that came after the answer."""
        self._on_target(self._targets[''])

    def _create(self, name: str) -> Publisher:
        return self._node.create_publisher(self._types[name], name, LATCHED_QOS)

    def _on_target(self, changed: ActiveTarget) -> None:
        newest = self._targets.find_newest_sent()
        step = None if newest is None else newest.step
        put = step.result.target if step is not None and step.result is not None else None
        if step is not None and step.decision == HistoryEntry.MOVED:
            put = None  # the images show the thing that was clicked, not what it was moved to
        if put is self._put:
            return
        if self._is_published:
            self._withdraw()
        self._put = None
        if put is None or step is None or not self._has_subscriber():
            return
        located = self._find_located(step.query_id)
        self._put = put
        if located is not None:
            self._jobs.put(partial(self._measure, put, located, self._get_limits()))
            return
        self._publish(put, _explain_unknown('the images of the answer are no longer kept (those of '
                                            f'the last {MAX_LOCATE_RESULTS} are)'))

    def _has_subscriber(self) -> bool:
        return any(publisher.get_subscription_count() for publisher in self._latched.values())

    def _withdraw(self) -> None:
        """A latched message ends with its publisher alone: no later subscriber gets it."""
        self._is_published = False
        for name, publisher in self._latched.items():
            self._node.destroy_publisher(publisher)
            self._latched[name] = self._create(name)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _measure(self, put: Any, located: LocateResult, limits: Limits) -> None:
        if put is not self._put:  # a newer one waits
            return
        try:
            found = measure_thing(located, transform_from_pose(put.pose.pose).R, limits)
        except Exception as error:  # the target is none the worse
            log.exception('the clicked thing was not measured')
            found = _explain_unknown(f'it was not measured ({error!r:.200}): see the log')
        self._call_in_executor(lambda: self._publish(put, found))

    def _publish(self, target: Any, found: TargetThing) -> None:
        """Publish what was found, if it is of the target that is still the active one."""
        header, confidence, thing = target.header, float(target.confidence), found.thing
        if target is not self._put:
            return
        self._is_published = True
        for view in found.views:
            mask, name = thing.masks.get(view.camera), _name_mask(view.camera)
            if name in self._latched:
                self._latched[name].publish(build_mask(
                    make_header(view.stamp_ns, view.frame_id),
                    view.image[..., 0] < 0 if mask is None else mask))
        self._latched['~/target_cloud'].publish(build_cloud(header, thing))
        if '~/target_box' in self._latched:
            self._latched['~/target_box'].publish(build_box_array(
                header, found.box, confidence))
        self._latched['~/target_shape'].publish(build_shape(
            target, thing, found.box, found.closing))


def _name_mask(camera: str) -> str:
    return f'~/{camera}/mask'


def _explain_unknown(message: str) -> TargetThing:
    return TargetThing((), Thing.build_unclear(Unclear.NO_DEPTH, message), None, None)
