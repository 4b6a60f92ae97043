"""The data path end to end: one answer per view, and a target only where it was earned."""
from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import raycast_scenes

from crosspoint_ros.core.datatypes import (
    Code,
    CorrectedPose,
    Intrinsics,
    Match,
    Method,
    MissingView,
    Query,
    Rejected,
    Transform,
    View,
)
from crosspoint_ros.core.fusion import FusionParams
from crosspoint_ros.core.image_io import read_depth_m, read_image
from crosspoint_ros.core.pipeline import apply_correction, ground, locate
from crosspoint_ros.core.verify import Check, Consistency, Limits, iter_matches

BOX = raycast_scenes.Box((-0.1, -0.1, 0.0), (0.1, 0.1, 0.12))
ON_TOP = np.array([0.02, 0.01, 0.12])
LIMITS = Limits()


class Oracle:
    """DOUBLE of a matcher: knows where the point is; for some cameras it returns what is given."""

    def __init__(self, point_base_m=ON_TOP, confidence=0.9, **instead):
        self.point_base_m, self.confidence, self.instead = point_base_m, confidence, instead

    def match(self, query):
        answer = self.instead.get(query.other.camera)
        if isinstance(answer, BaseException):
            raise answer
        if answer is not None:
            return answer
        return Match(raycast_scenes.project_point(query.other, self.point_base_m), np.eye(2),
                     self.confidence)


