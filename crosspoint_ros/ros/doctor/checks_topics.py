"""Checks that every topic is published, of the right type and QoS, and arrives in time."""
from __future__ import annotations

import difflib
from collections.abc import Iterator

from crosspoint_ros.ros.doctor.checks_node import has_comparable_stamps
from crosspoint_ros.ros.doctor.finding import Finding, FindingCode, find_shared, join_names
from crosspoint_ros.ros.doctor.snapshot import (
    CameraSnapshot,
    PublisherInfo,
    Snapshot,
    TopicStream,
)

COMPRESSED, RAW = 'sensor_msgs/msg/CompressedImage', 'sensor_msgs/msg/Image'
SHM_SEGMENT_BYTES = 500_000  # default of Fast DDS's shared memory
MAX_LOSS = 0.3  # best effort may lose one now and then


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


def check_qos(snapshot: Snapshot) -> Iterator[Finding]:
    """Every publisher offers the QoS that the node requests."""
    for mismatch in snapshot.mismatches:
        profile = 'reliable' + ' and transient local' * (mismatch.topic == '/tf_static')
        yield Finding(FindingCode.QOS_MISMATCH,
                      f'{snapshot.node.name} receives nothing on {mismatch.topic} from '
                      f'{mismatch.publisher}: {mismatch.reason}',
                      f'let {mismatch.publisher} publish {mismatch.topic} {profile}')


def check_unique_topics(snapshot: Snapshot) -> Iterator[Finding]:
    """No two cameras share their images."""
    for topic, names in find_shared((c.image.topic, c.name) for c in snapshot.cameras):
        yield Finding(FindingCode.SAME_TOPIC, f'{" and ".join(names)} use the same images, {topic}',
                      f'set {names[-1]}.image_topic to those of another camera')


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


CHECKS = (check_publishers, check_delivery, check_losses)
SYSTEM_CHECKS = (check_qos, check_unique_topics)
