"""Answers the clicks of a recording again, through the node's buffers, views and data path.

Only the time is the bag's: where the node would wait, the recording is played on.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.serialization import deserialize_message
from rosgraph_msgs.msg import Clock

from crosspoint_ros.core.datatypes import Rejected
from crosspoint_ros.core.tf_tree import TfTree, stamp_to_ns
from crosspoint_ros.msg import Correspondence, QueryResult, Status
from crosspoint_ros.ros.client.node_info import (
    SIM_TIME,
    open_isolated_node,
    read_params_files,
    resolve_topic,
)
from crosspoint_ros.ros.config import Config, Parameters
from crosspoint_ros.ros.node.camera import get_buffer_limits, load_mask, resolve_topics
from crosspoint_ros.ros.node.image_buffer import ImageBuffer
from crosspoint_ros.ros.node.matcher_runtime import Matchers
from crosspoint_ros.ros.node.query_messages import build_query_result, list_click_topics
from crosspoint_ros.ros.node.query_queue import QueryRequest, QueryTask
from crosspoint_ros.ros.node.views import ViewCollector, locate_query
from crosspoint_ros.ros.tf import TransformLookup
from crosspoint_ros.ros.tools.play_bag import find_message_type

MAX_CLAMP_PX = 1.5  # a mouse click one pixel past the border is moved onto the image
MAX_CLICK_GAP_NS = 500_000_000  # between a 3D click and the query that it became
# Ended from outside: such a result does not depend on the images.
INTERRUPTED = (Status.BUSY, Status.CANCELLED, Status.TIMEOUT)


# --- the node ------------------------------------------------------------------------------------

@dataclass(frozen=True)
class RecordedNode:
    """What is needed of the node to answer for it."""

    name: str  # full name
    config: Config
    use_sim_time: bool

    @classmethod
    def read(cls, name: str, params_files: Sequence[Path], assignments: Sequence[str]
             ) -> RecordedNode:
        """Read the node's parameters from files, then from NAME=VALUE pairs, as rcl does.

        Raises OSError, or ValueError (`ConfigError`) naming the file, pair or parameter.
        """
        values = read_params_files(params_files, name, assignments)
        with open_isolated_node(name, parameters=tuple(values.values())) as node:
            return cls(name, Parameters(node).read(), bool(node.get_parameter(SIM_TIME).value))

    def resolve_topic_name(self, topic: str) -> str:
        """Return the full name of a topic."""
        return resolve_topic(topic, self.name)


# --- the recording --------------------------------------------------------------------------------

@dataclass(frozen=True, eq=False)
class RecordedClick:
    """A query, the bag's time at which it began, and the recorded result if there is one."""

    at_ns: int
    request: QueryRequest
    recorded_result: QueryResult | None = None


def read_clicks(bag: Any, node: RecordedNode) -> tuple[list[RecordedClick], list[str]]:
    """Return all clicks in order, from topics and from results, and why others are skipped."""
    result_topic = f'{node.name}/result'
    topics = {t.name: t for t in list_click_topics(node.config.cameras, node.resolve_topic_name)}
    on_topics: list[RecordedClick] = []
    results: list[tuple[int, QueryResult]] = []
    for topic, at_ns, message in _iter_messages(bag, {*topics, result_topic}):
        if topic == result_topic:
            results.append((at_ns - round(sum(message.stage_s) * 1e9), message))
        else:
            on_topics.append(RecordedClick(at_ns, topics[topic].to_request(message)))
    clicks, skipped = [], []
    for click in on_topics:
        index = _find_result(click, results, node.config.times.max_query_s)
        clicks.append(click if index is None else RecordedClick(
            click.at_ns, click.request, results.pop(index)[1]))
    for at_ns, result in results:
        why = _explain_unrepeatable(result)
        if why:
            skipped.append(f'query {result.query_id}: {why}')
        else:
            clicks.append(RecordedClick(at_ns, _request_from_result(result), result))
    return sorted(clicks, key=lambda click: click.at_ns), skipped


def _find_result(click: RecordedClick, results: list[tuple[int, QueryResult]], max_query_s: float
                 ) -> int | None:
    """Return the index of the first result that began after the click, at the same pixel."""
    request = click.request
    for index, (at_ns, result) in enumerate(results):
        if is_correction(result) or not (
                -MAX_CLICK_GAP_NS <= at_ns - click.at_ns <= round(max_query_s * 1e9)):
            continue
        if request.pixel is None:
            if abs(at_ns - click.at_ns) <= MAX_CLICK_GAP_NS:
                return index
        elif result.clicked.camera == request.camera and \
                np.abs(request.pixel - (result.clicked.x, result.clicked.y)).max() <= MAX_CLAMP_PX:
            return index
    return None


def is_correction(result: QueryResult) -> bool:
    """Whether a person placed the point, so that no images were awaited."""
    return list(result.stages[:1]) == ['verify']


def is_interrupted(result: QueryResult) -> bool:
    """Whether the query was ended from outside."""
    return int(result.status.code) in INTERRUPTED


def index_by_camera(result: QueryResult) -> dict[str, Correspondence]:
    """Return the answers in the other views by camera."""
    return {c.found.camera: c for c in result.correspondences}


def _explain_unrepeatable(result: QueryResult) -> str:
    if is_correction(result):
        return 'a correction by a person, not a click'
    if not (np.isfinite(result.clicked.x) and np.isfinite(result.clicked.y)
            and result.clicked.camera):
        return f'it has no pixel ({result.status.message or "an instruction that was refused"})'
    return ''


