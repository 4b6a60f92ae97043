"""One table of dialects, two readers: the matcher reads in a reply what the benchmark reads."""
from __future__ import annotations

import base64
import io

import numpy as np
import pytest

pytest.importorskip('PIL')
from PIL import Image

from crosspoint_ros.bench.crosspoint import rules_corrected
from crosspoint_ros.bench.crosspoint.rules_corrected import COORDINATES
from crosspoint_ros.core.datatypes import Rejected
from crosspoint_ros.matchers.cropond.image_processor import TRAINED_MAX_PIXELS, ImageSizes
from crosspoint_ros.matchers.cropond.prompt import CoordinateFormat, PointCodec
from crosspoint_ros.matchers.cropond.reply_parser import (
    DIALECTS,
    THOUGHTS,
    cut_thoughts,
    parse_visible_point,
)

SIZE = (1280, 720)  # shown to the model as 1008x560
SHOWN = ImageSizes.from_image_size(*SIZE, TRAINED_MAX_PIXELS)
MEANT = np.array([0.512, 0.307])
CLICK = ('56', '323')
QUESTION = 'The point at [56, 323] in the first image corresponds to which in the second image?'
PER_MILLE, FRACTION, PER_CENT, YX = (
    'relative_1000', 'relative_1', 'relative_100', 'relative_1000_yx')
