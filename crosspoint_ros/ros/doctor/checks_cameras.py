"""Checks of one camera: its topics, stamps, images, calibration, depth, mask and TF."""
from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

import numpy as np

from crosspoint_ros.core.encodings import COLOUR_ENCODINGS, DEPTH_ENCODINGS
from crosspoint_ros.core.tf_tree import explain_disconnected, explain_failure, find_loop
from crosspoint_ros.ros.camera_checks import MessageFault, check_frame_id, check_stamp, list_faults
from crosspoint_ros.ros.doctor.finding import Finding, FindingCode, join_names
from crosspoint_ros.ros.doctor.snapshot import (
    PAIRING_SLACK_NS,
    CameraSnapshot,
    PublisherInfo,
    Snapshot,
    TopicStream,
)

MAX_CURE_LENGTH = 170
IMAGE_SUFFIX, DEPTH_SUFFIX = '/compressed', '/compressedDepth'
COMPRESSED, RAW = 'sensor_msgs/msg/CompressedImage', 'sensor_msgs/msg/Image'
OTHER_CLOCK_S = 60.0  # no image is that late: its stamp is of another clock
MAX_AHEAD_S = 0.05  # synchronised clocks differ by less
SHM_SEGMENT_BYTES = 500_000  # default of Fast DDS's shared memory
MAX_LOSS = 0.3  # best effort may lose one now and then
REGISTER_DEPTH = ('publish depth registered to colour (realsense: align_depth.enable:=true; '
                  'others: depth_image_proc/register)')


MESSAGE_CURES = {
    FindingCode.IMAGE_REFUSED: 'set the driver to one of those, e.g. rgb8',
    FindingCode.UNCALIBRATED: 'calibrate it (camera_calibration) and load the file in the driver '
                              '(camera_info_url)',
    FindingCode.ONLY_RECTIFIED: 'P is valid: for the rectified image (image_rect) set '
                                '{name}.image_topic to it and {name}.rectified: true; otherwise '
                                'let the driver fill in K',
    FindingCode.INFO_REFUSED: 'calibrate with plumb_bob, rational_polynomial or equidistant; for '
                              'rectified images set {name}.rectified: true',
    FindingCode.INFO_SIZE: 'use the camera info published with these images; a calibration holds '
                           'for one resolution',
    FindingCode.LENS_IMPLAUSIBLE: 'load a calibration of this resolution in the driver '
                                  '(camera_info_url); if P is right and the image rectified, set '
                                  '{name}.rectified: true',
    FindingCode.DEPTH_REFUSED: "set the driver to one of those, or {name}.depth_topic: '' for no "
                               'depth',
    FindingCode.DEPTH_EMPTY: 'check for a covered lens, a disabled emitter, a scene below the '
                             'minimum range, or a wrong unit (16UC1: mm, 32FC1: m)',
    FindingCode.MASK_SIZE: 'make the mask from images of this size (crosspoint mask)',
}
MIN_COMPARED_STAMPS, MAX_INFO_OFFSET_S = 3, 1.0


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
    if camera.image.newest is not None:
        yield from (Finding(FindingCode.NO_STAMP, fault.message, 'let the driver stamp images with '
                            'their exposure time: TF is looked up then')
                    for fault in check_stamp(camera.messages.topics, camera.image.stamps_ns[-1]))
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


