"""Pictures that a stranger can read: on any background, without overlaps, without guessing."""
from __future__ import annotations

import numpy as np
import pytest

from crosspoint_ros.core import visualization
from crosspoint_ros.core.datatypes import Code, Intrinsics, Match, Rejected, Transform, View
from crosspoint_ros.core.geometry import distance_to_segment_px
from crosspoint_ros.core.pipeline import LocateResult, ViewCorrespondence
from crosspoint_ros.core.verify import Consistency, Limits

SIZE = (480, 640, 3)
LENS = Intrinsics(500.0, 500.0, 319.5, 239.5, 640, 480)


def plain(colour, size=SIZE):
    return np.full(size, colour, np.uint8)


def view(camera, t_m=(0.0, 0.0, 0.0), colour=(200, 90, 40)):
    return View(camera, plain(colour), LENS, base_from_cam=Transform(np.eye(3), np.array(t_m)))


def luminance(image):
    return image @ np.array([0.2126, 0.7152, 0.0722])


BACKGROUNDS = [(0, 0, 0), (255, 255, 255), (128, 128, 128), visualization.GREEN,
               visualization.BLUE, (180, 0, 0)]


@pytest.mark.parametrize('colour', BACKGROUNDS)
@pytest.mark.parametrize('drawn', [visualization.draw_clicked, visualization.draw_match])
def test_a_mark_stands_out_from_any_background(drawn, colour):
    around = luminance(drawn(plain(colour), (300, 200), 'x')[170:231, 270:331])
    background = luminance(np.array(colour))
    assert np.abs(around - background).max() > 100
    assert np.ptp(around) > 120  # told apart even where one of its colours is the background's


def test_the_image_handed_in_is_not_written_to():
    image = plain((10, 20, 30))
    visualization.draw_clicked(image, (5, 5), 'x')
    visualization.draw_match(image, (5, 5), 'x', covariance_px2=np.eye(2) * 50, ground_truth=(9, 9))
    visualization.draw_refusal(image, 'x')
    visualization.concatenate_images([image, image], ['a', 'b'])
    assert (image == (10, 20, 30)).all()


def test_a_crosshair_leaves_the_surroundings_of_the_point_free():
    image = visualization.draw_clicked(plain((7, 8, 9)), (300, 200), 'x')
    for dx, dy in ((3, 3), (-3, 3), (3, -3), (-3, -3)):
        assert (image[200 + dy, 300 + dx] == (7, 8, 9)).all()


def test_a_mark_is_where_the_point_is_to_a_fraction_of_a_pixel():
    image = visualization.draw_clicked(plain(0), (300.5, 200.0),
                                       'x')[:400].astype(float).sum(axis=2)
    rows, columns = np.indices(image.shape)
    assert np.average(columns, weights=image) == pytest.approx(300.5, abs=0.1)
    assert np.average(rows, weights=image) == pytest.approx(200.0, abs=0.1)


@pytest.mark.parametrize('pixel', [(0, 0), (639, 479), (320, 479), (320, 0)])
def test_the_caption_does_not_cover_the_point(pixel):
    without = visualization.draw_match(plain((255, 255, 255)), pixel, '')
    with_text = visualization.draw_match(plain((255, 255, 255)), pixel,
                                         'found, sure, confidence 0.93')
    x, y = pixel
    near = np.s_[max(y - 12, 0):y + 13, max(x - 12, 0):x + 13]
    assert (without[near] == with_text[near]).all()


def has_colour(image, colour):
    return (image == colour).all(axis=2).any()


def test_clicked_sure_to_be_checked_and_refused_differ_by_colour_and_by_shape():
    grey = plain((90, 90, 90))
    clicked = visualization.draw_clicked(grey, (300, 200), '')[:400]
    sure, check = (visualization.draw_match(grey, (300, 200), '', is_sure=s)[:400]
                   for s in (True, False))
    refused = visualization.draw_refusal(grey, '', refused_px=(300, 200))[:400]
    drawn = {visualization.BLUE: clicked, visualization.GREEN: sure, visualization.AMBER: check,
             visualization.ORANGE: refused}
    for colour, image in drawn.items():
        assert [has_colour(other, colour) for other in drawn.values()].count(True) == 1
        assert has_colour(image, colour)
    shapes = [(image != image[0, 0]).any(axis=2) for image in drawn.values()]
    for i, shape in enumerate(shapes):
        for other in shapes[i + 1:]:
            assert (shape & other).sum() / (shape | other).sum() < 0.6


def test_a_refused_view_is_grey():
    image = visualization.draw_refusal(plain((200, 30, 10)), 'the point is hidden here')[:380]
    assert (image == image[..., :1]).all()


def test_the_refused_place_itself_stays_free():
    bare = visualization.draw_refusal(plain((200, 30, 10)), '')
    marked = visualization.draw_refusal(plain((200, 30, 10)), '', refused_px=(300, 200))
    assert (marked[196:205, 296:305] == bare[196:205, 296:305]).all()
    assert (marked[180:221, 280:321] != bare[180:221, 280:321]).any()


@pytest.mark.parametrize('pixel', [(100, 100), (500, 100), (100, 400), (500, 400)])
def test_an_inset_shows_the_surroundings_three_times_as_large_away_from_the_point(pixel):
    image = plain((60, 60, 60))
    x, y = pixel
    image[y - 6:y + 7, x - 6:x + 7] = (250, 0, 250)
    with_inset, without = (visualization.draw_match(image, pixel, 'found', inset=i)
                           for i in (True, False))
    rows, columns = np.nonzero((with_inset != without).any(axis=2))
    away = np.hypot(columns - x, rows - y).min()
    assert away > 30
    box = with_inset[rows.min():rows.max() + 1, columns.min():columns.max() + 1]
    assert 110 < min(box.shape[:2]) < 140
    magnified = np.argwhere((box == (250, 0, 250)).all(axis=2))
    assert np.ptp(magnified, axis=0) + 1 == pytest.approx([39, 39], abs=2)


