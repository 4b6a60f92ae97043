"""The clicked thing: its mask, cloud, box and width; and the reason where it is unclear."""
from __future__ import annotations

import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import raycast_scenes
import textured_scenes
from raycast_scenes import Box

from crosspoint_ros.core.datatypes import View
from crosspoint_ros.core.grasp.approach import DOWN_BASE
from crosspoint_ros.core.grasp.segment import Thing, Unclear, segment
from crosspoint_ros.core.grasp.shape import choose_closing, fit_box

LEFT, RIGHT = (-0.35, -0.7, 0.6), (0.35, -0.7, 0.6)
CARTON = Box((-0.04, -0.03, 0.0), (0.04, 0.03, 0.12))
ON_CARTON = np.array([0.0, -0.01, 0.12])
WALL = Box((-2.0, 0.3, -1.0), (2.0, 0.5, 2.0))


def look(place, *boxes, at=(0.0, 0.0, 0.05)) -> View:
    return textured_scenes.render_view('left' if place[0] < 0 else 'right',
                                       raycast_scenes.look_at(place, at), boxes)


def click(point_base_m, *views: View, **changed) -> Thing:
    return segment([(replace(view, **changed), raycast_scenes.project_point(view, np.asarray(
        point_base_m))) for view in views])


def find_truth(view: View, *boxes: Box) -> np.ndarray:
    """Where a view shows these boxes before the rest."""
    bare = raycast_scenes.render_depth('bare', view.base_from_cam).depth_m
    only = raycast_scenes.render_depth('only', view.base_from_cam, boxes).depth_m
    return (only < bare - 1e-4) & (np.abs(only - view.depth_m) < 1e-4)


def iou(one, other) -> float:
    return (one & other).sum() / (one | other).sum()


def test_a_thing_on_a_table_is_cut_out_in_both_views_and_the_table_is_not_in_it():
    views = look(LEFT, CARTON, WALL), look(RIGHT, CARTON, WALL)
    thing = click(ON_CARTON, *views)
    assert thing.unclear == Unclear.OK
    assert thing.masks.keys() == {'left', 'right'}
    for view in views:
        truth = find_truth(view, CARTON)
        assert iou(thing.masks[view.camera], truth) > 0.88
        assert not (thing.masks[view.camera] & ~truth).any()
    assert thing.support.normal_base == pytest.approx((0, 0, 1), abs=0.01)
    assert thing.support.offset_m == pytest.approx(0, abs=0.002)
    low, high = np.percentile(thing.points_base_m, (1, 99), axis=0)
    assert low == pytest.approx((-0.04, -0.03, 0.0), abs=0.008)
    assert high == pytest.approx((0.04, 0.03, 0.12), abs=0.006)
    assert len(thing.colours) == len(thing.normals_base) == len(thing.points_base_m) > 500
    on_top = thing.points_base_m[:, 2] > 0.119
    assert np.median(thing.normals_base[on_top], axis=0) == pytest.approx((0, 0, 1), abs=0.05)


def test_its_box_and_the_width_across_the_smaller_side():
    views = look(LEFT, CARTON), look(RIGHT, CARTON)
    thing = click(ON_CARTON, *views)
    box = fit_box(thing)
    assert sorted(box.size_m[:2]) == pytest.approx((0.06, 0.08), abs=0.005)
    assert box.size_m[2] == pytest.approx(0.12, abs=0.005)
    assert box.base_from_box.t_m == pytest.approx((0, 0, 0.06), abs=0.005)
    closing = choose_closing(thing, views, DOWN_BASE, np.array([1.0, 0, 0]))
    assert closing.width_m == pytest.approx(0.06, abs=0.005)
    assert abs(closing.rotation[:, 0]) == pytest.approx((0, 1, 0), abs=0.1), 'across y'
    assert closing.rotation[:, 2] == pytest.approx(DOWN_BASE)
    assert closing.sigma_yaw_rad < 0.2


def test_an_extent_whose_end_no_view_shows_is_no_width_but_the_other_is():
    front = (0.0, -0.9, 0.06)  # level with it: how deep it is cannot be seen
    view = look(front, CARTON, WALL)
    thing = click((0.0, -0.03, 0.06), view)
    closing = choose_closing(thing, [view], DOWN_BASE, np.array([1.0, 0, 0]))
    assert closing.width_m == pytest.approx(0.08, abs=0.006)
    assert abs(closing.rotation[:, 0]) == pytest.approx((1, 0, 0), abs=0.1), 'across x'


@pytest.mark.parametrize(('point', 'boxes', 'unclear', 'words'), [
    ((0.1, -0.1, 0.0), (CARTON,), Unclear.SUPPORT, 'that supports things'),
    ((0.0, 0.3, 0.2), (CARTON, WALL), Unclear.SUPPORT, 'that supports things'),
    ((0.0, 0.0, 0.1), (Box((-0.5, -0.3, 0.0), (0.5, 0.3, 0.1)),), Unclear.SUPPORT,
     'not an object')])
