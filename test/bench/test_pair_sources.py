"""Any recording is a set of pairs: the same questions in every layout, and true ones."""
from __future__ import annotations

import base64
import json

import cv2
import numpy as np
import pytest
from rgbd_folders import KITCHEN, read_kitchen_views, write_scannet, write_tum

from crosspoint_ros.bench.data.accuracy import measure_accuracy
from crosspoint_ros.bench.pairs.dataset import InputConfig
from crosspoint_ros.bench.pairs.export import export
from crosspoint_ros.bench.pairs.sources import KnownSceneSource, RgbdSource
from crosspoint_ros.cli import main
from crosspoint_ros.data.qa.point_visibility import Visibility
from crosspoint_ros.data.qa.questions import Coordinates
from crosspoint_ros.data.scenes import open_scene
from crosspoint_ros.data.scenes.known_scene import KnownScene
from crosspoint_ros.data.scenes.rgbd_scene import ReadOptions, UnusableData

pytestmark = pytest.mark.usefixtures('networks_once')


def scene_set(folder, given=None, number=60):
    return RgbdSource(open_scene(folder, ReadOptions()), given or InputConfig(), number)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_scannet(tmp_path_factory.mktemp('sets') / 'scene', read_kitchen_views())


def test_questions_of_a_scene_are_true_to_its_exact_poses(folder):
    items = list(scene_set(folder))
    assert 40 <= len(items) <= 60
    assert {item.visibility for item in items} >= {Visibility.VISIBLE, Visibility.OUTSIDE}
    for item in items:
        a, b = item.query.clicked, item.query.other
        column, row = item.query.pixel.round().astype(int)
        ray = a.intrinsics.unproject(item.query.pixel)
        point = a.base_from_cam.transform_points(ray / ray[2] * a.depth_m[row, column])
        pixel = b.intrinsics.project(b.base_from_cam.inverse.transform_points(point))
        if item.visibility == Visibility.VISIBLE:
            assert np.linalg.norm(pixel - item.ground_truth) < 3
        if item.visibility == Visibility.OUTSIDE:
            assert not b.intrinsics.contains(pixel)


def test_every_layout_gives_the_same_questions(folder, tmp_path):
    other = write_tum(tmp_path / 'scene', read_kitchen_views())
    counts = [len(scene_set(each)) for each in (folder, other)]
    assert abs(counts[0] - counts[1]) <= 2


def test_the_same_seed_gives_the_same_questions_and_another_gives_others(folder):
    def asked(seed):
        return [tuple(item.query.pixel) for item in scene_set(folder, InputConfig(seed=seed))]

    assert asked(0) == asked(0)
    assert asked(0) != asked(1)


def test_the_matcher_is_told_no_more_than_it_is_given(folder):
    item = next(iter(scene_set(folder, InputConfig(poses=False, depth=False))))
    for view in (item.query.clicked, item.query.other):
        assert view.base_from_cam is None
        assert view.depth_m is None
    exact, moved = (next(iter(scene_set(folder, inputs)))
                    for inputs in (InputConfig(), InputConfig(noise_cm=2)))
    off = exact.query.other.base_from_cam.inverse @ moved.query.other.base_from_cam
    assert np.linalg.norm(off.t_m) == pytest.approx(0.02, abs=1e-6)


def test_what_is_built_of_the_kitchen_is_where_its_truth_has_it():
    source = KnownSceneSource(KnownScene(KITCHEN), InputConfig())
    told = measure_accuracy(source, Coordinates.THOUSAND)
    assert len(told.errors_px) > 500
    assert np.mean(told.errors_px <= 3) >= 0.99
    assert np.mean(told.visibility_correct) >= 0.99


def test_what_is_built_of_the_shelf_is_where_its_truth_has_it(shared_data, capsys):
    assert main(['bench', 'data', str(shared_data / 'apc_shelf')]) == 0
    said = capsys.readouterr().out
    right, total = said.split('within 12 px of the ground truth: ')[1].split(',')[0].split(' of ')
    assert int(total) > 300
    assert int(right) >= 0.95 * int(total)


def reply(out, path, of):
    lines = [json.loads(line) for line in (out / 'CrossPoint-Bench.jsonl').read_text().splitlines()]
    path.write_text(''.join(json.dumps({**line, 'assistant': of(line)}) + '\n' for line in lines))
    return lines


def test_an_export_answered_rightly_has_every_point_and_answered_wrongly_none(folder, tmp_path):
    out = tmp_path / 'bench'
    assert export(scene_set(folder, number=20), out, 20.0) > 20

    def right(line):
        if len(line['answer']) == 1:
            return line['answer']
        shown = cv2.imdecode(np.frombuffer(base64.b64decode(line['answer']), np.uint8), 0)
        rows, columns = np.nonzero(shown)
        x, y = columns.mean() / shown.shape[1] * 1000, rows.mean() / shown.shape[0] * 1000
        return f'[{x:.1f}, {y:.1f}]'

    def wrong(line):
        return {'A': 'B', 'B': 'A'}.get(line['answer'], '[1, 1]')

    for of, share in ((right, 1.0), (wrong, 0.0)):
        lines = reply(out, tmp_path / 'replies.jsonl', of)
        report = tmp_path / 'report.json'
        assert main(['bench', 'score', str(tmp_path / 'replies.jsonl'), '--bench', str(out),
                     '--json', str(report)]) == 0
        assert json.loads(report.read_text())['corrected'][0]['share'] == share
    assert all((out / 'image' / name).is_file() for line in lines for name in line['images'])