class Naming(Oracle):
    """DOUBLE of a matcher that can ground."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def ground(self, view, instruction):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Fine(Oracle):
    """DOUBLE of a refiner: knows where the point is, and half believes in any other place."""

    def refine(self, query, near):
        return replace(near, confidence=0.5)


class Cancelled(Exception):  # noqa: N818
    """What a node raises from `on_stage` when a query is cancelled."""


@pytest.fixture(scope='module')
def views():
    places = {'left': raycast_scenes.LEFT, 'right': raycast_scenes.RIGHT, 'top': (0.0, -0.5, 1.0)}
    return tuple(raycast_scenes.render_depth(name, raycast_scenes.look_at(at), (BOX,)) for name,
                 at in places.items())


def located(views, matcher=None, limits=LIMITS, others=None, **options):
    clicked = views[0]
    return locate(clicked, views[1:] if others is None else others,
                  raycast_scenes.project_point(clicked, ON_TOP), matcher or Oracle(), limits,
                  **options)


def test_a_click_becomes_the_same_point_in_every_view_and_a_target(views):
    answer = located(views)
    assert answer.status == (Code.OK, '')
    assert [a.camera for a in answer.correspondences] == ['right', 'top']
    assert all(a.rejected is None for a in answer.correspondences)
    assert all(a.consistency.check == Check.PASS for a in answer.correspondences)
    assert answer.target.method == Method.FUSED
    assert np.linalg.norm(answer.target.base_from_target.t_m - ON_TOP) < 0.004
    assert answer.no_target is None


def test_a_refused_view_makes_it_partial_and_is_named_with_its_reason(views):
    answer = located(views, Oracle(top=Rejected(Code.NOT_VISIBLE, 'nothing like it')))
    assert answer.status == (Code.PARTIAL, 'top: nothing like it')
    assert answer.target is not None
    assert answer.correspondences[1].match is None


def test_when_every_view_refuses_there_is_no_target_though_depth_is_there(views):
    why = Rejected(Code.NOT_VISIBLE, 'hidden')
    answer = located(views, Oracle(right=why, top=why))
    assert answer.status == (Code.NOT_VISIBLE, 'right: hidden; top: hidden')
    assert answer.target is None
    assert answer.no_target.code == Code.NO_DEPTH


def test_a_refused_match_is_kept_to_be_shown(views):
    answer = located(views, Oracle(confidence=0.2))
    assert answer.status[0] == Code.LOW_CONFIDENCE
    assert all(a.match is not None and a.rejected is not None for a in answer.correspondences)
    assert all(a.consistency.check == Check.PASS for a in answer.correspondences)
    assert answer.target is None


def test_a_refused_match_takes_no_part_in_the_target(views):
    aside = Match(raycast_scenes.project_point(views[2], ON_TOP) + 60.0, np.eye(2), 0.9)
    answer, alone = located(views, Oracle(top=aside)), located(views[:2])
    assert answer.correspondences[1].rejected.code == Code.INCONSISTENT
    assert answer.correspondences[1].consistency.check == Check.FAIL
    assert answer.status[0] == Code.PARTIAL
    np.testing.assert_array_equal(answer.target.base_from_target.matrix,
                                  alone.target.base_from_target.matrix)


def test_a_camera_that_is_not_there_is_refused_and_its_matcher_not_asked(views):
    gone = MissingView('wrist', Rejected(Code.STALE, 'its image is 3.000 s old'))
    answer = located(views, Oracle(wrist=AssertionError('asked')), others=[gone, views[1]])
    assert answer.status == (Code.PARTIAL, 'wrist: its image is 3.000 s old')
    assert (answer.correspondences[0].view,
            answer.correspondences[0].consistency) == (None, Consistency())
    assert located(views, others=[gone]).status[0] == Code.STALE


def test_a_matcher_that_breaks_fails_alone_and_says_how(views):
    answer = located(views, Oracle(right=ZeroDivisionError('one by zero')))
    assert answer.correspondences[0].rejected.code == Code.MATCHER_FAILED
    assert 'Oracle failed: ZeroDivisionError: one by zero' in answer.status[1]
    assert answer.correspondences[1].rejected is None


@pytest.mark.parametrize('nonsense', [
    Match(np.full(2, np.nan), confidence=0.9), Match(np.zeros((1, 2)), confidence=0.9),
    Match(np.array([3.0, 3.0]), confidence=math.nan), (3.0, 3.0),
    Match(np.array([3.0, 3.0]), np.ones(2), 0.9),
    Match(np.array([3.0, 3.0]), np.zeros((2, 2)), 0.9),
    Match(np.array([3.0, 3.0]), np.eye(2), 0.9, '', CorrectedPose(
        Transform(np.eye(3), np.zeros(3)), np.full((6, 6), np.nan)))],
    ids=['nan', 'shape', 'confidence', 'tuple', 'covariance', 'no spread', 'pose'])
def test_nonsense_from_a_matcher_is_its_failure(views, nonsense):
    answer = located(views, Oracle(right=nonsense, top=nonsense))
    assert answer.status[0] == Code.MATCHER_FAILED
    assert answer.target is None


def test_a_query_that_is_cancelled_while_one_view_is_searched_leaves_the_others(views):
    asked = []

    class Counting(Oracle):
        def match(self, query):
            asked.append(query.other.camera)
            return super().match(query)

    def on_stage(name):
        if asked:
            raise Cancelled

    with pytest.raises(Cancelled):
        located(views, Counting(), on_stage=on_stage)
    assert asked == ['right']


class Batching(Oracle):
    """DOUBLE of a matcher that answers all views at once, and counts how often it is asked."""

    def __init__(self, broken=None, **instead):
        super().__init__(**instead)
        self.broken, self.batches, self.alone = broken, [], []

    def match(self, query):
        self.alone.append(query.other.camera)
        return super().match(query)

    def match_all(self, queries):
        self.batches.append([query.other.camera for query in queries])
        if self.broken == 'raises':
            raise RuntimeError('no batch today')
        answers = [self._answer(query) for query in queries]
        return answers[:1] if self.broken == 'too few' else answers

    def _answer(self, query):
        try:
            return super().match(query)
        except Rejected as why:
            return why


def test_a_matcher_of_batches_is_asked_once_about_all_views(views):
    hidden = Rejected(Code.NOT_VISIBLE, 'behind the box')
    matcher = Batching(right=hidden)
    answer = located(views, matcher)
    assert (matcher.batches, matcher.alone) == ([['right', 'top']], [])
    assert answer['right'].rejected is hidden
    assert answer['top'].pixel is not None
    missing = MissingView('gone', Rejected(Code.NO_IMAGE, 'no image'))
    answer = located(views, matcher, others=[views[1], missing, views[2]])
    assert [c.camera for c in answer.correspondences] == ['right', 'gone', 'top']
    assert answer['top'].pixel is not None


@pytest.mark.parametrize(('broken', 'alone'), [('raises', ['right', 'top']), ('too few', ['top'])])
def test_what_a_batch_leaves_open_is_matched_alone(views, broken, alone):
    matcher = Batching(broken)
    answer = located(views, matcher)
    assert matcher.alone == alone
    assert answer.status[0] == Code.OK


@pytest.mark.parametrize('failure', [RuntimeError('out of memory'),
                                     Rejected(Code.MATCHER_FAILED, 'of one query')])
@pytest.mark.parametrize('answered', range(4))
def test_a_batch_that_fails_halfway_leaves_each_query_its_own_answer(views, answered, failure):
    class Breaking(Batching):
        def match_all(self, queries):
            yield from super().match_all(queries)[:answered]
            raise failure

    hidden = Rejected(Code.NOT_VISIBLE, 'behind the box')
    matcher, cameras = Breaking(top=hidden), ['right', 'top', 'left', 'right']
    by_name = {view.camera: view for view in views}
    queries = [Query(views[0], by_name[name], np.array([160.0, 120.0])) for name in cameras]
    answers = list(iter_matches(matcher, queries))
    assert matcher.alone == cameras[answered:]  # and the one at which it failed
    for name, answer in zip(cameras, answers, strict=True):
        if name == 'top':
            assert answer is hidden
        else:
            np.testing.assert_array_equal(
                answer.pixel, raycast_scenes.project_point(by_name[name], ON_TOP))


@pytest.mark.parametrize('stage', ['match', 'verify', 'lift'])
def test_a_query_can_be_cancelled_at_every_stage(views, stage):
    begun = []

    def on_stage(name):
        begun.append(name)
        if name == stage:
            raise Cancelled

    with pytest.raises(Cancelled):
        located(views, on_stage=on_stage)
    assert begun == ['match', 'match', 'verify', 'lift'][:len(begun)]  # two views are searched
    assert begun[-1] == stage


@pytest.mark.parametrize(('pixel', 'words'), [
    ((320.0, 20.0), r'\(320\.0, 20\.0\) is outside the 320x240 image of left'),
    ((-1.0, 20.0), 'outside'), ((math.nan, 20.0), r'\(nan, 20\.0\) is not finite'),
    ((3.0, math.inf), 'not finite')])
def test_a_click_outside_the_image_is_a_bad_request(views, pixel, words):
    with pytest.raises(Rejected, match=words) as refused:
        locate(views[0], views[1:], np.array(pixel), Oracle(), LIMITS)
    assert refused.value.code == Code.BAD_REQUEST


def test_a_click_that_no_ray_reaches_is_a_bad_request(views):
    folds = Intrinsics(100.0, 100.0, 160.0, 120.0, 320, 240, (-0.28, 0.0, 0.0, 0.0))
    with pytest.raises(Rejected, match='no ray reaches') as refused:
        locate(replace(views[0], intrinsics=folds), views[1:], np.array([2.0, 2.0]), Oracle(),
               LIMITS)
    assert refused.value.code == Code.BAD_REQUEST


def test_a_click_on_the_robots_own_body_is_not_visible(views):
    masked = replace(views[0], mask=np.ones((240, 320), bool))
    with pytest.raises(Rejected, match='own body') as refused:
        located((masked, *views[1:]))
    assert refused.value.code == Code.NOT_VISIBLE


def test_a_click_with_nowhere_to_look_is_a_bad_request(views):
    with pytest.raises(Rejected) as refused:
        located(views[:1])
    assert refused.value.code == Code.BAD_REQUEST


def without_depth(views):
    return [replace(view, depth_m=None) for view in views]


def look_alike(view, further_m=-0.1):
    """Where a view shows a point before the clicked one on the ray of the click."""
    ray = (ON_TOP - raycast_scenes.LEFT) / np.linalg.norm(ON_TOP - raycast_scenes.LEFT)
    return Match(raycast_scenes.project_point(view, ON_TOP + further_m * ray), np.eye(2), 0.9)


EXACT = Limits(pose_sigma_m=0.001, pose_sigma_rad=0.001)


def test_a_view_that_two_others_outvote_is_refused_by_name_and_the_target_is_theirs(views):
    back = raycast_scenes.render_depth('back', raycast_scenes.look_at((0.5, 0.4, 0.7)), (BOX,))
    blind = without_depth([*views, back])
    wrong = Oracle(top=look_alike(blind[2]))
    answer = located(blind, wrong, limits=EXACT)
    assert answer.status[0] == Code.PARTIAL
    assert 'top: the ray of top puts the point 0.1' in answer.status[1]
    assert answer['top'].rejected.code == Code.INCONSISTENT
    assert answer['top'].consistency.check == Check.FAIL
    assert np.linalg.norm(answer.target.base_from_target.t_m - ON_TOP) < 1e-6
    assert answer.target.confidence > 0.9


def test_views_that_agree_are_surer_than_each_alone_and_say_so(views):
    alone, both = located(views[:2], Oracle(confidence=0.7)), located(views, Oracle(confidence=0.7))
    assert alone.target.confidence == alone['right'].confidence == 0.7
    assert both.target.confidence == pytest.approx(0.49 / 0.58)
    for found in both.correspondences:
        assert found.confidence == both.target.confidence > LIMITS.sure_confidence
        assert '(0.70 before 2 views agreed)' in found.match.basis
    named = located(views, Oracle(confidence=0.95), pixel_confidence=0.75)
    assert [named.target.confidence, named['top'].confidence] == [0.75, 0.75]


def test_two_views_that_contradict_each_other_are_to_be_checked_and_have_no_target(views):
    blind = without_depth(views)
    answer = located(blind, Oracle(top=look_alike(blind[2])), limits=EXACT)
    assert answer.status[0] == Code.INCONSISTENT
    assert 'no further view decides' in answer.status[1]
    assert answer.target is None
    assert all(0.5 < c.confidence < EXACT.sure_confidence for c in answer.correspondences)
    assert located([views[0], *blind[1:]], Oracle(top=look_alike(blind[2])), limits=EXACT
                   ).target is not None


def test_correspondences_stand_without_3d(views):
    flat = [replace(view, depth_m=None, base_from_cam=None) for view in views[1:]]
    expected = {v.camera: Match(raycast_scenes.project_point(v, ON_TOP), confidence=0.9)
                for v in views[1:]}
    answer = locate(replace(views[0], depth_m=None), flat,
                    raycast_scenes.project_point(views[0], ON_TOP),
                    Oracle(**expected), LIMITS)
    code, message = answer.status
    assert code == Code.NO_DEPTH
    assert 'left has no depth' in message
    assert all(a.rejected is None for a in answer.correspondences)
    assert all(a.consistency.check == Check.UNKNOWN for a in answer.correspondences)


def test_two_cameras_at_the_same_place_have_a_correspondence_and_no_target(views):
    twin = replace(views[1], base_from_cam=views[0].base_from_cam, depth_m=views[0].depth_m)
    answer = located(views, others=[twin])
    assert answer.correspondences[0].rejected is None
    assert answer.status[0] == Code.NO_DEPTH
    assert '0.0000 m apart' in answer.status[1]
    assert answer.target is None


def test_depth_that_contradicts_the_rays_leaves_no_target(views):
    near = replace(views[0], depth_m=views[0].depth_m - np.float32(0.3))
    answer = located((near, *(replace(v, depth_m=None) for v in views[1:])),
                     limits=Limits(max_epipolar_px=200.0))
    assert answer.status[0] == Code.INCONSISTENT
    assert answer.target is None
    assert all(a.rejected is None for a in answer.correspondences)


def off(view, by_px, confidence=0.9):
    return Match(raycast_scenes.project_point(view, ON_TOP) + by_px, np.eye(2) * 64.0, confidence,
                 'rough')


def test_a_refiner_gives_the_exact_place_of_a_rough_find(views):
    rough = Oracle(right=off(views[1], 6.0), top=off(views[2], -6.0))
    answer, plain = located(views, rough, refiner=Fine()), located(views, rough)
    for each in answer.correspondences:
        assert np.linalg.norm(each.match.pixel - raycast_scenes.project_point(each.view,
                                                                              ON_TOP)) < 1e-9
        assert each.match.confidence > 0.9
        assert 'confirmed by rough' in each.match.basis
    assert answer.status == (Code.OK, '')
    assert np.linalg.norm(answer.target.base_from_target.t_m - ON_TOP) < 0.004
    assert plain.correspondences[0].match.pixel.tolist() == rough.instead['right'].pixel.tolist()


def test_a_refiner_that_believes_in_two_places_makes_it_a_refusal(views):
    answer = located(views[:2], Oracle(right=off(views[1], 90.0)), refiner=Fine(confidence=0.9))
    assert answer.status[0] == Code.LOW_CONFIDENCE
    assert 'contradict each other' in answer.status[1]
    assert answer.target is None


def test_what_the_refiner_refuses_is_refused_and_the_other_views_stand(views):
    hidden = Rejected(Code.NOT_VISIBLE, 'the box hides it')
    answer = located(views, Oracle(), refiner=Fine(right=hidden))
    assert answer.status == (Code.PARTIAL, 'right: the box hides it')
    assert answer.correspondences[1].rejected is None


def test_what_the_matcher_refuses_the_refiner_is_not_asked(views):
    none = Rejected(Code.NOT_VISIBLE, 'the model names no point')
    answer = located(views[:2], Oracle(right=none), refiner=Fine(right=AssertionError('asked')))
    assert answer.status == (Code.NOT_VISIBLE, 'right: the model names no point')


def test_a_refiner_that_breaks_fails_by_its_own_name(views):
    answer = located(views[:2], Oracle(), refiner=Fine(right=ZeroDivisionError('one by zero')))
    assert answer.status[0] == Code.MATCHER_FAILED
    assert 'Fine failed: ZeroDivisionError: one by zero' in answer.status[1]


@pytest.mark.parametrize('nonsense', [
    (3.0, 3.0), Match(np.full(2, np.nan), np.eye(2), 0.9), Match(np.zeros(2), np.eye(2), 1.2),
    Match(np.zeros(2), np.ones(2), 0.9)], ids=['tuple', 'nan', 'confidence', 'covariance'])
def test_nonsense_from_a_refiner_is_its_failure(views, nonsense):
    answer = located(views[:2], Oracle(), refiner=Fine(right=nonsense))
    assert answer.status[0] == Code.MATCHER_FAILED
    assert answer.target is None


def test_a_person_moves_a_found_point_and_the_target_is_lifted_anew(views):
    clicked, side, _ = views
    views = [replace(view, depth_m=None) for view in views]  # the rays alone decide
    expected = raycast_scenes.project_point(side, ON_TOP)
    wrong = Oracle(right=Match(expected + np.array([3.0, 0.0]), np.eye(2), 0.9))
    before = locate(views[0], views[1:2], raycast_scenes.project_point(clicked, ON_TOP),
                    wrong, Limits(max_target_sigma_m=1.0))
    after = apply_correction(before, 'right', expected,
                             Limits(max_target_sigma_m=1.0))
    assert np.allclose(after.correspondences[0].match.pixel, expected)
    assert after.correspondences[0].match.confidence == 1.0
    off_m = [np.linalg.norm(each.target.base_from_target.t_m - ON_TOP) for each in (before, after)]
    assert off_m[1] < 1e-6 < 2e-3 < off_m[0]


def test_a_person_finds_what_the_matcher_refused(views):
    clicked, side, _ = views
    blind = Oracle(right=Rejected(Code.NOT_VISIBLE, 'not there'))
    before = locate(clicked, [side], raycast_scenes.project_point(clicked, ON_TOP), blind, LIMITS)
    assert before.target is None
    after = apply_correction(before, 'right', raycast_scenes.project_point(side, ON_TOP), LIMITS)
    assert after.status == (Code.OK, '')
    assert np.allclose(after.target.base_from_target.t_m, ON_TOP, atol=2e-3)


def test_geometry_contradicts_a_person_too(views):
    clicked, side, _ = views
    before = locate(clicked, [side], raycast_scenes.project_point(clicked, ON_TOP), Oracle(),
                    LIMITS)
    with pytest.raises(Rejected, match='limit') as refused:
        apply_correction(before, 'right',
                         raycast_scenes.project_point(side, ON_TOP) + np.array([0.0, 40.0]), LIMITS)
    assert refused.value.code == Code.INCONSISTENT


@pytest.mark.parametrize(('camera', 'pixel', 'words'), [
    ('roof', (10.0, 10.0), 'correct the point in one of: right'),
    ('gone', (10.0, 10.0), 'correct the point in one of: right'),
    ('right', (10.0, np.nan), 'not finite'), ('right', (320.0, 10.0), 'outside the 320x240 image')])
def test_a_correction_of_what_was_not_searched_is_a_bad_request(views, camera, pixel, words):
    clicked, side, _ = views
    gone = MissingView('gone', Rejected(Code.NO_IMAGE, 'none'))
    before = locate(clicked, [side, gone], raycast_scenes.project_point(clicked, ON_TOP), Oracle(),
                    LIMITS)
    with pytest.raises(Rejected, match=words) as refused:
        apply_correction(before, camera, np.array(pixel), LIMITS)
    assert refused.value.code == Code.BAD_REQUEST


def test_an_instruction_becomes_a_pixel_where_the_matcher_can(views):
    named = ground(views[0], 'the handle', Naming(Match(np.array([3.0, 4.0]), confidence=0.6)))
    assert (named.pixel.tolist(), named.confidence) == ([3.0, 4.0], 0.6)


@pytest.mark.parametrize('refiner', [None, 'fine'])
def test_the_doubt_of_an_instruction_counts_against_what_is_found(views, refiner):
    clicked, side, _ = views
    pixel = raycast_scenes.project_point(clicked, ON_TOP)
    matcher = Oracle(confidence=0.95)
    arguments = (clicked, [side], pixel, matcher, LIMITS)
    fine = Fine() if refiner else None
    (sure,), (unsure,) = (locate(*arguments, refiner=fine, pixel_confidence=p).correspondences
                          for p in (1.0, 0.6))
    assert unsure.rejected is None
    assert sure.match.confidence > LIMITS.sure_confidence
    assert unsure.match.confidence == pytest.approx(0.6 * sure.match.confidence)
    assert LIMITS.min_confidence <= unsure.match.confidence < LIMITS.sure_confidence
    if refiner is None:
        assert unsure.match.confidence == pytest.approx(0.57)
    (refused,) = locate(*arguments, refiner=fine, pixel_confidence=0.5).correspondences
    assert refused.rejected.code == Code.LOW_CONFIDENCE


@pytest.mark.parametrize(('matcher', 'code', 'words'), [
    (Oracle(), Code.NOT_SUPPORTED, "Oracle cannot find the point of an instruction .'the handle'"),
    (Naming(Rejected(Code.NOT_VISIBLE, 'no handle')), Code.NOT_VISIBLE, '^no handle$'),
    (Naming(KeyError('x')), Code.MATCHER_FAILED, 'Naming failed: KeyError'),
    (Naming(Match(np.full(2, np.nan))), Code.MATCHER_FAILED, 'must be finite'),
    (Naming(Match(np.zeros(2), confidence=1.5)), Code.MATCHER_FAILED, '1.5 .must be .*0 to 1'),
    (Naming(Match(np.zeros(3))), Code.MATCHER_FAILED, 'must be a Match'),
    (Naming(np.zeros(2)), Code.MATCHER_FAILED, 'must be a Match')])
def test_an_instruction_that_cannot_be_grounded_is_refused(views, matcher, code, words):
    with pytest.raises(Rejected, match=words) as refused:
        ground(views[0], 'the handle', matcher)
    assert refused.value.code == code


def real_view(folder, index, name, pose):
    image = read_image(folder / f'frames/{name}.png')
    (fx, _, cx), (_, fy, cy), _ = index['frames'][name]['K']
    intrinsics = Intrinsics(fx, fy, cx, cy, image.shape[1], image.shape[0])
    depth_m = read_depth_m(folder / f'frames/{name}.depth.png', index['depth_scale'])
    return View(name, image, intrinsics, depth_m=depth_m, base_from_cam=pose)


class GroundTruth:
    """DOUBLE of a matcher: returns the true pixel of every query, visible there or not."""

    def __init__(self, pixel):
        self.pixel = pixel

    def match(self, query):
        return Match(self.pixel, np.eye(2) * 4, 0.9)


def test_on_a_real_shelf_depth_refuses_what_the_other_view_hides_and_keeps_the_rest(shared_data):
    folder = shared_data / 'apc_shelf'
    index = json.loads((folder / 'index.json').read_text())
    queries = np.load(folder / 'queries.npz')
    accepted = {'visible': [], 'hidden': []}
    for at, pair in enumerate(index['pairs'][:12]):
        b_from_a = raycast_scenes.add_pose_noise(Transform.from_matrix(pair['T_BA']), 1, 1, at)
        clicked = real_view(folder, index, pair['A'], Transform(np.eye(3), np.zeros(3)))
        other = real_view(folder, index, pair['B'], b_from_a.inverse)
        for k in np.flatnonzero((queries['pair'] == at) & (queries['status'] != 2)):
            answer = locate(clicked, [other], queries['p'][k], GroundTruth(queries['gt'][k]))
            accepted['visible' if queries['status'][k] else 'hidden'].append(
                answer.correspondences[0].rejected is None)
    assert len(accepted['visible']) > 50
    assert len(accepted['hidden']) > 20
    assert np.mean(accepted['visible']) > 0.9
    assert np.mean(accepted['hidden']) < 0.1


def test_the_result_is_read_by_camera_and_a_refused_view_has_no_pixel(views):
    result = located(views, Oracle(top=Match(np.array([5.0, 5.0]), np.eye(2), 0.9)))
    np.testing.assert_allclose(result['right'].pixel,
                               raycast_scenes.project_point(views[1], ON_TOP))
    assert result['right'].confidence == 0.9
    assert (result['top'].pixel, result['top'].confidence) == (None, None)
    assert result['top'].match.pixel.tolist() == [5.0, 5.0]
    with pytest.raises(KeyError, match="no camera 'roof' was searched; searched: right, top"):
        result['roof']


def test_pixels_are_any_pair_of_numbers(views):
    clicked, side, _ = views
    x, y = raycast_scenes.project_point(clicked, ON_TOP)
    found = Match(list(raycast_scenes.project_point(side, ON_TOP)), [[1, 0], [0, 1]], 0.9)
    for pixel in ((x, y), [x, y]):
        result = locate(clicked, [side], pixel, Oracle(right=found))
        assert result.status == (Code.OK, '')
        assert result.pixel.dtype == result['right'].pixel.dtype == np.float64
    fixed = apply_correction(result, 'right', found.pixel, LIMITS)
    np.testing.assert_allclose(fixed['right'].pixel, found.pixel)
    for nonsense in ((1, 2, 3), 'here', None, (1,)):
        with pytest.raises(Rejected, match='must be two numbers') as refused:
            locate(clicked, [side], nonsense, Oracle())
        assert refused.value.code == Code.BAD_REQUEST


def test_the_limits_and_the_fusion_rule_have_defaults_and_can_be_set(views):
    rough = Oracle(right=off(views[1], 90.0))
    defaults, strict = (located(views[:2], rough, refiner=Fine(confidence=0.9), **options)
                        for options in ({}, {'fusion': FusionParams(refine=False)}))
    assert defaults.status[0] == Code.LOW_CONFIDENCE
    assert strict['right'].match is not None


@pytest.mark.parametrize('unknown', [(0,), (1,), (0, 1)])
def test_unknown_intrinsics_give_a_match_and_no_3d_and_the_result_says_so(views, unknown):
    blind = [View(v.camera, v.image, None, depth_m=v.depth_m, base_from_cam=v.base_from_cam)
             if index in unknown else v for index, v in enumerate(views[:2])]
    clicked, side = blind
    result = locate(clicked, [side], raycast_scenes.project_point(views[0], ON_TOP), Oracle(
        right=Match(raycast_scenes.project_point(views[1], ON_TOP), np.eye(2), 0.9, 'images')))
    assert result['right'].rejected is None
    assert result['right'].consistency == Consistency() or \
        np.isnan(result['right'].consistency.epipolar_error_px)
    names = ' and '.join(blind[index].camera for index in unknown)
    assert result['right'].match.basis == f'images, intrinsics of {names} unknown'
    if 0 in unknown:
        assert result.target is None
        assert result.status == (Code.NO_DEPTH, 'no 3D: the intrinsics of left are unknown: give '
                                 'them')
    else:
        assert result.target.method == Method.DEPTH_CLICKED


LARGE = Intrinsics(600.0, 600.0, 319.5, 239.5, 640, 480)


def click_near_rims(lens, height_m, depths, count=70):
    """Yield results of clicks on and beside a box's edges, with the point that was clicked."""
    box = raycast_scenes.Box((-0.08, -0.06, 0.0), (0.08, 0.06, height_m))
    views = [raycast_scenes.render_depth(name, raycast_scenes.look_at(at), (box,), lens)
             for name, at in (('left', raycast_scenes.LEFT), ('right', raycast_scenes.RIGHT),
                              ('back', (0.0, 0.75, 0.6)))]
    views = [view if depth else replace(view, depth_m=None)
             for view, depth in zip(views, depths, strict=True)]
    rng, corners = np.random.default_rng(0), np.array([box.low_base_m, box.high_base_m])
    for _ in range(count):
        on_edge, axis = corners[rng.integers(2, size=3), range(3)], rng.integers(3)
        on_edge[axis] = rng.uniform(*corners[:, axis])
        clicked = views[rng.integers(3)]
        pixel = raycast_scenes.project_point(clicked, on_edge) + (
            rng.normal(size=2) * rng.choice([1, 4, 10]) * lens.width_px / 640)
        ray_base, eye_base_m = clicked.base_from_cam.rotate(lens.unproject(pixel)), (
            clicked.base_from_cam.t_m)
        point_base_m = eye_base_m + ray_base * raycast_scenes.cast_rays(
            eye_base_m, ray_base, (box,))
        others = [view for view in views if view is not clicked]
        for several in (others, others[:1], others[1:]):
            # A matcher that answers where the point would be, though the box may hide it there.
            yield locate(clicked, several, pixel, Oracle(point_base_m), LIMITS), point_base_m


