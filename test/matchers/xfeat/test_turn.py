"""Claims about cameras that are turned against each other, on rendered scenes."""
from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from raycast_scenes import BARREL, look_at, project_point
from textured_scenes import BOX, images_only, render_view, without_depth

from crosspoint_ros.core.datatypes import Code, Query, Rejected, Transform, View
from crosspoint_ros.matchers.xfeat import XFeatMatcher
from crosspoint_ros.matchers.xfeat.features import ScaledCamera
from crosspoint_ros.matchers.xfeat.turn import turn_from_rotation

pytestmark = pytest.mark.usefixtures('networks_once')
BESIDE_LEFT = (-0.15, -0.75, 0.6)
POINTS_BASE_M = ((-0.06, -0.05, 0.10), (0.02, -0.05, 0.05), (0.0, 0.02, 0.15), (0.02, -0.2, 0.0))


@pytest.fixture(scope='module')
def matcher():
    return XFeatMatcher(second_descriptor='never')


def roll(deg):
    return Transform(cv2.Rodrigues(np.array([0, 0, np.radians(deg)]))[0], np.zeros(3))


def match_all(matcher, clicked, other, truth):
    """Matches and errors at the points, px."""
    pixels = [project_point(truth[0], np.array(point)) for point in POINTS_BASE_M]
    found = [matcher.match(Query(clicked, other, pixel)) for pixel in pixels]
    return found, np.array([np.linalg.norm(match.pixel - project_point(truth[1], np.array(point)))
                            for match, point in zip(found, POINTS_BASE_M, strict=True)])


@pytest.mark.parametrize('turn_deg', [0, 90, 180, 270, 33])
@pytest.mark.parametrize('intrinsics', [BARREL, replace(BARREL, distortion=())],
                         ids=['barrel', 'pinhole'])
def test_turned_pixels_map_back_and_a_ray_gives_its_pixel(intrinsics, turn_deg):
    scaled = ScaledCamera(intrinsics, 640, turn_deg)
    pixels = np.array([[100.0, 40.0], [20.0, 200.0], [300.0, 120.0]])
    assert scaled.to_image(scaled.to_scaled(pixels)) == pytest.approx(pixels)
    rays = scaled.unproject(scaled.to_scaled(pixels))
    assert scaled.to_image(scaled.project(3 * rays)) == pytest.approx(pixels, abs=0.05)
    assert scaled.contains(scaled.to_scaled(pixels)).all()
    assert not scaled.contains(scaled.to_scaled([[-1.0, 40.0], [100.0, 240.0]])).any()
    assert scaled.covariance_to_image(scaled.scale_covariance(np.diag([4.0, 1.0]))) \
        == pytest.approx(np.diag([4.0, 1.0]))


@pytest.mark.parametrize('quarters', [1, 2, 3])
def test_scaled_pixels_turn_as_the_image_does(left, quarters):
    turned, scaled = left.turn(quarters), ScaledCamera(left.intrinsics, 640, -90 * quarters % 360)
    pixel = np.array([30.0, 50.0])
    assert scaled.to_scaled(pixel) == pytest.approx(
        ScaledCamera(turned.intrinsics, 640).to_scaled(left.intrinsics.turn_pixel(pixel, quarters)))


@pytest.mark.parametrize(('deg', 'turn_deg'), [
    (0, 0), (24, 0), (-24, 0), (26, 26), (-44, 316), (66, 90), (115, 90), (116, 116), (-179, 180)])
def test_a_turn_is_a_multiple_of_90_unless_more_than_25_deg_are_left(deg, turn_deg):
    assert turn_from_rotation(roll(deg).R.T) == turn_deg


@pytest.mark.parametrize('deg', [0, 90, 180, -90])
@pytest.mark.parametrize('between_deg', [0, 40, 80])
def test_the_turn_undoes_the_roll_whatever_the_angle_between_the_axes(deg, between_deg):
    for axis in np.array([[1, 0, 0], [0, 1, 0], [0.6, -0.8, 0]]):
        converge = cv2.Rodrigues(axis * np.radians(between_deg))[0]
        assert turn_from_rotation(roll(deg).R.T @ converge) == deg % 360
        is_near = between_deg < 30
        assert turn_from_rotation(roll(deg + 40).R.T @ converge) == (deg + 40 * is_near) % 360


@pytest.mark.parametrize('quarters', [1, 2, 3])
@pytest.mark.parametrize('prepare', [images_only, without_depth, lambda view: view],
                         ids=['images', 'poses', 'depth'])
