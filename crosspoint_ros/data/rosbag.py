"""Recordings: a rosbag2 (MCAP or sqlite3) opened without ROS, or in words why it cannot be."""
from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosspoint_ros.core.encodings import (
    DepthM,
    Rgb,
    depth_m_from_compressed,
    depth_m_from_raw,
    rgb_from_compressed,
    rgb_from_raw,
)

RAW, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
MAX_LAG_NS = 20_000_000  # between an image and its depth
MAX_PENDING = 30  # images that wait for their depth at a time


class UnreadableBag(ValueError):  # noqa: N818  (told to the user in one sentence)
    """This is no recording that can be used, and why."""


def open_bag(path: Path) -> Any:
    """Return the open reader of a rosbag2; the caller closes it. Raises `UnreadableBag`.
    """
    try:
        highlevel = importlib.import_module('rosbags.highlevel')
    except ModuleNotFoundError as error:
        raise UnreadableBag('reading a bag needs the Python package rosbags: pip install rosbags '
                            '(to play one, ros2 bag play --clock 40 will do)') from error
    if not path.exists():
        raise UnreadableBag(f'there is no bag at {path.absolute()}')
    try:
        bag = highlevel.AnyReader([path])
        bag.open()
    except Exception as error:  # its storages each raise errors of their own
        raise UnreadableBag(f'{path} is no rosbag2 that can be read: {error}') from error
    if not bag.is2:
        raise UnreadableBag(f'{path} is a ROS 1 bag; rosbags-convert makes a rosbag2 of it')
    if not bag.message_count:
        raise UnreadableBag(f'{path} has no messages')
    return bag


def loop_duration_ns(duration_ns: int, tick_ns: int) -> int:
    """How long a round of a bag takes that is played in a loop: /clock ticks past its end."""
    return (duration_ns // tick_ns + 1) * tick_ns


@dataclass(frozen=True)
class RgbdTopics:
    """Where a camera's images are; depth is '' without any."""

    image: str
    depth: str


def choose_topics(types: Mapping[str, str], camera: str, image: str = '',
                  depth: str = '') -> RgbdTopics:
    """Find a camera's topics among all (name -> type), unless they are named.

    Raises ValueError with what there is, when there is none or more than one.
    """
    pictures = {name for name, kind in types.items() if kind in (RAW, COMPRESSED)}
    for named in filter(None, (image, depth)):
        if named not in pictures:
            raise ValueError(f'there are no images on {named}; there are on: {_format_names(pictures)}')
    space = f'/{camera}/'
    own = {name for name in pictures if name.startswith(space)}
    depths = {name for name in own if 'depth' in name.removeprefix(space)} - {image}
    if not image and not own - depths:
        raise ValueError(f'there are no images on /{camera}/...; there are on: '
                         f'{_format_names(pictures)}; name one by --topic')
    return RgbdTopics(image or _single(own - depths, '--topic'),
                  depth or (_single(depths, '--depth-topic') if depths else ''))


def _single(topics: set[str], option: str) -> str:
    """The one topic: a raw image before its compressed sibling."""
    raw = {t for t in topics if not t.rpartition('/')[2].startswith('compressed')}
    siblings = {t for t in topics - raw if t.rpartition('/')[0] in raw}
    left = topics - siblings
    if len(left) > 1:
        raise ValueError(f'there are several: {_format_names(left)}; choose by {option}')
    return left.pop()


def _format_names(topics: Iterable[str]) -> str:
    return ', '.join(sorted(topics)) or 'none'


def header_stamp_ns(message: Any) -> int:
    """Return the stamp of a message's header."""
    stamp = message.header.stamp
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def iter_rgbd(messages: Iterable[tuple[str, Any]], topics: RgbdTopics
             ) -> Iterator[tuple[Rgb, DepthM | None]]:
    """Yield each image with the depth nearest to it in time; None where that is far.

    messages: topic and message, as they came. Raises `Rejected` for what cannot be decoded.
    """
    images: list[Any] = []
    depths: list[Any] = []
    for topic, message in messages:
        (images if topic == topics.image else depths).append(message)
        del depths[:-MAX_PENDING]
        while images and (not topics.depth or len(images) > MAX_PENDING or (
                depths and header_stamp_ns(depths[-1]) >= header_stamp_ns(images[0]))):
            yield _pair_with_depth(images.pop(0), depths)
    for image in images:
        yield _pair_with_depth(image, depths)


def _pair_with_depth(image: Any, depths: list[Any]) -> tuple[Rgb, DepthM | None]:
    near = min(depths, default=None, key=lambda depth: abs(header_stamp_ns(depth) - header_stamp_ns(image)))
    if near is None or abs(header_stamp_ns(near) - header_stamp_ns(image)) > MAX_LAG_NS:
        return decode_rgb(image), None
    return decode_rgb(image), decode_depth_m(near)


def decode_rgb(message: Any) -> Rgb:
    """Return an Image or a CompressedImage as (h, w, 3) RGB uint8."""
    return rgb_from_raw(message) if hasattr(message, 'encoding') else rgb_from_compressed(
        message.data, message.format)


def decode_depth_m(message: Any) -> DepthM:
    """Return a depth image (h, w) in metres, NaN where unknown."""
    return depth_m_from_raw(message) if hasattr(message, 'encoding') else depth_m_from_compressed(
        message.data, message.format)


def iter_messages(bag: Any, topics: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Yield topic and message of these topics, in the order of the recording."""
    wanted = set(topics)
    played = [c for c in bag.connections if c.topic in wanted]
    # Without any connection it would be all of them.
    for connection, _, raw in bag.messages(connections=played) if played else ():
        yield connection.topic, bag.deserialize(raw, connection.msgtype)