@pytest.mark.parametrize('y', [5, 240, 400, 460, 475])
@pytest.mark.parametrize('text', ['found', 'words ' * 80])
def test_an_inset_leaves_the_caption_free(y, text):
    image = plain((60, 60, 60))
    with_inset, without = (visualization.draw_match(image, (100, y), text, inset=i)
                           for i in (True, False))
    bare = visualization.draw_match(image, (100, y), '', inset=False)
    words = (without != bare).any(axis=2)
    assert words.sum() > 100
    assert (with_inset == without)[words].all()


def test_a_longer_reason_takes_more_lines_and_none_is_cut_off():
    white = plain((255, 255, 255))
    heights = [(visualization.draw_refusal(white, 'reason ' * n)[:, 600] < 100).any(axis=1).sum()
               for n in (1, 60)]
    assert heights[1] > 2 * heights[0]
    words = visualization.draw_refusal(plain(0), 'W' * 400)  # one word, far longer than a line
    assert (words[-100:, :600] > 150).any()
    assert not (words[-100:, 636:] > 150).any()


def test_signs_of_measurements_are_drawn_and_what_the_font_lacks_is_a_question_mark():
    drawn = {text: visualization.draw_refusal(plain(0), text) for text in ('12°', '12±', '12?')}
    assert (drawn['12°'] != drawn['12±']).any()
    assert (drawn['12°'] != drawn['12?']).any()
    assert (visualization.draw_refusal(plain(0), '12猫') == drawn['12?']).all()


def test_text_scales_with_the_image():
    widths = []
    for height in (240, 480, 960):
        strip = visualization.concatenate_images([plain(0, (height, 4 * height, 3))], ['W' * 20])
        widths.append((strip[:height // 12].max(axis=2) > 128).any(axis=0).sum())
    assert widths[2] == pytest.approx(2 * widths[1], rel=0.05)
    assert widths[1] > 1.2 * widths[0]


def test_the_covariance_ellipse_reaches_two_sigma_along_its_long_axis():
    covariance_px2 = np.array([[2500.0, 0.0], [0.0, 400.0]])
    drawn = visualization.draw_match(plain(0), (300, 200), '', covariance_px2=covariance_px2)
    lit = np.argwhere(drawn[:400].max(axis=2) > 128)
    assert lit[:, 1].max() == pytest.approx(300 + 2 * 50, abs=3)
    assert lit[:, 0].max() == pytest.approx(200 + 2 * 20, abs=3)


def test_an_unknown_covariance_draws_no_ellipse():
    unknown = visualization.draw_match(plain(0), (300, 200), '',
                                       covariance_px2=np.full((2, 2), np.nan))
    assert (unknown == visualization.draw_match(plain(0), (300, 200), '')).all()


def test_the_clicked_ray_passes_through_every_point_on_it():
    clicked, other = view('front'), view('side', t_m=(0.5, 0.0, 0.1))
    ray_px = visualization.project_ray(clicked, np.array([350.0, 250.0]), other)
    for depth_m in (0.5, 2.0):
        point = LENS.unproject((350.0, 250.0)) * depth_m
        seen = LENS.project(point - (0.5, 0.0, 0.1))
        assert distance_to_segment_px(ray_px, seen) < 0.5
    assert visualization.project_ray(View('a', plain(0), LENS), np.zeros(2), other) is None


def test_views_of_different_sizes_stand_side_by_side_with_titles_above():
    small, tall = plain((9, 9, 9), (240, 320, 3)), plain((50, 50, 50), (480, 300, 3))
    row = visualization.concatenate_images([small, tall], ['small', 'tall'])
    footed = visualization.concatenate_images([small, tall], ['small', 'tall'], '3D 2.1 mm off')
    assert row.shape[0] > 480
    assert row.shape[1] >= 640 + 300
    assert footed.shape[0] > row.shape[0]
    assert (footed[:len(row)] == row).all()


def located(*answers):
    return LocateResult(view('front'), np.array([320.0, 240.0]), answers, None,
                   Rejected(Code.NO_DEPTH, 'no depth'))


def test_overlays_draw_only_the_views_that_are_wanted():
    found = ViewCorrespondence('side', view('side'),
                               Match(np.array([100.0, 100.0]), confidence=0.9),
                   Consistency(), None)
    unseen = ViewCorrespondence('wrist', None, None, Consistency(),
                                Rejected(Code.NO_IMAGE, 'no image'))
    cameras = [v.camera for v,
               _ in visualization.draw_result(located(found, unseen), {'side', 'wrist'},
                                                  Limits())]
    assert cameras == ['side']


def test_a_refused_answer_is_drawn_as_refused_and_never_as_a_point():
    match = Match(np.array([100.0, 100.0]), confidence=0.1)
    refused = ViewCorrespondence('side', view('side'), match, Consistency(),
                     Rejected(Code.LOW_CONFIDENCE, 'confidence 0.10 is below 0.50'))
    (_, image), = visualization.draw_result(located(refused), {'side'}, Limits())
    expected = visualization.draw_refusal(refused.view.image,
                                          'refused: confidence 0.10 is below 0.50',
                                          refused_px=match.pixel)
    assert (image == expected).all()
    assert not has_colour(image, visualization.GREEN)
    assert not has_colour(image, visualization.AMBER)
