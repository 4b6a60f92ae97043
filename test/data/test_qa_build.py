"""A data set is built from recordings: true to their geometry, the same each time, checked."""
from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from rgbd_folders import KITCHEN, read_kitchen_views, write_scannet

from crosspoint_ros.cli import main
from crosspoint_ros.data.qa.build import name_scenes
from crosspoint_ros.data.qa.questions import Coordinates, QuestionType, decode_point
from crosspoint_ros.data.scenes.known_scene import FrameKey, KnownScene

NUMBER = 400
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp('built')
    assert main(['data', 'build', str(KITCHEN), '--out', str(out), '--number', str(NUMBER)]) == 0
    return out


def items(out, split='train'):
    return json.loads((out / f'crosspoint_{split}.json').read_text())


def files(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob('*')) if p.is_file()}


def environment():
    return {**os.environ, 'PYTHONPATH': os.pathsep.join(p for p in sys.path if p)}


def until(reached, limit_s=60):
    limit = time.monotonic() + limit_s
    while not reached():
        assert time.monotonic() < limit
        time.sleep(0.01)


def session(leader):
    """The processes that a program started in a session of its own has, zombies left out."""
    found = []
    for path in Path('/proc').glob('[0-9]*/stat'):
        try:
            state, _, _, of = path.read_text().rpartition(')')[2].split()[:4]
        except OSError:
            continue
        if int(of) == leader and state != 'Z':
            found.append(path)
    return found


def test_all_six_types_are_there_with_their_images(built):
    found = items(built)
    assert len(found) == NUMBER
    assert {item['type'] for item in found} == {kind.value for kind in QuestionType}
    for item in found:
        assert item['conversations'][0]['value'].count('<image>') == len(item['images'])
        assert all((built / name).is_file() for name in item['images'] + item['visual_image'])
    ids = Counter(item['id'] for item in found)
    assert max(ids.values()) == 1


def test_answers_are_those_of_the_exact_poses(built):
    known = KnownScene(KITCHEN)
    errors_px = []
    for item in items(built):
        if item['type'] != QuestionType.CORRESPONDENCE.value:
            continue
        a, b = (FrameKey(*_split(item['pair'][name])) for name in ('clicked', 'other'))
        view = known.read_view(a)
        column, row = (round(p) for p in item['point1'])
        point = known.base_from_cam[a].transform_points(
            view.backproject(item['point1'], view.depth_m[row, column]))
        pixel = known.read_view(b).intrinsics.project(
            known.base_from_cam[b].inverse.transform_points(point))
        answer = json.loads(item['conversations'][1]['value'].strip('`json\n'))[0]['point_2d']
        answered = decode_point(answer, (640, 480), Coordinates.THOUSAND)
        errors_px.append(np.linalg.norm(answered - pixel))
        assert known.is_visible(b, point)
    assert len(errors_px) > 40
    assert np.mean(np.array(errors_px) < 3) >= 0.99


def _split(name):
    camera, stamp = name.rsplit('_', 1)
    return camera, int(stamp)


def test_what_was_built_is_well_and_what_is_broken_is_told(built, tmp_path, capsys):
    sheet = tmp_path / 'sheet.png'
    assert main(['data', 'check', str(built), '--geometry', '60', '--sheet', str(sheet)]) == 0
    assert sheet.is_file()
    path = built / 'crosspoint_train.json'
    kept = path.read_bytes()
    found = items(built)
    crossing = next(i for i in found if i['type'] == QuestionType.CORRESPONDENCE.value)
    moved = {**crossing, 'point2': [crossing['point2'][0], 5000.0], 'id': 'other'}
    lost = {**found[1], 'images': ['images/nowhere.jpg', *found[1]['images'][1:]]}
    lines = [json.dumps(i) for i in (found[0], found[0], moved, lost)]
    path.write_text('[\n' + ',\n'.join([*lines, '{"id": "cut']) + '\n]\n')
    (built / 'crosspoint_val.json').write_text('[\n' + json.dumps(found[2]) + '\n]\n')
    assert main(['data', 'check', str(built), '--geometry', '10']) == 1
    told = capsys.readouterr().out
    path.write_bytes(kept)
    (built / 'crosspoint_val.json').write_text('[\n]\n')
    for reason in ('a duplicate', 'a leak', 'an image that cannot be read', 'outside its image',
                   'not a question', 'from where geometry puts it'):
        assert reason in told, told


