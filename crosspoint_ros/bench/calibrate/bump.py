"""Scores the alarm of a bumped camera: after how many clicks it is raised, and what it names."""
from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice

import numpy as np
from tqdm import tqdm

from crosspoint_ros.bench.environment import describe_machine
from crosspoint_ros.core.datatypes import Matcher, Rejected, Transform, View
from crosspoint_ros.core.extrinsics.drift import MountHealth
from crosspoint_ros.core.extrinsics.residuals import exp_pose
from crosspoint_ros.core.geometry import require_pose
from crosspoint_ros.core.pipeline import LocateResult, locate
from crosspoint_ros.data.scenes.known_scene import FrameKey, KnownScene
from crosspoint_ros.matchers import load_matcher

WITHIN_CLICKS, MAX_CLICKS = 10, 20  # after the bump: wanted, and made
EARLIER_CLICKS = 20  # of the session before the bump
CLICK_S = 60.0  # between clicks
NO_BUMP = Transform(np.eye(3), np.zeros(3))


@dataclass(frozen=True)
class BumpDraw:
    """One bump: after how many clicks the alarm was raised (None: never), and the named cameras."""

    clicks: int | None
    suspects: frozenset[str]


def score_alarm(args: argparse.Namespace) -> int:
    """Click without a bump, then bump after bump; 1 if no alarm is raised."""
    if args.clicks < EARLIER_CLICKS:
        raise ValueError(f'--clicks {args.clicks} must be at least {EARLIER_CLICKS}')
    if unused := [name for name in ('hand_frame', 'others', 'mask') if getattr(args, name)]:
        raise ValueError(f'--bump takes no --{", --".join(unused).replace("_", "-")}: its clicks '
                         'are the labelled points of a scene')
    clicks = ClickSource(KnownScene(args.bag), not args.no_depth, args.seed)
    if args.camera not in clicks.cameras:
        raise ValueError(f'{args.bag} has no camera {args.camera}; it has: '
                         f'{", ".join(clicks.cameras)}')
    matcher, draws = load_matcher('xfeat'), []
    quiet = [*tqdm(islice(clicks.locate(matcher, {}), args.clicks), total=args.clicks,
                   unit='click', disable=None)]
    for number in tqdm(range(args.draws), unit='bump', disable=None):
        rng = np.random.default_rng((args.seed, number))
        earlier = [quiet[i] for i in rng.permutation(len(quiet))[:EARLIER_CLICKS]]
        draws.append(run_bump(clicks, matcher, earlier, args.camera, draw_bump(
            rng, args.cm / 100, np.radians(args.deg))))
    print(f'{args.bag.name}, {args.camera} bumped by {args.cm:g} cm or {args.deg:g} deg in '
          f'{args.draws} random directions, {"without" if args.no_depth else "with"} depth\n'
          f'{format_bumps(draws, args.camera)}\nfalse alarms: {count_false_alarms(quiet)} in '
          f'{len(quiet)} clicks without a bump\n{describe_machine()}')
    return int(all(draw.clicks is None for draw in draws))


class ClickSource:
    """Clicks on the labelled points of a scene, wherever they are visible, in random order."""

    def __init__(self, scene: KnownScene, with_depth: bool, seed: int) -> None:
        """Raises ValueError for a scene without a visible point."""
        self._read_view, self._with_depth = lru_cache(maxsize=64)(scene.read_view), with_depth
        clicks = [(point.clicked, point.pixel) for point in scene.points] + [
            (frame, projection.pixel) for point in scene.points
            for frame, projection in point.projections.items() if projection.visible]
        if not clicks:
            raise ValueError('the scene has no visible point to click')
        self._clicks = [clicks[i] for i in np.random.default_rng(seed).permutation(len(clicks))]
        self._frames: dict[int, list[FrameKey]] = {}
        for frame in scene.frames:
            self._frames.setdefault(frame.stamp_ns, []).append(frame)
        self.cameras = sorted({frame.camera for frame in scene.frames})

    def locate(self, matcher: Matcher, bumps: Mapping[str, Transform]) -> Iterator[LocateResult]:
        """Yield the answers to each click once; bumps: given_from_true of cameras.

        A click that cannot be used is left out, as in the node.
        """
        for _ in range(len(self._clicks)):
            self._clicks.append(self._clicks.pop(0))
            frame, pixel = self._clicks[-1]
            views = [self._place(self._read_view(key), bumps)
                     for key in sorted(self._frames[frame.stamp_ns], key=lambda key: key != frame)]
            try:
                yield locate(views[0], views[1:], pixel, matcher)
            except Rejected:
                continue

    def _place(self, view: View, bumps: Mapping[str, Transform]) -> View:
        """Return the view as TF places it."""
        return replace(view, depth_m=view.depth_m if self._with_depth else None,
                       base_from_cam=require_pose(view) @ bumps.get(view.camera, NO_BUMP))


def count_false_alarms(results: Sequence[LocateResult]) -> int:
    """Return how often an alarm begins in a session without a bump."""
    health, count, was_raised = MountHealth(), 0, False
    for number, result in enumerate(results):
        health.add(result, number * CLICK_S)
        count += bool(health.suspects) and not was_raised
        was_raised = bool(health.suspects)
    return count


def run_bump(clicks: ClickSource, matcher: Matcher, earlier: Sequence[LocateResult], camera: str,
             bump: Transform) -> BumpDraw:
    """Bump a camera after an earlier session, and click until the alarm."""
    health = MountHealth()
    for number, result in enumerate(earlier):
        health.add(result, number * CLICK_S)
    answers = islice(clicks.locate(matcher, {camera: bump}), MAX_CLICKS)
    for number, result in enumerate(answers, 1):
        health.add(result, (len(earlier) + number) * CLICK_S)
        if health.suspects:
            return BumpDraw(number, health.suspects)
    return BumpDraw(None, frozenset())


def draw_bump(rng: np.random.Generator, shift_m: float, turn_rad: float) -> Transform:
    """Return a shift alone, or a turn alone, in a random direction."""
    direction = rng.normal(size=3)
    is_turned = rng.random() < 0.5
    return exp_pose(np.concatenate([turn_rad * direction * is_turned, shift_m * direction * (
        not is_turned)]) / np.linalg.norm(direction))


def format_bumps(draws: Sequence[BumpDraw], camera: str) -> str:
    """Format the figures as text."""
    counts = [draw.clicks for draw in draws if draw.clicks is not None]
    alone = sum(draw.suspects == {camera} for draw in draws)
    among = sum(camera in draw.suspects for draw in draws) - alone
    after = f'; after a median of {np.median(counts):g}, at most {max(counts)}' if counts else ''
    return (f'alarm within {WITHIN_CLICKS} clicks: {sum(c <= WITHIN_CLICKS for c in counts)} of '
            f'{len(draws)}{after}; never in {MAX_CLICKS}: {len(draws) - len(counts)}\n'
            f'it names: {camera} alone {alone}, {camera} or another {among}, another '
            f'{len(counts) - alone - among}')
