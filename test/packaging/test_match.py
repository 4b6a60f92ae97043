"""`crosspoint match`: answers on plain image files, and one clear line for each bad input."""
from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from crosspoint_ros import match
from crosspoint_ros.cli import main
from crosspoint_ros.core.image_io import read_image
from crosspoint_ros.data.scenes.known_scene import KnownScene
from crosspoint_ros.scenes import KITCHEN

pytestmark = pytest.mark.usefixtures('networks_once')
IMAGES = Path(__file__).resolve().parents[2] / 'examples'
FRONT, SIDE = str(IMAGES / 'front.jpg'), str(IMAGES / 'side.jpg')
K = ['--k', '514.7', '514.7', '319.5', '239.5']
BUTTON, BUTTON_IN_SIDE = (500.0, 280.0), (481.7, 395.8)  # on the control panel
AT_BUTTON = ['--at', *map(str, BUTTON)]


@pytest.fixture(scope='module')
def views():
    scene = KnownScene(KITCHEN)
    return {camera: scene.read_view(min(f for f in scene.frames if f.camera == camera))
            for camera in ('front', 'side')}


# --- answers --------------------------------------------------------------------------------------

@pytest.mark.parametrize('intrinsics', [[], K])
def test_a_point_is_found_with_and_without_intrinsics(capsys, intrinsics):
    assert main(['match', FRONT, SIDE, *AT_BUTTON, *intrinsics, '--json']) == 0
    point, = json.loads(capsys.readouterr().out)['points']
    assert point['verdict'] in ('sure', 'to be checked')
    assert point['pixel'] == pytest.approx(BUTTON_IN_SIDE, abs=5)
    assert 0.5 <= point['confidence'] <= 1
    assert point['code'] == 'OK'


