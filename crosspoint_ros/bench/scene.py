"""`crosspoint bench scene`: click every known point of a recorded scene, offline, and score it."""
from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from crosspoint_ros.bench.environment import describe_machine
from crosspoint_ros.bench.pairs.cli import parse_options
from crosspoint_ros.bench.pairs.evaluate import Wrong, exit_code_if_all_failed, draw_wrong
from crosspoint_ros.bench.pairs.known_scene import LabelledPoint, FrameKey, KnownScene
from crosspoint_ros.core.datatypes import Code, Matcher, Rejected, View
from crosspoint_ros.core.pipeline import LocateResult, locate
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.matchers import MATCHERS, load_matcher
from crosspoint_ros.scenes import KITCHEN

NEAR_PX = 10.0


@dataclass(frozen=True)
class Outcome:
    """One point looked for in one image. NaN where there is no answer."""

    name: str
    camera: str
    stamp_ns: int
    angle_deg: float
    visible: bool
    accepted: bool
    sure: bool
    confidence: float
    found_px: tuple[float, float]
    error_px: float
    error_3d_mm: float
    first_on_pair: bool
    ms: float
    code: int
    reason: str


@dataclass(frozen=True)
class Score:
    """What `crosspoint bench scene` prints. Shares are of 1, NaN where there is nothing to share.

    A refused point counts as a miss among the visible ones.
    """

    visible: int
    near_share: float
    accepted_share: float
    sure_near_share: float
    error_px_median: float
    hidden: int
    hidden_accepted_share: float
    error_3d_mm_median: float
    error_3d_mm_p90: float
    first_ms_median: float
    again_ms_median: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('folder', nargs='?', type=Path, default=KITCHEN,
                        help='a recorded scene: a rosbag2 and truth.json (default: the kitchen '
                             'that comes with the package)')
    parser.add_argument('--matcher', default='xfeat',
                        help=f'{", ".join(MATCHERS)}, or module:Class (default: xfeat)')
    parser.add_argument('--option', action='append', default=[], metavar='KEY=VALUE',
                        help='an option of the matcher; may be repeated')
    parser.add_argument('--cameras', default='wrist,side',
                        help='in whose images to look (default: wrist,side)')
    parser.add_argument('--max-angle', type=float, default=40.0, metavar='DEG',
                        help='skip images that look at the point from further around than this '
                             '(default: 40)')
    parser.add_argument('--failures', type=Path, metavar='DIR',
                        help='write a picture of every answer that is wrong or missing')
    parser.add_argument('--json', action='store_true', help='print JSON')


def main(args: argparse.Namespace) -> int:
    """Run the benchmark and print its score."""
    recording = KnownScene(args.folder)
    cameras = args.cameras.split(',')
    matcher = load_matcher(args.matcher, **parse_options(args.option))
    outcomes = list(run(recording, matcher, Limits(), cameras, args.max_angle, args.failures))
    if not outcomes:
        print(f'{args.folder} shows no point to {args.cameras} within {args.max_angle:g} deg')
        return 1
    scores = {camera: score([o for o in outcomes if o.camera == camera]) for camera in cameras}
    if args.json:
        print(json.dumps({'machine': describe_machine(), 'matcher': args.matcher,
                          'scores': {camera: asdict(s) for camera, s in scores.items()},
                          'outcomes': [asdict(o) for o in outcomes]}, indent=1))
    else:
        print(f'{args.folder.name}, matcher {args.matcher}, views up to {args.max_angle:g} deg '
              f'apart\n{table(scores)}\n{describe_machine()}')
    return exit_code_if_all_failed([(outcome.code, outcome.reason) for outcome in outcomes])


def run(recording: KnownScene, matcher: Matcher, limits: Limits, cameras: list[str],
        max_angle_deg: float, failures: Path | None = None) -> Iterator[Outcome]:
    """Look for every point in every image of the cameras, one image after the other."""
    clicked = {a.clicked: recording.read_view(a.clicked) for a in recording.points}
    for moment in recording.frames:
        if moment.camera not in cameras:
            continue
        other, seen_pairs = recording.read_view(moment), set[FrameKey]()
        for affordance in recording.points:
            angle_deg = recording.viewing_angle_deg(affordance, moment)
            if moment not in affordance.projections or angle_deg > max_angle_deg:
                continue
            first = affordance.clicked not in seen_pairs
            seen_pairs.add(affordance.clicked)
            view = clicked[affordance.clicked]
            begun_s = time.perf_counter()
            located = _locate(view, other, affordance, matcher, limits)
            ms = 1000 * (time.perf_counter() - begun_s)
            outcome = judge(affordance, moment, angle_deg, located, limits, first, ms)
            if failures is not None and is_failure(outcome):
                _draw_failure(failures, view, other, affordance, outcome, located)
            yield outcome


def _locate(clicked: View, other: View, affordance: LabelledPoint, matcher: Matcher,
            limits: Limits) -> LocateResult | Rejected:
    try:
        return locate(clicked, [other], affordance.pixel, matcher, limits)
    except Rejected as rejected:
        return rejected