def test_the_same_seed_gives_the_same_bytes_in_one_process_and_in_two(tmp_path):
    folder = write_scannet(tmp_path / 'scene', read_kitchen_views())
    for name, processes in (('one', '1'), ('two', '2')):
        assert main(['data', 'build', str(folder), '--out', str(tmp_path / name), '--number', '60',
                     '--processes', processes]) == 0
    assert files(tmp_path / 'one') == files(tmp_path / 'two')


def test_points_lie_on_labelled_things_and_questions_use_their_names(tmp_path):
    folder = write_scannet(tmp_path / 'scene', read_kitchen_views())
    labels = tmp_path / 'labels'
    (labels / 'scene').mkdir(parents=True)
    drawn = np.zeros((480, 640), np.uint8)
    drawn[100:380, 80:320], drawn[100:380, 330:560] = 1, 2
    for path in folder.glob('color/*.png'):
        cv2.imwrite(str(labels / 'scene' / path.name), drawn)
    (labels / 'names.json').write_text(json.dumps({'1': 'left half', '2': 'right half'}))
    assert main(['data', 'build', str(folder), '--out', str(tmp_path / 'out'), '--number', '120',
                 '--labels', str(labels)]) == 0
    named = 0
    for item in items(tmp_path / 'out'):
        for column, row in item['points']:
            assert drawn[round(row), round(column)] > 0
        if item['type'] == QuestionType.GROUNDING.value:
            side = 'left half' if item['points'][0][0] < 325 else 'right half'
            assert side in item['conversations'][0]['value']
            named += 1
    assert named > 5


def test_labels_of_another_size_are_told_with_their_file_and_the_rest_goes_on(tmp_path, capsys):
    folder = write_scannet(tmp_path / 'scene', read_kitchen_views())
    labels = tmp_path / 'labels' / 'scene'
    labels.mkdir(parents=True)
    cv2.imwrite(str(labels / '0.png'), np.ones((48, 64), np.uint8))
    words = ['data', 'build', str(folder), '--out', str(tmp_path / 'out'), '--number', '60',
             '--labels', str(labels.parent)]
    for _ in range(2):  # what is on the disk is told again
        assert main(words) == 1
        told = capsys.readouterr()
        assert 'labels/scene/0.png: labels are one channel of (480, 640)' in told.err
        assert 'frame: cannot be used' in told.out
        assert len(items(tmp_path / 'out')) > 20


def test_a_frame_that_cannot_be_read_is_told_wherever_it_stands(tmp_path, capsys):
    folder = write_scannet(tmp_path / 'scene', read_kitchen_views(14))
    (folder / 'depth/5.png').write_bytes(b'no picture')
    assert main(['data', 'build', str(folder), '--out', str(tmp_path / 'out'), '--number', '60',
                 '--processes', '2']) == 1
    assert capsys.readouterr().err.count('depth/5.png: 10 bytes that OpenCV cannot read') == 1
    assert len(items(tmp_path / 'out')) == 60


def test_one_and_several_processes_are_compared(tmp_path, capsys):
    folder = write_scannet(tmp_path / 'scene', read_kitchen_views())
    assert main(['dev', 'build', str(folder), '--number', '40', '--rounds', '1',
                 '--processes', '2']) == 0
    said = capsys.readouterr().out
    assert 'identical files' in said
    assert ' times as many' in said
    assert main(['dev', 'build', str(tmp_path / 'nowhere')]) == 1
    assert 'no such file or folder' in capsys.readouterr().err


def test_a_ray_cluster_builds_the_same_bytes(tmp_path):
    pytest.importorskip('ray.data', reason='Ray is an extra: pip install "ray[data]"')
    scenes = [write_scannet(tmp_path / 'scenes' / name, read_kitchen_views()) for name in 'ab']
    words = ['data', 'build', *map(str, scenes), '--number', '60', '--out']
    assert main([*words, str(tmp_path / 'here')]) == 0
    assert main([*words, str(tmp_path / 'cluster'), '--ray']) == 0
    assert files(tmp_path / 'here') == files(tmp_path / 'cluster')


def test_without_ray_or_without_a_cluster_that_is_said(tmp_path, capsys, monkeypatch):
    folder = write_scannet(tmp_path / 'scene', read_kitchen_views())
    words = ['data', 'build', str(folder), '--out', str(tmp_path / 'out'), '--ray', '127.0.0.1:1']
    monkeypatch.setitem(sys.modules, 'ray', None)
    assert main(words) == 1
    assert 'pip install "ray[data]"' in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, 'ray', ModuleType('ray'))
    monkeypatch.setitem(sys.modules, 'ray.data', ModuleType('ray.data'))
    assert main(words) == 1
    assert 'no Ray cluster at 127.0.0.1:1' in capsys.readouterr().err