def test_each_point_is_a_line_with_pixel_verdict_and_confidence(capsys):
    assert main(['match', FRONT, SIDE, *AT_BUTTON, '--at', '300', '300', *K]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith('(500.0, 280.0)  (48')
    assert 'confidence 0.' in first
    assert second.startswith('(300.0, 300.0)  ')


def test_with_one_point_refused_the_other_is_still_an_answer(capsys):
    assert main(['match', FRONT, SIDE, *AT_BUTTON, '--at', '900', '10', *K, '--json']) == 0
    found, refused = json.loads(capsys.readouterr().out)['points']
    assert found['code'] == 'OK'
    assert (refused['verdict'], refused['code'], refused['pixel']) == (
        'refused', 'BAD_REQUEST', None)


def test_depth_is_read_with_its_scale(tmp_path, views, capsys):
    for name, view in views.items():
        depth = np.nan_to_num(view.depth_m) * 5000
        cv2.imwrite(str(tmp_path / f'{name}.png'), depth.astype(np.uint16))
    words = ['match', FRONT, SIDE, *AT_BUTTON, *K, '--depth-a', str(tmp_path / 'front.png'),
             '--depth-b', str(tmp_path / 'side.png'), '--depth-scale', '5000', '--json']
    assert main(words) == 0
    point, = json.loads(capsys.readouterr().out)['points']
    assert point['pixel'] == pytest.approx(BUTTON_IN_SIDE, abs=5)


def test_the_pair_is_drawn_a_row_for_each_point(tmp_path, capsys):
    out = tmp_path / 'pair.png'
    assert main(['match', FRONT, SIDE, *AT_BUTTON, '--at', '900', '10', *K, '--out', str(out)]) == 0
    drawn = read_image(out)
    assert drawn.shape[1] > 2 * 640
    assert drawn.shape[0] > 2 * 480
    refused = drawn[-480:, -640:]
    assert (refused[:300].max(axis=2) - refused[:300].min(axis=2) == 0).all()  # in grey


def test_images_of_one_name_in_two_folders_are_told_apart(tmp_path, capsys):
    (tmp_path / 'front.jpg').write_bytes(Path(SIDE).read_bytes())
    assert main(['match', FRONT, str(tmp_path / 'front.jpg'), *AT_BUTTON, *K]) == 0


# --- picking --------------------------------------------------------------------------------------

class Window:
    """An OpenCV window whose user clicks and then presses q."""

    def __init__(self, monkeypatch, *clicks: tuple[int, int]) -> None:
        self.clicks, self.shown = list(clicks), []
        monkeypatch.setenv('DISPLAY', ':0')
        monkeypatch.setattr(cv2, 'namedWindow', lambda *args: None)
        monkeypatch.setattr(cv2, 'setMouseCallback', lambda name, on_mouse: setattr(
            self, 'on_mouse', on_mouse))
        monkeypatch.setattr(cv2, 'imshow', lambda name, image: self.shown.append(image))
        monkeypatch.setattr(cv2, 'waitKey', self.wait_key)
        monkeypatch.setattr(cv2, 'destroyAllWindows', lambda: None)

    def wait_key(self, delay_ms: int) -> int:
        if not self.clicks:
            return ord('q')
        self.on_mouse(cv2.EVENT_LBUTTONDOWN, *self.clicks.pop(0), 0, None)
        return -1


def test_a_click_in_the_window_is_answered_and_drawn(monkeypatch, capsys):
    window = Window(monkeypatch, (500, 280), (900, 100))  # the second on the right image: nothing
    assert main(['match', FRONT, SIDE, *K, '--pick']) == 0
    line, = capsys.readouterr().out.splitlines()
    assert line.startswith('(500.0, 280.0)  (48')
    before, after = window.shown
    assert before.shape == after.shape == (480, 1280, 3)
    assert (before != after).any()


def test_a_window_shows_large_images_smaller_and_clicks_count_in_their_pixels(
        monkeypatch, tmp_path, capsys):
    for name in (FRONT, SIDE):
        large = cv2.resize(cv2.imread(name), None, fx=2.5, fy=2.5)
        cv2.imwrite(str(tmp_path / Path(name).name), large)
    window = Window(monkeypatch, (624, 350))  # of 3200 px, 1600 are shown
    words = ['match', str(tmp_path / 'front.jpg'), str(tmp_path / 'side.jpg'), '--pick']
    assert main(words) in (0, 3)
    assert capsys.readouterr().out.startswith('(1248.5, 700.5)')
    assert window.shown[0].shape == (600, 1600, 3)


def test_without_a_display_picking_is_refused(monkeypatch, capsys):
    for name in ('DISPLAY', 'WAYLAND_DISPLAY'):
        monkeypatch.delenv(name, raising=False)
    assert_one_line(capsys, ['match', FRONT, SIDE, *K, '--pick'], 'needs a display', '--at X Y')


def test_a_headless_opencv_is_named_with_its_cure(monkeypatch, capsys):
    monkeypatch.setenv('DISPLAY', ':0')
    monkeypatch.setattr(cv2, 'namedWindow', raise_cv2_error)
    assert_one_line(capsys, ['match', FRONT, SIDE, *K, '--pick'], 'headless', 'opencv-python')


def raise_cv2_error(*args: object) -> None:
    raise cv2.error('The function is not implemented')


# --- bad input ------------------------------------------------------------------------------------

def assert_one_line(capsys, words: list[str], *parts: str, code: int = 2) -> None:
    with pytest.raises(SystemExit) as exit_:  # argparse ends the process itself
        sys.exit(main(words))
    assert exit_.value.code == code
    captured = capsys.readouterr()
    line, = (captured.err or captured.out).splitlines()
    assert [part for part in parts if part not in line] == [], line


@pytest.fixture
def bad(tmp_path) -> dict[str, str]:
    """Files that cannot be used, by what is wrong with them."""
    front = cv2.imread(FRONT)
    (tmp_path / 'text.png').write_text('not an image\n')
    (tmp_path / 'empty.png').touch()
    (tmp_path / 'cut_off.jpg').write_bytes(Path(FRONT).read_bytes()[:50_000])
    cv2.imwrite(str(tmp_path / 'deep.png'), front.astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / 'huge.png'), np.zeros((10_001, 10_001), np.uint8))
    pillow = pytest.importorskip('PIL.Image')
    with pillow.open(FRONT) as image:
        image.convert('CMYK').save(tmp_path / 'cmyk.jpg')
        image.convert('P').save(tmp_path / 'palette.png')
        image.convert('P').save(tmp_path / 'palette.gif')
    return {path.stem if path.suffix != '.gif' else 'gif': str(path) for path in tmp_path.iterdir()}


