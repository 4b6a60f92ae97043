"""`data check` and `data train-config` on sets that people and their scripts wrote."""
from __future__ import annotations

import copy
import json
import random
from pathlib import Path

import cv2
import numpy as np
import pytest

from crosspoint_ros.cli import main

PAIR = {'clicked': 'a', 'other': 'b', 'angle_deg': 20.0, 'distance_m': 0.4, 'overlap': 0.5,
        'cell': [0, 1, 1]}
QUESTION = {
    'id': 'one', 'type': 'cross_correspondence', 'scene': 'kitchen',
    'images': ['images/a.png', 'images/b.png'], 'visual_image': ['images/a.png', 'images/b.png'],
    'conversations': [{'from': 'human', 'value': '<image>\n<image>\nWhere is [1, 2]?'},
                      {'from': 'gpt', 'value': '[3, 4]'}],
    'coordinates': 'thousand', 'points': [[10.0, 11.0]], 'point1': [10.0, 11.0],
    'point2': [20.0, 21.0], 'visible': True, 'pair': PAIR}
TEXT = json.dumps(QUESTION)
OTHER = json.dumps({**QUESTION, 'conversations': [
    {'from': 'human', 'value': '<image><image> And [3, 4]?'}, {'from': 'gpt', 'value': 'Left.'}]})


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / 'set'
    (made / 'images').mkdir(parents=True)
    for name in 'ab':
        cv2.imwrite(str(made / f'images/{name}.png'), np.full((48, 64, 3), 90, np.uint8))
    write(made, f'[\n{TEXT}\n]\n')
    return made


def write(folder, text):
    data = text if isinstance(text, bytes) else text.encode('utf-8', 'surrogatepass')
    (folder / 'crosspoint_train.json').write_bytes(data)


def check(folder, capsys, *words):
    code = main(['data', 'check', str(folder), *words])
    output = capsys.readouterr()
    return code, output.out + output.err


def configure(folder, capsys):
    code = main(['data', 'train-config', str(folder), '--out', str(folder / 'training'),
                 '--model', 'a/b'])
    output = capsys.readouterr()
    return code, output.out + output.err


LAYOUTS = {
    'lines in a list': f'[\n{TEXT},\n{OTHER}\n]\n', 'one line': f'[{TEXT}, {OTHER}]',
    'indented': json.dumps([json.loads(TEXT), json.loads(OTHER)], indent=4),
    'by tabs': json.dumps([json.loads(TEXT), json.loads(OTHER)], indent='\t'),
    'JSON lines': f'{TEXT}\n{OTHER}\n', 'no end of line': f'{TEXT}\n{OTHER}',
    'carriage returns': f'[\r\n{TEXT},\r\n{OTHER}\r\n]\r\n', 'comma first': f'[{TEXT}\n,{OTHER}]',
    'blank lines': f'[\n\n{TEXT}\n,\n\n{OTHER}\n]\n\n',
    'indented JSON lines': f'{json.dumps(json.loads(TEXT), indent=1)}\n{OTHER}'}


@pytest.mark.parametrize('text', LAYOUTS.values(), ids=LAYOUTS)
def test_questions_are_read_in_every_layout_of_json(folder, capsys, text):
    write(folder, text)
    code, output = check(folder, capsys)
    assert '2 questions, 1 scene(s)' in output
    assert 'no faults' in output
    assert code == 0
    code, output = configure(folder, capsys)
    assert code == 0
    assert '2 questions to train on' in output


def test_questions_larger_than_what_is_read_at_once_are_whole(folder, capsys):
    questions = [json.loads(OTHER) for _ in range(300)]
    for number, question in enumerate(questions):
        question['conversations'][0]['value'] += f' é{number}' + 'é"\\' * 3000
    for layout in ({}, {'indent': 1}, {'ensure_ascii': False}):
        write(folder, json.dumps(questions, **layout))
        assert '300 questions' in check(folder, capsys)[1]
        assert 'no faults' in check(folder, capsys)[1]


