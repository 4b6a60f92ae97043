"""Plain values observed in a few seconds: a node, its cameras' topics, TF and clock."""
from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from crosspoint_ros.core.datatypes import Transform, View
from crosspoint_ros.core.tf_conflict import TfConflict
from crosspoint_ros.core.tf_tree import FrameInfo
from crosspoint_ros.data.view_consistency import Disagreement
from crosspoint_ros.ros.camera_checks import MessageFault, ViewMessages
from crosspoint_ros.ros.config import CameraConfig, Config, ConfigError, TimeLimits

PAIRING_SLACK_NS = 300_000_000  # an image follows its camera info within that


@dataclass(frozen=True)
class PublisherInfo:
    """A publisher of a topic."""

    node: str  # full name
    type: str  # 'sensor_msgs/msg/Image'


@dataclass(frozen=True)
class Arrival:
    """Stamp of a message and its time of arrival, by the node's clock."""

    stamp_ns: int
    received_ns: int


@dataclass(frozen=True, eq=False)
class TopicStream:
    """One topic: who publishes it and what arrived."""

    parameter: str  # '<camera>.image_topic'
    topic: str
    type: str  # expected
    publishers: tuple[PublisherInfo, ...]  # of that type
    other_type_publishers: tuple[PublisherInfo, ...]
    arrivals: tuple[Arrival, ...]
    newest: Any  # message or None
    end_ns: int  # the node's clock when listening ended

    @property
    def period_s(self) -> float:
        """Mean time between messages, counting the wait for the next; NaN without any."""
        if not self.arrivals:
            return float('nan')
        return (self.end_ns - self.arrivals[0].received_ns) * 1e-9 / len(self.arrivals)

    @property
    def rate_hz(self) -> float:
        """Messages per second; NaN for fewer than two."""
        if len(self.arrivals) < 2:
            return float('nan')
        duration_ns = self.arrivals[-1].received_ns - self.arrivals[0].received_ns
        return (len(self.arrivals) - 1) / (duration_ns * 1e-9) if duration_ns > 0 else float('nan')

    @property
    def age_s(self) -> float:
        """Median age on arrival, by the node's clock; NaN without any."""
        ages_s = [(a.received_ns - a.stamp_ns) * 1e-9 for a in self.arrivals]
        return statistics.median(ages_s) if ages_s else float('nan')

    @property
    def stamps_ns(self) -> tuple[int, ...]:
        """Stamps in the order of arrival."""
        return tuple(a.stamp_ns for a in self.arrivals)


@dataclass(frozen=True, eq=False)
class CameraSnapshot:
    """One camera: its topics, and the messages of one view."""

    config: CameraConfig
    image: TopicStream
    info: TopicStream
    depth: TopicStream | None  # None: without depth
    depth_info: TopicStream | None
    messages: ViewMessages  # of the image whose pose was looked up
    registration_fault: MessageFault | None
    mask_error: ConfigError | None
    view: View | None  # with its pose, if that is known; None: a fault
    base_from_cam: Transform | None
    tf_stamp_ns: int  # the stamp of that look-up; 0: not looked up
    tf_conflict: str  # why two senders forbid it; '' if they do not

    @property
    def name(self) -> str:
        """Its name among the parameters."""
        return self.config.name

    @property
    def streams(self) -> Iterator[TopicStream]:
        """All its topics."""
        yield from filter(None, (self.image, self.info, self.depth, self.depth_info))

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of its images, px; None if unknown."""
        return self.messages.size

    @property
    def frame_id(self) -> str:
        """Frame of its images, without a leading slash."""
        return self.messages.frame_id

    @property
    def raw_bytes(self) -> int:
        """Size of an image message, from the camera info where none arrived; 0 if unknown."""
        if self.image.newest is not None:
            return len(self.image.newest.data)
        if self.config.transport == 'raw' and self.info.newest is not None:
            return 3 * self.info.newest.width * self.info.newest.height
        return 0

    @property
    def lost_images(self) -> tuple[int, int]:
        """Images lost and images sent, by the camera infos with the same stamps.

        (0, 0) where they do not share stamps, or too few arrived.
        """
        images, infos = set(self.image.stamps_ns), self.info.stamps_ns
        if len(infos) < 5 or not images & set(infos):
            return 0, 0
        sent = [s for s in infos if min(images) <= s <= max(infos) - PAIRING_SLACK_NS]
        return sum(s not in images for s in sent), len(sent)


@dataclass(frozen=True)
class NodeSnapshot:
    """The node under diagnosis."""

    name: str
    count: int  # living nodes of that name
    is_responding: bool
    state: str  # of its life cycle; '': unknown
    is_crosspoint: bool
    matcher: tuple[bytes, str] | None  # level and message of its diagnostics
    moved_mounts: tuple[tuple[str, str], ...] = ()  # cameras and their alarms, of its diagnostics


@dataclass(frozen=True)
class QosMismatch:
    """A publisher whose QoS is incompatible with the node's subscription."""

    topic: str
    publisher: str
    reason: str


@dataclass(frozen=True)
class GraphInfo:
    """The ROS graph, and what decides which part of it is visible."""

    nodes: tuple[str, ...]  # full names; several of one name are listed as often
    topics: dict[str, tuple[str, ...]]  # topic -> types
    domain: int
    rmw: str
    transport: str  # configured for Fast DDS; '': its default


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Everything that the checks look at."""

    node: NodeSnapshot
    graph: GraphInfo
    config: Config | ConfigError | None  # None: unknown
    use_sim_time: bool
    cameras: tuple[CameraSnapshot, ...]
    mismatches: tuple[QosMismatch, ...]
    frames: dict[str, FrameInfo]  # TF
    conflicts: dict[str, TfConflict]  # frames that two senders place differently
    disagreements: tuple[Disagreement, ...]  # of the cameras' views
    clock: TopicStream
    start_ns: int  # the node's clock when listening began

    @property
    def times(self) -> TimeLimits:
        """The node's time limits; only where `config` is valid, as for every camera."""
        assert isinstance(self.config, Config)
        return self.config.times

    @property
    def base_frame(self) -> str:
        """The node's base frame, likewise."""
        assert isinstance(self.config, Config)
        return self.config.base_frame.lstrip('/')

    @property
    def use_tf(self) -> bool:
        """Whether poses are used; where the parameters are unknown, too."""
        return not isinstance(self.config, Config) or self.config.use_tf
