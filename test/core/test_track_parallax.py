"""Without depth: the path of a moving camera places a click, or the click stays refused."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
from fake_matchers import InexactMatcher
from moving_scenes import BOX, POSES, TARGET_M, Thing, move, render
from raycast_scenes import Box, look_at

from crosspoint_ros.core.datatypes import (
    Code,
    Method,
    Rejected,
    TrackedPixel,
    Transform,
    View,
)
from crosspoint_ros.core.geometry import ray_angle_deg
from crosspoint_ros.core.lift import lift
from crosspoint_ros.core.pipeline import locate
from crosspoint_ros.core.track import bundle, parallax
from crosspoint_ros.core.track.bundle import (
    REFERENCE_SIGMA_PX,
    CameraPixels,
    triangulate_bundle,
)
from crosspoint_ros.core.track.observation import project
from crosspoint_ros.core.track.parallax import (
    PlaceRefiner,
    build_structure,
    lift_by_motion,
    list_frames,
    may_gain,
    measure_sigma_m,
    select_frames,
)
from crosspoint_ros.core.track.state import FollowLimits, TrackingState
from crosspoint_ros.core.track.still import has_moved
from crosspoint_ros.core.track.tracker import Tracker
from crosspoint_ros.core.verify import Limits

LIMITS = Limits()
STEP_NS = 10**8
HAND_X_M = 0.12  # 11 deg from the front camera, then away from it
PIXEL_PX2 = 9.0 * np.eye(2)
NOWHERE_M = np.zeros(3)
RAY = (TARGET_M - POSES['front'].t_m) / np.linalg.norm(TARGET_M - POSES['front'].t_m)


def see(camera: str, step: int, things: tuple[Thing, ...] = (Thing(),), x_m: float | None = None):
    """Return the view of a camera after so many steps of the hand of 12 mm."""
    pose = POSES['front'] if camera == 'front' else look_at(
        (HAND_X_M + 0.012 * step if x_m is None else x_m, -0.5, 0.35))
    return render(camera, things, 10**9 + step * STEP_NS, pose, with_depth=False)


def see_both(steps: Iterable[int], step_m: np.ndarray = NOWHERE_M) -> list[View]:
    """Return the views of front camera and hand; the thing moves by a step (3,) each time."""
    return [see(camera, step, (Thing(base_from_thing=Transform(np.eye(3), step * step_m)),))
            for step in steps for camera in ('front', 'hand')]


def click(confidence: float = 0.9, others: Sequence[View] = ()):
    front, hand = see('front', 0), see('hand', 0)
    return locate(front, [hand, *others], project(front, TARGET_M[None])[0],
                  InexactMatcher(confidence=confidence), LIMITS)


def error_m(target) -> float:
    return float(np.linalg.norm(target.base_from_target.t_m - TARGET_M))


# --- the click

def test_two_views_that_look_alike_do_not_place_a_click_and_the_path_of_the_hand_does():
    refused = click()
    assert refused.target is None
    assert 'limits.max_target_sigma_m' in refused.status[1]
    placed = lift_by_motion(refused, see_both(range(1, 9)), LIMITS)
    assert placed.target is not None
    assert placed.target.method is Method.TRIANGULATED
    assert measure_sigma_m(placed.target) < LIMITS.max_target_sigma_m
    assert error_m(placed.target) < measure_sigma_m(placed.target)


def test_the_sigma_of_a_place_by_a_path_has_room_for_the_movement_that_nobody_sees():
    placed = lift_by_motion(click(), see_both(range(1, 9)), LIMITS)
    hand = placed['hand']
    without, with_room = (measure_sigma_m(lift(placed.clicked, placed.pixel, [
        (hand.view, replace(hand.match, unseen_m=unseen_m))], LIMITS))
        for unseen_m in (0.0, hand.match.unseen_m))
    assert hand.match.unseen_m > 0.003
    assert with_room == pytest.approx(np.hypot(without, hand.match.unseen_m), rel=0.05)
    with pytest.raises(Rejected, match='max_target_sigma_m'):
        lift(placed.clicked, placed.pixel, [(hand.view, replace(hand.match, unseen_m=0.02))],
             LIMITS)


@pytest.mark.parametrize(('way', 'most_mm'), [(np.eye(3)[0], 0.25), (RAY, 0.5)],
                         ids=['along the path of the hand', 'along the clicked ray'])
@pytest.mark.parametrize('mm', [-4, -2, -1, -0.5, -0.25, -0.1, 0.1, 0.25, 0.5, 1, 2, 4])
def test_a_thing_that_moves_is_not_placed_or_well_within_its_sigma(mm, way, most_mm):
    target = lift_by_motion(click(), see_both(range(1, 9), 1e-3 * mm * way), LIMITS).target
    assert target is not None if abs(mm) <= 0.1 else target is None or abs(mm) <= most_mm
    assert target is None or error_m(target) < 0.7 * measure_sigma_m(target)


@pytest.mark.parametrize('moved_m', [0.002, 0.03])
def test_a_thing_that_moved_before_or_moves_after_is_placed_by_the_images_between(moved_m):
    moved = (Thing(base_from_thing=Transform(np.eye(3), np.array([moved_m, 0.0, 0.0]))),)
    rests = see_both(range(1, 9))
    for steps in (range(-4, 0), range(9, 12)):
        elsewhere = [see(camera, step, moved) for step in steps for camera in ('front', 'hand')]
        placed = lift_by_motion(click(), [*elsewhere, *rests], LIMITS)
        assert error_m(placed.target) < 0.003
        assert all(frame.stamp_ns in {one.stamp_ns for one in rests}
                   for frame in list_frames(placed))
        # What has left its place altogether may as well be hidden.
        assert has_moved(placed, [*elsewhere, *rests]) == (steps[0] > 0 and moved_m < 0.01)


@pytest.mark.parametrize('fronts', [[], [4], [-4]], ids=['none', 'of half', 'before'])
def test_the_path_counts_while_the_clicked_camera_shows_that_the_point_rests(fronts):
    hands = [see('hand', step) for step in range(1, 9)]
    placed = lift_by_motion(click(), hands + [see('front', step) for step in fronts], LIMITS)
    assert [frame.stamp_ns for frame in list_frames(placed)] == [
        hand.stamp_ns for hand in (hands[:4] if fronts == [4] else [])]


def test_one_image_alone_that_shows_it_elsewhere_is_noise():
    elsewhere = see('front', 4, (Thing(base_from_thing=Transform(
        np.eye(3), np.array([0.001, 0.0, 0.0]))),))
    frames = [elsewhere if frame.camera == 'front' and frame.stamp_ns == elsewhere.stamp_ns
              else frame for frame in see_both(range(1, 9))]
    placed = lift_by_motion(click(), frames, LIMITS)
    assert len(list_frames(placed)) == 8
    assert error_m(placed.target) < 0.003
    assert not has_moved(placed, [frame for frame in frames
                                  if frame.stamp_ns <= elsewhere.stamp_ns])


def test_a_clicked_camera_that_moves_or_is_hidden_shows_no_rest():
    refused, hands = click(), [see('hand', step) for step in range(1, 9)]
    moved = [replace(see('hand', step), camera='front') for step in range(1, 9)]
    hidden = [replace(frame, image=np.full_like(frame.image, 90))
              for frame in (see('front', step) for step in range(1, 9))]
    assert lift_by_motion(refused, hands + moved, LIMITS).target is None
    assert lift_by_motion(refused, hands + hidden, LIMITS).target is None


def test_further_images_give_a_match_no_confidence_however_often_they_are_taken():
    left = replace(see('hand', 0, x_m=-0.2), camera='left')
    once = turns = click(0.7, [left])
    for last in range(2, 9):
        turns = lift_by_motion(turns, see_both(range(1, last + 1)), LIMITS)
    once = lift_by_motion(once, see_both(range(1, 9)), LIMITS)
    assert list_frames(once)
    for camera in ('hand', 'left'):
        assert turns[camera].match.confidence == pytest.approx(once[camera].match.confidence)
        assert list_frames(once)
    assert turns.target.confidence == pytest.approx(once.target.confidence)
    alone = lift_by_motion(click(0.7), see_both(range(1, 9)), LIMITS)
    assert alone['hand'].match.confidence <= 0.7


@pytest.mark.parametrize('frames', [[], [see(camera, step, x_m=HAND_X_M)
                                         for step in (1, 2, 3) for camera in ('front', 'hand')]],
                         ids=['without images', 'at rest'])
def test_a_hand_that_does_not_move_adds_nothing(frames):
    refused = click()
    assert lift_by_motion(refused, frames, LIMITS) is refused


def test_tracked_pixels_of_a_point_that_moves_contradict_each_other():
    views = [see('hand', step) for step in range(6)]
    up_m = np.array([0.0, 0.0, 0.004])
    tracked = tuple(TrackedPixel(view, project(view, (TARGET_M + k * up_m)[None])[0],
                                 0.16 * np.eye(2)) for k, view in enumerate(views[1:], 1))
    front = see('front', 0)
    pixels = [project(view, TARGET_M[None])[0] for view in (front, views[0])]
    cameras = [CameraPixels(front, pixels[0], np.eye(2)),
               CameraPixels(views[0], pixels[1], PIXEL_PX2, 1e-6 * np.eye(6), tracked,
                            1e-6 * np.eye(6))]
    with pytest.raises(Rejected, match='not one place at rest') as why:
        triangulate_bundle(cameras, TARGET_M)
    assert why.value.code == Code.INCONSISTENT


def test_the_errors_of_a_bundle_are_what_its_covariance_says(monkeypatch):
    monkeypatch.setattr(bundle, 'MAX_RESIDUAL_SIGMAS', 9.0)  # all of them, not the best
    monkeypatch.setattr(bundle, 'MAX_MATCH_SIGMAS', 9.0)
    rng, views = np.random.default_rng(0), [see('hand', step) for step in range(6)]
    front, squared = see('front', 0), []
    at_px = [project(view, TARGET_M[None])[0] for view in (front, *views)]
    for _ in range(150):
        off_px = rng.normal(0, 3.0, 2)
        tracked = tuple(TrackedPixel(view, pixel + off_px + rng.normal(0, 0.4, 2),
                                     0.16 * np.eye(2))
                        for view, pixel in zip(views[1:], at_px[2:], strict=True))
        met = triangulate_bundle([
            CameraPixels(front, at_px[0] + rng.normal(0, 1.0, 2), np.eye(2)),
            CameraPixels(views[0], at_px[1] + off_px + rng.normal(0, REFERENCE_SIGMA_PX, 2),
                         PIXEL_PX2, 1e-12 * np.eye(6), tracked, 1e-12 * np.eye(6))],
            TARGET_M + 0.05)
        off_m = met.point_base_m - TARGET_M
        squared.append(off_m @ np.linalg.solve(met.covariance_m2, off_m) / 3)
    assert np.mean(squared) == pytest.approx(1.0, abs=0.2)


def test_a_target_at_an_edge_has_no_depth_by_motion():
    thin = Thing(Box((-0.03, -0.03, 0.0), (0.004, -0.02, 0.16)))
    behind = Thing(Box((-0.15, 0.08, 0.0), (0.15, 0.1, 0.3)))
    views = [see('hand', step, (thin, behind)) for step in range(9)]
    at_m = np.array([0.0, -0.03, 0.11])
    structure = build_structure(views[0], project(views[0], at_m[None])[0], views[1:], at_m)
    assert structure.has_edge()
    views = [see('hand', step) for step in range(9)]
    structure = build_structure(views[0], project(views[0], TARGET_M[None])[0], views[1:], TARGET_M)
    assert not structure.has_edge()


def test_corners_are_placed_and_their_normals_are_those_of_the_surface():
    views = [see('hand', step) for step in range(9)]
    structure = build_structure(views[0], project(views[0], TARGET_M[None])[0], views[1:],
                                TARGET_M + np.array([0.0, 0.03, 0.0]))
    points_m = structure.reference.points_m[structure.is_known]
    on_front = np.abs(points_m[:, 0]) < 0.035
    on_front &= (points_m[:, 2] > 0.01) & (points_m[:, 2] < 0.08)
    assert on_front.sum() > 10
    assert np.median(np.abs(points_m[on_front, 1] - BOX.low_base_m[1])) < 0.004
    normals = structure.reference.normals[structure.is_known][on_front]
    assert np.median(normals[:, 1]) < -0.8  # of one that faces the camera: -0.76


def test_frames_are_of_other_places_and_few():
    view = see('hand', 0)
    frames = [see('hand', step) for step in range(1, 20)]
    chosen = select_frames(view, [*frames, see('hand', 30, x_m=HAND_X_M + 0.001)])
    assert len(chosen) == 8
    assert chosen[-1] is frames[-1]


def test_depth_at_the_click_needs_no_further_images():
    front = replace(render('front', (Thing(),)))
    placed = locate(front, [see('hand', 0)], project(front, TARGET_M[None])[0], InexactMatcher(),
                    LIMITS)
    assert placed.target is not None
    assert not may_gain(placed)


def test_a_click_waits_until_a_path_has_placed_it_and_no_longer():
    refused = click()
    assert may_gain(refused)
    placed = lift_by_motion(refused, see_both(range(1, 9)), LIMITS)
    assert placed.target is not None
    assert not may_gain(placed)
    by_match = lift(placed.clicked, placed.pixel, [(placed['hand'].view, replace(
        placed['hand'].match, tracked=()))], replace(LIMITS, max_target_sigma_m=0.2))
    assert may_gain(replace(refused, target=by_match))


# --- after the click

@pytest.mark.parametrize(('with_depth', 'rad'), [(False, 0.1), (True, 0.2)])
def test_what_is_seen_from_another_side_is_kept_sooner_without_depth(with_depth, rad):
    def see_one(camera: str, step: int) -> View:
        view = see(camera, step)
        return render(camera, (Thing(),), view.stamp_ns, view.base_from_cam) if with_depth else view

    placed = lift_by_motion(click(), see_both(range(1, 9)), LIMITS)
    if with_depth:
        placed = locate(see_one('front', 0), [see_one('hand', 0)], placed.pixel, InexactMatcher(),
                        LIMITS)
    tracker = Tracker.from_answer(placed, None, FollowLimits(), LIMITS)
    for step in range(9, 40):
        tracker.update([see_one('front', step), see_one('hand', step)], 10**9 + step * STEP_NS)
    rays = [TARGET_M - each.view.base_from_cam.t_m for each in tracker.references
            if each.view.camera == 'hand']
    angles_rad = [np.radians(ray_angle_deg(a, b)) for a, b in pairwise(rays)]
    assert len(angles_rad) >= 2
    assert rad <= min(angles_rad)
    assert angles_rad[-1] < 1.5 * rad


def test_a_target_at_rest_is_placed_better_while_the_hand_moves_on_and_followed_when_it_moves():
    placed = lift_by_motion(click(), see_both(range(1, 7)), LIMITS)
    tracker = Tracker.from_answer(placed, None, FollowLimits(), LIMITS)
    before = tracker.track
    for step in range(7, 16):
        track = tracker.update([see('front', step), see('hand', step)], 10**9 + step * STEP_NS)
        assert track.state is TrackingState.TRACKING
    assert np.trace(track.covariance[:3, :3]) < 0.95 * np.trace(before.covariance[:3, :3])
    for step in range(16, 24):
        moved = move(-0.005 * (step - 15), -0.004 * (step - 15), 2.0 * (step - 15))
        things = (Thing(base_from_thing=moved),)
        track = tracker.update([see('front', step, things), see('hand', step, things, 0.3)],
                               10**9 + step * STEP_NS)
        off_m = np.linalg.norm(track.base_from_target.t_m - moved.transform_points(TARGET_M))
        if track.state in (TrackingState.TRACKING, TrackingState.MOVED):
            assert off_m < 0.02
    assert track.state is TrackingState.MOVED


def rest_and_follow() -> Tracker:
    return Tracker.from_answer(lift_by_motion(click(), see_both(range(1, 7)), LIMITS), None,
                               FollowLimits(), LIMITS)


def count_sigmas(track, place_m: np.ndarray) -> float:
    off_m = track.base_from_target.t_m - place_m
    return float(np.sqrt(off_m @ np.linalg.solve(track.covariance[:3, :3], off_m)))


@pytest.mark.parametrize('turn_deg', [0, 45, 90])
@pytest.mark.parametrize('has_holes', [False, True], ids=['without depth', 'depth of holes alone'])
def test_one_camera_alone_says_on_which_ray_it_moves_and_never_how_far_away(turn_deg, has_holes):
    """It coasts in its direction; where it turns aside, that is within the covariance."""
    tracker = rest_and_follow()
    step_m, at_m = np.array([-0.005, -0.004, 0.0]), np.zeros(3)
    for step in range(7, 31):
        if step == 20:
            step_m = cv2.Rodrigues(np.array([0.0, 0.0, np.radians(turn_deg)]))[0] @ step_m
        at_m = at_m + step_m * (step > 12)
        things = (Thing(base_from_thing=Transform(np.eye(3), at_m)),)
        alone = 20 <= step < 30
        cameras = ['hand'] if alone else ['front', 'hand']
        views = [see(camera, step, things) for camera in cameras]
        if has_holes and alone:
            views = [replace(view, depth_m=np.zeros(view.image.shape[:2], np.float32))
                     for view in views]
        track = tracker.update(views, 10**9 + step * STEP_NS)
        assert (track.state is TrackingState.COASTING) == alone
        assert count_sigmas(track, TARGET_M + at_m) < 3
        assert np.linalg.norm(track.base_from_target.t_m - TARGET_M - at_m) < 0.01 or (
            turn_deg and alone)
        assert track.is_moved or step < 16
    assert track.state is TrackingState.MOVED


@pytest.mark.parametrize('speed_m_s', [-0.2, -0.1, 0.1, 0.2])
def test_what_leaves_its_rest_along_the_ray_of_one_camera_alone_is_not_called_seen(speed_m_s):
    tracker = rest_and_follow()
    ray = TARGET_M - see('hand', 10).base_from_cam.t_m
    for step in range(7, 20):
        at_m = ray / np.linalg.norm(ray) * speed_m_s * 0.1 * max(step - 9, 0)
        things = (Thing(base_from_thing=Transform(np.eye(3), at_m)),)
        track = tracker.update([see('hand', step, things, HAND_X_M + 0.12)],
                               10**9 + step * STEP_NS)
        assert count_sigmas(track, TARGET_M + at_m) < 3
        assert track.state is TrackingState.COASTING or np.linalg.norm(at_m) < 0.021
    assert track.state is TrackingState.COASTING


def test_two_cameras_of_nearly_one_direction_are_as_one():
    tracker = rest_and_follow()
    for step in range(7, 24):
        at_m = np.array([-0.005, -0.004, 0.0]) * max(step - 12, 0)
        things = (Thing(base_from_thing=Transform(np.eye(3), at_m)),)
        track = tracker.update([see('front', step, things), see('hand', step, things, 0.03)],
                               10**9 + step * STEP_NS)
        assert count_sigmas(track, TARGET_M + at_m) < 3
    assert track.state is TrackingState.COASTING
    assert 'its movement is known to' in track.message


def test_at_rest_one_camera_alone_is_enough():
    tracker = rest_and_follow()
    for step in range(7, 24):
        track = tracker.update([see('hand', step)], 10**9 + step * STEP_NS)
        assert track.state is TrackingState.TRACKING


def test_a_better_place_is_taken_and_a_worse_one_is_not():
    placed = lift_by_motion(click(), see_both(range(1, 7)), LIMITS)
    refiner = PlaceRefiner(placed)
    assert refiner.add(see_both([7]), LIMITS) is None  # too few
    better = refiner.add(see_both([12]), LIMITS)
    assert measure_sigma_m(better.target) < measure_sigma_m(placed.target)
    assert len(list_frames(better)) <= 8
    exact = replace(better.target, covariance=1e-8 * np.eye(6))
    worse = PlaceRefiner(replace(placed, target=exact))
    assert worse.add(see_both([7, 12]), LIMITS) is None


@pytest.mark.parametrize('at_once', [1, 3, 7])
def test_a_place_is_refined_four_times_at_most_and_keeps_few_images(monkeypatch, at_once):
    lifted: list[int] = []
    monkeypatch.setattr(parallax, 'lift_by_motion', lambda located, frames, limits: (
        lifted.append(len(frames)), located)[1])
    refiner, hand = PlaceRefiner(lift_by_motion(click(), see_both(range(1, 7)), LIMITS)), see(
        'hand', 0)
    for turn in range(100):  # of a camera that moves on
        refiner.add([replace(hand, stamp_ns=index, base_from_cam=look_at((0.012 * index, 0.5, 0.4)))
                     for index in range(turn * at_once, (turn + 1) * at_once)], LIMITS)
        assert len(refiner._frames) <= 16
    assert 2 <= len(lifted) <= 4
    assert not refiner._frames


def test_what_stays_behind_is_dropped_from_a_reference_without_depth():
    low_m = np.array([0.0, -0.03, 0.02])  # a third of the corners around it are of the table
    located = locate(see('front', 0), [see('hand', 0)], project(see('front', 0), low_m[None])[0],
                     InexactMatcher(tuple(low_m)), LIMITS)
    placed = lift_by_motion(located, see_both(range(1, 9)), LIMITS)
    tracker = Tracker.from_answer(placed, None, FollowLimits(), LIMITS)

    def count() -> np.ndarray:  # of the hand: what moves towards the front camera stays in its view
        heights_m = next(each.points_m[:, 2] for each in tracker.references
                         if each.view.camera == 'hand')
        return np.array([(heights_m < 0.004).sum(), (heights_m > 0.004).sum()])

    table, box = count()
    assert table >= 8
    for step in range(9, 18):
        things = (Thing(base_from_thing=move(0.0, -0.005 * (step - 8))),)
        tracker.update([see('front', step, things), see('hand', step, things)],
                       10**9 + step * STEP_NS)
    left_table, left_box = count()
    assert left_table <= 0.6 * table
    assert left_box >= 0.8 * box