@pytest.mark.parametrize('lens', [raycast_scenes.PINHOLE, LARGE], ids=['320', '640'])
@pytest.mark.parametrize(('height_m', 'depths'), [
    (0.1, (1, 1, 1)), (0.03, (1, 1, 1)), (0.015, (1, 1, 1)), (0.1, (1, 0, 0)), (0.1, (0, 1, 1))])
def test_near_rims_nothing_sure_is_off(lens, height_m, depths):
    sure, wrong = 0, []
    for result, point_base_m in click_near_rims(lens, height_m, depths):
        if result.target is None or result.target.confidence < LIMITS.sure_confidence:
            continue
        sure += 1
        off_m = result.target.base_from_target.t_m - point_base_m
        sigmas = np.sqrt(off_m @ np.linalg.solve(result.target.covariance[:3, :3], off_m))
        if sigmas > 3 or np.linalg.norm(off_m) > 0.01:
            wrong.append((result.clicked.camera, result.pixel, off_m))
        assert any(found.confidence is not None and found.confidence >= LIMITS.sure_confidence
                   for found in result.correspondences)
    assert not wrong
    assert sure > 40


def test_a_click_on_a_rim_is_to_be_checked_and_the_reason_is_kept(views):
    on_edge = np.array([0.02, 0.1, 0.12])  # of the top, at the back
    result = locate(views[0], views[1:2], raycast_scenes.project_point(views[0], on_edge),
                    Oracle(on_edge), LIMITS)
    (found,) = result.correspondences
    assert found.rejected is None
    assert LIMITS.min_confidence < found.confidence < LIMITS.sure_confidence
    assert 'on a rim: the depth of left jumps there' in found.consistency.doubt
    assert result.target.confidence < LIMITS.sure_confidence


