"""Checks of the node, its matcher, the clock, and what concerns several cameras."""
from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator
from itertools import combinations

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus

from crosspoint_ros.ros.client.node_info import suggest_cure
from crosspoint_ros.ros.config import ConfigError
from crosspoint_ros.ros.doctor.finding import Finding, FindingCode, find_shared, join_names
from crosspoint_ros.ros.doctor.snapshot import Snapshot

GHOST = 'a killed node stays on the graph for about 20 s'
MIN_BASELINE_M = 0.001


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


def check_unique_frames(snapshot: Snapshot) -> Iterator[Finding]:
    """No two cameras share a frame."""
    for frame, names in find_shared((camera.frame_id, camera.name) for camera in snapshot.cameras):
        yield Finding(FindingCode.SAME_FRAME,
                      f'{" and ".join(names)} have the same frame_id, {frame!r}',
                      'give each camera its optical frame: with one pose for two cameras, every '
                      'geometric check is wrong')


def check_baselines(snapshot: Snapshot) -> Iterator[Finding]:
    """No two frames are in one place."""
    for a, b in combinations(snapshot.cameras, 2):
        if a.base_from_cam is None or b.base_from_cam is None or a.frame_id == b.frame_id:
            continue
        gap_m = float(np.linalg.norm(a.base_from_cam.t_m - b.base_from_cam.t_m))
        if gap_m < MIN_BASELINE_M:
            yield Finding(FindingCode.SAME_PLACE,
                          f'{a.name} and {b.name} are {1000 * gap_m:.1f} mm apart in TF (minimum '
                          f'{1000 * MIN_BASELINE_M:g})',
                          'check both calibrations: without a baseline nothing can be '
                          'triangulated')


CHECKS = (check_node, check_parameters, check_unique_node_names, check_matcher, check_clock,
          check_qos, check_unique_topics, check_unique_frames, check_baselines)
