"""Checks of one camera: its topics, stamps, images, calibration, depth, mask and TF."""
from __future__ import annotations

import difflib
from collections.abc import Iterator

import numpy as np

from crosspoint_ros.core.datatypes import Intrinsics, Rejected
from crosspoint_ros.core.tf_tree import (
    explain_disconnected,
    explain_failure,
    find_loop,
    stamp_to_ns,
)
from crosspoint_ros.ros.config import ConfigError
from crosspoint_ros.ros.doctor.finding import Finding, FindingCode, join_names
from crosspoint_ros.ros.doctor.snapshot import (
    PAIRING_SLACK_NS,
    CameraSnapshot,
    PublisherInfo,
    Snapshot,
    TopicStream,
)

COMPRESSED, RAW = 'sensor_msgs/msg/CompressedImage', 'sensor_msgs/msg/Image'
OTHER_CLOCK_S = 60.0  # no image is that late: its stamp is of another clock
MAX_AHEAD_S = 0.05  # synchronised clocks differ by less
SHM_SEGMENT_BYTES = 500_000  # default of Fast DDS's shared memory
MAX_LOSS = 0.3  # best effort may lose one now and then
REGISTER_DEPTH = ('publish depth registered to the colour image (realsense: '
                  'align_depth.enable:=true; others: depth_image_proc/register)')


