"""What can be wrong with images on their way: late, seldom, or lost for their size."""
from __future__ import annotations

from collections.abc import Iterator

from crosspoint_ros.ros.config import Config
from crosspoint_ros.ros.findings import Finding, Sign, listed
from crosspoint_ros.ros.findings_clock import in_time
from crosspoint_ros.ros.seen import CameraSeen, Seen

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
