"""The clicked thing of an answer: cut out of its views, and the target turned across it."""
from __future__ import annotations

from dataclasses import dataclass, replace

from crosspoint_ros.core.datatypes import Array, GraspTarget, Transform, View
from crosspoint_ros.core.grasp.approach import ApproachFrame
from crosspoint_ros.core.grasp.segment import Thing, segment
from crosspoint_ros.core.grasp.shape import Box, Closing, choose_closing, fit_box
from crosspoint_ros.core.lift import sight
from crosspoint_ros.core.pipeline import LocateResult
from crosspoint_ros.core.verify import Limits


@dataclass(frozen=True, eq=False)
class TargetThing:
    """What was cut out of the views that show a target; box, closing: None where unknown."""

    views: tuple[View, ...]
    thing: Thing
    box: Box | None
    closing: Closing | None


def measure_thing(located: LocateResult, rotation: Array, limits: Limits) -> TargetThing:
    """Cut out the thing of an answer, and choose how jaws close about the z of axes (3, 3).

    The views are placed as for the target. Raises `Rejected` (NO_DEPTH), as `lift` does.
    """
    click, sightings = sight(located.clicked, located.pixel, [
        (found.view, found.match) for found in located.correspondences
        if found.view is not None and found.match is not None and found.rejected is None], limits)
    seen = [(one.view, one.pixel) for one in (click, *sightings)]
    seen = [(view, pixel) for view, pixel in seen if view.depth_m is not None] or seen[:1]
    thing, views = segment(seen), tuple(view for view, _ in seen)
    if thing.unclear:
        return TargetThing(views, thing, None, None)
    return TargetThing(views, thing, fit_box(thing),
                       choose_closing(thing, views, rotation[:, 2], rotation[:, 0]))


def turn_target(located: LocateResult, limits: Limits) -> LocateResult:
    """Return the answer with its target turned across the smaller extent of its thing.

    With `width_m` and the sigma of the yaw. As it was where that is not known.
    """
    if located.target is None:
        return located
    closing = measure_thing(located, located.target.base_from_target.R, limits).closing
    if closing is None:
        return located
    return replace(located, target=_turn(located.target, closing))


def _turn(target: GraspTarget, closing: Closing) -> GraspTarget:
    frame = ApproachFrame(closing.rotation, target.normal_measured, target.sigma_normal_rad,
                          closing.sigma_yaw_rad)
    covariance = target.covariance.copy()
    covariance[3:, 3:] = frame.covariance_rad2
    return replace(target, covariance=covariance, sigma_yaw_rad=closing.sigma_yaw_rad,
                   base_from_target=Transform(closing.rotation, target.base_from_target.t_m),
                   width_m=closing.width_m)
