"""Every way in which a model was seen, or must be expected, to write a point is a row here."""
from __future__ import annotations

import pytest

from crosspoint_ros.matchers.cropond.reply_parser import (
    ParseError,
    parse_choice,
    parse_point,
    parse_points,
)

CLICKED = ('56', '323')
REPLIES = [
    # the model's own JSON
    ('```json\n[\n\t{"point_2d": [512, 307], "label": "handle"}\n]\n```', (512, 307)),
    ('```json\n{"point_2d": [512, 307]}\n```', (512, 307)),
    ('```\n[{"point_2d": [512, 307]}]\n```', (512, 307)),
    ('[{"point_2d": [512, 307], "label": "the [left] one"}]', (512, 307)),
    ('{"point_2d": [512, 307]}', (512, 307)),
    ('{"point": [512, 307]}', (512, 307)),
    ('{"Point_2D": [512, 307]}', (512, 307)),
    ('{"points": [[512, 307]]}', (512, 307)),
    ('{"coordinates": [512, 307]}', (512, 307)),
    ('{"position": {"x": 512, "y": 307}}', (512, 307)),
    ('{"x": 512, "y": 307}', (512, 307)),
    ('{"x": "512", "y": "307"}', (512, 307)),
    ('[{"label": "handle", "x": 512, "y": 307}]', (512, 307)),
    ('{"answer": 1} {"point_2d": [512, 307]}', (512, 307)),
    ('{"point_2d": "512, 307"}', (512, 307)),
    ('{"point_2d": "(512, 307)"}', (512, 307)),
    # with comments, commas too many, or cut off
    ('```json\n[\n  {"point_2d": [512, 307]} // the handle\n]\n```', (512, 307)),
    ('```json\n[\n  // the handle\n  {"point_2d": [512, 307]}\n]', (512, 307)),
    ('{"point_2d": [512, 307] /* px */}', (512, 307)),
    ('# found it\n{"point_2d": [512, 307]}', (512, 307)),
    ('[{"point_2d": [512, 307],},]', (512, 307)),
    ('```json\n[\n\t{"point_2d": [512, 307], "label": "han', (512, 307)),
    ("[{'point_2d': [512, 307]}]", (512, 307)),
    ("{'x': 512, 'y': 307}", (512, 307)),
    # text
    ('[512, 307]', (512, 307)),
    ('[[512, 307]]', (512, 307)),
    ('(512, 307)', (512, 307)),
    ('512, 307', (512, 307)),
    ('512 307', (512, 307)),
    ('x=512, y=307', (512, 307)),
    ('x: 512 y: 307', (512, 307)),
    ('x = 512 and y = 307', (512, 307)),
    ('(512px, 307 px)', (512, 307)),
    ('点的坐标是（512，307）。', (512, 307)),
    ('<point x="51.2" y="30.7" alt="handle">handle</point>', (51.2, 30.7)),
    ('<points x1="51.2" y1="30.7">', (51.2, 30.7)),
    ('The corresponding point is at (512, 307) in the second image.', (512, 307)),
    ('点的坐标是 [512, 307]。', (512, 307)),
    ('point: 512, 307', (512, 307)),
    # numbers
    ('{"point_2d": [0.512, 0.307]}', (0.512, 0.307)),
    ('(.5, .25)', (0.5, 0.25)),
    ('[5.12e2, 307]', (512, 307)),
    ('[-5, 10]', (-5, 10)),
    ('{"point_2d": [-5, 10]}', (-5, 10)),
    ('{"point_2d": [5000, 10]}', (5000, 10)),
    # the clicked point said again
    ('The point [56, 323] maps to [512, 307].', (512, 307)),
    ('The point at (56, 323) corresponds to (512, 307).', (512, 307)),
    ('{"point_2d": [56, 323]}', (56, 323)),  # alone it is the answer
    ('[56, 323]', (56, 323)),
    ('The point [56, 323] corresponds to (512, 307).', (512, 307)),
    ('[56, 323] it was, and as [56, 323] shows a cup: [512, 307]', (512, 307)),
    ('{"point_2d": [56, 323]} is {"point_2d": [512, 307]} there', (512, 307)),
    ('[{"image": 1, "point_2d": [56, 323]}, {"image": 2, "point_2d": [512, 307]}]', (512, 307)),
    ('{"first": [56, 323], "second": [512, 307]}', (512, 307)),
    ('The point [56, 323] maps to [56, 323].', (56, 323)),
    # other numbers beside it
    ('{"point_2d": [500, 300], "confidence": 0.9}', (500, 300)),
    ('{"confidence": 0.9, "point_2d": [500, 300]}', (500, 300)),
    ('{"x": 500, "y": 300, "confidence": 0.9}', (500, 300)),
    ('{"image_size": [640, 480], "point_2d": [500, 300]}', (500, 300)),
    ('(500, 300) in 640x480 image', (500, 300)),
    ('[500, 300] (confidence 0.9)', (500, 300)),
    # the same one twice
    ('[{"point_2d": [512, 307]}, {"point_2d": [512, 307.0]}]', (512, 307)),
]
SEVERAL = [
    '{"points": [[512, 307], [1, 2]]}', '<points x1="51.2" y1="30.7" x2="1" y2="2">',
    '[{"point_2d": [512, 307]}, {"point_2d": [1, 2]}]', 'It is [512, 307] or [1, 2].',
    '[56, 323] is [512, 307] or [1, 2].', '(500, 300) of (640, 480)',
    'Image size (640, 480), point (500, 300)', '(640, 480) image: (500, 300)',
]
EMPTY = [
    '', '   \n', 'The point is not visible in the second image.', 'A', '```json\n[]\n```', '{}',
    '{"point_2d": []}', '{"point_2d": null}', '{"point_2d": [512]}', '{"point_2d": [true, false]}',
    '{"point_2d": ["left", "top"]}', '{"point_2d": [NaN, 307]}', 'There are 2 images and 3 cups.',
    '{"bbox_2d": [1, 2, 3, 4]}', '<html><body>502 Bad Gateway</body></html>', '[' * 5000,
    '{"point_2d": [' + '9' * 5000 + ', 1]}', '{"point_2d": [' + '9' * 3000 + ', 1]}',
    '1' + ' ' * 100_000 + '2', '[512, 307, 1]', '[1,024, 768]', '(51.2%, 30.7%)',
    # a box, or who knows what
    '{"point_2d": [500, 300, 640, 480]}', '{"point_2d": [500, 300, 0.9]}', '(500, 300, 0.9)',
    'point: 500, 300, 640, 480', 'point_2d: 500, 300; 640, 480', '500, 300, 0.9',
    # cut off: the number may go on
    '{"point_2d": [512, 307', '{"point_2d": [512, 3', '[512, 30', '(512, 30', '{"point_2d": [512',
]


