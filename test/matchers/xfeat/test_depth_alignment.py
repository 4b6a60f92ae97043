"""Claims about poses corrected by depth, and answers by geometry alone, near and far."""
from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from raycast_scenes import LEFT, RIGHT, Box, add_pose_noise, look_at, project_point, render_depth

from crosspoint_ros.core.datatypes import Code, Intrinsics, Query, Rejected, Transform
from crosspoint_ros.core.depth import predict_depth_sigma_m
from crosspoint_ros.core.pipeline import locate
from crosspoint_ros.matchers.xfeat import XFeatMatcher
from crosspoint_ros.matchers.xfeat.depth_alignment import MatchedPoints, align_depths
from crosspoint_ros.matchers.xfeat.features import FeatureFrame
from crosspoint_ros.matchers.xfeat.options import XFeatOptions
from crosspoint_ros.matchers.xfeat.two_view import PosePrior

LENS = Intrinsics(600.0, 600.0, 319.5, 239.5, 640, 480)
BOXES = (Box((-0.10, -0.05, 0.0), (0.05, 0.10, 0.15)), Box((0.12, -0.2, 0.0), (0.22, -0.05, 0.08)),
         Box((-0.35, -0.3, 0.0), (-0.25, -0.1, 0.05)))
VISIBLE_M = ((-0.06, -0.05, 0.10), (0.0, 0.02, 0.15), (0.02, -0.2, 0.0), (0.17, -0.12, 0.08))
BEHIND_M = (-0.183, 0.30, 0.0)  # on the table behind the first box, for the right camera only
PRIOR = PosePrior(np.radians(1) / np.sqrt(3), 0.01 / np.sqrt(3))
NO_MATCHES = MatchedPoints(np.zeros((0, 3)), np.zeros((0, 2)))
ranges = pytest.mark.parametrize('range_m', [0.5, 3.0])


def scale(value, range_m):
    """The scene, seen from a metre, as seen from another range."""
    return tuple(range_m * np.asarray(value))


def measure(camera, eye_m, range_m, boxes=BOXES, seed=0):
    """A grey view of the scene, whose depth is as noisy as the sensor's."""
    view = render_depth(camera, look_at(scale(eye_m, range_m)), tuple(Box(
        scale(b.low_base_m, range_m), scale(b.high_base_m, range_m)) for b in boxes), LENS)
    rng = np.random.default_rng(seed)
    noise = cv2.resize(rng.normal(size=(120, 160)), (640, 480)) + rng.normal(size=(480, 640)) / 2
    depth_m = view.depth_m + 0.5 * predict_depth_sigma_m(view.depth_m) * noise
    return replace(view, image=np.full_like(view.image, 128),
                   depth_m=depth_m.astype(np.float32))


def move(view, cm, deg, seed=3):
    return replace(view, base_from_cam=add_pose_noise(
        view.base_from_cam.inverse, cm, deg, seed).inverse)


def other_from_clicked(clicked, other):
    return other.base_from_cam.inverse @ clicked.base_from_cam


def align(clicked, other, given):
    frames = (FeatureFrame(view, XFeatOptions()) for view in (clicked, other))
    return align_depths(*frames, given, given, PRIOR, NO_MATCHES, NO_MATCHES)


def off_px(motion, clicked, other, point_base_m):
    point_m = motion.transform_points(clicked.base_from_cam.inverse.transform_points(point_base_m))
    return float(np.linalg.norm(LENS.project(point_m) - project_point(other, point_base_m)))


@ranges
@pytest.mark.parametrize('seed', range(3))
def test_depth_alone_corrects_a_pose_that_is_1_cm_and_1_deg_off(range_m, seed):
    left, right = measure('left', LEFT, range_m), measure('right', RIGHT, range_m, seed=1)
    given = other_from_clicked(left, move(right, 1, 1, seed))
    found = align(left, right, given)
    assert found.is_confirmed
    points = [np.array(scale(point, range_m)) for point in VISIBLE_M]
    before, after = (max(off_px(motion, left, right, point) for point in points)
                     for motion in (given, found.motion))
    assert after < max(5.0, 0.9 * before)