@pytest.mark.parametrize(('name', 'reason'), [
    ('text', 'cannot read as an image'), ('empty', 'cannot read'), ('cut_off', 'is cut off'),
    ('deep', 'uint16'), ('huge', 'is 10001x10001 px (limit 100 megapixels)'), ('cmyk', 'is CMYK'),
    ('palette', 'palette'), ('gif', '')])
@pytest.mark.parametrize('position', [0, 1])
def test_a_file_that_cannot_be_used_is_named(capsys, bad, name, reason, position):
    images = [FRONT, FRONT]
    images[position] = bad[name]
    assert_one_line(capsys, ['match', *images, *AT_BUTTON], bad[name], reason)


def test_a_missing_file_is_named(capsys):
    assert_one_line(capsys, ['match', FRONT, '/nowhere.jpg', *AT_BUTTON], '/nowhere.jpg')


def test_a_folder_is_refused_as_an_image(capsys, tmp_path):
    assert_one_line(capsys, ['match', FRONT, str(tmp_path), *AT_BUTTON], str(tmp_path))


def test_one_image_is_too_few(capsys):
    assert_one_line(capsys, ['match', FRONT, *AT_BUTTON], 'required: other')


@pytest.mark.parametrize('at', [('640', '10'), ('-1', '10'), ('nan', '10'), ('10', 'inf')])
def test_a_pixel_outside_is_refused(capsys, at):
    assert_one_line(capsys, ['match', FRONT, SIDE, *K, '--at', *at], 'refused', code=3)


@pytest.mark.parametrize('size', [0.5, 2.0, 3.0])
def test_intrinsics_of_another_size_are_refused(capsys, size):
    k = [str(size * float(number)) for number in K[1:]]
    assert_one_line(capsys, ['match', FRONT, SIDE, *AT_BUTTON, '--k', *k], '--k', '640x480',
                    'another size')


@pytest.mark.parametrize(('words', 'reason'), [
    (['--at', '1'], 'expected 2 arguments'),
    (['--at', 'a', 'b'], 'invalid float'),
    ([], '--at X Y, or --pick'),
    ([*AT_BUTTON, '--pick'], 'one of the two'),
    ([*AT_BUTTON, '--k', '-5', '5', '320', '240'], 'focal length'),
    ([*AT_BUTTON, '--k', 'nan', '5', '320', '240'], 'finite'),
    ([*AT_BUTTON, '--k-b', '500', '500', '320', '240'], 'give --k'),
    ([*AT_BUTTON, '--depth-a', FRONT], 'give --k'),
    ([*AT_BUTTON, *K, '--depth-a', FRONT], 'depth takes one channel'),
    ([*AT_BUTTON, *K, '--depth-a', '/nowhere.png'], '/nowhere.png'),
    ([*AT_BUTTON, *K, '--depth-scale', '0', '--depth-a', FRONT], 'depth_scale'),
    ([*AT_BUTTON, '--matcher', 'nope'], "no matcher 'nope'"),
    ([*AT_BUTTON, '--out', '/nowhere/pair.png'], 'no folder /nowhere'),
    ([*AT_BUTTON, '--out', 'pair.txt'], '.png or .jpg'),
    ([*AT_BUTTON, '--option', 'nope=1'], "no option 'nope'"),
])
def test_arguments_that_cannot_be_used_are_one_line(capsys, words, reason):
    assert_one_line(capsys, ['match', FRONT, SIDE, *words], reason)


def test_depth_of_another_size_is_refused(capsys, tmp_path):
    cv2.imwrite(str(tmp_path / 'depth.png'), np.full((240, 320), 1000, np.uint16))
    assert_one_line(capsys, ['match', FRONT, SIDE, *AT_BUTTON, *K, '--depth-a',
                             str(tmp_path / 'depth.png')], 'depth', '240')


def test_an_answer_is_printed_before_a_full_disk_is(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(match, 'write_image', raise_no_space)
    assert main(['match', FRONT, SIDE, *AT_BUTTON, *K, '--out', str(tmp_path / 'pair.png')]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith('(500.0, 280.0)')
    assert 'No space left' in captured.err


def raise_no_space(*args: object) -> None:
    raise OSError(28, os.strerror(28))