# What people write, and what is reported; the trainer's reader (datasets 4.8.5) refuses it too.
FAULTS = {
    'a cut file': (f'[\n{TEXT},\n{OTHER[:200]}', 'item 2: not a question: invalid JSON: line 3'),
    'a list without its end': (f'[\n{TEXT},\n{OTHER}\n', 'item 2: not a question: the list has no'),
    'no comma': (f'[\n{TEXT}\n{OTHER}\n]',
                 'item 2: not a question: invalid JSON: line 3: no comma'),
    'a comma at the end': (f'[\n{TEXT},\n]', 'invalid JSON: line 3: a comma before the ]'),
    'commas in JSON lines': (f'{TEXT},\n{OTHER}\n', 'item 2: not a question: invalid JSON: line 1'),
    'text after the list': (f'[\n{TEXT}\n]\nthe end', 'invalid JSON: line 4: text after the list'),
    'blanks before the list': (f'\n\n[{TEXT}]', 'item 1: not a question: blanks before the list'),
    'UTF-16': (f'[{TEXT}]'.encode('utf-16'), 'item 1: not a question: not UTF-8'),
    'UTF-16 without a mark': (f'[{TEXT}]'.encode('utf-16-le'),
                              'item 1: not a question: invalid JSON'),
    'UTF-32': (f'[{TEXT}]'.encode('utf-32'), 'item 1: not a question: not UTF-8'),
    'Latin-1': (f'[\n{TEXT},\n{OTHER.replace("Left", "À gauche")}]'.encode('latin-1'),
                'item 2: not a question: not UTF-8: line 3'),
    'a byte order mark': (f'\ufeff[{TEXT}]', 'item 1: not a question: a byte order mark: '),
    'the names of other trainers': (
        '[{"messages": [{"role": "user", "content": "?"}], "images": []}]',
        'item 1: conversations: missing'),
    'nested lists': (f'[[{TEXT}]]', 'item 1: not a question: not an object but a list'),
    'null': (f'[\n{TEXT},\nnull,\n{OTHER}]', 'item 2: not a question: not an object but null'),
    'null, and what follows it': ('[null, 7, "x"]', '3 questions'),
    'one object': (f'{{"data": [{TEXT}]}}', 'item 1: conversations: missing'),
    'a thousand brackets': ('[' * 100_000, 'item 1: not a question: invalid JSON'),
    'a number of 5000 digits': (f'[{TEXT.replace("10.0", "1" * 5000)}]',
                                'item 1: not a question: invalid JSON'),
    'nothing': ('', 'set hold no questions'), 'an empty list': ('[]', 'set hold no questions')}


@pytest.mark.parametrize(('text', 'reported'), FAULTS.values(), ids=FAULTS)
def test_what_is_not_a_set_of_questions_is_named_with_its_place(folder, capsys, text, reported):
    write(folder, text)
    code, output = check(folder, capsys)
    assert reported in output
    assert code == 1
    code, output = configure(folder, capsys)
    assert code == 1
    assert 'crosspoint_train.json' in output or '0 questions' in output
    assert not (folder / 'training').exists()


def test_a_broken_question_hides_none_of_those_after_it(folder, capsys):
    broken = TEXT.replace('"id"', 'id')
    write(folder, f'[\n{TEXT},\n{broken},\n{OTHER}\n]\n')
    assert '3 questions' in check(folder, capsys)[1]
    indented = json.dumps([json.loads(TEXT)] * 3, indent=2).split('"id"')
    write(folder, indented[0] + '"id"' + indented[1] + 'id' + indented[2] + '"id"' + indented[3])
    code, output = check(folder, capsys)
    assert '3 questions' in output
    assert 'item 2: not a question: invalid JSON: line' in output
    assert code == 1


