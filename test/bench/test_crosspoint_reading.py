"""What the corrected rules read in a reply is what a person would read in it."""
from __future__ import annotations

import pytest

pytest.importorskip('PIL')

from crosspoint_ros.bench.crosspoint.rules_corrected import parse_answer_points, parse_letter

QUESTION = 'Which one?\nA. Red dot\nB. Green dot\nC. Blue dot\nD. Yellow dot'
ASKED = 'The point at [56, 323] in the first image is which one in the second?'


@pytest.mark.parametrize(('said', 'letter'), [
    ('C)', 'C'), ('**C**', 'C'), ('Ｃ．青い点', 'C'), ('{"answer": "C"}', 'C'),
    ('<answer>C</answer>', 'C'), ('\\boxed{\\textbf{C}}', 'C'), ('\\boxed{\\text{Blue dot}}', 'C'),
    ('### Answer\nC', 'C'), ('C\n\nA. Red dot is elsewhere.', 'C'), ('选择C，因为B不可见', 'C'),
    ('A、B都不对，答案是C', 'C'), ('La respuesta correcta es la C.', 'C'), ('Ответ: C', 'C'),
    ('The blue dot.', 'C'), ('option c is right', 'C'), ('the answer is a.', 'A')])
def test_a_letter_is_read_in_the_ways_that_models_write_it(said, letter):
    assert parse_letter(said, QUESTION) == letter


@pytest.mark.parametrize(('said', 'letter'), [
    ('The answer is not A. It is B.', 'B'), ('I would not choose A; B is right.', 'B'),
    ('Thus C, not D', 'C'), ('D is wrong, so C', 'C'), ('Answer: C (not D)', 'C'),
    ('Option C is correct; option D is wrong', 'C'), ("It isn't B, it's C", 'C'),
    ('So, option C matches. Option D does not match.', 'C'),
    ('Option A is wrong. Option B is wrong. Option C is right. Option D is wrong.', 'C'),
    ('1. A: no\n2. B: no\n3. C: yes\n\n**C**', 'C'), ('A: no. B: no. C: yes. D: no.', None),
    ('Neither A nor B', None), ('Answer: A or B', None), ('Answer: A, B', None),
    ('\\boxed{A or B}', None), ('Answer: A, B is hidden.', 'A'), ('A. Red dot, not B', 'A'),
    ('answer a question first: D', 'D'), ('The answer is A as B is hidden', 'A')])
def test_options_that_a_reply_weighs_or_rules_out_are_not_the_one_it_means(said, letter):
    assert parse_letter(said, QUESTION) == letter


@pytest.mark.parametrize(('said', 'point'), [
    ('y: 307, x: 512', (512, 307)), ('y=307 x=512', (512, 307)),
    ('The coordinates are 512, 307.', (512, 307)), ('座標は 512, 307 です', (512, 307)),
    ('<point>512, 307</point>', (512, 307)), ('\\boxed{512, 307}', (512, 307)),
    ('Its position is -5, 10', (-5, 10)), ('the point is 0.5, 0.25', (0.5, 0.25)),
    ('From [56, 323] to [512, 307]', (512, 307)), ('images 1, 2', None),
    ('The point is not visible in 1, 2', None), ('Its position is 512, 307 and 12', None),
    ('The location is (512, 30', None), ('point 12, 34%', None)])
def test_two_numbers_are_a_point_where_the_reply_calls_them_one(said, point):
    assert list(parse_answer_points(said, ASKED)) == ([] if point is None else [point])
