"""`crosspoint doctor`: finds what keeps a node from answering clicks, with cures."""
from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from crosspoint_ros.ros.client.client import NODE_NAME
from crosspoint_ros.ros.client.results import round_finite
from crosspoint_ros.ros.doctor import checks_cameras, checks_system
from crosspoint_ros.ros.doctor.finding import Finding
from crosspoint_ros.ros.doctor.probe import MAX_WAIT_S, collect_snapshot
from crosspoint_ros.ros.doctor.snapshot import CameraSnapshot, Snapshot

OK, FAULTS, UNAVAILABLE = 0, 1, 2  # exit codes


def diagnose(snapshot: Snapshot) -> tuple[Finding, ...]:
    """Return all findings, those that concern every camera first."""
    return (*(finding for check in checks_system.CHECKS for finding in check(snapshot)),
            *(dataclasses.replace(finding, camera=camera.name) for camera in snapshot.cameras
              for check in checks_cameras.CHECKS for finding in check(snapshot, camera)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `crosspoint doctor`."""
    parser.add_argument('--node', default=NODE_NAME,
                        help=f'name of the node (default: {NODE_NAME})')
    parser.add_argument('--params', type=Path, action='append', default=[], metavar='FILE',
                        help='read the parameters from this file, for a node that hangs or does '
                        'not start; may be repeated')
    parser.add_argument('--seconds', type=float, default=2.0, help='how long to listen (default: '
                        f'2); for what is missing then, {MAX_WAIT_S:g} s in all')
    parser.add_argument('--json', action='store_true', help='print JSON')
    parser.epilog = ('Exit code: 0 no errors (there may be warnings), 1 errors, 2 the check could '
                     'not run. It publishes nothing and changes nothing. docs/troubleshooting.md '
                     'explains each finding.')


def main(args: argparse.Namespace) -> int:
    """Observe the node and print the findings; return an exit code as the epilog has it."""
    try:
        if not 0.1 <= args.seconds <= 600:
            raise ValueError(f'--seconds {args.seconds:g} is out of range (allowed: 0.1 to 600)')
        snapshot = collect_snapshot(args.node, args.seconds, args.params)
    except (OSError, ValueError, RuntimeError) as error:
        print(f'crosspoint doctor: {error}', file=sys.stderr)
        return UNAVAILABLE
    findings = diagnose(snapshot)
    print(json.dumps(build_report(snapshot, findings), indent=2) if args.json else
          '\n'.join(format_report(snapshot, findings)))
    return FAULTS if any(finding.is_error for finding in findings) else OK


def format_report(snapshot: Snapshot, findings: Sequence[Finding]) -> Iterator[str]:
    """Yield a line for the node and each healthy camera, the findings, and their count."""
    node = snapshot.node
    if node.count or node.is_responding:
        yield f'{node.name}: {node.state or "does not answer"}'
    faulty = {finding.camera for finding in findings}
    yield from (format_camera(snapshot, camera) for camera in snapshot.cameras
                if camera.name not in faulty)
    yield from map(str, findings)
    errors = sum(finding.is_error for finding in findings)
    yield (f'errors: {errors}, warnings: {len(findings) - errors}; see docs/troubleshooting.md'
           if findings else 'healthy')


def format_camera(snapshot: Snapshot, camera: CameraSnapshot) -> str:
    """Return a healthy camera in one line."""
    width, height = camera.size or (0, 0)
    encoding = getattr(camera.image.newest, 'encoding', None) or 'compressed'
    depth = 'no depth' if camera.depth is None else 'depth'
    known = (f'{depth}, TF {snapshot.base_frame} -> {camera.frame_id}' if snapshot.use_tf
             else 'images alone (use_tf: false)')
    return (f'{camera.name}: {width}x{height} {encoding}, {camera.image.rate_hz:.1f} Hz, '
            f'{1000 * camera.image.age_s:.0f} ms old, {known}')


def build_report(snapshot: Snapshot, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return what `--json` prints; unknown numbers are None."""
    node = snapshot.node
    return {
        'healthy': not any(finding.is_error for finding in findings),
        'node': {'name': node.name, 'there': bool(node.count or node.is_responding),
                 'answers': node.is_responding, 'state': node.state or None},
        'cameras': [_build_camera_report(camera) for camera in snapshot.cameras],
        'findings': [{'code': f.code.value, 'severity': f.severity,
                      'camera': f.camera or None, 'sentence': f.message, 'cure': f.cure}
                     for f in findings]}


def _build_camera_report(camera: CameraSnapshot) -> dict[str, Any]:
    lost, sent = camera.lost_images
    return {'name': camera.name, 'image_topic': camera.image.topic, 'size': camera.size,
            'images': len(camera.image.arrivals), 'rate_hz': round_finite(camera.image.rate_hz),
            'age_s': round_finite(camera.image.age_s), 'lost': lost / sent if sent else None,
            'frame_id': camera.frame_id or None, 'posed': camera.base_from_cam is not None}