def _request_from_result(result: QueryResult) -> QueryRequest:
    others = tuple(c.found.camera for c in result.correspondences)
    return QueryRequest(camera=result.clicked.camera,
                        stamp_ns=stamp_to_ns(result.clicked.header.stamp),
                        pixel=np.array([result.clicked.x, result.clicked.y]), other_cameras=others)


def _iter_messages(bag: Any, topics: set[str]) -> Iterator[tuple[str, int, Any]]:
    """Yield topic, time and ROS message; types that are not installed are left out."""
    types = {c.msgtype: find_message_type(c.msgtype) for c in bag.connections if c.topic in topics}
    for connection, at_ns, raw in bag.messages(topics):
        if kind := types[connection.msgtype]:
            yield connection.topic, at_ns, deserialize_message(bytes(raw), kind)


# --- replay ---------------------------------------------------------------------------------------

class BagClock:
    """The time of a recording; advancing it delivers the messages of that time."""

    def __init__(self, bag: Any, callbacks: dict[str, Callable[[Any], object]],
                 use_sim_time: bool) -> None:
        """callbacks: by topic. use_sim_time: the node's clock is /clock."""
        self._callbacks, self._clock_ns = callbacks, 0
        if use_sim_time:
            self._callbacks = {**callbacks, '/clock': self._on_clock}
        self._use_sim_time = use_sim_time
        self._messages = _iter_messages(bag, set(self._callbacks))
        self._next = next(self._messages, None)
        self.at_ns = int(bag.start_time)

    def _on_clock(self, message: Clock) -> None:
        self._clock_ns = stamp_to_ns(message.clock)

    def now_ns(self) -> int:
        """Return the node's time."""
        return self._clock_ns if self._use_sim_time else self.at_ns

    def now_s(self) -> float:
        """Return the time by which the node waits."""
        return self.at_ns * 1e-9

    def sleep(self, seconds: float) -> None:
        """Play on for that long."""
        self.play_until(self.at_ns + max(round(seconds * 1e9), 1))

    def play_until(self, at_ns: int) -> None:
        """Deliver everything up to that time."""
        while self._next is not None and self._next[1] <= at_ns:
            self._deliver_next()
        self.at_ns = max(self.at_ns, at_ns)

    def wait_until(self, predicate: Callable[[], bool], timeout_s: float) -> bool:
        """Play on until the predicate holds, for that long at most; return whether it holds."""
        end_ns = self.at_ns + round(max(timeout_s, 0) * 1e9)
        while not predicate():
            if self._next is None or self._next[1] > end_ns:
                self.at_ns = max(self.at_ns, end_ns)
                return False
            self._deliver_next()
        return True

    def _deliver_next(self) -> None:
        assert self._next is not None
        topic, at_ns, message = self._next
        self.at_ns = max(self.at_ns, at_ns)
        self._callbacks[topic](message)
        self._next = next(self._messages, None)


class ReplayImageBuffer(ImageBuffer):
    """An image buffer that waits by playing the recording on."""

    clock: BagClock

    def wait_for(self, predicate: Callable[[], bool], timeout_s: float,
                 should_stop: Callable[[], bool] = lambda: False) -> bool:
        """See `ImageBuffer`."""
        return self.clock.wait_until(predicate, timeout_s)


@dataclass(frozen=True, eq=False)
class ReplayCamera:
    """A camera of the recording."""

    buffer: ReplayImageBuffer


class BagReplayer:
    """Answers the clicks of a recording, each once, in order."""

    def __init__(self, bag: Any, node: RecordedNode, matchers: Matchers) -> None:
        """Raise ConfigError if a mask cannot be read."""
        self._config, self._matchers = node.config, matchers
        config = node.config
        tree = TfTree(max_gap_m=config.limits.max_target_sigma_m)
        self._cameras: dict[str, ReplayCamera] = {}
        callbacks: dict[str, Callable[[Any], object]] = {
            '/tf': tree.add, '/tf_static': partial(tree.add, static=True)}
        for camera in config.cameras:
            topics = resolve_topics(camera, node.resolve_topic_name)
            buffer = ReplayImageBuffer(
                topics, get_buffer_limits(config), lambda: self._clock.now_ns(),
                load_mask(camera), lambda target, source, at_ns: self._transforms.lookup(
                    target, source, at_ns, config.times.wait_tf_s))
            self._cameras[camera.name] = ReplayCamera(buffer)
            callbacks |= {topics.image_topic: buffer.add_image, topics.info_topic: buffer.add_info}
            if topics.depth_topic:
                callbacks[topics.depth_topic] = buffer.add_depth
            if topics.depth_info_topic:
                callbacks[topics.depth_info_topic] = buffer.add_depth_info
        self._clock = BagClock(bag, callbacks, node.use_sim_time)
        for replay_camera in self._cameras.values():
            replay_camera.buffer.clock = self._clock
        self._transforms = TransformLookup(tree, self._clock.now_s, self._clock.sleep)
        self._views = ViewCollector(self._cameras, self._transforms, config, self._clock.now_s)

    def replay(self, click: RecordedClick) -> QueryResult:
        """Play up to the click and return today's answer."""
        self._clock.play_until(click.at_ns)
        if self._config.history_s == 0:  # such a node subscribes when it is asked
            for camera in self._cameras.values():
                camera.buffer.clear()
        task = QueryTask(click.request, lambda task: None)
        try:
            task.finish(locate_query(task, self._views, self._matchers, self._config.limits))
        except Rejected as rejected:
            task.finish(rejected)
        return build_query_result(task, self._config.base_frame, self._config.limits)
