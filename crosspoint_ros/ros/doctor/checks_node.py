"""What can be wrong with the node itself: absent, hung, inactive, there twice, no matcher."""
from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator

from diagnostic_msgs.msg import DiagnosticStatus

from crosspoint_ros.ros.config import Config, ConfigError
from crosspoint_ros.ros.conversions import stamp_to_ns
from crosspoint_ros.ros.doctor.finding import Finding, FindingCode, join_names
from crosspoint_ros.ros.doctor.snapshot import CameraSnapshot, Snapshot

STATE_CURES = {
    'unconfigured': 'ros2 lifecycle set {node} configure, then activate (or autostart: true); if '
                    'that fails, the log of the node says why',
    'inactive': 'ros2 lifecycle set {node} activate',
    'finalized': 'it was shut down for good: start it again',
}


def check_node_exists(snapshot: Snapshot) -> Iterator[Finding]:
    """Nobody of that name is on the graph."""
    if snapshot.node.count or snapshot.node.is_responding:  # names may come later than services
        return
    nodes = snapshot.graph.nodes
    near = difflib.get_close_matches(snapshot.node.name, nodes, n=3)
    tried = f'; did you mean --node {" or ".join(near)}?' if near else ''
    transport = snapshot.graph.transport or 'the default transport'
    yield Finding(
        FindingCode.NO_NODE,
        f'there is no node {snapshot.node.name}; the others here: {join_names(nodes)}',
        f'start crosspoint_node, or name it with --node{tried} What runs in another ROS_DOMAIN_ID '
        f'(here {snapshot.graph.domain}), with another RMW_IMPLEMENTATION (here {snapshot.graph.rmw}), '
        f'behind ROS_LOCALHOST_ONLY, or with FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA when we are not '
        f'(here {transport}), cannot be seen from here')


def check_node_type(snapshot: Snapshot) -> Iterator[Finding]:
    """The node of that name is of another kind."""
    if not snapshot.node.is_crosspoint:
        yield Finding(FindingCode.OTHER_NODE,
                      f'{snapshot.node.name} has no parameter `cameras`: it is no crosspoint_node',
                      f'name the right one with --node; here are {join_names(snapshot.graph.nodes)}')


def check_node_responds(snapshot: Snapshot) -> Iterator[Finding]:
    """It is on the graph and says nothing."""
    if snapshot.node.count and not snapshot.node.is_responding:
        looked = ('what follows is of the params file' if snapshot.cameras else
                  'to look at its cameras without it, give --params FILE')
        yield Finding(
            FindingCode.NODE_HUNG, f'{snapshot.node.name} is on the graph but does not answer',
            'end its process and start it again; one that was killed stays on the graph for about '
            f'20 s; {looked}')


def check_node_active(snapshot: Snapshot) -> Iterator[Finding]:
    """It waits for somebody to configure or activate it, and not for its matcher."""
    state, matcher = snapshot.node.state, snapshot.node.matcher
    if state in STATE_CURES and (matcher is None or matcher[0] == DiagnosticStatus.OK):
        yield Finding(FindingCode.NODE_NOT_ACTIVE, f'{snapshot.node.name} is {state}: it answers no click',
                      STATE_CURES[state].format(node=snapshot.node.name))


def check_unique_node_names(snapshot: Snapshot) -> Iterator[Finding]:
    """Nodes of one name answer each other's requests; of all the others, camera drivers matter."""
    senders = {p.node for camera in snapshot.cameras for s in camera.streams for p in s.publishers}
    for name, times in sorted(Counter(snapshot.graph.nodes).items()):
        if times > 1 and name in {snapshot.node.name, *senders}:
            yield Finding(
                FindingCode.TWO_NODES, f'{times} nodes are called {name}',
                'end one, or give it another name or namespace (--ros-args -r __node:=… or '
                '-r __ns:=…); one that was killed stays on the graph for about 20 s')


def check_parameters(snapshot: Snapshot) -> Iterator[Finding]:
    """A parameter has no value, or one that the node would not start with."""
    if isinstance(snapshot.config, ConfigError):
        yield Finding(FindingCode.PARAMETERS_REFUSED, f'the node takes no such parameters: {snapshot.config}',
                      'correct that parameter; config/crosspoint.yaml has them all, with their '
                      'ranges. Nothing else could be looked at')


def check_matcher_loaded(snapshot: Snapshot) -> Iterator[Finding]:
    """The matcher is not there yet."""
    if snapshot.node.matcher is not None and snapshot.node.matcher[0] == DiagnosticStatus.WARN:
        yield Finding(FindingCode.MATCHER_LOADING, snapshot.node.matcher[1],
                      'wait for it, and ask again; large models take minutes')


def check_matcher_failure(snapshot: Snapshot) -> Iterator[Finding]:
    """The matcher could not be loaded, or does not come back."""
    if snapshot.node.matcher is not None and snapshot.node.matcher[0] == DiagnosticStatus.ERROR:
        yield Finding(
            FindingCode.MATCHER_FAILED, snapshot.node.matcher[1],
            f'do what that says, then ros2 lifecycle set {snapshot.node.name} cleanup, configure and '
            'activate; a matcher that does not return needs the node started anew')


