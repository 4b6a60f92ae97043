"""`crosspoint click`: clicks once on a camera of a running node."""
from __future__ import annotations

import argparse
import json
import math
import os
import sys
from functools import partial
from pathlib import Path

import cv2

from crosspoint_ros.core.datatypes import Rejected
from crosspoint_ros.core.encodings import Rgb
from crosspoint_ros.core.grasp.approach import Approach, ApproachMode
from crosspoint_ros.core.image_io import write_image
from crosspoint_ros.core.visualization import concatenate_images
from crosspoint_ros.msg import QueryResult, TargetState
from crosspoint_ros.ros.client.client import NODE_NAME, Client
from crosspoint_ros.ros.client.results import (
    format_result,
    format_state,
    is_accepted,
    result_to_json,
)

ENDED = (TargetState.NONE, TargetState.EXPIRED, TargetState.CLEARED)
ANSWERED, FAILURE, USAGE, REFUSED, NO_NODE = 0, 1, 2, 3, 4  # exit codes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `crosspoint click`."""
    parser.add_argument('camera', help='name of the camera, as in the parameter cameras')
    parser.add_argument('x', type=float, nargs='?', default=math.nan, help='px, from the left')
    parser.add_argument('y', type=float, nargs='?', default=math.nan, help='px, from the top')
    parser.add_argument('--instruction', default='', metavar='TEXT',
                        help='what to find instead of a pixel: "the drawer handle"')
    parser.add_argument('--picture', type=Path, metavar='FILE',
                        help='write the views with the answer drawn into them, as PNG or JPEG')
    parser.add_argument('--name', default='', metavar='NAME',
                        help='of the target: several may be active at once')
    parser.add_argument('--hold', type=float, default=0.0, metavar='S',
                        help='clicks without a name do not replace the target for so long')
    approach = parser.add_mutually_exclusive_group()
    approach.add_argument('--approach', choices=[mode.name.lower() for mode in ApproachMode
                                                 if mode != ApproachMode.ALONG],
                          default='auto', help="from where (default: the node's parameter)")
    approach.add_argument('--along', type=float, nargs=3, metavar=('X', 'Y', 'Z'),
                          help='the same as a vector in the base frame, into the thing')
    parser.add_argument('--follow', action='store_true', help='then print the state of the target '
                        'whenever it changes, until it has ended or Ctrl-C')
    parser.add_argument('--json', action='store_true', help='print one JSON object')
    parser.add_argument('--node', default=NODE_NAME,
                        help=f'name of the node (default: {NODE_NAME})')
    parser.epilog = ('Exit code: 0 found in at least one other view, 3 refused, 4 no node, '
                     '2 usage, 1 failure, such as a picture that could not be written.')


def main(args: argparse.Namespace) -> int:
    """Click once and print the answer; return an exit code as the epilog has it."""
    problem = _find_usage_error(args)
    if problem:
        print(f'crosspoint click: {problem}', file=sys.stderr)
        return USAGE
    try:
        with Client(args.node) as client:
            client.wait_until_reachable()
            overlays = client.subscribe_overlays() if args.picture else {}
            ask = partial(client.instruct, args.camera, args.instruction) if args.instruction else (
                partial(client.click, args.camera, (args.x, args.y)))
            result = ask(approach=_read_approach(args), target_name=args.name, hold_s=args.hold)
            print(json.dumps(result_to_json(result)) if args.json else format_result(result),
                  flush=True)
            if args.picture and result.correspondences:  # else it had no images to draw into
                problem = _draw(client, overlays, result, args.picture)
            if args.follow and result.has_target:
                _follow(client, result.target.name, result.query_id)
    except (TimeoutError, RuntimeError) as error:
        print(f'crosspoint click: {error}', file=sys.stderr)
        return NO_NODE if isinstance(error, TimeoutError) else FAILURE
    if problem:
        print(f'crosspoint click: {args.picture} was not written: {problem}', file=sys.stderr)
        return FAILURE
    return ANSWERED if is_accepted(result) else REFUSED


def _find_usage_error(args: argparse.Namespace) -> str:
    """Return what is wrong with the arguments, before anything is asked; '' for nothing."""
    if bool(args.instruction) == math.isfinite(args.x + args.y):
        return 'give a pixel, X and Y, or --instruction; one of the two'
    try:
        _read_approach(args)
    except Rejected as rejected:
        return rejected.message
    if args.picture is None:
        return ''
    folder = args.picture.absolute().parent
    if not folder.is_dir():
        return f'--picture: there is no folder {folder}'
    if args.picture.is_dir() or not os.access(folder, os.W_OK):
        return f'--picture: {args.picture} cannot be written'
    if not args.picture.suffix or not cv2.haveImageWriter(str(args.picture)):
        return f'--picture: unknown image format {args.picture.suffix!r}; use .png or .jpg'
    return ''


def _read_approach(args: argparse.Namespace) -> Approach:
    """Raises `Rejected` for a vector without a direction."""
    return Approach(ApproachMode.ALONG, args.along) if args.along else (
        Approach(ApproachMode[args.approach.upper()]))


def _follow(client: Client, name: str, query_id: str) -> None:
    """Print the states of the target of a query, one a line, until there is another or none."""
    states: list[TargetState] = []
    client.subscribe_targets(lambda found: states.append(found.get(name, TargetState())))
    last, is_over = '', False
    while not is_over:
        client.spin_for(0.1)
        while states:
            state = states.pop(0)
            is_over = state.query_id != query_id or state.state in ENDED
            line = format_state(state)
            if line != last:
                print(line, flush=True)
            last = line


def _draw(client: Client, overlays: dict[str, Rgb], result: QueryResult, path: Path) -> str:
    """Write the node's overlays side by side; return why that failed, '' if it did not."""
    cameras = [result.clicked.camera, *(c.found.camera for c in result.correspondences
                                        if c.header.stamp.sec or c.header.stamp.nanosec)]
    try:
        client.wait_for(lambda: overlays.keys() >= set(cameras), 'drawn its overlays')
        write_image(path, concatenate_images([overlays[c] for c in cameras], cameras))
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        return str(error)
    return ''