def test_a_table_a_wall_and_a_shelf_are_no_things(point, boxes, unclear, words):
    thing = click(point, look(LEFT, *boxes))
    assert thing.unclear == unclear, thing.message
    assert words in thing.message
    assert not thing.masks
    assert not len(thing.points_base_m)


def test_a_thing_larger_than_the_image_is_too_large():
    near = tuple(np.array(LEFT) * 0.45)
    thing = click((0.0, -0.1, 0.15), look(near, Box((-0.1, -0.1, 0.0), (0.1, 0.1, 0.2))))
    assert thing.unclear == Unclear.TOO_LARGE
    assert 'goes on beyond the image of left' in thing.message


def test_a_thing_of_half_a_metre_is_too_large_though_all_of_it_is_seen():
    thing = click((0.0, 0.0, 0.25), look((-0.7, -1.4, 1.2), Box((-0.15, -0.12, 0.0),
                                                               (0.15, 0.12, 0.25))))
    assert thing.unclear == Unclear.TOO_LARGE
    assert 'from corner to corner in left (limit 0.42 m)' in thing.message


def test_no_depth_and_a_hole_in_it_are_told_apart():
    view = look(LEFT, CARTON)
    assert click(ON_CARTON, view, depth_m=None).unclear == Unclear.NO_DEPTH
    assert click(ON_CARTON, view, base_from_cam=None).unclear == Unclear.NO_DEPTH
    x, y = np.rint(raycast_scenes.project_point(view, ON_CARTON)).astype(int)
    depth_m = view.depth_m.copy()
    depth_m[y - 12:y + 13, x - 12:x + 13] = np.nan
    hole = click(ON_CARTON, view, depth_m=depth_m)
    assert hole.unclear == Unclear.HOLE
    assert 'a hole, or glass' in hole.message


@pytest.mark.parametrize('y_m', [(-0.03, 0.03), (-0.04, 0.02)], ids=['flush', 'offset'])
@pytest.mark.parametrize('place', [LEFT, RIGHT], ids=['left', 'right'])
def test_two_touching_things_of_one_colour_are_not_taken_for_one(place, y_m):
    low = Box((0.04, y_m[0], 0.0), (0.14, y_m[1], 0.05))
    for point in (ON_CARTON, (0.09, -0.01, 0.05)):
        thing = click(point, look(place, CARTON, low))
        assert thing.unclear == Unclear.TOUCHING
        assert 'its end is unclear' in thing.message
        assert not thing.masks


def test_a_view_in_which_it_is_cut_off_is_left_out():
    whole, cut = look(LEFT, CARTON), look(RIGHT, CARTON, at=(-0.8, 0.0, 0.05))
    assert find_truth(cut, CARTON)[:, -1].any(), 'the border cuts it'
    thing = click((-0.02, -0.01, 0.12), whole, cut)
    assert thing.masks.keys() == {'left'}


def test_a_view_without_a_pose_is_left_out():
    left, right = look(LEFT, CARTON), look(RIGHT, CARTON)
    assumed = replace(right, intrinsics=replace(right.intrinsics, is_assumed=True))
    for blind in (assumed, replace(right, base_from_cam=None)):
        thing = segment([(view, raycast_scenes.project_point(right if view is blind else view,
                                                             ON_CARTON))
                         for view in (left, blind)])
        assert thing.masks.keys() == {'left'}


def test_a_view_that_shows_it_too_large_contradicts_one_that_does_not():
    large = Box((0.2, -0.12, 0.0), (0.5, 0.12, 0.25))
    left, right = look(LEFT, CARTON, large), look((1.05, -1.4, 1.2), large, at=(0.35, 0, 0))
    thing = segment([(left, raycast_scenes.project_point(left, ON_CARTON)),
                     (right, raycast_scenes.project_point(right, np.array([0.35, 0.0, 0.25])))])
    assert thing.unclear == Unclear.TOO_LARGE, thing.message
    assert 'from corner to corner in right' in thing.message


def test_a_part_of_what_the_other_view_shows_is_a_contradiction():
    post = Box((-0.186, -0.364, 0.0), (-0.178, -0.356, 0.45))  # left sees the carton in two parts
    point = np.array([0.02, -0.02, 0.12])
    left, right = ((view, raycast_scenes.project_point(view, point)) for view in (
        look(LEFT, CARTON, post), look(RIGHT, CARTON, post)))
    part = segment([left]).masks['left']
    assert part.sum() < 0.3 * find_truth(left[0], CARTON).sum()
    assert not (part & ~find_truth(left[0], CARTON)).any(), 'all of it is in the whole'
    for seen in ((left, right), (right, left)):
        thing = segment(seen)
        assert thing.unclear == Unclear.TOUCHING
        assert re.search('agree on 3.% of what belongs to it', thing.message)


