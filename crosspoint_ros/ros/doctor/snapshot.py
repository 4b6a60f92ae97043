"""What the doctor saw of a node, its cameras' topics, TF and the clock, as plain values."""
from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Intrinsics, Rejected, Transform
from crosspoint_ros.core.encodings import DepthM, Rgb
from crosspoint_ros.ros.config import CameraConfig, Config, ConfigError
from crosspoint_ros.ros.conversions import CameraTopics
from crosspoint_ros.ros.tf import FrameInfo

PAIRING_SLACK_NS = 300_000_000  # an image follows its camera info within that


@dataclass(frozen=True)
class PublisherInfo:
    """Who publishes on a topic, what, and how."""

    node: str  # full name
    type: str  # 'sensor_msgs/msg/Image'
    best_effort: bool
    volatile: bool


@dataclass(frozen=True)
class Arrival:
    """When a message was stamped, and when it came by the node's clock."""

    stamp_ns: int
    received_ns: int


@dataclass(frozen=True, eq=False)
class TopicStream:
    """What came on one topic."""

    parameter: str  # '<camera>.image_topic'
    topic: str
    type: str  # the one that is expected
    publishers: tuple[PublisherInfo, ...]  # of that type
    other_type_publishers: tuple[PublisherInfo, ...]  # of other types
    arrivals: tuple[Arrival, ...]
    newest: Any  # the message; None without one
    end_ns: int  # the node's clock when listening ended

    @property
    def period_s(self) -> float:
        """Time from one message to the next, or more, by their arrival; NaN without one."""
        if not self.arrivals:
            return float('nan')
        return (self.end_ns - self.arrivals[0].received_ns) * 1e-9 / len(self.arrivals)

    @property
    def rate_hz(self) -> float:
        """Messages a second, by their arrival; NaN of fewer than two."""
        if len(self.arrivals) < 2:
            return float('nan')
        took_ns = self.arrivals[-1].received_ns - self.arrivals[0].received_ns
        return (len(self.arrivals) - 1) / (took_ns * 1e-9) if took_ns > 0 else float('nan')

    @property
    def age_s(self) -> float:
        """How old a message usually is when it comes, by the node's clock; NaN without one."""
        ages_s = [(a.received_ns - a.stamp_ns) * 1e-9 for a in self.arrivals]
        return statistics.median(ages_s) if ages_s else float('nan')

    @property
    def stamps_ns(self) -> tuple[int, ...]:
        """The stamps, as they came."""
        return tuple(a.stamp_ns for a in self.arrivals)


@dataclass(frozen=True, eq=False)
class CameraSnapshot:
    """One camera: what came, and what it decodes to (a `Rejected` where it does not)."""

    config: CameraConfig
    source: CameraTopics
    image: TopicStream
    info: TopicStream
    depth: TopicStream | None  # None: it is to have none
    rgb: Rgb | Rejected | None
    intrinsics: Intrinsics | Rejected | None
    depth_m: DepthM | Rejected | None
    mask: npt.NDArray[np.bool_] | ConfigError | None
    base_from_cam: Transform | None
    tf_stamp_ns: int  # the stamp at which that was asked for; 0: it was not

    @property
    def name(self) -> str:
        """Its name among the parameters."""
        return self.config.name

    @property
    def streams(self) -> Iterator[TopicStream]:
        """All that is subscribed to."""
        yield from filter(None, (self.image, self.info, self.depth))

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of its images, px; None when unknown."""
        if not isinstance(self.rgb, np.ndarray):
            return None
        return self.rgb.shape[1], self.rgb.shape[0]

    @property
    def frame_id(self) -> str:
        """The frame of its images."""
        return select_frame_id(self.image.newest, self.info.newest)

    @property
    def raw_bytes(self) -> int:
        """The size of one image message; from the camera info where none has come; 0: unknown."""
        if self.image.newest is not None:
            return len(self.image.newest.data)
        if self.config.transport == 'raw' and self.info.newest is not None:
            return 3 * self.info.newest.width * self.info.newest.height
        return 0

    @property
    def lost_images(self) -> tuple[int, int]:
        """How many images did not come, and how many were sent, by the camera infos.

        (0, 0) where images and infos do not share stamps, or too few came to tell.
        """
        images, infos = set(self.image.stamps_ns), self.info.stamps_ns
        if len(infos) < 5 or not images & set(infos):
            return 0, 0
        sent = [s for s in infos if min(images) <= s <= max(infos) - PAIRING_SLACK_NS]
        return sum(s not in images for s in sent), len(sent)


def select_frame_id(image: Any, info: Any) -> str:
    """Return the frame of a camera's images as the node reads it: the image's own, else the info's.
    """
    named = [message.header.frame_id for message in (image, info) if message is not None]
    return next(filter(None, named), '').lstrip('/')


@dataclass(frozen=True)
class NodeSnapshot:
    """The node that was asked for."""

    name: str
    count: int  # how many of that name
    is_responding: bool
    state: str  # of its life cycle; '' when it did not say
    is_crosspoint: bool
    matcher: tuple[bytes, str] | None  # level and words of its diagnostics; None: none came


@dataclass(frozen=True)
class QosMismatch:
    """A publisher from which a subscription of the node takes nothing."""

    topic: str
    publisher: str
    reason: str


@dataclass(frozen=True)
class GraphInfo:
    """What of this process and the graph decides who sees whom."""

    nodes: tuple[str, ...]  # full names, as often as they are there
    topics: dict[str, tuple[str, ...]]  # topic -> the types on it
    domain: int
    rmw: str
    transport: str  # what was chosen for Fast DDS; '': its default


@dataclass(frozen=True, eq=False)
class Snapshot:
    """All of it."""

    node: NodeSnapshot
    graph: GraphInfo
    config: Config | ConfigError | None  # None: nobody told
    use_sim_time: bool
    cameras: tuple[CameraSnapshot, ...]
    mismatches: tuple[QosMismatch, ...]
    links: dict[str, FrameInfo]  # TF
    clock: TopicStream
    start_ns: int  # the node's clock when listening began
