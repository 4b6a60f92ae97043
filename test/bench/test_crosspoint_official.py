"""`--official` is what the authors' two scripts do, odd as it may be."""
from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import math
import os
from pathlib import Path

import pytest

pytest.importorskip('PIL')
from model_replies import generate_records
from PIL import Image

from crosspoint_ros.bench.crosspoint import rules_official

OFFICIAL = os.environ.get('CROSSPOINT_OFFICIAL', '')
# Of the answers to the replies of seed 0, held against the authors' scripts by the test below.
SEEN = '0b573f2253cb7fae'
SCORES = [(seed, 'relative_1000') for seed in range(4)] + [(4, 'absolute'), (5, 'relative_1')]


@pytest.fixture
def images(tmp_path):
    for name, size in (('a.png', (64, 48)), ('b.png', (128, 96)), ('c.png', (32, 40))):
        Image.new('RGB', size).save(tmp_path / name)
    (tmp_path / 'damaged.png').write_bytes(b'no image')
    return tmp_path


NAMES = ['a.png', 'b.png', 'c.png', 'damaged.png']


def read_in(text: str, kind: str = 'Correspondence-Pointing', question: str = ''):
    return rules_official.extract_answer({'assistant': text, 'type': kind, 'question': question})


@pytest.mark.parametrize(('text', 'point'), [
    ('```json\n[{"point_2d": [512, 307]}]\n```', (512, 307)),
    ('[-5, 10]', (5, 10)),  # the last pattern passes over the sign
    ('The point [56, 323] maps to [512, 307]', (56, 323)),  # the first, which was asked about
    ('y: 3, x: 4', (4, 3)),
    ('{"point": [1, 2]} {"point_2d": [3, 4]}', (3, 4)),
    ('{"x": NaN, "y": 2}', None),
    ('I see nothing.', None)])
def test_a_point_is_read_as_the_authors_read_it(text, point):
    found = read_in(text)
    if point is None and found is not None:
        assert math.isnan(found[0])
        return
    assert found == point


@pytest.mark.parametrize(('text', 'letter'), [
    ('B', 'B'), ('(b)', 'B'), ('A. Yes', 'A'), ('Not A. Rather B.', 'A'), ('答案是C', 'C'),
    ('So it is B', 'B'), ('No.', 'B'), ('Yes', None), ('The answer is unclear', None)])
def test_a_letter_is_read_as_the_authors_read_it(text, letter):
    question = 'Is it? A.Yes B.No'
    if text == 'Yes':  # the option's text is seen only where it has none of the letters a to d
        letter = 'A'
    if text == 'The answer is unclear':  # the c of `unclear`
        letter = 'C'
    assert read_in(text, 'Visibility Reasoning', question) == letter


@pytest.mark.parametrize('text', ['{"x": [1], "y": 2}', '{"point_2d": [null, 1]}'])
def test_a_reply_that_ends_their_scripts_is_no_answer_and_says_so(text, tmp_path):
    record = {'assistant': text, 'type': 'Correspondence-Pointing', 'answer': ''}
    found = rules_official.grade(record, 'relative_1000', tmp_path)
    assert (found.answer, found.is_correct) == (None, False)
    assert found.crash.startswith('TypeError')


def test_answers_to_varied_replies_are_those_the_authors_scripts_were_seen_to_give(images):
    found = [rules_official.grade(record, 'relative_1000', images)
             for record in generate_records(0, 2500, NAMES)]
    assert len({repr(each.answer) for each in found}) > 400
    told = repr([(each.answer, each.is_correct, each.crash.partition(':')[0]) for each in found])
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == SEEN


def scripts():
    """The authors' two scripts, from the folder that CROSSPOINT_OFFICIAL names."""
    found = []
    for name in ('extract_answers', 'calc_score'):
        spec = importlib.util.spec_from_file_location(name, Path(OFFICIAL) / f'{name}.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found.append(module)
    return found


def theirs(extract, calc, folder: Path, records: list[dict], coordinates: str):
    """What the scripts make of a file of replies, as whole programs would."""
    replies = folder / 'inference' / 'eval_m.jsonl'
    replies.parent.mkdir(exist_ok=True)
    replies.write_text(''.join(json.dumps(r, ensure_ascii=False) + '\n' for r in records))
    with contextlib.redirect_stdout(io.StringIO()):
        extract.AnswerExtractor(str(replies), coordinates, str(folder)).run()
        extracted = folder / 'extracted' / 'extracted_m.json'
        scores, stats = calc.process_file(str(extracted))
    return json.loads(extracted.read_text()), scores, stats


@pytest.mark.skipif(not OFFICIAL, reason="CROSSPOINT_OFFICIAL names no folder of the authors' "
                                         'extract_answers.py and calc_score.py')
@pytest.mark.parametrize(('seed', 'coordinates'), SCORES)
def test_every_answer_and_score_is_that_of_the_authors_scripts(seed, coordinates, images):
    extract, calc = scripts()
    asked, stopped = [], 0
    for record in generate_records(seed, 2500, NAMES):
        ours = rules_official.grade(record, coordinates, images)
        if ours.crash:  # theirs must end too, with the very same error
            stopped += 1
            with pytest.raises(Exception) as raised:  # noqa: PT011  (the kind is compared below)
                theirs(extract, calc, images, [record], coordinates)
            assert type(raised.value).__name__ == ours.crash.split(':')[0]
        else:
            asked.append((record, ours))
    extracted, scores, stats = theirs(extract, calc, images, [r for r, _ in asked], coordinates)
    assert len(asked) == len(extracted) == len(scores) >= 2000
    for (record, ours), item, scored in zip(asked, extracted, scores, strict=True):
        answer = item['extracted_answer']
        answer = (answer['x'], answer['y']) if isinstance(answer, dict) else answer
        assert repr(ours.answer) == repr(answer), record['assistant']
        place = item.get('extracted_answer_absolute')
        assert repr(ours.pixel) == repr(place and (place['x'], place['y'])), record
        assert ours.is_correct == bool(scored['score']), record
    assert stats['Overall']['correct'] == sum(ours.is_correct for _, ours in asked) > 50
    print(f'{len(asked)} replies equal, {stopped} that end both')
