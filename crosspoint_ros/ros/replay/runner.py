"""Goes through a recording again: its clicks, answered from what had come by then.

The same memory of images, views, transforms and data path as in the node; only the time is the
bag's. Where the node would wait, the recording is played on.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rclpy.serialization import deserialize_message
from rosgraph_msgs.msg import Clock

from crosspoint_ros.core.datatypes import Rejected
from crosspoint_ros.msg import Correspondence, QueryResult, Status
from crosspoint_ros.ros.config import Config
from crosspoint_ros.ros.conversions import stamp_to_ns
from crosspoint_ros.ros.node.camera import get_buffer_limits, read_mask, resolve_topics
from crosspoint_ros.ros.node.click_inputs import click_topics
from crosspoint_ros.ros.node.image_buffer import ImageBuffer
from crosspoint_ros.ros.node.matcher_runtime import Matchers
from crosspoint_ros.ros.node.query_queue import QueryRequest, QueryTask
from crosspoint_ros.ros.node.result_messages import build_query_result
from crosspoint_ros.ros.node.views import ViewCollector, locate_query
from crosspoint_ros.ros.replay.offline_node import OfflineNode
from crosspoint_ros.ros.tf import TfTree, TransformLookup
from crosspoint_ros.ros.tools.play_bag import find_message_type

MAX_CLAMP_PX = 1.5  # a mouse click one pixel past the border is moved onto the image
MAX_CLICK_GAP_NS = 500_000_000  # a 3D click and the query that it became
# Ended from outside: they say nothing of what the images show.
INTERRUPTED = (Status.BUSY, Status.CANCELLED, Status.TIMEOUT)


@dataclass(frozen=True, eq=False)
class RecordedClick:
    """Something that was asked, when (in the bag's time), and what was answered then, if known."""

    at_ns: int
    request: QueryRequest
    recorded_result: QueryResult | None = None


@dataclass(frozen=True, eq=False)
class RecordedClicks:
    """All that was asked in a recording, in its order; skipped: what cannot be asked again."""

    clicks: list[RecordedClick]
    skipped: list[str] = field(default_factory=list)


class BagClock:
    """The recording as it comes: a clock, and whatever is to be told of messages."""

    def __init__(self, bag: Any, callbacks: dict[str, Callable[[Any], None]], use_sim_time: bool) -> None:
        """callbacks: by topic. use_sim_time: the node's time is that of /clock."""
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
        """The node's clock."""
        return self._clock_ns if self._use_sim_time else self.at_ns

    def now_s(self) -> float:
        """The clock by which the node waits."""
        return self.at_ns * 1e-9

    def sleep(self, seconds: float) -> None:
        """Play on for that long."""
        self.play_until(self.at_ns + max(round(seconds * 1e9), 1))

    def play_until(self, at_ns: int) -> None:
        """Play all that came until then."""
        while self._next is not None and self._next[1] <= at_ns:
            self._play_one()
        self.at_ns = max(self.at_ns, at_ns)

    def wait_until(self, predicate: Callable[[], bool], timeout_s: float) -> bool:
        """Play on until it holds, for that long at most."""
        end_ns = self.at_ns + round(max(timeout_s, 0) * 1e9)
        while not predicate():
            if self._next is None or self._next[1] > end_ns:
                self.at_ns = max(self.at_ns, end_ns)
                return False
            self._play_one()
        return True

    def _play_one(self) -> None:
        assert self._next is not None
        topic, at_ns, message = self._next
        self.at_ns = max(self.at_ns, at_ns)
        self._callbacks[topic](message)
        self._next = next(self._messages, None)


class ReplayImageBuffer(ImageBuffer):
    """A camera's memory that waits by playing the recording on."""

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
    """Answers the clicks of a recording, each once, in their order."""

    def __init__(self, bag: Any, node: OfflineNode, config: Config, matchers: Matchers) -> None:
        """Raise ConfigError if a mask cannot be read."""
        self._config, self._matchers = config, matchers
        self._tree = TfTree(node.get_logger().error)
        self._cameras: dict[str, ReplayCamera] = {}
        callbacks: dict[str, Callable[[Any], None]] = {
            '/tf': self._tree.add, '/tf_static': self._tree.add_static}
        for camera in config.cameras:
            source = resolve_topics(camera, node.resolve_topic_name)
            buffer = ReplayImageBuffer(source, get_buffer_limits(config), lambda: self._clock.now_ns(),
                                    read_mask(camera))
            self._cameras[camera.name] = ReplayCamera(buffer)
            callbacks |= {source.image_topic: buffer.add_image, source.info_topic: buffer.add_info}
            if source.depth_topic:
                callbacks[source.depth_topic] = buffer.add_depth
        self._clock = BagClock(bag, callbacks, node.use_sim_time)
        for replayed in self._cameras.values():
            replayed.buffer.clock = self._clock
        transforms = TransformLookup(self._tree, self._clock.now_s, self._clock.sleep)
        self._views = ViewCollector(self._cameras, transforms, config, self._clock.now_s)

    def replay(self, click: RecordedClick) -> QueryResult:
        """Play until the click, and return what is answered now."""
        self._clock.play_until(click.at_ns)
        if self._config.history_s == 0:  # the node subscribes when it is asked
            for camera in self._cameras.values():
                camera.buffer.clear()
        job = QueryTask(click.request, lambda stage: None, lambda job: None)
        try:
            job.finish(locate_query(job, self._views, self._matchers, self._config.limits))
        except Rejected as why:
            job.finish(why)
        return build_query_result(job, self._config.base_frame, self._config.limits)


def read_clicks(bag: Any, node: OfflineNode, config: Config, result_topic: str) -> RecordedClicks:
    """Read what was asked: on the click topics, and by whatever else led to a result."""
    topics = {t.name: t for t in click_topics(config.cameras, node.resolve_topic_name,
                                              node.get_logger().warning)}
    clicks: list[RecordedClick] = []
    results: list[tuple[int, QueryResult]] = []
    for topic, at_ns, message in _iter_messages(bag, {*topics, result_topic}):
        if topic == result_topic:
            results.append((at_ns - round(sum(message.stage_s) * 1e9), message))
        else:
            clicks.append(RecordedClick(at_ns, topics[topic].to_request(message)))
    asked, skipped = [], []
    for click in clicks:
        index = _find_result(click, results, config.times.max_query_s)
        asked.append(click if index is None else RecordedClick(
            click.at_ns, click.request, results.pop(index)[1]))
    for at_ns, result in results:
        why = _explain_unrepeatable(result)
        if why:
            skipped.append(f'query {result.query_id}: {why}')
        else:
            asked.append(RecordedClick(at_ns, _request_from_result(result), result))
    return RecordedClicks(sorted(asked, key=lambda click: click.at_ns), skipped)


def _find_result(click: RecordedClick, results: list[tuple[int, QueryResult]], max_query_s: float
               ) -> int | None:
    """The first result that may be of this click: begun after it, with the same pixel."""
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
    """Tell whether a person said where the point is: no images were waited for."""
    return list(result.stages[:1]) == ['verify']


def _explain_unrepeatable(result: QueryResult) -> str:
    if is_correction(result):
        return 'a correction by a person, not a click'
    if not (np.isfinite(result.clicked.x) and np.isfinite(result.clicked.y)
            and result.clicked.camera):
        return f'it has no pixel ({result.status.message or "an instruction that was refused"})'
    return ''


def _request_from_result(result: QueryResult) -> QueryRequest:
    """The click that a result is of, in the image that was clicked."""
    others = tuple(c.found.camera for c in result.correspondences)
    return QueryRequest(camera=result.clicked.camera, stamp_ns=stamp_to_ns(result.clicked.header.stamp),
                   pixel=np.array([result.clicked.x, result.clicked.y]), other_cameras=others)


def is_interrupted(result: QueryResult) -> bool:
    """Tell whether the recorded query was ended from outside."""
    return int(result.status.code) in INTERRUPTED


def index_by_camera(result: QueryResult) -> dict[str, Correspondence]:
    """The answers of the other views."""
    return {c.found.camera: c for c in result.correspondences}


def _iter_messages(bag: Any, topics: set[str]) -> Iterator[tuple[str, int, Any]]:
    """Topic, when it was recorded, and message, as ROS has it; unknown types are left out."""
    wanted = [c for c in bag.connections if c.topic in topics and find_message_type(c.msgtype)]
    types = {c.msgtype: find_message_type(c.msgtype) for c in wanted}
    # Without any connection it would be all of them.
    for connection, at_ns, raw in bag.messages(connections=wanted) if wanted else ():
        yield connection.topic, at_ns, deserialize_message(bytes(raw), types[connection.msgtype])