def test_the_robots_own_body_is_shown_and_never_asked_about(built):
    mask = cv2.imread(str(built / 'own_body/kitchen/wrist.png'), cv2.IMREAD_GRAYSCALE)
    assert 0.02 < (mask > 127).mean() < 0.5
    asked = 0
    for item in items(built):
        for side, name in (('clicked', 'point1'), ('other', 'point2')):
            if item.get(name) and item['pair'][side].startswith('wrist_'):
                column, row = (round(p) for p in item[name])
                assert mask[row, column] == 0
                asked += 1
    assert asked > 40


def test_workers_end_with_a_build_that_was_killed(tmp_path):
    words = [sys.executable, '-m', 'crosspoint_ros.cli', 'data', 'build', str(KITCHEN), '--out',
             str(tmp_path / 'out'), '--number', '5000', '--processes', '2']
    process = subprocess.Popen(words, env=environment(), cwd=tmp_path, start_new_session=True)
    until(lambda: len(session(process.pid)) > 2)
    process.kill()
    process.wait()
    until(lambda: not session(process.pid))


def test_a_build_that_was_killed_goes_on_to_the_same_bytes(tmp_path, built):
    out = tmp_path / 'killed'
    words = [sys.executable, '-m', 'crosspoint_ros.cli', 'data', 'build', str(KITCHEN), '--out',
             str(out), '--number', str(NUMBER)]
    process = subprocess.Popen(words, env=environment(), cwd=tmp_path)
    until(lambda: list(out.glob('parts/*/*.jsonl')))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(out.glob('parts/*/*.jsonl'))
    assert not (out / 'crosspoint_train.json').exists()
    assert main(words[3:]) == 0
    assert items(out) == items(built)


def test_scenes_are_split_whole_and_a_bad_one_is_told_while_the_rest_goes_on(tmp_path, capsys):
    views = read_kitchen_views()
    for name in ('a', 'b'):
        write_scannet(tmp_path / 'scenes' / name, views)
    write_scannet(tmp_path / 'scenes' / 'turned', views, inverted=True)
    assert main(['data', 'build', str(tmp_path / 'scenes'), '--out', str(tmp_path / 'out'),
                 '--number', '200', '--val', '0.5']) == 1
    assert 'turned: its poses are inverted' in capsys.readouterr().err
    train, val = ({i['scene'] for i in items(tmp_path / 'out', s)} for s in ('train', 'val'))
    assert {len(train), len(val)} == {1}
    assert not train & val


