"""Reads a rosbag2 (MCAP or sqlite3) without ROS: topics, images and depth."""
from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from crosspoint_ros.core import encodings
from crosspoint_ros.core.encodings import DepthM, Rgb
from crosspoint_ros.core.tf_tree import stamp_to_ns

RAW, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
MAX_LAG_NS = 20_000_000  # between an image and its depth
MAX_PENDING = 30  # images that wait for their depth


class UnreadableBag(ValueError):  # noqa: N818
    """A recording that cannot be used; the message has the reason."""


def open_bag(path: Path) -> Any:
    """Return the open reader of a rosbag2; the caller closes it. Raises `UnreadableBag`."""
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
    except Exception as error:  # each storage plugin raises other errors
        raise UnreadableBag(f'{path} cannot be read as a rosbag2: {error}') from error
    if not bag.is2:
        raise UnreadableBag(f'{path} is a ROS 1 bag; convert it with rosbags-convert')
    if not bag.message_count:
        raise UnreadableBag(f'{path} has no messages')
    return bag


class RgbdTopics(NamedTuple):
    """A camera's image topics; depth is '' if it has none."""

    image: str
    depth: str


def choose_topics(types: Mapping[str, str], camera: str, image: str = '',
                  depth: str = '') -> RgbdTopics:
    """Choose a camera's topics from all (name -> type) unless they are given.

    Raises ValueError with the candidates if there are none or several.
    """
    image_topics = {name for name, type_name in types.items() if type_name in (RAW, COMPRESSED)}
    for given in filter(None, (image, depth)):
        if given not in image_topics:
            raise ValueError(f'there are no images on {given}; '
                             f'image topics: {_format_names(image_topics)}')
    space = f'/{camera}/'
    own = {name for name in image_topics if name.startswith(space)}
    depths = {name for name in own if 'depth' in name.removeprefix(space)} - {image}
    if not image and not own - depths:
        raise ValueError(f'there are no images on /{camera}/...; image topics: '
                         f'{_format_names(image_topics)}; give one with --topic')
    return RgbdTopics(image or _single(own - depths, '--topic'),
                      depth or (_single(depths, '--depth-topic') if depths else ''))


def _single(topics: set[str], option: str) -> str:
    """Return the only topic, a raw image in preference to its compressed sibling."""
    raw = {t for t in topics if not t.rpartition('/')[2].startswith('compressed')}
    siblings = {t for t in topics - raw if t.rpartition('/')[0] in raw}
    left = topics - siblings
    if len(left) > 1:
        raise ValueError(f'there are several: {_format_names(left)}; choose by {option}')
    return left.pop()


def _format_names(topics: Iterable[str]) -> str:
    return ', '.join(sorted(topics)) or 'none'


def get_header_stamp_ns(message: Any) -> int:
    """Return the stamp of a message's header."""
    return stamp_to_ns(message.header.stamp)


def iter_rgbd(messages: Iterable[tuple[str, Any]], topics: RgbdTopics
              ) -> Iterator[tuple[Rgb, DepthM | None]]:
    """Yield each image with the depth nearest in time; None if that is more than 20 ms away.

    messages: (topic, message) in the order of arrival. Raises `Rejected` if decoding fails.
    """
    images: list[Any] = []
    depths: list[Any] = []
    for topic, message in messages:
        (images if topic == topics.image else depths).append(message)
        del depths[:-MAX_PENDING]
        while images and (not topics.depth or len(images) > MAX_PENDING or (
                depths and get_header_stamp_ns(depths[-1]) >= get_header_stamp_ns(images[0]))):
            yield _pair_with_depth(images.pop(0), depths)
    for image in images:
        yield _pair_with_depth(image, depths)


def _pair_with_depth(image: Any, depths: list[Any]) -> tuple[Rgb, DepthM | None]:
    stamp_ns = get_header_stamp_ns(image)
    near = [depth for depth in depths if abs(get_header_stamp_ns(depth) - stamp_ns) <= MAX_LAG_NS]
    nearest = min(near, default=None, key=lambda depth: abs(get_header_stamp_ns(depth) - stamp_ns))
    return decode_rgb(image), None if nearest is None else decode_depth_m(nearest)


def decode_rgb(message: Any) -> Rgb:
    """Return an Image or a CompressedImage as (h, w, 3) RGB uint8."""
    if hasattr(message, 'encoding'):
        return encodings.rgb_from_raw(message)
    return encodings.rgb_from_compressed(message.data, message.format)


def decode_depth_m(message: Any) -> DepthM:
    """Return a depth image (h, w) in metres, NaN where unknown."""
    if hasattr(message, 'encoding'):
        return encodings.depth_m_from_raw(message)
    return encodings.depth_m_from_compressed(message.data, message.format)


def iter_messages(bag: Any, topics: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Yield (topic, message) of these topics in the order of the recording."""
    wanted = set(topics)
    connections = [c for c in bag.connections if c.topic in wanted]
    # Without connections, rosbags would read all of them.
    for connection, _, raw in bag.messages(connections=connections) if connections else ():
        yield connection.topic, bag.deserialize(raw, connection.msgtype)