def test_a_found_pixel_just_past_the_edge_is_of_the_clicked_thing_not_of_the_table():
    left, right = look(LEFT, CARTON), look(RIGHT, CARTON)
    truth = find_truth(right, CARTON)
    wider = cv2.dilate(truth.astype(np.uint8), np.ones((5, 5), np.uint8))
    rows, columns = np.nonzero(wider > truth)
    for point in ((-0.04, -0.01, 0.12), (0.0, -0.03, 0.02), (-0.035, -0.03, 0.015)):
        exact = raycast_scenes.project_point(right, np.array(point))
        nearest = np.hypot(columns - exact[0], rows - exact[1]).argmin()
        past = np.array([columns[nearest], rows[nearest]], dtype=float)
        seen = (left, raycast_scenes.project_point(left, np.array(point))), (right, past)
        thing = segment(seen)
        assert thing.unclear == Unclear.OK, (point, exact, past, thing.message)
        assert iou(thing.masks['right'], truth) > 0.85


def test_a_board_that_the_thing_parts_in_two_is_its_support_and_no_part_of_it():
    board, thing = Box((-0.16, -0.06, 0.0), (0.16, 0.06, 0.02)), Box((-0.025, -0.06, 0.02),
                                                                    (0.025, 0.06, 0.12))
    views = look(LEFT, board, thing), look(RIGHT, board, thing)
    found = click((0.0, 0.0, 0.12), *views)
    assert found.unclear == Unclear.OK, found.message
    closing = choose_closing(found, views, DOWN_BASE, np.array([1.0, 0, 0]))
    assert closing.width_m == pytest.approx(0.05, abs=0.006)


@pytest.mark.parametrize('width_m', [0.03, 0.05])
@pytest.mark.parametrize('height_m', [0.05, 0.09])
def test_a_smaller_thing_that_touches_it_is_no_part_of_it(width_m, height_m):
    box, next_to_it = Box((-0.03, -0.03, 0.0), (0.03, 0.03, 0.12)), Box(
        (0.03, -0.03, 0.0), (0.03 + width_m, 0.03, height_m))
    aside, above = look(LEFT, box, next_to_it), look((0.02, -0.1, 0.75), box, next_to_it,
                                                     at=(0.0, 0.0, 0.1))
    for seen in ((aside, above), (above, aside)):
        thing = click((0.0, 0.0, 0.12), *seen)
        assert thing.unclear == Unclear.TOUCHING or fit_box(thing).size_m.min() < 0.07


def test_a_side_that_a_view_sees_at_a_grazing_angle_is_no_contradiction():
    post = Box((-0.02, -0.02, 0.0), (0.02, 0.02, 0.16))
    aside, above = look(LEFT, post), look((0.02, -0.1, 0.75), post, at=(0.0, 0.0, 0.1))
    for seen in ((above, aside), (aside, above)):
        thing = click((0.0, 0.0, 0.16), *seen)
        assert thing.unclear == Unclear.OK, thing.message
        assert thing.masks.keys() == {'left', 'right'}


def test_a_view_of_the_other_side_that_has_nothing_in_common_is_left_out():
    front, back = look((-0.01, -0.9, 0.06), CARTON), look((0.01, 0.9, 0.06), CARTON)
    thing = segment([(front, raycast_scenes.project_point(front, np.array([0.0, -0.03, 0.06]))),
                     (back, raycast_scenes.project_point(back, np.array([0.0, 0.03, 0.06])))])
    assert thing.masks.keys() == {'left'}
    assert thing.points_base_m[:, 1].max() < 0.0


def test_depth_that_is_lost_in_a_region_that_is_thinned_out_is_a_hole(monkeypatch):
    monkeypatch.setattr('crosspoint_ros.core.grasp.segment.MAX_SIDE_PX', 40)  # every 8th pixel
    thin = np.full((240, 320), np.nan, np.float32)
    thin[123:126, 163:166] = 0.5
    far = thin.copy()
    far[:10, :10] = 0.5
    for depth_m in (thin, far):
        view = replace(look(LEFT, CARTON), depth_m=depth_m)
        thing = segment([(view, np.array([164.0, 124.0]))])
        assert thing.unclear == Unclear.HOLE
        assert 'px of the point in left is of the surface at 0.500 m' in thing.message


def test_views_that_contradict_each_other_are_not_merged():
    other = Box((0.2, -0.03, 0.0), (0.26, 0.03, 0.12))
    left, right = look(LEFT, CARTON, other), look(RIGHT, CARTON, other)
    thing = segment([(left, raycast_scenes.project_point(left, ON_CARTON)),
                     (right, raycast_scenes.project_point(right, np.array([0.23, 0.0, 0.12])))])
    assert thing.unclear == Unclear.TOUCHING
    assert 'left and right agree on 0%' in thing.message