A_POINT = [(PER_MILLE, text) for text in (
    # JSON: Qwen2.5-VL, Qwen3-VL, CroPond, RoboBrain
    '```json\n[{"point_2d": [512, 307], "label": "handle"}]\n```',
    '[\n\t{"point_2d": [512, 307], "label": "handle"}\n]', '{"point_2d": ["512", "307"]}',
    '{"point_2d": "512, 307"}', '{"point_2d": "[512, 307]"}', '{"point_2d": [[512, 307]]}',
    '```json\n[{"point_2d": [512, 307,],},]\n```', "[{'point_2d': [512, 307], 'label': 'it'}]",
    '{"point_2d": [5.12e2, 3.07e2]}', '{"point_2d": [512.0, 307.0]}',
    '```json\n[{"point_2d": [512, 307], "label": "the handle of the dra',
    '{"answer": {"x": 512, "y": 307}}', '{"coordinates": {"x": 512, "y": 307}}',
    '{"coord": [512, 307]}', '{"center": [512, 307]}', '{"points": [{"x": 512, "y": 307}]}',
    '{"xy": [512, 307]}', '{"X": 512, "Y": 307}', '{"y": 307, "x": 512}',
    '{"point_2d": [512, 307], "confidence": 0.93}', '{"visible": true, "point_2d": [512, 307]}',
    '{"point_2d": [512, 307], "label": "knob near (510, 300)"}',
    '[{"point_2d": [56, 323], "label": "first"}, {"point_2d": [512, 307], "label": "second"}]',
    'point_2d:\n  - 512\n  - 307', 'point_2d: [512, 307]',
    # tags: Seed1.5-VL, UI-TARS, Molmo 2, InternVL, Qwen2-VL, GLM, Florence-2
    '<point>512 307</point>', '<point>[[512, 307]]</point>', '<point>(512, 307)</point>',
    "Action: click(point='<point>512 307</point>')", "Action: click(start_box='(512,307)')",
    "click(start_box='<|box_start|>(512,307)<|box_end|>')",
    '<points coords="1 1 512 307" alt="handle">handle</points>',
    '<point coords="1 512 307">handle</point>', '<point x="512" y="307" alt="it">it</point>',
    '<ref>handle</ref><box>[[492, 287, 532, 327]]</box>', '<box>492, 287, 532, 327</box>',
    '<|box_start|>(492,287),(532,327)<|box_end|>',
    '<|begin_of_box|>[512, 307]<|end_of_box|>',
    'The handle is here: <|begin_of_box|>{"point_2d": [512, 307]}<|end_of_box|>',
    '<loc_512><loc_307>',
    # prose, bold, LaTeX
    '[512, 307]', '(512, 307)', '512, 307', '512 307', '512\n307', 'Point: 512 307',
    '**x: 512**, **y: 307**', '- **x**: 512\n- **y**: 307', '**X = 512, Y = 307**',
    'The point is at (**512**, **307**).', 'The answer is $\\left(512, 307\\right)$.',
    '$\\boxed{(512, 307)}$', '\\boxed{\\left(512, 307\\right)}', '\\boxed{512, 307}',
    '\\[ (512, 307) \\]', 'x ≈ 512, y ≈ 307', 'approximately x=512 and y=307',
    'x is 512 and y is 307', 'The x-coordinate is 512, and the y-coordinate is 307.',
    'y: 307, x: 512', '（５１２，３０７）',
    '对应点的坐标是（512，307）。', '横坐标为512，纵坐标为307',
    'The coordinates are 512, 307.', '座標は 512, 307 です',
    'At (512, 307).\n{"point_2d": [512, 307]}',
    'The point [56, 323] is the knob. In the second image: [512, 307]', '[(512, 307)]',
    'First guess:\n{"point_2d": [100, 100]}\nFinal answer:\n{"point_2d": [512, 307]}',
    # after thoughts
    '◁think▷First (100, 200), or (300, 400).◁/think▷The point is (512, 307).',
    '<think>maybe [100, 200]</think>[512, 307]', 'maybe [100, 200]</think>[512, 307]',
    '<thinking>maybe [100, 200]</thinking>[512, 307]', '[THINK]maybe (1, 2)[/THINK](512, 307)',
    '<think>maybe [100, 200]</think><answer>[512, 307]</answer>', '<answer>(512, 307)',
    '<think>maybe (100, 200)<answer>{"point_2d": [512, 307]}</answer>',
    '<seed:think>maybe (100, 200)</seed:think>(512, 307)',
    '<|channel|>analysis<|message|>maybe (1, 2)<|end|><|start|>assistant<|channel|>final<|message|>'
    '(512, 307)', 'analysisWe look at (100, 200).assistantfinal(512, 307)',
    '<unused94>thought\nmaybe (100, 200)<unused95>(512, 307)',
    'Here is my thought process: (100, 200)? Here is my response: (512, 307)',
)] + [
    (FRACTION, '(0.512, 0.307)'), (FRACTION, '[(0.512, 0.307)]'), (FRACTION, '[.512, .307]'),
    (FRACTION, '{"point_2d": [0.512, 0.307]}'), (FRACTION, 'x: 0.512, y: 0.307'),
    (PER_CENT, '<point x="51.2" y="30.7" alt="handle">handle</point>'),
    (PER_CENT, '<points x1="51.2" y1="30.7" alt="it">it</points>'), (PER_CENT, '[51.2, 30.7]'),
    (PER_CENT, '{"point": [51.2, 30.7]}'),
    (YX, '[{"point": [307, 512], "label": "handle"}]'), (YX, '```json\n{"point": [307, 512]}\n```'),
    (YX, '[307, 512]'), (YX, '{"x": 512, "y": 307}'), (YX, 'y: 307, x: 512'),
    (YX, 'From [56, 323] to [307, 512]'), (YX, '<box>[[287, 492, 327, 532]]</box>'),
    ('absolute', '{"point_2d": [655.4, 221]}'), ('absolute', '(655, 221)'),
    ('absolute_shown', '{"point_2d": [516, 172]}'), ('absolute_shown', '<point>516 172</point>'),
]
NO_POINT = [
    # cut off, or a thought that does not end
    '', '   \n', '```json\n[{"point_2d": [512, 30', '[512, 30', '(512, 30', 'It is at [512,',
    '<think>maybe [512, 307]', '<think>a</think><think>[512, 307]', '<thinking>maybe (512, 307) or',
    '[THINK]maybe (512, 307)', '◁think▷maybe (512, 307)', '<seed:think>at (512, 307), I think',
    '<|channel|>analysis<|message|>maybe (512, 307)', 'analysisWe look at (512, 307).',
    '<unused94>thought\n(512, 307)', '<|START_THINKING|>(512, 307)',
    '<|channel>thought\n(512, 307)',
    'Here is my thought process: at (512, 307)',
    # not visible
    'The point is not visible in the second image.', 'The point at [56, 323] is not visible.',
    'The point [56, 323] cannot be seen in the second image.', '{"point_2d": null}', '{}',
    'The point is not visible in the second image.\n[{"point_2d": [512, 307]}]',
    '{"point_2d": [512, 307], "label": "not visible"}', '{"point_2d": [512, 307], "visible": 0}',
    '{"point_2d": [512, 307], "visible": "false"}', '{"point_2d": [512, 307], "occluded": true}',
    # boxes by name: a corner is no point
    '{"x1": 504, "x2": 512, "y1": 307, "y2": 310}', 'x1=504, x2=512, y1=307, y2=310',
    '{"point_2d": null, "reason": "hidden behind [512, 307]"}', '{"point_2d": []}',
    '{"visible": false, "point_2d": [512, 307]}', '{"point_2d": [56, 323], "label": "not visible"}',
    '[56, 323] is occluded by the box at [512, 307].',
    '第二张图像中不可见：（512，307）', '```json\n[]\n```',
    'No corresponding point: [56, 323] shows the shelf.', '{"point_2d": "none"} [56, 323]',
    'Final answer: not visible. ', 'I considered [512, 307]. Final answer: not visible.',
    "I can't find it; (512, 307) would be a guess.", '[-1, -1]', '{"point_2d": [-1, -1]}',
    # other numbers, or several points
    'There are 2 images and 3 cups.', '[512, 307, 1]', '{"bbox_2d": [492, 287, 532, 327]}',
    '{"point_2d": [492, 287, 532, 327]}', '[1,024, 768]', '[(510, 305), (512, 307), (514, 309)]',
    'It is [512, 307] or [500, 300].', '<box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>',
    '<loc_1><loc_2><loc_3><loc_4>', '<points coords="1 1 512 307 2 530 310">', 'A', 'points 1 to 2',
    '<html><body>502 Bad Gateway</body></html>', '{"point_2d": [NaN, 307]}',
]