def check_messages(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """Image, camera info, depth and mask can be used, by the node's own checks."""
    for fault in (*list_faults(camera.messages), camera.registration_fault):
        if fault is not None:
            yield Finding(FindingCode(fault.finding), fault.message,
                          _suggest_message_cure(snapshot, camera, fault))
    if camera.mask_error is not None:
        yield Finding(FindingCode.MASK_REFUSED, f'{camera.mask_error} (on this machine)',
                      "set mask_path to an 8-bit PNG, white where the robot's body hides the scene")


def _suggest_message_cure(snapshot: Snapshot, camera: CameraSnapshot, fault: MessageFault) -> str:
    code, name = FindingCode(fault.finding), camera.name
    is_other_encoding = 'accepted:' in fault.message
    if code is FindingCode.IMAGE_REFUSED and not is_other_encoding:
        return ('check the cable, the USB or network bandwidth and the driver\'s log; set '
                f'{name}.transport: raw where the driver compresses')
    if code in (FindingCode.DEPTH_SIZE, FindingCode.DEPTH_FRAME):
        if camera.depth_info is not None:
            return ('publish a camera info of the depth in its own frame_id, and TF from there to '
                    "the image's frame (the driver's publish_tf, or the URDF)")
        return (f'{REGISTER_DEPTH}, or set {name}.depth_info_topic: the node registers it by that '
                'and TF')
    stream = {FindingCode.IMAGE_REFUSED: camera.image,
              FindingCode.DEPTH_REFUSED: camera.depth}.get(code)
    encoding = getattr(stream and stream.newest, 'encoding', '')
    if stream and is_other_encoding and encoding in {*COLOUR_ENCODINGS, *DEPTH_ENCODINGS}:
        topics = ', '.join(suggest_topics(snapshot, stream)) or 'none'
        return (f'{stream.topic} is {encoding}: set {stream.parameter} to '
                f'{"a colour" if stream is camera.image else "a depth"} topic; there are: {topics}')
    return MESSAGE_CURES[code].format(name=name)


def check_info_clock(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """Camera infos have the stamps of their images."""
    info, image = camera.info, camera.image
    if min(len(info.arrivals), len(image.arrivals)) < MIN_COMPARED_STAMPS or (
            not _has_stamps(camera) or {*info.stamps_ns} & {*image.stamps_ns}):
        return
    offset_s = image.age_s - info.age_s
    if abs(offset_s) > MAX_INFO_OFFSET_S:
        has_none = not any(info.stamps_ns)
        where = 'have no stamp' if has_none else (
            f'are stamped {abs(offset_s):.1f} s {"after" if offset_s > 0 else "before"}')
        yield Finding(FindingCode.INFO_CLOCK,
                      f'the camera infos on {info.topic} {where}'
                      f'{", unlike" * has_none} the images on {image.topic}',
                      'let one driver publish both with one stamp: where the lens or the '
                      'resolution changes, the node cannot know when')


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


def check_tf(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """Images have a frame_id, which is connected to the base when they are taken."""
    frame, base, frames = camera.frame_id, snapshot.base_frame, snapshot.frames
    if not snapshot.use_tf:
        return
    if not frame:
        if camera.image.newest is not None:
            yield from (Finding(FindingCode.NO_FRAME_ID, fault.message, "set the camera's optical "
                                'frame in the driver (frame_id, camera_frame_id)')
                        for fault in check_frame_id(camera.messages.topics, frame))
        return
    if camera.base_from_cam is not None or camera.tf_conflict:
        return
    no_transform = f'no transform from {frame!r} to {base!r}'
    reason = (find_loop(frames, frame) or find_loop(frames, base)
              or explain_disconnected(frames, base, frame))
    if reason:
        yield Finding(FindingCode.NO_TF, f'{no_transform}: {reason}',
                      'publish it (robot_state_publisher with the URDF, or '
                      'static_transform_publisher with the calibration), or correct base_frame; '
                      'without poses, use_tf: false answers by the images alone, without 3D')
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


def is_depth_topic(topic: str) -> bool | None:
    """Return whether a topic is depth by its name, False for colour; None if it does not say."""
    for part in reversed(topic.lower().split('/')):
        if re.search(r'depth|disparity|\brange\b|points', part):
            return True
        if re.search(r'colou?r|rgb|infra|\bir\b', part):
            return False
    return None


def suggest_topics(snapshot: Snapshot, stream: TopicStream, max_topics: int = 3) -> list[str]:
    """Return other topics of the type and kind that are published, most similar names first.

    Only what is named as depth is suggested for depth, and only what is not, for images.
    """
    wants_depth = stream.parameter.endswith('depth_topic')
    # The graph lists a topic for its subscribers too: leave out what only the node waits for.
    awaited = {s.topic for c in snapshot.cameras for s in c.streams if not s.publishers}
    suffix = next((suffix for suffix in (DEPTH_SUFFIX, IMAGE_SUFFIX)
                   if stream.topic.endswith(suffix)), '')
    topics = [topic for topic, types in snapshot.graph.topics.items()
              if stream.type in types and topic != stream.topic and topic not in awaited
              and not topic.startswith(f'{snapshot.node.name}/') and topic.endswith(suffix)
              and (stream.parameter.endswith('info_topic')
                   or bool(is_depth_topic(topic.removesuffix(suffix))) is wants_depth)]
    return sorted(topics, reverse=True, key=lambda topic: difflib.SequenceMatcher(
        None, topic, stream.topic).ratio())[:max_topics]


def _suggest_topic_cure(snapshot: Snapshot, camera: CameraSnapshot, stream: TopicStream) -> str:
    sibling = _suggest_transport(snapshot, camera, stream)
    if sibling:
        return sibling
    topics = suggest_topics(snapshot, stream)
    what = 'depth of type' if stream.parameter.endswith('depth_topic') else 'topic of type'
    if not topics:
        return (f'start the driver; no {what} {stream.type} is published in ROS_DOMAIN_ID '
                f'{snapshot.graph.domain}')
    first = topics[0]
    for suffix in (IMAGE_SUFFIX, DEPTH_SUFFIX):  # the transport appends it
        first = first.removesuffix(suffix)
    none = ", or '' for none" if stream.parameter.endswith('depth_topic') else ''
    cure, others = f'start the driver, or set {stream.parameter}: {first}{none}', topics[1:]
    while others and len(cure) + len(', '.join(others)) > MAX_CURE_LENGTH:
        others.pop()
    return cure + ('; of that type too: ' + ', '.join(others)) * bool(others)


def _suggest_transport(snapshot: Snapshot, camera: CameraSnapshot, stream: TopicStream) -> str:
    """Return the cure where the topic is published with the other transport; '' if it is not."""
    is_depth = stream.parameter.endswith('depth_topic')
    if stream.parameter.endswith('info_topic'):
        return ''
    suffix = DEPTH_SUFFIX if is_depth else IMAGE_SUFFIX
    is_compressed = stream.type == COMPRESSED
    sibling = stream.topic.removesuffix(suffix) if is_compressed else stream.topic + suffix
    if (RAW if is_compressed else COMPRESSED) not in snapshot.graph.topics.get(sibling, ()):
        return ''
    other, own = ('raw', 'compressed') if is_compressed else ('compressed', 'raw')
    parameter = f'{camera.name}.{"depth_transport" if is_depth else "transport"}'
    keep = (f' and {camera.name}.depth_transport: {own}' if not is_depth and camera.depth
            and camera.depth.publishers and not camera.config.depth_transport else '')
    return f'{sibling} is there: set {parameter}: {other}{keep}'


def _suggest_type_cure(snapshot: Snapshot, camera: CameraSnapshot, stream: TopicStream) -> str:
    types = {p.type for p in stream.other_type_publishers}
    is_depth = stream.parameter.endswith('depth_topic')
    suffix = DEPTH_SUFFIX if is_depth else IMAGE_SUFFIX
    if COMPRESSED in types and stream.topic.endswith(suffix):
        transport = 'depth_transport' if is_depth else 'transport'
        return (f'set {camera.name}.{transport}: compressed, and {stream.parameter}: '
                f'{stream.topic.removesuffix(suffix)} (the transport appends {suffix})')
    topics = ', '.join(suggest_topics(snapshot, stream)) or 'none'
    return f'set {stream.parameter} to a topic of type {stream.type}; of that type: {topics}'


def _join_nodes(publishers: tuple[PublisherInfo, ...]) -> str:
    return join_names({p.node for p in publishers})


CHECKS = (check_publishers, check_stamps, check_delivery, check_losses, check_messages,
          check_info_clock, check_depth_lag, check_tf)
