"""Follows a point of a recording frame by frame, and compares every state with the truth."""
from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from crosspoint_ros.bench.follow.moving_scene import MovingRecording, TruePlace, TruePoint
from crosspoint_ros.bench.follow.staging import Staging
from crosspoint_ros.core.datatypes import Matcher, Rejected, View
from crosspoint_ros.core.pipeline import LocateResult, locate
from crosspoint_ros.core.track.motion import Motion
from crosspoint_ros.core.track.parallax import lift_by_motion, may_gain
from crosspoint_ros.core.track.state import FollowLimits, TrackingState
from crosspoint_ros.core.track.still import has_moved
from crosspoint_ros.core.track.tracker import Tracker
from crosspoint_ros.core.verify import Limits

HISTORY_S = 2.0  # of images, as the node's history_s
ALARM_S = 0.3  # after it was taken away, no frame may say that it is seen
FALSE_M = 0.02  # further off while it says that it sees the target
WAITS = 'W'  # a frame before the place of the target was known
SEEN = (TrackingState.TRACKING, TrackingState.MOVED)


@dataclass
class FollowScore:
    """What following one point came to.

    errors_m: in the frames where some camera shows it, with whether the state was TRACKING or
    MOVED. alarms_s: from hiding to the first frame that is not called seen. refound_s: from each
    reappearance to the first frame that is; NaN: never. lost_s: from the moment at which the target
    was taken away to LOST. seconds: that were followed. states: a letter a frame, small where it is
    hidden.
    """

    name: str
    moves: bool
    refused: str = ''
    errors_m: list[float] = field(default_factory=list)
    tracked: list[bool] = field(default_factory=list)
    false_frames: int = 0
    drift_m: float = 0.0
    alarms_s: list[float] = field(default_factory=list)
    refound_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    search_cpu_s: list[float] = field(default_factory=list)
    seconds: float = 0.0
    lost_s: list[float] = field(default_factory=list)
    states: str = ''
    clicked_error_m: float = np.nan


def follow_point(recording: MovingRecording, point: TruePoint, matcher: Matcher,
                 follow: FollowLimits, limits: Limits, staging: Staging | None = None,
                 alone_after_s: float = 0.0, wait_motion_s: float = 1.0) -> FollowScore:
    """Click the point, and follow it to the end of the recording, or what is staged in it.

    alone_after_s: from the click until the recording's `cameras` alone send images.
    wait_motion_s: how long a click without depth waits for the path of a moving camera, as in the
    node (`limits.wait_images_s`); the frames of that time have no place, and count as missed. The
    images of the `HISTORY_S` before it are known, where the recording has any.
    A search of the matcher takes the time that it takes here: its places are offered that much
    later.
    """
    score = FollowScore(point.name, point.moves)
    views = recording.views_at(point.stamp_ns)
    clicked = next((view for view in views if view.camera == point.camera), None)
    if clicked is None:
        score.refused = f'{point.camera} has no image of the click'
        return score
    try:
        result = locate(clicked, [view for view in views if view is not clicked], point.pixel,
                        matcher, limits)
    except Rejected as why:
        score.refused = why.message
        return score
    result, begun_ns = _place_by_motion(recording, point, result, limits, wait_motion_s)
    if result.target is None:
        score.refused = result.status[1]
        return score
    places = {place.stamp_ns: place for place in point.places}
    score.clicked_error_m = float(np.linalg.norm(
        result.target.base_from_target.t_m - places[point.stamp_ns].point_base_m))
    try:
        tracker = Tracker.from_answer(result, matcher, follow, limits)
    except Rejected as why:
        score.refused = why.message
        return score
    for place in point.places:  # no place yet
        if point.stamp_ns < place.stamp_ns <= begun_ns:
            visible = bool(place.visible & set(recording.cameras))
            score.states += WAITS if visible else WAITS.lower()
            if visible:
                score.errors_m.append(np.inf)
                score.tracked.append(False)
    stamps_ns = [s for s in recording.stamps_ns if s > begun_ns and s in places]
    score.seconds = (stamps_ns[-1] - point.stamp_ns) * 1e-9 if stamps_ns else 0.0
    _follow(recording, tracker, places, matcher, score, stamps_ns, staging, alone_after_s)
    return score


