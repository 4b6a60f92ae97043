"""`crosspoint doctor`: names what keeps a node from answering clicks, in words that fix it."""
from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from crosspoint_ros.ros.config import Config
from crosspoint_ros.ros.doctor.checks_images import IMAGE_CHECKS
from crosspoint_ros.ros.doctor.checks_node import CLOCK_CHECKS, NODE_CHECKS, STAMP_CHECKS
from crosspoint_ros.ros.doctor.checks_tf import TF_CHECKS, TF_TREE_CHECKS
from crosspoint_ros.ros.doctor.checks_topics import DELAY_CHECKS, GRAPH_CHECKS, TOPIC_CHECKS
from crosspoint_ros.ros.doctor.finding import Finding
from crosspoint_ros.ros.doctor.probe import MAX_WAIT_S, collect_snapshot
from crosspoint_ros.ros.doctor.snapshot import CameraSnapshot, Snapshot

NODE = '/crosspoint'
CAMERA_CHECKS = (*TOPIC_CHECKS, *STAMP_CHECKS, *DELAY_CHECKS, *IMAGE_CHECKS, *TF_CHECKS)
SYSTEM_CHECKS = (*NODE_CHECKS, *CLOCK_CHECKS, *GRAPH_CHECKS, *TF_TREE_CHECKS)
OK, FAULTS, UNAVAILABLE = 0, 1, 2


def diagnose(snapshot: Snapshot) -> tuple[Finding, ...]:
    """Return all that is wrong, what concerns every camera first."""
    return (*chain.from_iterable(find(snapshot) for find in SYSTEM_CHECKS),
            *chain.from_iterable(find(snapshot, camera) for camera in snapshot.cameras
                                 for find in CAMERA_CHECKS))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `crosspoint doctor`."""
    parser.add_argument('--node', default=NODE, help=f'name of the node (default: {NODE})')
    parser.add_argument('--params', type=Path, metavar='FILE', help='take the parameters from this '
                        'file, e.g. because the node is hung or does not start')
    parser.add_argument('--seconds', type=float, default=2.0, help='how long to listen (default: '
                        f'2); what is missing is waited for {MAX_WAIT_S:g} s in all')
    parser.add_argument('--json', action='store_true', help='print JSON, for programs')
    parser.epilog = ('Exit code: 0 nothing stops it (warnings may be there), 1 something does, 2 '
                     'it could not look. It publishes nothing and changes nothing. '
                     'docs/troubleshooting.md explains each finding.')


def main(args: argparse.Namespace) -> int:
    """Look, and print what was found; the exit code is 0, 1 or 2 as the epilog says."""
    try:
        if not 0.1 <= args.seconds <= 600:
            raise ValueError(f'--seconds {args.seconds:g} is out of range (allowed: 0.1 to 600)')
        snapshot = collect_snapshot(args.node, args.seconds, args.params)
    except (OSError, ValueError, RuntimeError) as error:
        print(f'crosspoint doctor could not look: {error}', file=sys.stderr)
        return UNAVAILABLE
    found = diagnose(snapshot)
    print(json.dumps(build_report(snapshot, found), indent=2) if args.json else
          '\n'.join(format_report(snapshot, found)))
    return FAULTS if any(finding.is_error for finding in found) else OK


def format_report(snapshot: Snapshot, found: Sequence[Finding]) -> Iterator[str]:
    """Tell it in lines for people: one a camera that is well, and the findings."""
    if snapshot.node.count or snapshot.node.is_responding:
        yield f'{snapshot.node.name}: {snapshot.node.state or "says nothing"}'
    sick = {finding.camera for finding in found}
    yield from (format_camera(snapshot, camera) for camera in snapshot.cameras if camera.name not in sick)
    yield from map(str, found)
    errors = sum(finding.is_error for finding in found)
    count = f'errors: {errors}, warnings: {len(found) - errors}; docs/troubleshooting.md has more'
    yield count if found else 'healthy'


def format_camera(snapshot: Snapshot, camera: CameraSnapshot) -> str:
    """Tell of a camera what there is to know, in a line."""
    assert isinstance(snapshot.config, Config)
    width, height = camera.size or (0, 0)
    form = getattr(camera.image.newest, 'encoding', None) or 'compressed'
    depth = 'no depth' if camera.depth is None else 'depth'
    return (f'{camera.name}: {width}x{height} {form}, {camera.image.rate_hz:.1f} Hz, '
            f'{1000 * camera.image.age_s:.0f} ms old, {depth}, TF {snapshot.config.base_frame} -> '
            f'{camera.frame_id}')


def build_report(snapshot: Snapshot, found: Sequence[Finding]) -> dict[str, Any]:
    """Return what `--json` prints; numbers that are not known are null."""
    return {
        'healthy': not any(finding.is_error for finding in found),
        'node': {'name': snapshot.node.name, 'there': bool(snapshot.node.count or snapshot.node.is_responding),
                 'answers': snapshot.node.is_responding, 'state': snapshot.node.state or None},
        'cameras': [_build_camera_report(camera) for camera in snapshot.cameras],
        'findings': [{'code': f.code.value, 'severity': f.severity.value,
                      'camera': f.camera or None, 'sentence': f.message, 'cure': f.cure}
                     for f in found]}


def _build_camera_report(camera: CameraSnapshot) -> dict[str, Any]:
    lost, sent = camera.lost_images
    return {'name': camera.name, 'image_topic': camera.image.topic, 'size': camera.size,
            'images': len(camera.image.arrivals), 'rate_hz': _finite_or_none(camera.image.rate_hz),
            'age_s': _finite_or_none(camera.image.age_s), 'lost': lost / sent if sent else None,
            'frame_id': camera.frame_id or None, 'posed': camera.base_from_cam is not None}


def _finite_or_none(number: float) -> float | None:
    return number if math.isfinite(number) else None
