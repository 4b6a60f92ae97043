"""What can be wrong with topics: nobody sends, or another type, or in a way that is not taken."""
from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterator

from crosspoint_ros.ros.config import Config
from crosspoint_ros.ros.doctor.checks_node import in_time
from crosspoint_ros.ros.doctor.finding import Finding, Sign, listed
from crosspoint_ros.ros.doctor.snapshot import CameraSeen, Publisher, Seen, Stream

COMPRESSED = 'sensor_msgs/msg/CompressedImage'


def no_publisher(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """Nobody publishes there."""
    for stream in camera.streams:
        if not stream.publishers and not stream.strangers:
            yield Finding(Sign.NO_PUBLISHER,
                          f'nobody publishes {stream.topic} ({stream.type})',
                          _instead(seen, camera, stream), camera.name)


def wrong_type(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """Somebody publishes there, but something else."""
    for stream in camera.streams:
        if stream.strangers and not stream.publishers:
            types = listed({p.type for p in stream.strangers})
            yield Finding(Sign.WRONG_TYPE,
                          f'{stream.topic} is {types} (from {_names(stream.strangers)}), not '
                          f'{stream.type}', _as_it_is(seen, camera, stream), camera.name)


def two_publishers(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """Two cameras, perhaps, on one topic."""
    for stream in camera.streams:
        if len(stream.publishers) > 1:
            yield Finding(
                Sign.TWO_PUBLISHERS,
                f'{len(stream.publishers)} publishers send on {stream.topic}: '
                f'{_names(stream.publishers)}',
                'end all but one, or give them topics of their own: images of two cameras would be '
                'taken for one', camera.name)


def nothing_arrives(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """Somebody publishes there, and nothing comes."""
    for stream in camera.streams:
        if stream.publishers and not stream.arrivals and not _mismatched(seen, stream):
            yield Finding(
                Sign.NOTHING_ARRIVES,
                f'{_names(stream.publishers)} is to publish {stream.topic}, but nothing has come',
                'does the driver stream (its log; is the stream switched on; is it active)? From '
                'another machine: network, firewall, the size of the messages', camera.name)


def qos_mismatch(seen: Seen) -> Iterator[Finding]:
    """Somebody publishes what the node asks for, but promises less."""
    for mismatch in seen.mismatches:
        latched = mismatch.topic == '/tf_static'
        profile = 'reliable and transient local' if latched else 'reliable'
        yield Finding(
            Sign.QOS_MISMATCH,
            f'{seen.node.name} takes nothing of {mismatch.topic} from {mismatch.publisher}: '
            f'{mismatch.reason}', f'let {mismatch.publisher} publish {mismatch.topic} {profile}')


def same_topic(seen: Seen) -> Iterator[Finding]:
    """Two cameras are one."""
    users: dict[str, list[str]] = defaultdict(list)
    for camera in seen.cameras:
        users[camera.image.topic].append(camera.name)
    for topic, names in users.items():
        if len(names) > 1:
            yield Finding(Sign.SAME_TOPIC, f'{" and ".join(names)} take the same images, {topic}',
                          f'set {names[-1]}.image_topic to those of another camera')


def fitting(seen: Seen, stream: Stream, most: int = 3) -> list[str]:
    """Return other topics of that type, those with the most similar names first."""
    own = f'{seen.node.name}/'
    others = [topic for topic, types in seen.around.topics.items()
              if stream.type in types and topic != stream.topic and not topic.startswith(own)]
    others = [topic for topic in others if _sent(seen, topic)]
    return sorted(others, reverse=True, key=lambda topic: difflib.SequenceMatcher(
        None, topic, stream.topic).ratio())[:most]


def _sent(seen: Seen, topic: str) -> bool:
    """A topic stands on the graph for its subscribers too: leave out what only we wait for."""
    waited = {s.topic: s for camera in seen.cameras for s in camera.streams}
    return topic not in waited or bool(waited[topic].publishers)


def _instead(seen: Seen, camera: CameraSeen, stream: Stream) -> str:
    """Say what to set, by what is there."""
    siblings = {'raw': f'{stream.topic}/compressed',
                'compressed': stream.topic.rpartition('/')[0]}
    sibling = siblings[camera.config.transport]
    if stream.parameter.endswith('image_topic') and _is_image(seen, sibling):
        other = 'compressed' if camera.config.transport == 'raw' else 'raw'
        return f'{sibling} is there: set {camera.name}.transport: {other}'
    fits = fitting(seen, stream)
    if not fits:
        return (f'start the driver; no topic of type {stream.type} is published here, in '
                f'ROS_DOMAIN_ID {seen.around.domain}')
    none = ", or '' for none" if stream.parameter.endswith('depth_topic') else ''
    first = _as_parameter(camera, stream, fits[0])
    return (f'start the driver, or set {stream.parameter}: {first}{none}; of that type are '
            f'{", ".join(fits)}')


def _is_image(seen: Seen, topic: str) -> bool:
    return any(kind in seen.around.topics.get(topic, ())
               for kind in (COMPRESSED, 'sensor_msgs/msg/Image'))


def _as_parameter(camera: CameraSeen, stream: Stream, topic: str) -> str:
    """Topics are set without what the transport appends."""
    added = camera.config.transport == 'compressed' and not stream.parameter.endswith('info_topic')
    return topic.rpartition('/')[0] if added else topic


def _as_it_is(seen: Seen, camera: CameraSeen, stream: Stream) -> str:
    types = {p.type for p in stream.strangers}
    if COMPRESSED in types and stream.topic.endswith('/compressed'):
        return (f'set {camera.name}.transport: compressed, and {stream.parameter}: '
                f'{stream.topic.removesuffix("/compressed")} (the transport appends /compressed)')
    fits = fitting(seen, stream)
    there = f'; of that type are {", ".join(fits)}' if fits else '; none of that type is there'
    return f'set {stream.parameter} to a topic of type {stream.type}{there}'


def _mismatched(seen: Seen, stream: Stream) -> bool:
    return any(m.topic == stream.topic for m in seen.mismatches)


def _names(publishers: tuple[Publisher, ...]) -> str:
    return listed({p.node for p in publishers}) if publishers else 'nobody'


OF_TOPICS = (no_publisher, wrong_type, two_publishers, nothing_arrives)
OF_THE_GRAPH = (qos_mismatch, same_topic)


SEGMENT_BYTES = 500_000  # of Fast DDS's shared memory, unless told
LOST_SHARE = 0.3  # best effort may lose one now and then


def images_late(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """They are too old when they come."""
    assert isinstance(seen.config, Config)
    limit_s = seen.config.times.max_image_age_s
    if in_time(seen, camera) and camera.image.age_s > limit_s:
        yield Finding(
            Sign.IMAGES_LATE,
            f'the images on {camera.image.topic} are {camera.image.age_s:.2f} s old when they come '
            f'(limits.max_image_age_s {limit_s:g})',
            'find what holds them up (a slow network: transport compressed; a busy machine; a '
            'buffer in the driver), check that the clocks of both machines agree, or raise '
            'limits.max_image_age_s', camera.name)


def images_seldom(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """The newest one is too old before the next comes."""
    assert isinstance(seen.config, Config)
    limit_s, period_s = seen.config.times.max_image_age_s, camera.image.period_s
    if period_s > limit_s:
        yield Finding(
            Sign.IMAGES_SELDOM,
            f'an image comes on {camera.image.topic} every {period_s:.1f} s only '
            f'(limits.max_image_age_s {limit_s:g})',
            'raise the rate of the driver, or limits.max_image_age_s', camera.name)


def images_lost(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """Fewer images come than camera infos, and not for their size alone."""
    lost, sent = camera.lost
    if sent and lost > LOST_SHARE * sent and not _too_large(seen, camera):
        yield Finding(
            Sign.IMAGES_LOST,
            f'{lost} of {sent} images on {camera.image.topic} did not come, while their camera '
            'infos did',
            f'give {_senders(camera)} what this process has ({seen.around.transport or "nothing"}) '
            'for its transport; over a network: transport compressed, or a lower rate', camera.name)


def default_transport(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """Fast DDS's own shared memory is too small for them."""
    lost, sent = camera.lost
    none = bool(camera.image.publishers) and not camera.image.arrivals
    if _too_large(seen, camera) and (none or (sent and lost > LOST_SHARE * sent)):
        what = 'none came' if none else f'{lost} of {sent} did not come'
        yield Finding(
            Sign.DEFAULT_TRANSPORT,
            f'an image on {camera.image.topic} has {camera.raw_bytes / 1e6:.1f} MB, the shared '
            f'memory of Fast DDS 0.5 by default, which this process has; {what}. What '
            f'{_senders(camera)} was started with cannot be seen from here',
            'start the camera driver, the node and this command with '
            'FASTDDS_DEFAULT_PROFILES_FILE=…/share/crosspoint_ros/config/fastdds_shm.xml '
            '(FASTRTPS_DEFAULT_PROFILES_FILE up to Jazzy)', camera.name)


def _too_large(seen: Seen, camera: CameraSeen) -> bool:
    return (camera.raw_bytes > SEGMENT_BYTES and 'fastrtps' in seen.around.rmw
            and not seen.around.transport)


def _senders(camera: CameraSeen) -> str:
    return listed({p.node for p in camera.image.publishers}, 'the driver')


OF_DELAYS = (images_late, images_seldom, images_lost, default_transport)
