"""The messages of one view: what they decode to, and what is wrong with them.

One list for two users: the node refuses a view with the first fault, the doctor reports them all,
in the same words.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from crosspoint_ros.core.datatypes import Code, Intrinsics, Rejected, Transform, View
from crosspoint_ros.core.depth import register_depth
from crosspoint_ros.core.encodings import DepthM, Rgb, depth_m_from_msg
from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.ros.conversions import CameraTopics, decode_rgb, intrinsics_from_info


class MessageFault(Rejected):
    """A message that cannot be used. finding: its name in docs/troubleshooting.md."""

    def __init__(self, finding: str, code: Code, message: str) -> None:
        super().__init__(code, message)
        self.finding = finding


@dataclass(frozen=True, eq=False)
class ViewMessages:
    """The messages of one view; None for what has not come or is not configured.

    rgb, intrinsics, depth_m, depth_intrinsics: what they decode to, or why they do not.
    mask: (h, w) bool.
    """

    topics: CameraTopics
    image: Image | CompressedImage | None
    info: CameraInfo | None
    depth: Image | CompressedImage | None
    depth_info: CameraInfo | None
    mask: npt.NDArray[np.bool_] | None
    rgb: Rgb | Rejected | None
    intrinsics: Intrinsics | Rejected | None
    depth_m: DepthM | Rejected | None
    depth_intrinsics: Intrinsics | Rejected | None

    @classmethod
    def decode(cls, topics: CameraTopics, image: Image | CompressedImage | None,
               info: CameraInfo | None, depth: Image | CompressedImage | None = None,
               depth_info: CameraInfo | None = None, mask: npt.NDArray[np.bool_] | None = None,
               rgb: Rgb | None = None) -> ViewMessages:
        """Decode the messages; rgb: the image, if it is decoded already."""
        return cls(topics, image, info, depth, depth_info, mask,
                   _decode(image, lambda msg: decode_rgb(topics, msg)) if rgb is None else rgb,
                   _decode(info, lambda msg: intrinsics_from_info(msg, topics.rectified)),
                   _decode(depth, depth_m_from_msg), _decode(depth_info, intrinsics_from_info))

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of the image, px; None if it is not decoded."""
        return self.rgb.shape[1::-1] if isinstance(self.rgb, np.ndarray) else None

    @property
    def frame_id(self) -> str:
        """Frame of the image: its own, else that of the camera info."""
        return _get_frame_id(self.image) or _get_frame_id(self.info)

    @property
    def depth_frame_id(self) -> str:
        """Frame of the depth: its own, else that of its camera info, else the image's."""
        return _get_frame_id(self.depth) or _get_frame_id(self.depth_info) or self.frame_id

    @property
    def needs_registration(self) -> bool:
        """Whether the depth is of another lens than the image, and known to be."""
        return self.depth_info is not None and (
            self.depth_frame_id != self.frame_id or self.depth_intrinsics != self.intrinsics)


def _decode(msg: Any, decode: Callable[[Any], Any]) -> Any:
    try:
        return None if msg is None else decode(msg)
    except Rejected as rejected:
        return rejected


def _get_frame_id(msg: Any) -> str:
    return '' if msg is None else str(msg.header.frame_id).lstrip('/')


def check_image(messages: ViewMessages) -> Iterator[MessageFault]:
    """The image decodes."""
    if isinstance(messages.rgb, Rejected):
        yield MessageFault('image-refused', messages.rgb.code, messages.rgb.message)


def check_camera_info(messages: ViewMessages) -> Iterator[MessageFault]:
    """The camera is calibrated, by a known model, for the size of its images."""
    topics = messages.topics
    yield from _check_lens(topics.info_topic, messages.info, messages.intrinsics,
                           topics.image_topic, messages.size, Code.NO_IMAGE, topics.rectified)


def _check_lens(topic: str, info: CameraInfo | None, intrinsics: Intrinsics | Rejected | None,
                image_topic: str, size: tuple[int, int] | None, code: Code,
                rectified: bool = False) -> Iterator[MessageFault]:
    if info is not None and not rectified and not np.any(info.k) and np.any(info.p):
        yield MessageFault('only-rectified', code, f'the camera info on {topic} has K of zeros and '
                           'a valid P: only the rectified image is calibrated')
    elif info is not None and not np.any(info.p if rectified else info.k):
        yield MessageFault('uncalibrated', code, f'the camera info on {topic} is all zeros: the '
                           'camera is not calibrated')
    elif isinstance(intrinsics, Rejected):
        yield MessageFault('info-refused', code if intrinsics.code == Code.NO_IMAGE else
                           intrinsics.code, f'{topic}: {intrinsics.message}')
    elif isinstance(intrinsics, Intrinsics) and size and \
            (intrinsics.width_px, intrinsics.height_px) != size:
        yield MessageFault('info-size', code,
                           f'{topic} is for {intrinsics.width_px}x{intrinsics.height_px} images, '
                           f'{image_topic} is {size[0]}x{size[1]}')
    elif info is not None and isinstance(intrinsics, Intrinsics) and (
            reason := intrinsics.explain_implausible(bool(info.roi.x_offset or info.roi.y_offset))):
        yield MessageFault('lens-implausible', code,
                           f'the camera info on {topic} is of no camera with these images: '
                           f'{reason}')


