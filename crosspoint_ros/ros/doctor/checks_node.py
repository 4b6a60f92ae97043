"""What can be wrong with the node itself: absent, hung, inactive, there twice, no matcher."""
from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator

from diagnostic_msgs.msg import DiagnosticStatus

from crosspoint_ros.ros.config import Config, ConfigError
from crosspoint_ros.ros.conversions import stamp_ns
from crosspoint_ros.ros.doctor.finding import Finding, Sign, listed
from crosspoint_ros.ros.doctor.snapshot import CameraSeen, Seen

CURES = {
    'unconfigured': 'ros2 lifecycle set {node} configure, then activate (or autostart: true); if '
                    'that fails, the log of the node says why',
    'inactive': 'ros2 lifecycle set {node} activate',
    'finalized': 'it was shut down for good: start it again',
}


def no_node(seen: Seen) -> Iterator[Finding]:
    """Nobody of that name is on the graph."""
    if seen.node.there or seen.node.answers:  # names may come later than services
        return
    nodes = seen.around.nodes
    near = difflib.get_close_matches(seen.node.name, nodes, n=3)
    tried = f'; did you mean --node {" or ".join(near)}?' if near else ''
    transport = seen.around.transport or 'the default transport'
    yield Finding(
        Sign.NO_NODE,
        f'there is no node {seen.node.name}; the others here: {listed(nodes)}',
        f'start crosspoint_node, or name it with --node{tried} What runs in another ROS_DOMAIN_ID '
        f'(here {seen.around.domain}), with another RMW_IMPLEMENTATION (here {seen.around.rmw}), '
        f'behind ROS_LOCALHOST_ONLY, or with FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA when we are not '
        f'(here {transport}), cannot be seen from here')


def other_node(seen: Seen) -> Iterator[Finding]:
    """The node of that name is of another kind."""
    if not seen.node.is_crosspoint:
        yield Finding(Sign.OTHER_NODE,
                      f'{seen.node.name} has no parameter `cameras`: it is no crosspoint_node',
                      f'name the right one with --node; here are {listed(seen.around.nodes)}')


def node_hung(seen: Seen) -> Iterator[Finding]:
    """It is on the graph and says nothing."""
    if seen.node.there and not seen.node.answers:
        looked = ('what follows is of the params file' if seen.cameras else
                  'to look at its cameras without it, give --params FILE')
        yield Finding(
            Sign.NODE_HUNG, f'{seen.node.name} is on the graph but does not answer',
            'end its process and start it again; one that was killed stays on the graph for about '
            f'20 s; {looked}')


def node_not_active(seen: Seen) -> Iterator[Finding]:
    """It waits for somebody to configure or activate it, and not for its matcher."""
    state, matcher = seen.node.state, seen.node.matcher
    if state in CURES and (matcher is None or matcher[0] == DiagnosticStatus.OK):
        yield Finding(Sign.NODE_NOT_ACTIVE, f'{seen.node.name} is {state}: it answers no click',
                      CURES[state].format(node=seen.node.name))


def two_nodes(seen: Seen) -> Iterator[Finding]:
    """Nodes of one name answer each other's requests; of all the others, camera drivers matter."""
    senders = {p.node for camera in seen.cameras for s in camera.streams for p in s.publishers}
    for name, times in sorted(Counter(seen.around.nodes).items()):
        if times > 1 and name in {seen.node.name, *senders}:
            yield Finding(
                Sign.TWO_NODES, f'{times} nodes are called {name}',
                'end one, or give it another name or namespace (--ros-args -r __node:=… or '
                '-r __ns:=…); one that was killed stays on the graph for about 20 s')


def parameters_refused(seen: Seen) -> Iterator[Finding]:
    """A parameter has no value, or one that the node would not start with."""
    if isinstance(seen.config, ConfigError):
        yield Finding(Sign.PARAMETERS_REFUSED, f'the node takes no such parameters: {seen.config}',
                      'correct that parameter; config/crosspoint.yaml has them all, with their '
                      'ranges. Nothing else could be looked at')


def matcher_loading(seen: Seen) -> Iterator[Finding]:
    """The matcher is not there yet."""
    if seen.node.matcher is not None and seen.node.matcher[0] == DiagnosticStatus.WARN:
        yield Finding(Sign.MATCHER_LOADING, seen.node.matcher[1],
                      'wait for it, and ask again; large models take minutes')


def matcher_failed(seen: Seen) -> Iterator[Finding]:
    """The matcher could not be loaded, or does not come back."""
    if seen.node.matcher is not None and seen.node.matcher[0] == DiagnosticStatus.ERROR:
        yield Finding(
            Sign.MATCHER_FAILED, seen.node.matcher[1],
            f'do what that says, then ros2 lifecycle set {seen.node.name} cleanup, configure and '
            'activate; a matcher that does not return needs the node started anew')


OF_THE_NODE = (no_node, other_node, node_hung, parameters_refused, two_nodes, matcher_failed,
               matcher_loading, node_not_active)


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
