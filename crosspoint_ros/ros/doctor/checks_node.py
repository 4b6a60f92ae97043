"""Checks of the node itself, its matcher, and the clocks of node and cameras."""
from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator

from diagnostic_msgs.msg import DiagnosticStatus

from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.ros.client.node_info import suggest_cure
from crosspoint_ros.ros.config import ConfigError
from crosspoint_ros.ros.doctor.finding import Finding, FindingCode, join_names
from crosspoint_ros.ros.doctor.snapshot import CameraSnapshot, Snapshot

OTHER_CLOCK_S = 60.0  # no image is that late: its stamp is of another clock
MAX_AHEAD_S = 0.05  # synchronised clocks differ by less
GHOST = 'a killed node stays on the graph for about 20 s'


def check_node(snapshot: Snapshot) -> Iterator[Finding]:
    """The node is on the graph, is a crosspoint_node and answers."""
    node, graph = snapshot.node, snapshot.graph
    if not node.count and not node.is_responding:  # names may come later than services
        near = difflib.get_close_matches(node.name, graph.nodes, n=3)
        suggestion = f'; did you mean --node {" or ".join(near)}?' if near else ''
        yield Finding(FindingCode.NO_NODE,
                      f'there is no node {node.name}; running: {join_names(graph.nodes)}',
                      f'start crosspoint_node, or pass --node{suggestion}. Nodes in another '
                      f'ROS_DOMAIN_ID (here {graph.domain}), RMW_IMPLEMENTATION (here {graph.rmw}) '
                      f'or transport (here {graph.transport or "default"}) are invisible from here')
    if not node.is_crosspoint:
        yield Finding(FindingCode.OTHER_NODE,
                      f'{node.name} is not a crosspoint_node: it has no parameter `cameras`',
                      f'pass the right name with --node; running: {join_names(graph.nodes)}')
    if node.count and not node.is_responding:
        more = ('what follows is by the params file' if snapshot.cameras else
                'to check its cameras without it, pass --params FILE')
        yield Finding(FindingCode.NODE_HUNG, f'{node.name} is on the graph but does not answer',
                      f'restart its process ({GHOST}); {more}')


def check_parameters(snapshot: Snapshot) -> Iterator[Finding]:
    """The node would start with these parameters."""
    if isinstance(snapshot.config, ConfigError):
        yield Finding(FindingCode.PARAMETERS_REFUSED,
                      f'the node rejects its parameters: {snapshot.config}',
                      'correct it; config/crosspoint.yaml lists all parameters with their ranges. '
                      'Other checks were skipped')


def check_unique_node_names(snapshot: Snapshot) -> Iterator[Finding]:
    """The node and the camera drivers have names to themselves."""
    drivers = {p.node for camera in snapshot.cameras for s in camera.streams for p in s.publishers}
    for name, count in sorted(Counter(snapshot.graph.nodes).items()):
        if count > 1 and name in {snapshot.node.name, *drivers}:
            yield Finding(FindingCode.TWO_NODES, f'{count} nodes are named {name}',
                          'stop one or rename it (--ros-args -r __node:=… or -r __ns:=…); '
                          f'{GHOST}')


def check_matcher(snapshot: Snapshot) -> Iterator[Finding]:
    """The matcher is loaded and responds, and the node is active."""
    node = snapshot.node
    level, message = node.matcher or (DiagnosticStatus.OK, '')
    if level == DiagnosticStatus.ERROR:
        yield Finding(FindingCode.MATCHER_FAILED, message,
                      f'do what it reports, then ros2 lifecycle set {node.name} cleanup, configure '
                      'and activate; if the matcher hangs, restart the node')
    elif level == DiagnosticStatus.WARN:
        yield Finding(FindingCode.MATCHER_LOADING, message,
                      'wait and run this again; large models take minutes')
    elif cure := suggest_cure(node.name, node.state):
        more = '; if that fails, its log has the reason' * (node.state == 'unconfigured')
        yield Finding(FindingCode.NODE_NOT_ACTIVE,
                      f'{node.name} is {node.state}: it does not answer clicks', cure + more)


def check_clock(snapshot: Snapshot) -> Iterator[Finding]:
    """With use_sim_time, there is a /clock."""
    if snapshot.use_sim_time and not snapshot.clock.arrivals:
        yield Finding(FindingCode.NO_CLOCK,
                      'use_sim_time is true, but nothing came on /clock '
                      f'({len(snapshot.clock.publishers)} publishers)',
                      'set use_sim_time: false on a real robot; else start or unpause the '
                      'simulation, or play the bag with --clock')


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


CHECKS = (check_stamps,)
SYSTEM_CHECKS = (check_node, check_parameters, check_unique_node_names, check_matcher, check_clock)