def build_record(reply: str) -> dict:
    """A pointing item with a reply, whose mask is a disc of 3 px around what is meant."""
    y, x = np.mgrid[:SIZE[1], :SIZE[0]]
    disc = np.hypot(*(np.stack([x, y]) + 0.5 - (MEANT * SIZE)[:, None, None])) <= 3
    content = io.BytesIO()
    Image.fromarray(disc.astype(np.uint8) * 255).save(content, 'PNG')
    return {'type': 'Correspondence-Pointing', 'question': QUESTION, 'images': [],
            'answer': base64.b64encode(content.getvalue()).decode(), 'assistant': reply}


@pytest.fixture(scope='module')
def record():
    return build_record('')


def read_by_matcher(reply: str, coordinates: str) -> np.ndarray:
    """Return the pixel; the matcher's `absolute` is that of the shown image."""
    coord_format = CoordinateFormat('absolute' if coordinates == 'absolute_shown' else coordinates)
    click = CLICK[::-1] if coord_format.is_y_first and '56, 323' not in reply else CLICK
    return PointCodec(coord_format, SHOWN).decode(
        *parse_visible_point(reply, click, coord_format.is_y_first))


def test_the_table_is_large_and_has_every_convention():
    assert len(A_POINT) + len(NO_POINT) >= 80
    assert {coordinates for coordinates, _ in A_POINT} == set(COORDINATES)
    assert len({text for _, text in A_POINT} | set(NO_POINT)) >= len(A_POINT) + len(NO_POINT) - 5


@pytest.mark.parametrize(('coordinates', 'reply'), A_POINT)
def test_both_readers_find_the_point_that_is_meant(record, tmp_path, coordinates, reply):
    graded = rules_corrected.grade({**record, 'assistant': reply}, coordinates, tmp_path)
    if coordinates == 'absolute_shown':  # without its image, the mask has the size
        assert graded.pixel is not None
    assert graded.is_correct, graded
    if coordinates != 'absolute':
        np.testing.assert_allclose(read_by_matcher(reply, coordinates), MEANT * SIZE, atol=1.5)


@pytest.mark.parametrize('coordinates', COORDINATES)
@pytest.mark.parametrize('reply', NO_POINT)
def test_no_reader_finds_a_point_where_there_is_no_answer(record, tmp_path, reply, coordinates):
    graded = rules_corrected.grade({**record, 'assistant': reply}, coordinates, tmp_path)
    assert graded.answer is None or min(graded.answer) < 0
    assert not graded.is_correct
    with pytest.raises(Rejected):
        read_by_matcher(reply, coordinates)


def test_every_dialect_with_a_convention_names_a_known_one():
    assert {d.coordinates for d in DIALECTS if d.coordinates} <= set(COORDINATES)
    assert all(d.writers for d in DIALECTS)


@pytest.mark.parametrize(('begin', 'end'), [
    ('<think>', '</think>'), ('<thinking>', '</thinking>'), ('<seed:think>', '</seed:think>'),
    ('<thought>', '</thought>'), ('<reasoning>', '</reasoning>'), ('[THINK]', '[/THINK]'),
    ('◁think▷', '◁/think▷'), ('<|channel|>analysis<|message|>', '<|channel|>final<|message|>'),
    ('<|channel>thought', '<channel|>'), ('<unused94>thought', '<unused95>'),
    ('<|START_THINKING|>', '<|END_THINKING|>'), ('<|begin_of_thought|>', '<|end_of_thought|>'),
    ('Here is my thought process:', 'Here is my response:')])
def test_a_thought_is_no_answer_and_what_follows_it_is(begin, end):
    assert cut_thoughts(f'{begin} it is B {end} C').strip() == 'C'
    assert cut_thoughts(f'{begin} it is B') == ''
    assert cut_thoughts(f'it is B {end} C').strip() == 'C'  # the prompt began the thought
    assert len(THOUGHTS) >= 10


def test_a_choice_within_an_unclosed_thought_is_no_answer(tmp_path):
    item = {'type': 'Visibility Reasoning', 'question': 'Is it? A.Yes B.No', 'answer': 'A'}
    for reply, letter in (('<think>The answer is A', None), ('[THINK]B[/THINK]A', 'A'),
                          ('<think>B or <answer>A</answer>', 'A')):
        graded = rules_corrected.grade({**item, 'assistant': reply}, PER_MILLE, tmp_path)
        assert graded.answer == letter
