"""Decides whether an object that reappears elsewhere is the one that was clicked, or its twin."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crosspoint_ros.core.datatypes import Array as Array
from crosspoint_ros.core.datatypes import Rejected, View
from crosspoint_ros.core.depth import predict_depth_sigma_m
from crosspoint_ros.core.geometry import require_pose
from crosspoint_ros.core.track.motion import Motion
from crosspoint_ros.core.track.observation import (
    Observation,
    Verification,
    observe,
    project,
    sample_depth_m,
    verify,
)
from crosspoint_ros.core.track.reference import (
    IDENTITY,
    ReferenceView,
    build_by_depth,
    build_by_plane,
    project_target,
)

JUMP_SHARE, BLIND_JUMP_SHARE = 0.5, 0.7  # of the points that should be seen
BLIND_JUMP_POINTS = 12
SAME_SIDE_RAD = 0.4  # views further apart look different, whatever they show
CHANGE_SIGMAS = 3.0


def explain_jump(clicked: Sequence[ReferenceView], motion: Motion,
                 found: Sequence[tuple[Observation, Verification]], jumped_m: float) -> str:
    """Return why the object is not taken to be at a new place; '' if it is.

    What was there when it was clicked has not come there since. Where no view of the click can
    say that, more points must agree.
    """
    verified = [(seen, verdict) for seen, verdict in found if verdict.is_verified]
    changed = False
    for seen, _ in verified:
        for reference in clicked:
            answer = compare_with_click(reference, seen, motion)
            if answer is False:
                return (f'{jumped_m:.2f} m away {reference.view.camera} saw the same when it was '
                        'clicked: a look-alike')
            changed |= answer is True
    least, points = (JUMP_SHARE, 0) if changed else (BLIND_JUMP_SHARE, BLIND_JUMP_POINTS)
    best = max((verdict for _, verdict in verified), key=lambda verdict: verdict.agreeing)
    share = best.agreeing / max(best.expected - best.hidden, 1)
    return '' if share >= least and best.agreeing >= points else (
        f'{best.agreeing} of its points, {share:.0%}, agree at a new place (at least {points}, '
        f'{least:.0%})')


def compare_with_click(reference: ReferenceView, seen: Observation, motion: Motion
                       ) -> bool | None:
    """Return whether a place has changed since the click; None if this view cannot say.

    By its look from the same side: what the new view shows there is looked for in the old one. Else
    by depth: whether the points of the object were on a surface then, too.
    """
    view, old = seen.points.view, reference.view
    rays = [motion.centre_m - require_pose(each).t_m for each in (view, old)]
    cosine = rays[0] @ rays[1] / (np.linalg.norm(rays[0]) * np.linalg.norm(rays[1]))
    if cosine > np.cos(SAME_SIDE_RAD):
        try:
            here = build_place(view, motion.centre_m)
        except Rejected:
            return None
        verdict = verify(observe(here, old, reference.pyramid, IDENTITY, np.zeros((6, 6))),
                         IDENTITY, motion.centre_m)
        if verdict.hidden * 2 > verdict.expected or not verdict.expected:
            return None
        return not verdict.shows_object
    now_m = motion.base_from_clicked.transform_points(seen.points.points_m[
        np.isfinite(seen.points.pixels[:, 0])])
    off_m = sample_depth_m(old, project(old, now_m)) - require_pose(
        old).inverse.transform_points(now_m)[:, 2]
    limit_m = CHANGE_SIGMAS * predict_depth_sigma_m(float(np.linalg.norm(rays[1])))
    behind = off_m > limit_m  # then one could see through where it is now
    return True if len(off_m) and behind.mean() > 0.5 else None


def build_place(view: View, place_m: Array) -> ReferenceView:
    """Return a reference of what a view shows at a place (3,); raise `Rejected` without texture."""
    if view.depth_m is not None:
        return build_by_depth(view, place_m)
    return build_by_plane(view, project_target(view, place_m)[0], place_m)