NODE_CHECKS = (check_node_exists, check_node_type, check_node_responds, check_parameters, check_unique_node_names, check_matcher_failure,
               check_matcher_loaded, check_node_active)


OTHER_CLOCK_S = 60.0  # no image is that late: its stamp is of another clock
MAX_AHEAD_S = 0.05  # clocks that are synchronised differ by less


def check_clock(snapshot: Snapshot) -> Iterator[Finding]:
    """The node is to live by /clock, and there is none."""
    if snapshot.use_sim_time and not snapshot.clock.arrivals:
        publishers = len(snapshot.clock.publishers)
        yield Finding(
            FindingCode.NO_CLOCK,
            f'use_sim_time is true, but nothing came on /clock ({publishers} publishers)',
            'on a real robot set use_sim_time: false; else start the simulation, unpause it, or '
            'play the bag with --clock')


def check_stamped(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """The images say nothing of when they were taken."""
    if camera.image.newest is not None and stamp_to_ns(camera.image.newest.header.stamp) <= 0:
        yield Finding(
            FindingCode.NO_STAMP, f'the images on {camera.image.topic} have no stamp (0)',
            'let the driver stamp them with the time of the exposure: TF is looked up then',
            camera.name)


def check_sim_time(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """The stamps are those of /clock, the node is not."""
    if not snapshot.use_sim_time and _is_other_clock(camera) and _follows_clock(snapshot, camera):
        yield Finding(
            FindingCode.SIM_TIME_OFF,
            f'the stamps on {camera.image.topic} are {camera.image.age_s:.0f} s from the clock of '
            'the node and follow /clock; use_sim_time is false',
            'start the node with use_sim_time: true', camera.name)


def check_clock_offset(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """The stamps are of a clock that the node does not know."""
    limit_s = _max_age_s(snapshot)
    if not (_is_other_clock(camera) or (_has_stamps(camera) and camera.image.age_s < -limit_s)):
        return
    if (snapshot.use_sim_time and not snapshot.clock.arrivals) or (
            not snapshot.use_sim_time and _follows_clock(snapshot, camera)):
        return
    age_s = camera.image.age_s
    side = f'{age_s:.3f} s behind' if age_s > 0 else f'{-age_s:.3f} s ahead of'
    clock = '/clock' if snapshot.use_sim_time else 'the clock of this machine'
    cure = ('start the driver with use_sim_time too, or set it to false for all'
            if snapshot.use_sim_time else 'synchronise the clocks of the machines (chrony, ntpd), or '
            'stop the driver from stamping with the clock of the camera; a bag is played with '
            '--clock and use_sim_time: true')
    yield Finding(
        FindingCode.CLOCKS_DIFFER,
        f'the stamps on {camera.image.topic} are {side} {clock} '
        f'(limits.max_image_age_s {limit_s:g})', cure, camera.name)


def check_future_stamps(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """The stamps lie a little in the future."""
    if _has_stamps(camera) and -_max_age_s(snapshot) <= camera.image.age_s < -MAX_AHEAD_S:
        yield Finding(
            FindingCode.STAMPS_AHEAD,
            f'the stamps on {camera.image.topic} are {-camera.image.age_s:.3f} s in the future '
            f'when they come (over {MAX_AHEAD_S:g})',
            'synchronise the clocks of the machines (chrony, ntpd): TF is not known that early',
            camera.name)


def has_comparable_stamps(snapshot: Snapshot, camera: CameraSnapshot) -> bool:
    """Tell whether stamps and clock are of one kind, so that ages mean something."""
    return (_has_stamps(camera) and not _is_other_clock(camera) and camera.image.age_s >= -_max_age_s(snapshot)
            and (bool(snapshot.clock.arrivals) or not snapshot.use_sim_time))


def _has_stamps(camera: CameraSnapshot) -> bool:
    return bool(camera.image.arrivals) and camera.image.stamps_ns[-1] > 0


def _is_other_clock(camera: CameraSnapshot) -> bool:
    return _has_stamps(camera) and abs(camera.image.age_s) > OTHER_CLOCK_S


def _follows_clock(snapshot: Snapshot, camera: CameraSnapshot) -> bool:
    clock_ns = snapshot.clock.stamps_ns[-1] if snapshot.clock.arrivals else None
    return clock_ns is not None and abs(camera.image.stamps_ns[-1] - clock_ns) < OTHER_CLOCK_S * 1e9


def _max_age_s(snapshot: Snapshot) -> float:
    assert isinstance(snapshot.config, Config)
    return snapshot.config.times.max_image_age_s


CLOCK_CHECKS = (check_clock,)
STAMP_CHECKS = (check_stamped, check_sim_time, check_clock_offset, check_future_stamps)
