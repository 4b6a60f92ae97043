"""Without depth: the path of a moving camera places a click, or the click stays refused."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_matchers import InexactMatcher
from moving_scenes import BOX, POSES, TARGET_M, Thing, move, render
from raycast_scenes import Box, look_at

from crosspoint_ros.core.datatypes import Code, Method, Rejected, TrackedPixel
from crosspoint_ros.core.pipeline import locate
from crosspoint_ros.core.track.bundle import CameraPixels, triangulate_bundle
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
from crosspoint_ros.core.track.reference_set import ReferenceSet
from crosspoint_ros.core.track.state import FollowLimits, TrackingState
from crosspoint_ros.core.track.tracker import Tracker
from crosspoint_ros.core.verify import Limits

LIMITS = Limits()
STEP_NS = 10**8
HAND_X_M = 0.12  # 11 deg from the front camera, then away from it
PIXEL_PX2 = 9.0 * np.eye(2)


def see(camera: str, step: int, things: tuple[Thing, ...] = (Thing(),), x_m: float | None = None):
    """Return the view of a camera after so many steps of the hand of 12 mm."""
    pose = POSES['front'] if camera == 'front' else look_at(
        (HAND_X_M + 0.012 * step if x_m is None else x_m, -0.5, 0.35))
    return render(camera, things, 10**9 + step * STEP_NS, pose, with_depth=False)


def click(confidence: float = 0.9):
    front, hand = see('front', 0), see('hand', 0)
    return locate(front, [hand], project(front, TARGET_M[None])[0],
                  InexactMatcher(confidence=confidence), LIMITS)


def error_m(target) -> float:
    return float(np.linalg.norm(target.base_from_target.t_m - TARGET_M))


# --- the click

def test_two_views_that_look_alike_do_not_place_a_click_and_the_path_of_the_hand_does():
    refused = click()
    assert refused.target is None
    assert 'limits.max_target_sigma_m' in refused.status[1]
    placed = lift_by_motion(refused, [see('hand', step) for step in range(1, 9)], LIMITS)
    assert placed.target is not None
    assert placed.target.method is Method.TRIANGULATED
    assert measure_sigma_m(placed.target) < LIMITS.max_target_sigma_m
    assert error_m(placed.target) < measure_sigma_m(placed.target)


def test_more_images_place_it_better_whatever_came_in_which_call():
    frames = [see('hand', step) for step in range(1, 9)]
    some = lift_by_motion(click(), frames[:5], LIMITS)
    at_once, in_turns = lift_by_motion(click(), frames, LIMITS), lift_by_motion(
        some, frames[5:], LIMITS)
    sigmas_m = [measure_sigma_m(one.target) for one in (some, at_once, in_turns)]
    assert sigmas_m[1] < sigmas_m[0]
    assert sigmas_m[2] == pytest.approx(sigmas_m[1], rel=0.1)
    assert in_turns.target.confidence == pytest.approx(some.target.confidence)


@pytest.mark.parametrize('frames', [[], [see('hand', step, x_m=HAND_X_M) for step in (1, 2, 3)]],
                         ids=['without images', 'at rest'])
def test_a_hand_that_does_not_move_adds_nothing(frames):
    refused = click()
    assert lift_by_motion(refused, frames, LIMITS) is refused


def test_an_object_that_moves_meanwhile_is_not_placed():
    frames = [see('hand', step, (Thing(base_from_thing=move(0.004 * step, -0.006 * step)),))
              for step in range(1, 9)]
    moved = lift_by_motion(click(), frames, LIMITS)
    assert moved.target is None


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


def test_the_errors_of_a_bundle_are_what_its_covariance_says():
    rng, views = np.random.default_rng(0), [see('hand', step) for step in range(6)]
    front, squared = see('front', 0), []
    for _ in range(100):
        off_px = rng.normal(0, 2.0, 2)
        tracked = tuple(TrackedPixel(view, project(view, TARGET_M[None])[0] + off_px
                                     + rng.normal(0, 0.25, 2), 0.16 * np.eye(2))
                        for view in views[1:])
        met = triangulate_bundle([
            CameraPixels(front, project(front, TARGET_M[None])[0] + rng.normal(0, 1.0, 2),
                         np.eye(2)),
            CameraPixels(views[0], project(views[0], TARGET_M[None])[0] + off_px, PIXEL_PX2,
                         1e-12 * np.eye(6), tracked, 1e-12 * np.eye(6))], TARGET_M + 0.05)
        off_m = met.point_base_m - TARGET_M
        squared.append(off_m @ np.linalg.solve(met.covariance_m2, off_m) / 3)
    assert 0.2 < np.mean(squared) < 1.1


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


def test_a_match_in_doubt_gets_no_more_confidence():
    refused = click(confidence=0.7)
    doubted = replace(refused, correspondences=tuple(
        replace(found, match=replace(found.match, doubt='at an edge'))
        for found in refused.correspondences))
    frames = [see('hand', step) for step in range(1, 9)]
    assert lift_by_motion(refused, frames, LIMITS)['hand'].match.confidence > 0.8
    assert lift_by_motion(doubted, frames, LIMITS)['hand'].match.confidence < 0.8


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
    assert not may_gain(placed, LIMITS)


# --- after the click

def test_a_target_at_rest_is_placed_better_while_the_hand_moves_on_and_followed_when_it_moves():
    placed = lift_by_motion(click(), [see('hand', step) for step in range(1, 7)], LIMITS)
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


def test_a_better_place_is_taken_and_a_worse_one_is_not():
    placed = lift_by_motion(click(), [see('hand', step) for step in range(1, 7)], LIMITS)
    refiner = PlaceRefiner(placed)
    assert refiner.add([see('hand', 7)], LIMITS) is None  # too few
    better = refiner.add([see('hand', 12)], LIMITS)
    assert measure_sigma_m(better.target) < measure_sigma_m(placed.target)
    assert len(list_frames(better)) <= 8
    for step in range(13, 40):  # of a camera that moves on
        refiner.add([see('hand', 0, x_m=-0.012 * step)], LIMITS)
    assert len(refiner._frames) <= 16


def test_what_stays_behind_is_dropped_from_a_reference_without_depth():
    placed = lift_by_motion(click(), [see('hand', step) for step in range(1, 9)], LIMITS)
    tracker = Tracker.from_answer(placed, None, FollowLimits(), LIMITS)
    counts = [len(each.pixels) for each in tracker.references]
    for step in range(9, 18):
        things = (Thing(base_from_thing=move(0.0, -0.005 * (step - 8))),)
        tracker.update([see('front', step, things), see('hand', step, things)],
                       10**9 + step * STEP_NS)
    assert isinstance(tracker._known, ReferenceSet)
    for each, before in zip(tracker.references, counts, strict=False):
        table = each.points_m[:, 2] < 0.004  # the table below the box
        assert len(each.pixels) <= before
        assert table.mean() < 0.2