def _place_by_motion(recording: MovingRecording, point: TruePoint, result: LocateResult,
                     limits: Limits, wait_s: float) -> tuple[LocateResult, int]:
    """Return the answer by the images that the node has then, and the stamp of the last, ns."""
    frames: list[View] = []
    begun_ns = point.stamp_ns
    if may_gain(result):
        frames = [view for stamp_ns in recording.stamps_ns
                  if 0 < point.stamp_ns - stamp_ns <= HISTORY_S * 1e9
                  for view in recording.views_at(stamp_ns)]
        result = lift_by_motion(result, frames, limits)
    for stamp_ns in recording.stamps_ns:
        if not 0 < stamp_ns - point.stamp_ns <= wait_s * 1e9:
            continue
        if not may_gain(result) or has_moved(result, frames):
            break
        frames += recording.views_at(stamp_ns)
        result, begun_ns = lift_by_motion(result, frames, limits), stamp_ns
    return result, begun_ns


def _follow(recording: MovingRecording, tracker: Tracker, places: dict[int, TruePlace],
            matcher: Matcher, score: FollowScore, stamps_ns: Sequence[int],
            staging: Staging | None, alone_after_s: float) -> None:
    pending: tuple[int, list[Motion], float] | None = None
    clicked_ns = tracker.track.stamp_ns
    was_visible, since_ns, is_open = True, 0, False
    for stamp_ns in stamps_ns:
        since_click_s, is_away = (stamp_ns - clicked_ns) * 1e-9, False
        cameras = frozenset(recording.cameras if since_click_s >= alone_after_s
                            else recording.all_cameras)
        place, views = places[stamp_ns], [
            view for view in recording.views_at(stamp_ns) if view.camera in cameras]
        if staging is not None:
            views = [staging.change(view, place.point_base_m, since_click_s) for view in views]
            is_away = staging.is_away(since_click_s)
        begun_s = time.process_time()
        if pending is not None and stamp_ns >= pending[0]:
            tracker.offer(pending[1], stamp_ns, pending[2])
            pending = None
        track = tracker.update(views, stamp_ns, cameras - {
            view.camera for view in views})  # the others send their images less often
        score.cpu_s.append(time.process_time() - begun_s)
        if pending is None and tracker.wants_search(stamp_ns):
            begun_s, begun_cpu_s = time.monotonic(), time.process_time()
            found = tracker.search(views, matcher)
            score.search_cpu_s.append(time.process_time() - begun_cpu_s)
            took_s = time.monotonic() - begun_s
            pending = stamp_ns + int(took_s * 1e9), found, took_s
        error_m = float(np.linalg.norm(track.base_from_target.t_m - place.point_base_m))
        visible = bool(place.visible & cameras) and not (
            is_away or (staging is not None and staging.is_hidden(since_click_s)))
        is_seen = track.state in SEEN
        score.states += track.state.name[0] if visible else track.state.name[0].lower()
        score.false_frames += is_seen and (error_m > FALSE_M or (
            is_away and since_click_s > staging.away_s + ALARM_S if staging else False))
        if is_away and track.state is TrackingState.LOST and not score.lost_s and staging:
            score.lost_s.append(since_click_s - staging.away_s)
        if not score.moves:
            score.drift_m = max(score.drift_m, float(np.linalg.norm(
                tracker.motion.base_from_clicked.transform_points(place.point_base_m)
                - place.point_base_m)))
        if visible:
            score.errors_m.append(error_m)
            score.tracked.append(is_seen)
        if visible != was_visible:
            if is_open:
                (score.refound_s if was_visible else score.alarms_s).append(np.nan)
            since_ns, is_open, was_visible = stamp_ns, True, visible
        if is_open and is_seen == visible:
            (score.refound_s if visible else score.alarms_s).append((stamp_ns - since_ns) * 1e-9)
            is_open = False
    if is_open:
        (score.refound_s if was_visible else score.alarms_s).append(np.nan)
    if staging is not None and not score.lost_s:
        score.lost_s.append(np.nan)