@pytest.mark.parametrize(('reply', 'expected'), REPLIES)
def test_the_point_is_found(reply, expected):
    assert parse_point(reply, CLICKED) == expected


@pytest.mark.parametrize('reply', EMPTY, ids=lambda reply: reply[:40] or 'nothing')
def test_a_reply_without_a_point_is_said_to_have_none(reply):
    with pytest.raises(ParseError, match=r'no point|nothing'):
        parse_point(reply, CLICKED)


@pytest.mark.parametrize('reply', SEVERAL)
def test_a_reply_that_names_several_points_answers_with_none_of_them(reply):
    with pytest.raises(ParseError, match='no single point but 2'):
        parse_point(reply, CLICKED)


def test_a_long_reply_is_quoted_in_short():
    with pytest.raises(ParseError) as raised:
        parse_point('I cannot see it. ' * 1000)
    assert len(str(raised.value)) < 200


def test_all_points_of_a_reply_keep_their_order():
    assert parse_points('[{"point_2d": [1, 2]}, {"point_2d": [3, 4]}]') == [(1, 2), (3, 4)]


@pytest.mark.parametrize(('reply', 'expected'), [
    ('A', 'A'), ('B.', 'B'), ('The answer is B', 'B'), ('(C) no', 'C'), ('**Answer:** B', 'B'),
    ('A is wrong, so the answer is D.', 'D'), ('The answer is A because it shows B', 'A'),
    ('B. A cup stands there', 'B'), ('Yes', 'A'), ('A cup is not visible: no', 'B')])
def test_the_letter_is_found(reply, expected):
    assert parse_choice(reply, ('Yes', 'No')) == expected


@pytest.mark.parametrize('reply', ['maybe', 'yes and no', ''])
def test_a_reply_without_a_letter_is_said_to_have_none(reply):
    with pytest.raises(ParseError, match=r'no answer|nothing'):
        parse_choice(reply, ('Yes', 'No'))
