"""What browsers get of all targets: their states, the marks of their answers, and their places."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.msg import Correspondence, QueryResult, TargetState
from crosspoint_ros.ros.client.results import (
    STATE_NAMES,
    VERDICTS,
    Json,
    grasp_target_to_json,
    is_target_sure,
    point_to_json,
    result_to_json,
    round_finite,
)
from crosspoint_ros.ros.conversions import transform_from_pose
from crosspoint_ros.web.image_streams import CameraImage
from crosspoint_ros.web.overlay import Overlay, pose_to_json
from crosspoint_ros.web.plain_text import format_time

ENDED = (TargetState.NONE, TargetState.EXPIRED, TargetState.CLEARED)


class TargetDisplay:
    """The targets by name, and the answers of those that are active, whose marks stay in sight."""

    def __init__(self, make_overlay: Callable[[], Overlay]) -> None:
        self._make_overlay = make_overlay
        self.states: list[TargetState] | None = None  # None: not known yet
        self._answers: dict[str, QueryResult] = {}  # by name, of the active targets
        self.overlays: dict[str, Overlay] = {}  # of these answers

    @property
    def active(self) -> list[TargetState]:
        """The targets that have not ended."""
        return [state for state in self.states or () if state.state not in ENDED]

    def update(self, known: Mapping[str, QueryResult]) -> list[QueryResult]:
        """Take the answers of the active targets, by query_id; return those that are new."""
        before, self._answers = self._answers, {}
        for state in self.active:
            kept = before.get(state.name)  # `known` forgets
            if kept is not None and kept.query_id != state.query_id:
                kept = None
            if (answer := known.get(state.query_id, kept)) is not None:
                self._answers[state.name] = answer
        changed = [name for name, answer in self._answers.items()
                   if (old := before.get(name)) is not answer and (
                       old is None or result_to_json(old) != result_to_json(answer))]
        self.overlays = {name: self.overlays.get(name) or self._make_overlay()
                         for name in self._answers}
        for name in changed:
            self.overlays[name].set_result(self._answers[name])
        return [self._answers[name] for name in changed]

    def describe(self, numbers: Mapping[str, int], make_plain: Callable[[str], str]) -> list[Json]:
        """Return what the page says of the targets, the one without a name first.

        numbers: of the clicks in the history, by query_id. make_plain: of the node's messages.
        """
        unknown = {'state': 'UNKNOWN'} if self.states is None else {}
        return [{**target_to_json(state, self._answers.get(state.name),
                                  numbers.get(state.query_id)),
                 'message': make_plain(state.message), **unknown}
                for state in self.states or [TargetState()]]

    def track_marks(self, image: CameraImage) -> list[Json]:
        """Return the marks of the answers on an image, by name."""
        tracked = {name: overlay.track_mark(image) for name, overlay in self.overlays.items()}
        return [{'name': name, **mark} for name, mark in tracked.items() if mark]

    def build_places(self) -> list[Json]:
        """Return where the active targets are, in the base frame, for the 3D view."""
        return [pose_to_json(transform_from_pose(state.pose.pose), state.pose.covariance,
                             _get_kind(self._answers.get(state.name)), state.name)
                for state in self.active if math.isfinite(state.pose.pose.position.x)]


def target_to_json(state: TargetState, result: QueryResult | None, number: int | None) -> Json:
    """Return what the page says of a target; result and number: of its click, if known."""
    at = state.pose.pose.position
    position_m = [round_finite(v) for v in (at.x, at.y, at.z)]
    target = None if result is None or not result.has_target else grasp_target_to_json(
        result.target)
    since_ns = stamp_to_ns(state.since)
    return {
        'name': state.name, 'state': STATE_NAMES.get(state.state, str(state.state)),
        'valid': bool(state.valid), 'query_id': state.query_id, 'number': number,
        'frame': state.frame, 'base_frame': state.header.frame_id,
        'position_m': None if None in position_m else position_m,
        'sigma_mm': _find_sigma_mm(state),
        'verdict': None if result is None else _get_kind(result),
        'confidence': target and target['confidence'], 'method': target and target['method'],
        'since': format_time(since_ns * 1e-9), 'since_ms': since_ns / 1e6,
        'held_until_ms': stamp_to_ns(state.held_until) / 1e6,
        'points': [] if result is None else list(_list_points(result))}


def _get_kind(result: QueryResult | None) -> str:
    return 'sure' if result is not None and is_target_sure(result) else 'check'


def _list_points(result: QueryResult) -> Iterable[Json]:
    """Return the click and what was found, as marks."""
    yield {'kind': 'clicked', **point_to_json(result.clicked)}
    for answer in result.correspondences:
        if answer.verdict != Correspondence.REFUSED:
            yield {'kind': VERDICTS[answer.verdict], **point_to_json(answer.found)}


def _find_sigma_mm(state: TargetState) -> float | None:
    """Return the largest standard deviation along an axis; None where it is unknown."""
    variances = [float(state.pose.covariance[7 * i]) for i in range(3)]
    return round_finite(1000 * max(variances) ** 0.5, 1) if min(variances) >= 0 else None