def check_mask(messages: ViewMessages) -> Iterator[MessageFault]:
    """The mask has the size of the image."""
    mask, size = messages.mask, messages.size
    if mask is not None and size and mask.shape != size[::-1]:
        yield MessageFault('mask-size', Code.BAD_REQUEST,
                           f'the mask of {messages.topics.camera} is {mask.shape[1]}x'
                           f'{mask.shape[0]}, the images are {size[0]}x{size[1]}')


def check_depth(messages: ViewMessages) -> Iterator[MessageFault]:
    """Depth decodes, has values, and is pixel by pixel that of the image, or can be made so."""
    depth_m, size, topics = messages.depth_m, messages.size, messages.topics
    topic = topics.depth_topic
    if isinstance(depth_m, Rejected):
        yield MessageFault('depth-refused', depth_m.code, f'{topic}: {depth_m.message}')
        return
    if depth_m is None:
        return
    if np.isnan(depth_m).all():
        yield MessageFault('depth-empty', Code.NO_DEPTH,
                           f'none of the {depth_m.size} pixels on {topic} has a depth')
    depth_size = depth_m.shape[::-1]
    if messages.depth_info is not None:
        yield from _check_lens(topics.depth_info_topic, messages.depth_info,
                               messages.depth_intrinsics, topic, depth_size, Code.NO_DEPTH)
        return
    if size and depth_size != size:
        yield MessageFault('depth-size', Code.NO_DEPTH,
                           f'{topic} is {depth_size[0]}x{depth_size[1]}, {topics.image_topic} is '
                           f'{size[0]}x{size[1]}: depth is not registered to colour')
    if messages.frame_id and messages.depth_frame_id != messages.frame_id:
        yield MessageFault('depth-frame', Code.NO_DEPTH,
                           f'depth on {topic} has frame {messages.depth_frame_id!r}, its image '
                           f'has {messages.frame_id!r}: depth is not registered to colour')


CHECKS = (check_image, check_camera_info, check_mask, check_depth)


def list_faults(messages: ViewMessages) -> Iterator[MessageFault]:
    """Yield what is wrong with the messages of one view, but for its pose."""
    for check in CHECKS:
        yield from check(messages)


def check_frame_id(topics: CameraTopics, frame_id: str) -> Iterator[MessageFault]:
    """The frame of an image is given: without it its pose cannot be looked up."""
    if not frame_id:
        yield MessageFault('no-frame-id', Code.NO_TF,
                           f'the images on {topics.image_topic} have an empty frame_id')


def check_stamp(topics: CameraTopics, stamp_ns: int) -> Iterator[MessageFault]:
    """The stamp of an image is given: TF is looked up then."""
    if stamp_ns <= 0:
        yield MessageFault('no-stamp', Code.NO_TF,
                           f'the images on {topics.image_topic} have no stamp (0)')


def build_view(messages: ViewMessages,
               lookup_transform: Callable[[str, str, int], Transform]) -> View:
    """Return the view of the messages, without its pose; a depth of another lens is registered.

    lookup_transform: returns image_from_depth of two frames at a stamp, or raises `Rejected`.
    Raises `Rejected`: the first of `list_faults`, or NO_DEPTH for a depth that cannot be
    registered. image and info are needed, a depth is not.
    """
    for fault in list_faults(messages):
        raise fault
    image, info, depth_m = messages.image, messages.info, messages.depth_m
    assert image is not None
    assert info is not None
    assert isinstance(messages.rgb, np.ndarray)
    assert isinstance(messages.intrinsics, Intrinsics)
    assert not isinstance(depth_m, Rejected)
    stamp_ns = stamp_to_ns(image.header.stamp)
    if depth_m is not None and messages.needs_registration:
        depth_m = _register(messages, depth_m, lookup_transform, stamp_ns)
    return View(messages.topics.camera, messages.rgb, messages.intrinsics, stamp_ns,
                image.header.frame_id or info.header.frame_id, depth_m, mask=messages.mask)


def _register(messages: ViewMessages, depth_m: DepthM,
              lookup_transform: Callable[[str, str, int], Transform], stamp_ns: int) -> DepthM:
    topics, frame, depth_frame = messages.topics, messages.frame_id, messages.depth_frame_id
    assert isinstance(messages.intrinsics, Intrinsics)
    assert isinstance(messages.depth_intrinsics, Intrinsics)
    try:
        image_from_depth = (lookup_transform(frame, depth_frame, stamp_ns)
                            if frame != depth_frame else Transform(np.eye(3), np.zeros(3)))
    except Rejected as rejected:
        raise MessageFault('depth-frame', Code.NO_DEPTH,
                           f'depth on {topics.depth_topic} has frame {depth_frame!r}, its image '
                           f'has {frame!r}, and it cannot be registered: {rejected.message}'
                           ) from rejected
    registered_m = register_depth(depth_m, messages.depth_intrinsics, messages.intrinsics,
                                  image_from_depth)
    if np.isnan(registered_m).all():
        raise MessageFault('depth-frame', Code.NO_DEPTH,
                           f'none of the pixels on {topics.depth_topic} is on the image when '
                           f'registered by {topics.depth_info_topic} and TF from {depth_frame!r} '
                           f'to {frame!r}')
    return registered_m
