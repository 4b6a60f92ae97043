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
from crosspoint_ros.ros.doctor.checks_images import OF_IMAGES
from crosspoint_ros.ros.doctor.checks_node import OF_STAMPS, OF_THE_NODE, OF_TIME
from crosspoint_ros.ros.doctor.checks_tf import OF_ALL_TF, OF_TF
from crosspoint_ros.ros.doctor.checks_topics import OF_DELAYS, OF_THE_GRAPH, OF_TOPICS
from crosspoint_ros.ros.doctor.finding import Finding
from crosspoint_ros.ros.doctor.probe import PATIENCE_S, look
from crosspoint_ros.ros.doctor.snapshot import CameraSeen, Seen

NODE = '/crosspoint'
OF_A_CAMERA = (*OF_TOPICS, *OF_STAMPS, *OF_DELAYS, *OF_IMAGES, *OF_TF)
OF_ALL = (*OF_THE_NODE, *OF_TIME, *OF_THE_GRAPH, *OF_ALL_TF)
HEALTHY, SICK, NOT_LOOKED = 0, 1, 2


def findings(seen: Seen) -> tuple[Finding, ...]:
    """Return all that is wrong, what concerns every camera first."""
    return (*chain.from_iterable(find(seen) for find in OF_ALL),
            *chain.from_iterable(find(seen, camera) for camera in seen.cameras
                                 for find in OF_A_CAMERA))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `crosspoint doctor`."""
    parser.add_argument('--node', default=NODE, help=f'name of the node (default: {NODE})')
    parser.add_argument('--params', type=Path, metavar='FILE', help='take the parameters from this '
                        'file, e.g. because the node is hung or does not start')
    parser.add_argument('--seconds', type=float, default=2.0, help='how long to listen (default: '
                        f'2); what is missing is waited for {PATIENCE_S:g} s in all')
    parser.add_argument('--json', action='store_true', help='print JSON, for programs')
    parser.epilog = ('Exit code: 0 nothing stops it (warnings may be there), 1 something does, 2 '
                     'it could not look. It publishes nothing and changes nothing. '
                     'docs/troubleshooting.md explains each finding.')


def main(args: argparse.Namespace) -> int:
    """Look, and print what was found; the exit code is 0, 1 or 2 as the epilog says."""
    try:
        if not 0.1 <= args.seconds <= 600:
            raise ValueError(f'--seconds {args.seconds:g} is out of range (allowed: 0.1 to 600)')
        seen = look(args.node, args.seconds, args.params)
    except (OSError, ValueError, RuntimeError) as error:
        print(f'crosspoint doctor could not look: {error}', file=sys.stderr)
        return NOT_LOOKED
    found = findings(seen)
    print(json.dumps(as_json(seen, found), indent=2) if args.json else
          '\n'.join(told(seen, found)))
    return SICK if any(finding.stops for finding in found) else HEALTHY


def told(seen: Seen, found: Sequence[Finding]) -> Iterator[str]:
    """Tell it in lines for people: one a camera that is well, and the findings."""
    if seen.node.there or seen.node.answers:
        yield f'{seen.node.name}: {seen.node.state or "says nothing"}'
    sick = {finding.camera for finding in found}
    yield from (line(seen, camera) for camera in seen.cameras if camera.name not in sick)
    yield from map(str, found)
    errors = sum(finding.stops for finding in found)
    count = f'errors: {errors}, warnings: {len(found) - errors}; docs/troubleshooting.md has more'
    yield count if found else 'healthy'


def line(seen: Seen, camera: CameraSeen) -> str:
    """Tell of a camera what there is to know, in a line."""
    assert isinstance(seen.config, Config)
    width, height = camera.size or (0, 0)
    form = getattr(camera.image.newest, 'encoding', None) or 'compressed'
    depth = 'no depth' if camera.depth is None else 'depth'
    return (f'{camera.name}: {width}x{height} {form}, {camera.image.rate_hz:.1f} Hz, '
            f'{1000 * camera.image.age_s:.0f} ms old, {depth}, TF {seen.config.base_frame} -> '
            f'{camera.frame_id}')


def as_json(seen: Seen, found: Sequence[Finding]) -> dict[str, Any]:
    """Return what `--json` prints; numbers that are not known are null."""
    return {
        'healthy': not any(finding.stops for finding in found),
        'node': {'name': seen.node.name, 'there': bool(seen.node.there or seen.node.answers),
                 'answers': seen.node.answers, 'state': seen.node.state or None},
        'cameras': [_camera_as_json(camera) for camera in seen.cameras],
        'findings': [{'code': f.sign.code, 'severity': f.sign.severity.value,
                      'camera': f.camera or None, 'sentence': f.sentence, 'cure': f.cure}
                     for f in found]}


def _camera_as_json(camera: CameraSeen) -> dict[str, Any]:
    lost, sent = camera.lost
    return {'name': camera.name, 'image_topic': camera.image.topic, 'size': camera.size,
            'images': len(camera.image.arrivals), 'rate_hz': _known(camera.image.rate_hz),
            'age_s': _known(camera.image.age_s), 'lost': lost / sent if sent else None,
            'frame_id': camera.frame_id or None, 'posed': camera.base_from_cam is not None}


def _known(number: float) -> float | None:
    return number if math.isfinite(number) else None