def test_a_turned_camera_gives_the_same_pixel_turned(matcher, left, right, prepare, quarters):
    turned = replace(right.turn(quarters), camera=f'turned {quarters}')
    for point in POINTS_BASE_M:
        pixel = project_point(left, np.array(point))
        plain = matcher.match(Query(prepare(left), prepare(right), pixel))
        found = matcher.match(Query(prepare(left), prepare(turned), pixel))
        expected = right.intrinsics.turn_pixel(plain.pixel, quarters)
        assert np.linalg.norm(found.pixel - expected) < 2
        assert found.confidence == pytest.approx(plain.confidence, abs=0.1)


@pytest.mark.parametrize('prepare', [images_only, without_depth, lambda view: view],
                         ids=['images', 'poses', 'depth'])
@pytest.mark.parametrize('deg', [60, 135])
def test_a_camera_turned_by_any_angle_finds_the_point(matcher, left, prepare, deg):
    rolled = render_view(f'rolled {deg}', look_at(BESIDE_LEFT) @ roll(deg), BOX)
    for clicked, other in ((left, rolled), (rolled, left)):
        _, errors = match_all(matcher, prepare(clicked), prepare(other), (clicked, other))
        assert np.median(errors) < 4


@pytest.mark.parametrize('prepare', [without_depth, lambda view: view], ids=['poses', 'depth'])
@pytest.mark.parametrize('is_image_turned', [True, False])
def test_poses_that_are_wrong_about_a_camera_upside_down_are_refused(
        matcher, left, right, prepare, is_image_turned):
    turned = right.turn(2)
    wrong = replace(turned if is_image_turned else right, camera=f'wrong {is_image_turned}',
                    base_from_cam=(right if is_image_turned else turned).base_from_cam)
    for point in POINTS_BASE_M:
        with pytest.raises(Rejected) as refused:
            matcher.match(Query(prepare(left), prepare(wrong),
                                project_point(left, np.array(point))))
        assert refused.value.code == Code.INCONSISTENT


def test_a_refused_turn_says_what_the_poses_and_what_the_images_say(matcher, left, right):
    wrong = replace(without_depth(right), camera='wrong', base_from_cam=right.turn(2).base_from_cam)
    with pytest.raises(Rejected, match=r'turned by 180 deg .*\(\d+ .* match at 0 deg \(\d+\)'):
        matcher.match(Query(without_depth(left), wrong, np.array([160.0, 120.0])))


def test_what_matches_itself_upside_down_is_refused_with_both_turns_and_the_cure(matcher, left):
    top = left.image[:120]
    symmetric = np.concatenate([top, top[::-1, ::-1]])
    views = [View(name, symmetric.copy()) for name in 'ab']
    words = r'a and b match turned .* by \d+ deg \(\d+ matches agree\) and by \d+ deg .*poses'
    for _ in range(2):
        with pytest.raises(Rejected, match=words) as refused:
            matcher.match(Query(*views, np.array([100.0, 60.0])))
        assert refused.value.code == Code.LOW_CONFIDENCE


@pytest.mark.parametrize('shade', [0, 128])
def test_blank_and_identical_images_stay_unturned(matcher, left, shade):
    blank = View('blank', np.full((240, 320, 3), shade, np.uint8))
    assert matcher.match(Query(blank, images_only(left), np.array([99.0, 99.0]))).confidence < 0.5
    twin = replace(images_only(left), camera='twin')
    found = matcher.match(Query(images_only(left), twin, np.array([120.0, 90.0])))
    assert found.pixel == pytest.approx([120.0, 90.0], abs=1)


def test_images_are_matched_at_any_turn(matcher, left, right):
    plain, turned = (matcher.match_images(left, view)
                     for view in (right, replace(right.turn(2), camera='turned')))
    assert len(turned[0]) > 0.9 * len(plain[0])


def test_images_that_match_upright_are_looked_at_once_each(left, right):
    matcher, asked = XFeatMatcher(second_descriptor='never'), []
    run = matcher._backbone
    matcher._backbone = lambda image: asked.append(image.shape) or run(image)
    upright, _ = matcher.match_images(images_only(left), images_only(right))
    assert (len(asked), len(upright) > 100) == (2, True)


def test_only_images_in_doubt_are_looked_at_turned_in_more_than_half_the_size(left, right):
    matcher, asked = XFeatMatcher(second_descriptor='never'), []
    run = matcher._backbone
    matcher._backbone = lambda image: asked.append(image.shape) or run(image)
    pixel = project_point(left, np.array(POINTS_BASE_M[0]))
    matcher.match(Query(images_only(left), images_only(right), pixel))
    assert sorted(asked)[:4] == 2 * [(256, 320, 3)] + 2 * [(320, 256, 3)]  # half size
    assert len(asked) == 6 + 4
    turned = replace(images_only(right.turn(1)), camera='turned')
    for _ in range(2):
        matcher.match(Query(images_only(left), turned, pixel))
    assert len(asked) == 10 + 4 + 2  # four turns at the smallest scale, the others at the best