def test_a_full_disk_is_told_with_the_file_and_the_build_goes_on_when_there_is_room(
        tmp_path, capsys, monkeypatch):
    folder = write_scannet(tmp_path / 'scene', read_kitchen_views())
    words = ['data', 'build', str(folder), '--number', '60', '--out']
    assert main([*words, str(tmp_path / 'whole')]) == 0
    written, write = [], Path.write_bytes

    def full(path, data):  # a double of a disk with room for 30 files
        written.append(path)
        if len(written) > 30:
            raise OSError(errno.ENOSPC, 'No space left on device', str(path))
        return write(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(Path, 'write_bytes', full)
        assert main([*words, str(tmp_path / 'full')]) == 1
    said = capsys.readouterr().err
    assert 'No space left on device' in said
    assert '.jpg is not written; free some space and run it again' in said
    assert not list((tmp_path / 'full').rglob('*.part'))
    assert main([*words, str(tmp_path / 'full')]) == 0
    assert files(tmp_path / 'full') == files(tmp_path / 'whole')


def test_another_build_is_not_mixed_into_a_folder(built, capsys):
    assert main(['data', 'build', str(KITCHEN), '--out', str(built), '--number', '7']) == 1
    assert 'was begun with other scenes or options' in capsys.readouterr().err


def build(out, *words, number=60):
    return main(['data', 'build', *map(str, words), '--out', str(out), '--number', str(number)])


def test_scenes_of_equal_names_stay_apart_whatever_a_number_would_make_of_them(tmp_path):
    views = read_kitchen_views(16)
    for day, views_of_day in (('dayA/run', views[::2]), ('dayA/run_2', views[1::2]),
                              ('dayB/run', views[::-2])):
        write_scannet(tmp_path / day, views_of_day)
    scenes = [tmp_path / name for name in ('dayA/run', 'dayA/run_2', 'dayB/run')]
    assert build(tmp_path / 'out', *scenes, '--val', '0', number=400) == 0
    sources = json.loads((tmp_path / 'out/build.json').read_text())['sources']
    assert [(each['name'], Path(each['path'])) for each in sources] == list(
        zip(('run', 'run_2', 'run_3'), scenes, strict=True))
    assert {item['scene'] for item in items(tmp_path / 'out')} == {'run', 'run_2', 'run_3'}
    assert main(['data', 'check', str(tmp_path / 'out')]) == 0


@pytest.mark.parametrize(('given', 'named'), [
    ('run run_2 run', 'run run_2 run_3'), ('run_2 run run', 'run_2 run run_3'),
    ('run run run_2 run_2', 'run run_3 run_2 run_2_2'), ('a b', 'a b'), ('..', 'qa_scenes')])
def test_names_that_are_given_come_before_names_that_are_made(
        given, named, tmp_path, monkeypatch):
    inside = tmp_path / 'qa_scenes' / 'here'
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    paths = [Path('..') if name == '..' else Path(str(number), name)
             for number, name in enumerate(given.split())]
    assert [source.name for source in name_scenes(paths)] == named.split()


def test_frames_whose_file_names_would_meet_are_not_taken_for_each_other(tmp_path):
    folder = write_scannet(tmp_path / 'scene', read_kitchen_views(12))
    for kind, suffix in (('color', '.png'), ('depth', '.png'), ('pose', '.txt')):
        for number, name in enumerate(('a', 'a.jpg', 'a-b', 'a.png-b')):
            (folder / f'{kind}/{number}{suffix}').rename(folder / f'{kind}/{name}{suffix}')
    assert build(tmp_path / 'out', folder, number=600) == 0
    out = tmp_path / 'out'
    shown = {}
    for item in items(out):
        if 'pair' in item:
            for side, name in zip(('clicked', 'other'), item['images'], strict=True):
                assert shown.setdefault(item['pair'][side], name) == name
    assert {'a', 'a.jpg'} <= set(shown)
    assert len(set(shown.values())) == len(shown)
    for frame, name in shown.items():
        built = cv2.imread(str(out / name)).astype(int)
        recorded = cv2.imread(str(folder / f'color/{frame}.png')).astype(int)
        assert np.abs(built - recorded).mean() < 4  # JPEG


def change_images(folder):
    for path in sorted(folder.glob('color/*.png')):
        cv2.imwrite(str(path), 255 - cv2.imread(str(path)))


def test_a_recording_that_was_corrected_is_never_mixed_with_what_was_built_of_it(tmp_path, capsys):
    folder = write_scannet(tmp_path / 'scene', read_kitchen_views())
    assert build(tmp_path / 'out', folder) == 0
    before = files(tmp_path / 'out')
    change_images(folder)
    assert build(tmp_path / 'out', folder) == 1
    reason = capsys.readouterr().err
    assert 'scene: color/0.png' in reason
    assert '--restart' in reason
    assert files(tmp_path / 'out') == before  # refused, not half done
    assert build(tmp_path / 'out', folder, '--restart') == 0
    assert build(tmp_path / 'fresh', folder) == 0
    assert files(tmp_path / 'out') == files(tmp_path / 'fresh') != before


def test_changed_labels_and_options_are_refused_with_what_differs(tmp_path, capsys):
    folder = write_scannet(tmp_path / 'scene', read_kitchen_views())
    labels = tmp_path / 'labels'
    (labels / 'scene').mkdir(parents=True)
    cv2.imwrite(str(labels / 'scene/0.png'), np.ones((480, 640), np.uint8))
    words = [folder, '--labels', labels]
    assert build(tmp_path / 'out', *words) == 0
    assert build(tmp_path / 'out', *words) == 0  # nothing has changed
    cv2.imwrite(str(labels / 'scene/0.png'), np.eye(480, 640, dtype=np.uint8))
    assert build(tmp_path / 'out', *words) == 1
    assert 'labels: scene/0.png' in capsys.readouterr().err
    assert build(tmp_path / 'out', *words, '--restart') in (0, 1)  # that frame has no points
    (labels / 'names.json').write_text('{"1": "lid"}')
    assert build(tmp_path / 'out', *words) == 1
    assert 'labels: names.json is new' in capsys.readouterr().err
    (labels / 'names.json').unlink()
    for more, what in ((['--seed', '3'], 'recipe.seed was 0, is 3'),
                       (['--depth-per-m', '999'], 'recipe.reading.depth_per_m was None, is 999'),
                       (['--coordinates', 'pixel'], "recipe.coordinates was 'thousand', is "
                                                    "'pixel'")):
        assert build(tmp_path / 'out', *words, *more) == 1
        assert what in capsys.readouterr().err
    assert build(tmp_path / 'out', *words) in (0, 1)
    assert 'was begun' not in capsys.readouterr().err


def test_another_version_of_the_builder_does_not_go_on_with_a_build(tmp_path, capsys):
    folder = write_scannet(tmp_path / 'scene', read_kitchen_views())
    assert build(tmp_path / 'out', folder) == 0
    path = tmp_path / 'out/build.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), 'version': '0.0.1'}))
    assert build(tmp_path / 'out', folder) == 1
    assert "version was '0.0.1', is " in capsys.readouterr().err
    path.write_text('{"recipe": ')
    assert build(tmp_path / 'out', folder) == 1
    assert 'build.json' in capsys.readouterr().err


def test_a_frame_without_points_is_counted_and_the_rest_is_built(tmp_path, capsys):
    folder = write_scannet(tmp_path / 'scene', read_kitchen_views())
    labels = tmp_path / 'labels' / 'scene'
    labels.mkdir(parents=True)
    cv2.imwrite(str(labels / '0.png'), np.zeros((480, 640), np.uint8))
    assert build(tmp_path / 'out', folder, '--labels', labels.parent) in (0, 1)
    output = capsys.readouterr()
    assert 'frame: nothing in it to ask about' in output.out
    assert 'reshape' not in output.err
    assert len(items(tmp_path / 'out')) > 20


@pytest.mark.parametrize('name', ['parts', 'images', 'own_body'])
def test_a_folder_with_something_of_unknown_origin_is_not_built_into(tmp_path, capsys, name):
    folder = write_scannet(tmp_path / 'scene', read_kitchen_views())
    (tmp_path / 'out' / name).mkdir(parents=True)
    (tmp_path / 'out' / name / 'mine.png').write_bytes(b'mine')
    for words in ([], ['--restart']):  # what no build wrote is not removed
        assert build(tmp_path / 'out', folder, *words) == 1
        assert f'{name} and no build.json' in capsys.readouterr().err
        assert (tmp_path / 'out' / name / 'mine.png').read_bytes() == b'mine'


def lose_bytes(path, start, number):
    data = path.read_bytes()
    path.write_bytes(data[:start] + data[start + number:])


def test_an_image_that_lost_bytes_is_named_and_the_rest_goes_on(tmp_path, capsys):
    folder = write_scannet(tmp_path / 'scene', read_kitchen_views(14))
    for path in folder.glob('color/*.png'):
        cv2.imwrite(str(path.with_suffix('.jpg')), cv2.imread(str(path)))
        path.unlink()
    middle, end = folder / 'color/5.jpg', folder / 'color/6.jpg'
    lose_bytes(middle, middle.stat().st_size // 2, 500)
    lose_bytes(end, end.stat().st_size // 2, 10 ** 7)
    assert build(tmp_path / 'out', folder) == 1
    err = capsys.readouterr().err
    assert err.count('color/5.jpg: ') == err.count('color/6.jpg: ') == 1
    found = items(tmp_path / 'out')
    assert len(found) == 60
    assert not {f'images/scene/{n}.jpg' for n in (5, 6)} & {i for q in found for i in q['images']}
    path = tmp_path / 'out' / found[0]['images'][0]
    lose_bytes(path, path.stat().st_size // 2, 500)
    assert main(['data', 'check', str(tmp_path / 'out')]) == 1
    assert found[0]['images'][0] in capsys.readouterr().out


def test_images_are_not_turned_by_exif(tmp_path):
    folder = write_scannet(tmp_path / 'scene', read_kitchen_views())
    for path in folder.glob('color/*.png'):
        _, data = cv2.imencode('.jpg', cv2.imread(str(path)))
        exif = (b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0'
                b'\0\0\0\0')  # orientation 6: turn by a quarter
        path.with_suffix('.jpg').write_bytes(
            b'\xff\xd8\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif + data.tobytes()[2:])
        path.unlink()
    assert cv2.imread(str(folder / 'color/0.jpg')).shape[:2] == (640, 480)  # it is there
    assert build(tmp_path / 'out', folder) == 0
    assert cv2.imread(str(tmp_path / 'out' / items(tmp_path / 'out')[0]['images'][0])
                      ).shape[:2] == (480, 640)