def judge(affordance: LabelledPoint, moment: FrameKey, angle_deg: float, located: LocateResult | Rejected,
          limits: Limits, first_on_pair: bool, ms: float) -> Outcome:
    """Compare what was answered with the truth."""
    seen = affordance.projections[moment]
    rejected: Rejected | None
    if isinstance(located, LocateResult):
        (answer,), target = located.correspondences, located.target
        rejected, match = answer.rejected, answer.match
    else:
        rejected, match, target = located, None, None
    accepted = rejected is None and match is not None
    confidence = np.nan if match is None else match.confidence
    found = match.pixel if match is not None and accepted else np.full(2, np.nan)
    return Outcome(
        name=affordance.name, camera=moment.camera, stamp_ns=moment.stamp_ns, angle_deg=angle_deg,
        visible=seen.visible, accepted=accepted,
        sure=bool(accepted and confidence >= limits.sure_confidence), confidence=confidence,
        found_px=(float(found[0]), float(found[1])),
        error_px=float(np.linalg.norm(found - seen.pixel)),
        error_3d_mm=np.nan if target is None else 1000 * float(np.linalg.norm(
            target.base_from_target.t_m - affordance.point_base_m)),
        first_on_pair=first_on_pair, ms=ms,
        code=int(Code.OK if rejected is None else rejected.code),
        reason='' if rejected is None else rejected.message)


def is_failure(outcome: Outcome) -> bool:
    """Tell whether a visible point was missed or a hidden one was answered."""
    if outcome.visible:
        return not outcome.error_px <= NEAR_PX
    return outcome.accepted


def score(outcomes: list[Outcome]) -> Score:
    """Sum up."""
    visible = [o for o in outcomes if o.visible]
    hidden = [o for o in outcomes if not o.visible]
    lifted_mm = [o.error_3d_mm for o in outcomes if np.isfinite(o.error_3d_mm)]
    return Score(
        visible=len(visible), near_share=_mean([o.error_px <= NEAR_PX for o in visible]),
        accepted_share=_mean([o.accepted for o in visible]),
        sure_near_share=_mean([o.error_px <= NEAR_PX and o.visible for o in outcomes if o.sure]),
        error_px_median=_percentile([o.error_px for o in visible if o.accepted], 50),
        hidden=len(hidden), hidden_accepted_share=_mean([o.accepted for o in hidden]),
        error_3d_mm_median=_percentile(lifted_mm, 50), error_3d_mm_p90=_percentile(lifted_mm, 90),
        first_ms_median=_percentile([o.ms for o in outcomes if o.first_on_pair], 50),
        again_ms_median=_percentile([o.ms for o in outcomes if not o.first_on_pair], 50))


def _mean(values: list[bool]) -> float:
    return float(np.mean(values)) if values else np.nan


def _percentile(values: list[float], percent: float) -> float:
    return float(np.percentile(values, percent)) if values else np.nan


def table(scores: dict[str, Score]) -> str:
    """Lay the scores out, one column a camera."""
    near = f'within {NEAR_PX:g} px'
    columns = [(camera, f'{s.visible}', _share(s.near_share), _share(s.accepted_share),
                f'{s.error_px_median:.1f} px', _share(s.sure_near_share), f'{s.hidden}',
                _share(s.hidden_accepted_share), f'{s.error_3d_mm_median:.1f} mm',
                f'{s.error_3d_mm_p90:.1f} mm', f'{s.first_ms_median:.0f} ms',
                f'{s.again_ms_median:.0f} ms') for camera, s in scores.items()]
    labels = ('', 'visible points', f'  {near} (refused: a miss)', '  answered',
              '  error of answers, median', f'  {near} of those called sure',
              'points not visible', '  answered all the same', '3D error, median',
              '3D error, 90 % are below', 'first click on a pair', 'another click')
    width = max(map(len, labels)) + 2
    return '\n'.join(f'{label:{width}}' + ''.join(f'{value:>10}' for value in row)
                     for label, *row in zip(labels, *columns, strict=True))


def _share(value: float) -> str:
    return f'{100 * value:.1f} %'


def _draw_failure(folder: Path, clicked: View, other: View, affordance: LabelledPoint,
                  outcome: Outcome, located: LocateResult | Rejected) -> None:
    seen = affordance.projections[FrameKey(outcome.camera, outcome.stamp_ns)]
    match = located.correspondences[0].match if outcome.accepted and isinstance(located, LocateResult) else None
    wrong = Wrong(
        clicked, affordance.pixel, other, seen.pixel if seen.visible else None,
        None if match is None else match.pixel,
        '' if match is None else f'confidence {match.confidence:.2f}, {match.basis}',
        outcome.reason, outcome.error_px, outcome.sure,
        None if match is None else match.covariance_px2)
    path = folder / f'{outcome.name}_{outcome.camera}_{outcome.stamp_ns}.png'.replace(' ', '_')
    draw_wrong(path, wrong, affordance.name, f'{outcome.angle_deg:.0f}')
