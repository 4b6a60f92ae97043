"""Checks of the node, its matcher, the clock, and what concerns several cameras."""
from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator
from itertools import combinations

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus

from crosspoint_ros.core.tf_tree import list_ancestors
from crosspoint_ros.data.view_consistency import Misreading
from crosspoint_ros.ros.client.node_info import suggest_cure
from crosspoint_ros.ros.config import Config, ConfigError, is_target_frame
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
    counts = {**Counter(snapshot.graph.nodes), snapshot.node.name: snapshot.node.count}
    for name, count in sorted(counts.items()):
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
    if not snapshot.use_tf:
        return
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


def check_tf_senders(snapshot: Snapshot) -> Iterator[Finding]:
    """No frame between a camera and the base is placed differently by two senders."""
    if not isinstance(snapshot.config, Config):
        return
    chains = {camera.name: {*list_ancestors(snapshot.frames, camera.frame_id)}
              for camera in snapshot.cameras if camera.frame_id}
    base = {*list_ancestors(snapshot.frames, snapshot.base_frame)}
    for child, conflict in snapshot.conflicts.items():
        names = [name for name, chain in chains.items() if child in chain ^ base]
        if names:
            is_refused = any(camera.tf_conflict for camera in snapshot.cameras
                             if camera.name in names)
            yield Finding(FindingCode.TF_CONFLICT, f'{conflict} ({" and ".join(names)})',
                          "stop one of the senders, such as the URDF's joint or the calibration "
                          "(ros2 topic info -v lists a topic's senders)", is_warning=not is_refused)


def check_target_frame(snapshot: Snapshot) -> Iterator[Finding]:
    """No one but the node sends its target frames."""
    if not isinstance(snapshot.config, Config):
        return
    target, base = snapshot.config.target_frame, snapshot.base_frame
    owners = {camera.frame_id: f'is the frame of the images of {camera.name}'
              for camera in snapshot.cameras}
    owners |= dict.fromkeys(list_ancestors(snapshot.frames, base),
                            f'is base_frame {base!r}, or above it on TF')
    owners |= {child: f'is sent by another node too, below {info.parent!r}'
               for child, info in snapshot.frames.items() if info.parent != base}
    owners |= {child: f'is sent by two nodes: {conflict}'
               for child, conflict in snapshot.conflicts.items()}
    for frame, reason in owners.items():
        if is_target_frame(frame, target):
            yield Finding(FindingCode.TARGET_FRAME, f'target_frame {frame!r} {reason}',
                          'give target_frame a name that no one else sends; each of two nodes '
                          'needs another')
            return


def check_mounts(snapshot: Snapshot) -> Iterator[Finding]:
    """The clicks of the node find the cameras where TF says."""
    for camera, message in snapshot.node.moved_mounts:
        yield Finding(FindingCode.MOUNT_MOVED, message, (
            f'look whether it was bumped; record a bag in which it moves and run crosspoint '
            f'calibrate BAG --camera {camera}'), camera)


VIEW_CODES = {
    Misreading.DEPTH_UNIT: FindingCode.DEPTH_UNIT,
    Misreading.DISPARITY: FindingCode.DEPTH_DISPARITY,
    Misreading.LENS: FindingCode.LENS_SCALE, Misreading.AXES: FindingCode.CAMERA_AXES,
    Misreading.DIRECTION: FindingCode.POSE_INVERTED, Misreading.UNKNOWN: FindingCode.VIEWS_DISAGREE}
VIEW_CURES = {
    Misreading.DISPARITY: 'publish depth in m (32FC1): stereo_image_proc and the drivers have '
                          'another topic for it',
    Misreading.LENS: 'publish the camera info of this resolution with the images: K and P are '
                     'scaled with them',
    Misreading.AXES: "set the driver's optical frame (…_optical_frame) as frame_id, or rotate the "
                     'frame by rpy -90 0 -90 deg in the URDF where it should be optical',
    Misreading.DIRECTION: 'send base to camera: with the frames as they are, the inverse (hand-eye '
                          'tools print both)',
    Misreading.UNKNOWN: "check these cameras' extrinsics and camera infos, and that the images "
                        'are of this moment and not mirrored'}
DEPTH_UNITS = {10.0: '0.1 mm were taken for mm', 1000.0: 'mm were taken for m',
               100.0: 'cm were taken for m', 0.001: 'm were taken for mm'}


def check_views(snapshot: Snapshot) -> Iterator[Finding]:
    """The views agree with each other: axes, direction and lens, and the unit of depth."""
    for found in snapshot.disagreements:
        names = ' and '.join(found.cameras)
        measured = f'({found.explained:.0%} of {found.matches} matched points; as given ' \
                   f'{found.agreement:.0%})'
        if found.misreading is Misreading.UNKNOWN:
            message = (f'the rays of {found.agreement:.0%} of {found.matches} matched points meet '
                       f'in the views of {names}: their poses or lenses are wrong')
        elif found.misreading in (Misreading.DEPTH_UNIT, Misreading.DISPARITY):
            unit = DEPTH_UNITS.get(found.factor, '')
            message = (f'depth of {names} agrees with the other views when {found.reading} '
                       f'{measured}{": " * bool(unit)}{unit}')
        else:
            message = f'the views of {names} agree with the others when {found.reading} {measured}'
        yield Finding(VIEW_CODES[found.misreading], message, VIEW_CURES.get(
            found.misreading, 'let the driver publish 16UC1 in mm or 32FC1 in m (realsense: '
                              'depth_units 0.001; others: a scale parameter)'))


CHECKS = (check_node, check_parameters, check_unique_node_names, check_matcher, check_clock,
          check_qos, check_unique_topics, check_unique_frames, check_baselines, check_tf_senders,
          check_target_frame, check_views, check_mounts)