def test_an_export_is_not_mixed_with_another(folder, tmp_path, capsys):
    words = ['bench', 'export', str(folder), '--number', '8', '--out', str(tmp_path / 'out')]
    assert main(words) == 0
    assert main(words) == 1
    assert 'holds a benchmark' in capsys.readouterr().err


def test_a_scene_is_asked_with_pictures_of_what_went_wrong(folder, tmp_path, capsys):
    assert main(['bench', 'pairs', str(folder), '--number', '20', '--no-poses', '--no-depth',
                 '--markdown', str(tmp_path / 'r.md'), '--failures', str(tmp_path / 'wrong')]) == 0
    said = capsys.readouterr().out
    number = int(said.rsplit('\n', 2)[-2].split(' of ')[0])
    assert len(list(tmp_path.glob('wrong/*.png'))) == number
    assert '| all |' in (tmp_path / 'r.md').read_text()


@pytest.mark.parametrize(('make', 'said'), [
    (lambda path: path.mkdir(), 'is not a source of pairs'),
    (lambda path: write_scannet(path, read_kitchen_views()[:1]), 'another view'),
    (lambda path: write_scannet(path, read_kitchen_views(), inverted=True), '--inverted-poses')])
def test_what_is_no_set_is_refused_in_words(tmp_path, capsys, make, said):
    make(tmp_path / 'scene')
    assert main(['bench', 'pairs', str(tmp_path / 'scene')]) == 1
    assert said in capsys.readouterr().err


def test_masks_are_for_sets_of_pairs_alone(folder, capsys):
    assert main(['bench', 'pairs', str(folder), '--no-mask']) == 1
    assert '--no-mask' in capsys.readouterr().err


def test_an_image_that_cannot_be_read_is_told_and_the_rest_is_asked(tmp_path, capsys):
    folder = write_scannet(tmp_path / 'scene', read_kitchen_views())
    (folder / 'color/3.png').write_bytes(b'no picture')
    assert main(['bench', 'pairs', str(folder), '--number', '30']) == 1
    told = capsys.readouterr()
    assert told.err.count('color/3.png') == 1
    assert 'scene, ' in told.out


def test_poses_that_drifted_from_rotations_are_taken_at_the_nearest(tmp_path, caplog):
    views = read_kitchen_views()
    folder = write_scannet(tmp_path / 'scene', views)
    for number, view in enumerate(views):
        matrix = view.base_from_cam.matrix
        matrix[:3, :3] *= 1.002
        np.savetxt(folder / f'pose/{number}.txt', matrix)
    scene = open_scene(folder, ReadOptions())
    np.testing.assert_allclose(scene.frames[2].base_from_cam.R, views[2].base_from_cam.R, atol=1e-6)
    matrix[:3, :3] *= 1.2
    np.savetxt(folder / 'pose/0.txt', matrix)
    assert len(open_scene(folder, ReadOptions()).frames) == len(views) - 1
    assert 'R is not a rotation' in caplog.text
    with pytest.raises(UnusableData):
        open_scene(tmp_path, ReadOptions())


@pytest.mark.parametrize('name', ['truth.json', 'index.json'])
def test_a_file_of_something_else_is_told_in_a_sentence(tmp_path, capsys, name):
    (tmp_path / name).write_text('{}')
    (tmp_path / 'queries.npz').write_bytes(b'') if name == 'index.json' else None
    assert main(['bench', 'pairs', str(tmp_path)]) == 1
    assert f'{name} is not ' in capsys.readouterr().err


def test_a_set_without_a_query_is_told_in_a_sentence(tmp_path, capsys):
    (tmp_path / 'index.json').write_text(json.dumps(
        {'pairs': [], 'frames': {}, 'bins': [], 'depth_scale': 1}))
    np.savez(tmp_path / 'queries.npz', p=np.zeros((0, 2)), gt=np.zeros((0, 2)), pair=[], status=[])
    assert main(['bench', 'pairs', str(tmp_path)]) == 1
    assert 'holds 0 queries' in capsys.readouterr().err


def test_a_truth_is_read_in_its_own_way_alone(capsys):
    assert main(['bench', 'pairs', str(KITCHEN), '--inverted-poses']) == 1
    assert 'leave out --inverted-poses' in capsys.readouterr().err


def test_who_always_says_yes_is_right_half_of_the_time_at_most(tmp_path):
    out = tmp_path / 'bench'
    items = KnownSceneSource(KnownScene(KITCHEN), InputConfig())
    assert export(items, out, 20.0, limit=60) < 120
    lines = [json.loads(line) for line in (out / 'CrossPoint-Bench.jsonl').read_text().splitlines()]
    letters = [line['answer'] for line in lines if len(line['answer']) == 1]
    assert letters.count('A') <= letters.count('B') > 5
    points = [line for line in lines if len(line['answer']) > 1]
    assert len({tuple(line['images']) for line in points}) > 20
