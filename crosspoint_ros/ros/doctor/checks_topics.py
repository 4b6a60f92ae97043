"""What can be wrong with topics: nobody sends, or another type, or in a way that is not taken."""
from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterator

from crosspoint_ros.ros.config import Config
from crosspoint_ros.ros.doctor.checks_node import has_comparable_stamps
from crosspoint_ros.ros.doctor.finding import Finding, FindingCode, join_names
from crosspoint_ros.ros.doctor.snapshot import CameraSnapshot, PublisherInfo, Snapshot, TopicStream

COMPRESSED = 'sensor_msgs/msg/CompressedImage'


def check_published(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """Nobody publishes there."""
    for stream in camera.streams:
        if not stream.publishers and not stream.other_type_publishers:
            yield Finding(FindingCode.NO_PUBLISHER,
                          f'nobody publishes {stream.topic} ({stream.type})',
                          _suggest_topic_cure(snapshot, camera, stream), camera.name)


def check_type(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """Somebody publishes there, but something else."""
    for stream in camera.streams:
        if stream.other_type_publishers and not stream.publishers:
            types = join_names({p.type for p in stream.other_type_publishers})
            yield Finding(FindingCode.WRONG_TYPE,
                          f'{stream.topic} is {types} (from {_node_names(stream.other_type_publishers)}), not '
                          f'{stream.type}', _suggest_type_cure(snapshot, camera, stream), camera.name)


def check_single_publisher(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """Two cameras, perhaps, on one topic."""
    for stream in camera.streams:
        if len(stream.publishers) > 1:
            yield Finding(
                FindingCode.TWO_PUBLISHERS,
                f'{len(stream.publishers)} publishers send on {stream.topic}: '
                f'{_node_names(stream.publishers)}',
                'end all but one, or give them topics of their own: images of two cameras would be '
                'taken for one', camera.name)


def check_arrivals(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """Somebody publishes there, and nothing comes."""
    for stream in camera.streams:
        if stream.publishers and not stream.arrivals and not _has_qos_mismatch(snapshot, stream):
            yield Finding(
                FindingCode.NOTHING_ARRIVES,
                f'{_node_names(stream.publishers)} is to publish {stream.topic}, but nothing has come',
                'does the driver stream (its log; is the stream switched on; is it active)? From '
                'another machine: network, firewall, the size of the messages', camera.name)


def check_qos(snapshot: Snapshot) -> Iterator[Finding]:
    """Somebody publishes what the node asks for, but promises less."""
    for mismatch in snapshot.mismatches:
        latched = mismatch.topic == '/tf_static'
        profile = 'reliable and transient local' if latched else 'reliable'
        yield Finding(
            FindingCode.QOS_MISMATCH,
            f'{snapshot.node.name} takes nothing of {mismatch.topic} from {mismatch.publisher}: '
            f'{mismatch.reason}', f'let {mismatch.publisher} publish {mismatch.topic} {profile}')


def check_unique_topics(snapshot: Snapshot) -> Iterator[Finding]:
    """Two cameras are one."""
    users: dict[str, list[str]] = defaultdict(list)
    for camera in snapshot.cameras:
        users[camera.image.topic].append(camera.name)
    for topic, names in users.items():
        if len(names) > 1:
            yield Finding(FindingCode.SAME_TOPIC, f'{" and ".join(names)} take the same images, {topic}',
                          f'set {names[-1]}.image_topic to those of another camera')


def suggest_topics(snapshot: Snapshot, stream: TopicStream, max_topics: int = 3) -> list[str]:
    """Return other topics of that type, those with the most similar names first."""
    own = f'{snapshot.node.name}/'
    others = [topic for topic, types in snapshot.graph.topics.items()
              if stream.type in types and topic != stream.topic and not topic.startswith(own)]
    others = [topic for topic in others if _is_published(snapshot, topic)]
    return sorted(others, reverse=True, key=lambda topic: difflib.SequenceMatcher(
        None, topic, stream.topic).ratio())[:max_topics]


def _is_published(snapshot: Snapshot, topic: str) -> bool:
    """A topic stands on the graph for its subscribers too: leave out what only we wait for."""
    waited = {s.topic: s for camera in snapshot.cameras for s in camera.streams}
    return topic not in waited or bool(waited[topic].publishers)


def _suggest_topic_cure(snapshot: Snapshot, camera: CameraSnapshot, stream: TopicStream) -> str:
    """Say what to set, by what is there."""
    siblings = {'raw': f'{stream.topic}/compressed',
                'compressed': stream.topic.rpartition('/')[0]}
    sibling = siblings[camera.config.transport]
    if stream.parameter.endswith('image_topic') and _has_image_type(snapshot, sibling):
        other = 'compressed' if camera.config.transport == 'raw' else 'raw'
        return f'{sibling} is there: set {camera.name}.transport: {other}'
    fits = suggest_topics(snapshot, stream)
    if not fits:
        return (f'start the driver; no topic of type {stream.type} is published here, in '
                f'ROS_DOMAIN_ID {snapshot.graph.domain}')
    none = ", or '' for none" if stream.parameter.endswith('depth_topic') else ''
    first = _strip_transport(camera, stream, fits[0])
    return (f'start the driver, or set {stream.parameter}: {first}{none}; of that type are '
            f'{", ".join(fits)}')


def _has_image_type(snapshot: Snapshot, topic: str) -> bool:
    return any(kind in snapshot.graph.topics.get(topic, ())
               for kind in (COMPRESSED, 'sensor_msgs/msg/Image'))


def _strip_transport(camera: CameraSnapshot, stream: TopicStream, topic: str) -> str:
    """Topics are set without what the transport appends."""
    added = camera.config.transport == 'compressed' and not stream.parameter.endswith('info_topic')
    return topic.rpartition('/')[0] if added else topic


def _suggest_type_cure(snapshot: Snapshot, camera: CameraSnapshot, stream: TopicStream) -> str:
    types = {p.type for p in stream.other_type_publishers}
    if COMPRESSED in types and stream.topic.endswith('/compressed'):
        return (f'set {camera.name}.transport: compressed, and {stream.parameter}: '
                f'{stream.topic.removesuffix("/compressed")} (the transport appends /compressed)')
    fits = suggest_topics(snapshot, stream)
    there = f'; of that type are {", ".join(fits)}' if fits else '; none of that type is there'
    return f'set {stream.parameter} to a topic of type {stream.type}{there}'


def _has_qos_mismatch(snapshot: Snapshot, stream: TopicStream) -> bool:
    return any(m.topic == stream.topic for m in snapshot.mismatches)


def _node_names(publishers: tuple[PublisherInfo, ...]) -> str:
    return join_names({p.node for p in publishers}) if publishers else 'nobody'


TOPIC_CHECKS = (check_published, check_type, check_single_publisher, check_arrivals)
GRAPH_CHECKS = (check_qos, check_unique_topics)


SHM_SEGMENT_BYTES = 500_000  # of Fast DDS's shared memory, unless told
MAX_LOSS = 0.3  # best effort may lose one now and then


def check_image_age(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """They are too old when they come."""
    assert isinstance(snapshot.config, Config)
    limit_s = snapshot.config.times.max_image_age_s
    if has_comparable_stamps(snapshot, camera) and camera.image.age_s > limit_s:
        yield Finding(
            FindingCode.IMAGES_LATE,
            f'the images on {camera.image.topic} are {camera.image.age_s:.2f} s old when they come '
            f'(limits.max_image_age_s {limit_s:g})',
            'find what holds them up (a slow network: transport compressed; a busy machine; a '
            'buffer in the driver), check that the clocks of both machines agree, or raise '
            'limits.max_image_age_s', camera.name)


def check_image_rate(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """The newest one is too old before the next comes."""
    assert isinstance(snapshot.config, Config)
    limit_s, period_s = snapshot.config.times.max_image_age_s, camera.image.period_s
    if period_s > limit_s:
        yield Finding(
            FindingCode.IMAGES_SELDOM,
            f'an image comes on {camera.image.topic} every {period_s:.1f} s only '
            f'(limits.max_image_age_s {limit_s:g})',
            'raise the rate of the driver, or limits.max_image_age_s', camera.name)


def check_image_loss(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """Fewer images come than camera infos, and not for their size alone."""
    lost, sent = camera.lost_images
    if sent and lost > MAX_LOSS * sent and not _exceeds_shared_memory(snapshot, camera):
        yield Finding(
            FindingCode.IMAGES_LOST,
            f'{lost} of {sent} images on {camera.image.topic} did not come, while their camera '
            'infos did',
            f'give {_driver_names(camera)} what this process has ({snapshot.graph.transport or "nothing"}) '
            'for its transport; over a network: transport compressed, or a lower rate', camera.name)


def check_transport(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """Fast DDS's own shared memory is too small for them."""
    lost, sent = camera.lost_images
    none = bool(camera.image.publishers) and not camera.image.arrivals
    if _exceeds_shared_memory(snapshot, camera) and (none or (sent and lost > MAX_LOSS * sent)):
        what = 'none came' if none else f'{lost} of {sent} did not come'
        yield Finding(
            FindingCode.DEFAULT_TRANSPORT,
            f'an image on {camera.image.topic} has {camera.raw_bytes / 1e6:.1f} MB, the shared '
            f'memory of Fast DDS 0.5 by default, which this process has; {what}. What '
            f'{_driver_names(camera)} was started with cannot be seen from here',
            'start the camera driver, the node and this command with '
            'FASTDDS_DEFAULT_PROFILES_FILE=…/share/crosspoint_ros/config/fastdds_shm.xml '
            '(FASTRTPS_DEFAULT_PROFILES_FILE up to Jazzy)', camera.name)


def _exceeds_shared_memory(snapshot: Snapshot, camera: CameraSnapshot) -> bool:
    return (camera.raw_bytes > SHM_SEGMENT_BYTES and 'fastrtps' in snapshot.graph.rmw
            and not snapshot.graph.transport)


def _driver_names(camera: CameraSnapshot) -> str:
    return join_names({p.node for p in camera.image.publishers}, 'the driver')


DELAY_CHECKS = (check_image_age, check_image_rate, check_image_loss, check_transport)