TURNS = QUESTION['conversations']
WRONG = [  # field, value, what is reported; whether a trainer may not have it either
    ('conversations', TURNS[:1], 'conversations: no answer', True),
    ('conversations', [TURNS[0], {'from': 'gpt'}], 'conversations[1].value: missing', True),
    ('conversations', [TURNS[0], {'from': 'gpt', 'value': ' \n'}],
     'conversations[1].value: empty', True),
    ('conversations', [TURNS[0], {'from': 'gpt', 'value': None}],
     'conversations[1].value: null', True),
    ('conversations', TURNS[::-1], "conversations[0].from: a wrong role: 'gpt'", True),
    ('conversations', [*TURNS, TURNS[0]], 'conversations: no answer', True),
    ('conversations', [{'role': 'user', 'content': '?'}], 'conversations[0].from: missing', True),
    ('conversations', [{**TURNS[0], 'value': '<image> Where?'}, TURNS[1]],
     'conversations: 1 <image> for 2 images', True),
    ('conversations', [TURNS[0], {**TURNS[1], 'value': '<image>'}],
     'conversations: 3 <image> for 2 images', True),
    ('conversations', {}, 'conversations: an object', True),
    ('conversations', [], 'no answer', True),
    ('images', [], 'images: empty', True), ('images', 'images/a.png', 'images: a string', True),
    ('images', None, 'images: null', True), ('images', [None, 'x'], 'images[0]: null', True),
    ('images', ['images/a.png'], '2 <image> for 1 images', True),
    ('images', ['images/a.png', 'images'], 'images[1]: ', True),
    ('images', ['images/a.png', 'no\0thing'], 'images[1]: ', True),
    ('images', ['images/a.png', 'x' * 5000], 'images[1]: ', True),
    ('images', ['images/a.png', '\ud800'], 'images[1]: ', True),
    ('images', ['images/a.png', ''], 'images[1]: empty', True),
    ('visual_image', 'images/a.png', 'visual_image: a string', False),
    ('visual_image', ['nowhere.png'], 'visual_image[0]: ', False),
    ('id', None, 'id: null', False), ('id', {}, 'id: an object', False),
    ('type', 'cross_word', "type: an unknown type: 'cross_word'", False),
    ('type', ['x'], 'type: a list', False),
    ('scene', 7, 'scene: a number', False), ('visible', 'yes', 'visible: a string', False),
    ('coordinates', 'metre', "coordinates: an unknown unit: 'metre'", False),
    ('coordinates', [], 'coordinates: a list', False),
    ('point1', [1], 'point1: ', False), ('point1', 'left', 'point1: ', False),
    ('point1', [None, 1], 'point1: ', False), ('point2', [[1, 2], 3], 'point2: ', False),
    ('point1', [-3, 5], 'point1: a point outside its image', False),
    ('point1', [float('nan'), 5], 'point1: ', False), ('point2', [10 ** 400, 5], 'point2: ', False),
    ('point2', [True, 5], 'point2: ', False), ('points', [[1, 2, 3]], 'points[0]: ', False),
    ('pair', ['a', 'b'], 'pair: a list', False), ('pair', {'clicked': 'a'}, 'pair.other: ', False)]


@pytest.mark.parametrize(('field', 'value', 'reported', 'stops_training'), WRONG)
def test_each_fault_is_named_with_file_question_and_field(
        folder, capsys, field, value, reported, stops_training):
    write(folder, json.dumps([json.loads(OTHER), {**QUESTION, field: value}], indent=1))
    code, output = check(folder, capsys)
    assert code == 1
    assert 'crosspoint_train.json: item 2: ' in output
    assert reported in output
    code, output = configure(folder, capsys)
    assert code == int(stops_training)
    if stops_training:
        assert 'crosspoint_train.json' in output
        assert 'item 2' in output
        assert reported in output or ' is missing, an image of ' in output


def test_a_field_that_nothing_needs_may_be_missing(folder, capsys):
    needed = ('id', 'type', 'images', 'conversations')
    write(folder, json.dumps([{name: QUESTION[name] for name in needed}]))
    assert check(folder, capsys)[0] == 0
    write(folder, json.dumps([{**QUESTION, 'point2': None, 'visible': False, 'more': [1]}]))
    assert check(folder, capsys)[0] == 0
    for name in needed:
        write(folder, json.dumps([{key: QUESTION[key] for key in QUESTION if key != name}]))
        code, output = check(folder, capsys)
        assert code == 1
        assert f'item 1: {name}: missing' in output


def test_a_folder_in_place_of_a_file_is_named(folder, capsys):
    (folder / 'crosspoint_val.json').mkdir()
    for run in (check, configure):
        code, output = run(folder, capsys)
        assert code == 1
        assert 'crosspoint_val.json' in output