def check_publishers(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """Each topic has one publisher, of the right type, from which messages arrive."""
    for stream in camera.streams:
        topic, names = stream.topic, _join_nodes(stream.publishers)
        if not stream.publishers and not stream.other_type_publishers:
            yield Finding(FindingCode.NO_PUBLISHER, f'no publisher on {topic} ({stream.type})',
                          _suggest_topic_cure(snapshot, camera, stream))
        elif not stream.publishers:
            types = join_names({p.type for p in stream.other_type_publishers})
            yield Finding(FindingCode.WRONG_TYPE,
                          f'{topic} is {types} (from {_join_nodes(stream.other_type_publishers)}), '
                          f'not {stream.type}', _suggest_type_cure(snapshot, camera, stream))
        elif not stream.arrivals and all(m.topic != topic for m in snapshot.mismatches):
            yield Finding(FindingCode.NOTHING_ARRIVES,
                          f'{names} publishes {topic}, but no message has arrived',
                          'check that the driver streams (its log, the device, its lifecycle '
                          'state); across machines: network, firewall, message size')
        if len(stream.publishers) > 1:
            yield Finding(FindingCode.TWO_PUBLISHERS,
                          f'{len(stream.publishers)} publishers on {topic}: {names}',
                          'stop all but one, or give each another topic: images of two cameras '
                          'would be mixed')


def check_stamps(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """Images are stamped, by the clock of the node, and not in the future."""
    topic, age_s = camera.image.topic, camera.image.age_s
    if camera.image.newest is not None and stamp_to_ns(camera.image.newest.header.stamp) <= 0:
        yield Finding(FindingCode.NO_STAMP, f'the images on {topic} have no stamp (0)',
                      'let the driver stamp images with their exposure time: TF is looked up then')
    if not _has_stamps(camera):
        return
    limit_s, sim_time = snapshot.times.max_image_age_s, snapshot.use_sim_time
    is_other = abs(age_s) > OTHER_CLOCK_S
    if is_other and not sim_time and _follows_clock(snapshot, camera):
        yield Finding(FindingCode.SIM_TIME_OFF,
                      f"the stamps on {topic} follow /clock, {abs(age_s):.0f} s from the node's "
                      'clock; use_sim_time is false', 'start the node with use_sim_time: true')
    elif (is_other or age_s < -limit_s) and (snapshot.clock.arrivals or not sim_time):
        offset = f'{age_s:.3f} s behind' if age_s > 0 else f'{-age_s:.3f} s ahead of'
        yield Finding(FindingCode.CLOCKS_DIFFER,
                      f'the stamps on {topic} are {offset} '
                      f'{"/clock" if sim_time else "the clock of this machine"} '
                      f'(limits.max_image_age_s {limit_s:g})',
                      'start the driver with use_sim_time: true, or set it to false everywhere'
                      if sim_time else
                      'synchronise the clocks (chrony, ntpd), or let the driver use system time; '
                      'play bags with --clock and use_sim_time: true')
    elif -limit_s <= age_s < -MAX_AHEAD_S:
        yield Finding(FindingCode.STAMPS_AHEAD,
                      f'the stamps on {topic} are {-age_s:.3f} s in the future on arrival '
                      f'(limit {MAX_AHEAD_S:g})',
                      'synchronise the clocks (chrony, ntpd): TF is not known that early')


def check_delivery(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """Images arrive fresh and often enough."""
    limit_s, image = snapshot.times.max_image_age_s, camera.image
    limit = f'(limits.max_image_age_s {limit_s:g})'
    if has_comparable_stamps(snapshot, camera) and image.age_s > limit_s:
        yield Finding(FindingCode.IMAGES_LATE,
                      f'the images on {image.topic} arrive {image.age_s:.2f} s old {limit}',
                      'reduce the delay (transport: compressed; CPU load; driver queue), '
                      'synchronise the clocks, or raise limits.max_image_age_s')
    if image.period_s > limit_s:
        yield Finding(FindingCode.IMAGES_SELDOM,
                      f'an image arrives on {image.topic} every {image.period_s:.1f} s {limit}',
                      "raise the driver's rate, or limits.max_image_age_s")


def check_losses(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """As many images arrive as camera infos, whatever their size."""
    (lost, sent), graph, image = camera.lost_images, snapshot.graph, camera.image
    drivers = join_names({p.node for p in image.publishers}, 'the driver')
    loses, none_arrives = lost > MAX_LOSS * sent, image.publishers and not image.arrivals
    exceeds_shm = (camera.raw_bytes > SHM_SEGMENT_BYTES and 'fastrtps' in graph.rmw
                   and not graph.transport)
    if exceeds_shm and (loses or none_arrives):
        loss = f'{lost} of {sent} were lost' if loses else 'none arrived'
        yield Finding(FindingCode.DEFAULT_TRANSPORT,
                      f'images on {image.topic} have {camera.raw_bytes / 1e6:.1f} MB, the default '
                      f'shared memory of Fast DDS {SHM_SEGMENT_BYTES / 1e6:g} MB; {loss}',
                      f'start {drivers}, the node and this command with '
                      'FASTDDS_DEFAULT_PROFILES_FILE=…/share/crosspoint_ros/config/fastdds_shm.xml '
                      '(FASTRTPS_DEFAULT_PROFILES_FILE up to Jazzy)')
    elif loses:
        yield Finding(FindingCode.IMAGES_LOST,
                      f'{lost} of {sent} images on {image.topic} were lost, but not their camera '
                      'infos', f'start {drivers} with the transport of this process '
                      f'({graph.transport or "default"}); across a network: transport: '
                      'compressed, or a lower rate')


def check_image(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """The image decodes."""
    if isinstance(camera.rgb, Rejected):
        yield Finding(FindingCode.IMAGE_REFUSED, camera.rgb.message,
                      'set the driver to one of those, e.g. rgb8')


def check_camera_info(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """The camera is calibrated, by a known model, for the size of its images."""
    info, intrinsics, size = camera.info.newest, camera.intrinsics, camera.size
    topic = camera.info.topic
    if info is not None and not np.any(info.p if camera.config.rectified else info.k):
        yield Finding(FindingCode.UNCALIBRATED,
                      f'the camera info on {topic} is all zeros: the camera is not calibrated',
                      'calibrate it (camera_calibration) and load the file in the driver '
                      '(camera_info_url)')
    elif isinstance(intrinsics, Rejected):
        yield Finding(FindingCode.INFO_REFUSED, f'{topic}: {intrinsics.message}',
                      'calibrate with plumb_bob, rational_polynomial or equidistant; for '
                      f'rectified images set {camera.name}.rectified: true')
    elif isinstance(intrinsics, Intrinsics) and size and \
            (intrinsics.width_px, intrinsics.height_px) != size:
        yield Finding(FindingCode.INFO_SIZE,
                      f'{topic} is for {intrinsics.width_px}x{intrinsics.height_px} images, '
                      f'{camera.image.topic} is {size[0]}x{size[1]}',
                      'use the camera info published with these images; a calibration holds for '
                      'one resolution')


def check_depth(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """Depth decodes, has values, and is pixel by pixel that of the image."""
    depth, depth_m, size = camera.depth, camera.depth_m, camera.size
    if depth is None or depth_m is None:
        return
    if isinstance(depth_m, Rejected):
        yield Finding(FindingCode.DEPTH_REFUSED, f'{depth.topic}: {depth_m.message}',
                      f"set the driver to one of those, or {camera.name}.depth_topic: '' for no "
                      'depth')
        return
    height, width = depth_m.shape
    if np.isnan(depth_m).all():
        yield Finding(FindingCode.DEPTH_EMPTY,
                      f'none of the {depth_m.size} pixels on {depth.topic} has a depth',
                      'check for a covered lens, a disabled emitter, a scene below the minimum '
                      'range, or a wrong unit (16UC1: mm, 32FC1: m)')
    if size and (width, height) != size:
        yield Finding(FindingCode.DEPTH_SIZE,
                      f'{depth.topic} is {width}x{height}, {camera.image.topic} is '
                      f'{size[0]}x{size[1]}: depth is not registered to colour', REGISTER_DEPTH)
    frame = depth.newest.header.frame_id.lstrip('/')
    if frame and camera.frame_id and frame != camera.frame_id:
        yield Finding(FindingCode.DEPTH_FRAME,
                      f'depth on {depth.topic} has frame {frame!r}, its image has '
                      f'{camera.frame_id!r}: depth is not registered to colour', REGISTER_DEPTH)


def check_depth_lag(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """Depth and image are taken at the same time, by the median gap to the nearest depth."""
    if camera.depth is None or not camera.depth.arrivals:
        return
    depths_ns = np.array(camera.depth.stamps_ns)
    gaps_ns = [np.abs(depths_ns - stamp).min() for stamp in camera.image.stamps_ns
               if stamp <= depths_ns.max() + PAIRING_SLACK_NS]
    gap_s, limit_s = float(np.median(gaps_ns or [0])) * 1e-9, snapshot.times.max_depth_lag_s
    if gap_s > limit_s:
        yield Finding(FindingCode.DEPTH_APART,
                      f'depth on {camera.depth.topic} is {gap_s:.3f} s from its image (median; '
                      f'limits.max_depth_lag_s {limit_s:g})',
                      'synchronise them in the driver (realsense: enable_sync:=true), or raise '
                      'limits.max_depth_lag_s for static scenes')


def check_mask(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """The mask can be read and has the size of the images."""
    mask, size = camera.mask, camera.size
    if isinstance(mask, ConfigError):
        yield Finding(FindingCode.MASK_REFUSED, f'{mask} (on this machine)',
                      "set mask_path to an 8-bit PNG, white where the robot's body hides the scene")
    elif mask is not None and size and mask.shape != (size[1], size[0]):
        yield Finding(FindingCode.MASK_SIZE,
                      f'the mask {camera.config.mask_path} is {mask.shape[1]}x{mask.shape[0]}, '
                      f'the images are {size[0]}x{size[1]}',
                      'make the mask from images of this size (crosspoint mask)')


def check_tf(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """Images have a frame_id, which is connected to the base when they are taken."""
    frame, base, frames = camera.frame_id, snapshot.base_frame, snapshot.frames
    if not frame:
        if camera.image.newest is not None:
            yield Finding(FindingCode.NO_FRAME_ID,
                          f'the images on {camera.image.topic} have an empty frame_id',
                          "set the camera's optical frame in the driver (frame_id, "
                          'camera_frame_id)')
        return
    if camera.base_from_cam is not None:
        return
    no_transform = f'no transform from {frame!r} to {base!r}'
    reason = (find_loop(frames, frame) or find_loop(frames, base)
              or explain_disconnected(frames, base, frame))
    if reason:
        yield Finding(FindingCode.NO_TF, f'{no_transform}: {reason}',
                      'publish it (robot_state_publisher with the URDF, or '
                      'static_transform_publisher with the calibration), or correct base_frame')
    # Transforms sent before the doctor listened are unknown; other clocks have their own finding.
    elif camera.tf_stamp_ns > snapshot.start_ns and has_comparable_stamps(snapshot, camera):
        reason = explain_failure(frames, base, frame, camera.tf_stamp_ns)
        yield Finding(FindingCode.TF_TIME,
                      f"{no_transform} at the image's stamp, {camera.tf_stamp_ns / 1e9:.3f} s: "
                      f'{reason} (waited {snapshot.times.wait_tf_s:g} s)',
                      'synchronise the clocks; publish it more often, or on /tf_static if it '
                      'never changes; raise limits.wait_tf_s if it arrives late')


def has_comparable_stamps(snapshot: Snapshot, camera: CameraSnapshot) -> bool:
    """Whether stamps are of the node's clock, so that ages mean something."""
    age_s = camera.image.age_s
    return (_has_stamps(camera) and -snapshot.times.max_image_age_s <= age_s <= OTHER_CLOCK_S
            and (bool(snapshot.clock.arrivals) or not snapshot.use_sim_time))


def _has_stamps(camera: CameraSnapshot) -> bool:
    return bool(camera.image.arrivals) and camera.image.stamps_ns[-1] > 0


def _follows_clock(snapshot: Snapshot, camera: CameraSnapshot) -> bool:
    clock_ns = snapshot.clock.stamps_ns[-1] if snapshot.clock.arrivals else None
    return (clock_ns is not None
            and abs(camera.image.stamps_ns[-1] - clock_ns) < OTHER_CLOCK_S * 1e9)


def suggest_topics(snapshot: Snapshot, stream: TopicStream, max_topics: int = 3) -> list[str]:
    """Return other topics of the type that are published, the most similar names first."""
    # The graph lists a topic for its subscribers too: leave out what only the node waits for.
    awaited = {s.topic for c in snapshot.cameras for s in c.streams if not s.publishers}
    topics = [topic for topic, types in snapshot.graph.topics.items()
              if stream.type in types and topic != stream.topic and topic not in awaited
              and not topic.startswith(f'{snapshot.node.name}/')]
    return sorted(topics, reverse=True, key=lambda topic: difflib.SequenceMatcher(
        None, topic, stream.topic).ratio())[:max_topics]


def _suggest_topic_cure(snapshot: Snapshot, camera: CameraSnapshot, stream: TopicStream) -> str:
    compressed = camera.config.transport == 'compressed'
    sibling = stream.topic.rpartition('/')[0] if compressed else f'{stream.topic}/compressed'
    types = snapshot.graph.topics.get(sibling, ())
    if stream.parameter.endswith('image_topic') and {COMPRESSED, RAW} & {*types}:
        return (f'{sibling} is there: set {camera.name}.transport: '
                f'{"raw" if compressed else "compressed"}')
    topics = suggest_topics(snapshot, stream)
    if not topics:
        return (f'start the driver; no topic of type {stream.type} is published in ROS_DOMAIN_ID '
                f'{snapshot.graph.domain}')
    first = topics[0]
    if compressed and not stream.parameter.endswith('info_topic'):
        first = first.rpartition('/')[0]  # the transport appends the rest
    none = ", or '' for none" if stream.parameter.endswith('depth_topic') else ''
    return (f'start the driver, or set {stream.parameter}: {first}{none}; of that type: '
            f'{", ".join(topics)}')


def _suggest_type_cure(snapshot: Snapshot, camera: CameraSnapshot, stream: TopicStream) -> str:
    types = {p.type for p in stream.other_type_publishers}
    if COMPRESSED in types and stream.topic.endswith('/compressed'):
        return (f'set {camera.name}.transport: compressed, and {stream.parameter}: '
                f'{stream.topic.removesuffix("/compressed")} (the transport appends /compressed)')
    topics = ', '.join(suggest_topics(snapshot, stream)) or 'none'
    return f'set {stream.parameter} to a topic of type {stream.type}; of that type: {topics}'


def _join_nodes(publishers: tuple[PublisherInfo, ...]) -> str:
    return join_names({p.node for p in publishers})


CHECKS = (check_publishers, check_stamps, check_delivery, check_losses, check_image,
          check_camera_info, check_depth, check_depth_lag, check_mask, check_tf)