@pytest.mark.parametrize('code', [Code.NOT_VISIBLE, Code.NO_IMAGE, Code.STALE, Code.NO_TF,
                                  Code.LOW_CONFIDENCE])
def test_a_target_that_no_view_confirms_is_given_where_allowed_and_never_sure(views, code):
    pixel = raycast_scenes.project_point(views[0], ON_TOP)
    others = [MissingView('right', Rejected(code, 'why'))]
    refused = locate(views[0], others, pixel, Oracle(), LIMITS)
    assert (refused.target, refused.status[0]) == (None, code)
    result = locate(views[0], others, pixel, Oracle(), LIMITS, allow_unconfirmed=True)
    assert result.target.method == Method.DEPTH_CLICKED
    assert np.linalg.norm(result.target.base_from_target.t_m - ON_TOP) < 0.004
    assert result.target.confidence < LIMITS.sure_confidence
    assert result.status == (Code.PARTIAL, 'no other view confirms the target: right: why')


def test_a_contradicted_click_or_one_without_depth_has_no_unconfirmed_target(views):
    pixel = raycast_scenes.project_point(views[0], ON_TOP)
    missing = MissingView('third', Rejected(Code.NO_IMAGE, 'cable'))
    look_alike = Oracle(right=Match(np.array([20.0, 20.0]), np.eye(2), 0.9))
    result = locate(views[0], [missing, views[1]], pixel, look_alike, LIMITS,
                    allow_unconfirmed=True)
    assert result['right'].rejected.code == Code.INCONSISTENT
    assert result.target is None
    blind = replace(views[0], depth_m=None)
    assert locate(blind, [missing], pixel, Oracle(), LIMITS, allow_unconfirmed=True
                  ).status == (Code.NO_IMAGE, 'third: cable')