@pytest.mark.parametrize('build', [
    '', '[]', '{}', 'null', '{"recipe": 3, "sources": 4}', '{"recipe": {"seed": 0}}',
    '{"recipe": {"seed": 0, "coordinates": "x", "reading": {}, "labels": ""}, "sources": []}',
    '{"recipe": {"seed": 0, "coordinates": "pixel", "reading": {"x": 1}, "labels": ""}, '
    '"sources": [{"name": "kitchen"}]}', '\ufeff{'])
def test_a_damaged_build_json_is_a_fault_and_the_rest_is_checked(folder, capsys, build):
    (folder / 'build.json').write_text(build)
    code, output = check(folder, capsys)
    assert code == 1
    assert '1 questions' in output
    assert 'build.json' in output


VALUES = [None, True, 0, -1, 1.5, 10 ** 400, 1e308, '', 'x', '<image>', '\ud800', 'é\0', [], {},
          [[]], [None], [1, 2], ['a'], {'a': 1}, [[[[1]]]], 'x' * 5000]


def mutate(rng, value, depth=0):
    """Change one place of a JSON value, at any depth."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.75:
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        action = rng.random()
        if action < 0.15:
            del value[key]
        elif action < 0.25 and isinstance(value, list):
            value.append(copy.deepcopy(value[key]))
        elif action < 0.32 and isinstance(value, dict):
            value[str(key).upper()] = value.pop(key)
        else:
            value[key] = mutate(rng, value[key], depth + 1)
        return value
    return copy.deepcopy(rng.choice(VALUES))


def damage(rng, text):
    """Return the bytes of a text in a random layout and encoding, sometimes with damage."""
    data = text.encode(rng.choice(['utf-8'] * 8 + ['utf-8-sig', 'utf-16', 'utf-16-le', 'utf-32']),
                       'surrogatepass')
    if rng.random() < 0.2:
        data = data.replace(b'\n', b'\r\n')
    if rng.random() < 0.2:
        at = rng.randrange(len(data))
        data = data[:at] + rng.choice([b'', bytes([rng.randrange(256)]), b',', b'"', b']', b'}',
                                       data[at:at + 30]]) + data[at + rng.randrange(40):]
    return data


@pytest.mark.parametrize('seed', range(400))
def test_no_mutated_set_ends_with_a_traceback(folder, capsys, seed):
    rng = random.Random(seed)
    questions = [json.loads(TEXT), json.loads(OTHER), json.loads(TEXT)]
    for _ in range(rng.choice([1, 1, 2, 6])):
        at = rng.randrange(3)
        questions[at] = mutate(rng, questions[at])
    layout = rng.choice([json.dumps, lambda q: json.dumps(q, indent=rng.choice([0, 3])),
                         lambda q: '\n'.join(map(json.dumps, q)),
                         lambda q: '[\n' + ',\n'.join(map(json.dumps, q)) + '\n]\n',
                         lambda q: json.dumps(q, ensure_ascii=False)])
    write(folder, damage(rng, layout(questions)))
    (folder / 'build.json').write_text(json.dumps(mutate(rng, {
        'recipe': {'seed': 0, 'coordinates': 'pixel', 'labels': '', 'reading': {
            'inverted': False, 'depth_per_m': None, 'base_frame': '', 'topics': []}},
        'sources': [{'name': 'kitchen', 'path': str(folder / 'nowhere')}]})))
    code, output = check(folder, capsys, '--sheet', str(folder / 'sheet.png'))
    assert code in (0, 1)
    if code and ' faults' not in output:
        assert 'data check: ' in output or '0 questions' in output
    is_refused = configure(folder, capsys)[0]
    assert not (is_refused and not code), 'a set without faults is refused'
    assert (folder / 'training' / 'train.yaml').is_file() == (not is_refused)


def test_a_sheet_is_drawn_of_what_can_be_drawn(folder, capsys):
    lost = {**QUESTION, 'images': ['images/a.png', 'images/nowhere.png'], 'visual_image': []}
    write(folder, json.dumps([QUESTION, lost, {**QUESTION, 'conversations': None}]))
    sheet = folder / 'sheet.png'
    code, output = check(folder, capsys, '--sheet', str(sheet))
    assert code == 1
    assert 'images[1]: ' in output
    assert Path(sheet).is_file()