def test_along_a_single_plane_the_given_pose_is_kept():
    left, right = measure('left', LEFT, 1.0, ()), measure('right', RIGHT, 1.0, (), seed=1)
    found = align(left, right, other_from_clicked(left, right))
    up = right.base_from_cam.inverse.rotate(np.array([0.0, 0.0, 1.0]))
    along = right.base_from_cam.inverse.rotate(np.array([1.0, 0.0, 0.0]))
    shift_m2 = found.covariance[3:, 3:]
    kept, fixed = (np.sqrt(axis @ shift_m2 @ axis) / PRIOR.translation for axis in (along, up))
    assert kept > 0.95
    assert fixed < 0.8 * kept


@ranges
def test_geometry_alone_answers_where_there_is_no_texture(range_m):
    left, right = measure('left', LEFT, range_m), measure('right', RIGHT, range_m, seed=1)
    matcher, off = XFeatMatcher(), move(right, 1, 1)
    for point in VISIBLE_M:
        point_m = np.array(scale(point, range_m))
        found = locate(left, [off], project_point(left, point_m), matcher)['right']
        assert found.rejected is None, found.rejected.message
        assert np.linalg.norm(found.pixel - project_point(right, point_m)) < 20


@ranges
def test_a_point_behind_something_nearer_is_refused_at_any_range(range_m):
    left, right = measure('left', LEFT, range_m), measure('right', RIGHT, range_m, seed=1)
    click = project_point(left, np.array(scale(BEHIND_M, range_m)))
    with pytest.raises(Rejected, match='occluded by something') as refused:
        XFeatMatcher().match(Query(left, move(right, 1, 1), click))
    assert refused.value.code == Code.NOT_VISIBLE
    assert 'sigmas of poses and depths' in refused.value.message


@pytest.mark.parametrize('seed', range(4))
def test_a_pose_that_is_5_cm_off_is_refused_or_corrected_to_2_cm(seed):
    left, right = measure('left', LEFT, 0.7), measure('right', RIGHT, 0.7, seed=1)
    matcher, off = XFeatMatcher(), move(right, 5, 0, seed)
    for point in VISIBLE_M:
        point_m = np.array(scale(point, 0.7))
        found = locate(left, [off], project_point(left, point_m), matcher)['right']
        assert found.rejected is not None or np.linalg.norm(
            found.pixel - project_point(right, point_m)) < 600 * 0.02 / 0.5


def test_depths_that_contradict_each_other_refuse_the_pair():
    left, right = measure('left', LEFT, 0.7), measure('right', RIGHT, 0.7, seed=1)
    gone = replace(right, depth_m=right.depth_m + 0.2)
    with pytest.raises(Rejected, match=r'places of (one depth|both depths)') as refused:
        XFeatMatcher().match(Query(left, gone, project_point(
            left, np.array(scale(VISIBLE_M[0], 0.7)))))
    assert refused.value.code == Code.INCONSISTENT


def test_a_depth_with_missing_rows_and_columns_is_used():
    left = measure('left', LEFT, 0.7)
    holed = left.depth_m.copy()
    holed[::3], holed[:, ::3] = np.nan, np.nan
    frame = FeatureFrame(replace(left, depth_m=holed), XFeatOptions())
    known = np.isfinite(frame.smooth_depth_m)
    assert known.mean() > 0.9 * np.isfinite(FeatureFrame(left, XFeatOptions()).smooth_depth_m
                                            ).mean()


def test_identical_poses_need_no_correction():
    left = measure('left', LEFT, 0.7)
    found = align(left, left, Transform(np.eye(3), np.zeros(3)))
    assert np.linalg.norm(found.motion.t_m) < 1e-4
