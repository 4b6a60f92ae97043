"""What can be wrong with time: a clock that does not come, or one that the stamps are not of."""
from __future__ import annotations

from collections.abc import Iterator

from crosspoint_ros.ros.config import Config
from crosspoint_ros.ros.convert import stamp_ns
from crosspoint_ros.ros.findings import Finding, Sign
from crosspoint_ros.ros.seen import CameraSeen, Seen

APART_S = 60.0  # no image is that late: its stamp is of another clock
AHEAD_S = 0.05  # clocks that are synchronised differ by less


def no_clock(seen: Seen) -> Iterator[Finding]:
    """The node is to live by /clock, and there is none."""
    if seen.use_sim_time and not seen.clock.arrivals:
        publishers = len(seen.clock.publishers)
        yield Finding(
            Sign.NO_CLOCK,
            f'use_sim_time is true, but nothing came on /clock ({publishers} publishers)',
            'on a real robot set use_sim_time: false; else start the simulation, unpause it, or '
            'play the bag with --clock')


def no_stamp(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """The images say nothing of when they were taken."""
    if camera.image.newest is not None and stamp_ns(camera.image.newest.header.stamp) <= 0:
        yield Finding(
            Sign.NO_STAMP, f'the images on {camera.image.topic} have no stamp (0)',
            'let the driver stamp them with the time of the exposure: TF is looked up then',
            camera.name)


def sim_time_off(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """The stamps are those of /clock, the node is not."""
    if not seen.use_sim_time and _apart(camera) and _of_clock(seen, camera):
        yield Finding(
            Sign.SIM_TIME_OFF,
            f'the stamps on {camera.image.topic} are {camera.image.age_s:.0f} s from the clock of '
            'the node and follow /clock; use_sim_time is false',
            'start the node with use_sim_time: true', camera.name)


def clocks_differ(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """The stamps are of a clock that the node does not know."""
    limit_s = _limit_s(seen)
    if not (_apart(camera) or (_stamped(camera) and camera.image.age_s < -limit_s)):
        return
    if (seen.use_sim_time and not seen.clock.arrivals) or (
            not seen.use_sim_time and _of_clock(seen, camera)):
        return
    age_s = camera.image.age_s
    side = f'{age_s:.3f} s behind' if age_s > 0 else f'{-age_s:.3f} s ahead of'
    clock = '/clock' if seen.use_sim_time else 'the clock of this machine'
    cure = ('start the driver with use_sim_time too, or set it to false for all'
            if seen.use_sim_time else 'synchronise the clocks of the machines (chrony, ntpd), or '
            'stop the driver from stamping with the clock of the camera; a bag is played with '
            '--clock and use_sim_time: true')
    yield Finding(
        Sign.CLOCKS_DIFFER,
        f'the stamps on {camera.image.topic} are {side} {clock} '
        f'(limits.max_image_age_s {limit_s:g})', cure, camera.name)


def stamps_ahead(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """The stamps lie a little in the future."""
    if _stamped(camera) and -_limit_s(seen) <= camera.image.age_s < -AHEAD_S:
        yield Finding(
            Sign.STAMPS_AHEAD,
            f'the stamps on {camera.image.topic} are {-camera.image.age_s:.3f} s in the future '
            f'when they come (over {AHEAD_S:g})',
            'synchronise the clocks of the machines (chrony, ntpd): TF is not known that early',
            camera.name)


def in_time(seen: Seen, camera: CameraSeen) -> bool:
    """Tell whether stamps and clock are of one kind, so that ages mean something."""
    return (_stamped(camera) and not _apart(camera) and camera.image.age_s >= -_limit_s(seen)
            and (bool(seen.clock.arrivals) or not seen.use_sim_time))


def _stamped(camera: CameraSeen) -> bool:
    return bool(camera.image.arrivals) and camera.image.stamps_ns[-1] > 0


def _apart(camera: CameraSeen) -> bool:
    return _stamped(camera) and abs(camera.image.age_s) > APART_S


def _of_clock(seen: Seen, camera: CameraSeen) -> bool:
    clock_ns = seen.clock.stamps_ns[-1] if seen.clock.arrivals else None
    return clock_ns is not None and abs(camera.image.stamps_ns[-1] - clock_ns) < APART_S * 1e9


def _limit_s(seen: Seen) -> float:
    assert isinstance(seen.config, Config)
    return seen.config.times.max_image_age_s


OF_TIME = (no_clock,)
OF_STAMPS = (no_stamp, sim_time_off, clocks_differ, stamps_ahead)
