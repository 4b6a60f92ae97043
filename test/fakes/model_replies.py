"""Replies as models write them, well-formed, malformed, adversarial, in many languages, by seed."""
from __future__ import annotations

import base64
import io
import json
import random
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

GROUNDING, POINTING = 'Fine-grained Grounding', 'Correspondence-Pointing'
CHOICES = ('Visibility Reasoning', 'Correspondence-Judgement')
NUMBERS = ('512', '307', '0', '999', '1000', '-1', '-5', '1e9', '1e400', 'NaN', 'Infinity', 'null',
           '"null"', 'true', '"12"', '[1]', '{}', '0.5', '.5', '5.', '1.2.3', '512.75', '-0.4',
           '9' * 400, '００７', '٣', '512px')
JSON_FORMS = (
    '```json\n[\n\t{{"point_2d": [{x}, {y}], "label": "it"}}\n]\n```', '{{"point_2d": [{x}, {y}]}}',
    '```json\n{{"point": [{x}, {y}]}}\n```', '{{"x": {x}, "y": {y}}}', '[{{"x": {x}, "y": {y}}}]',
    '```json\n{{"position": {{"x": {x}, "y": {y}}}}}\n```', '```JSON {{"coordinates":{{"x":{x},'
    '"y":{y}}}}} ```', '{{"point_2d": [{x}, {y}, 3]}} and {{"point": [1, 2]}}',
    '```json\n[{{"point_2d": [{x}, {y}]}}, {{"point_2d": [1, 2]}}]\n```',
    '```json\n{{"point_2d": [{x}, {y}] // the handle\n}}\n```', '```json\n/* here */ {{"x": {x}, '
    '"y": {y}}}\n```', '```json\n[{x}, {y}]\n```', '```json\n{{"point_2d": [{x}, {y}',
    '```json\n[]\n```', '```json\n{{"point_2d": [[{x}, {y}]]}}\n```', '{{"point_2d": "{x}, {y}"}}',
    "{{'point_2d': [{x}, {y}]}}", '```json\n{{"point_2d": [{x}]}}\n```', '{{"point_2d": {{}}}}',
    '```json\nnull\n``` ```json\n{{"point_2d": [{x}, {y}]}}\n```', '{{"bbox": [{x}, {y}, 4, 5]}}')
TEXT_FORMS = (
    '[{x}, {y}]', '({x}, {y})', '{x}, {y}', '{x} {y}', 'x: {x}, y: {y}', 'y: {y} x: {x}',
    'X : {x}\nY : {y}', '"x": {x} "y": {y}', '<point x="{x}" y="{y}" alt="it">it</point>',
    'The coordinates are {x}, {y}.', 'Its location is {x},{y}', 'The point [56, 323] maps to '
    '[{x}, {y}].', 'The point at ({x}, {y}), or ({y}, {x})', '该点位于（{x}，{y}）。',
    '坐标：[{x}，{y}]', 'Die Koordinaten sind {x}, {y}.', 'Точка: [{x}; {y}]', 'النقطة ({x}, {y})',
    '答えは[{x}, {y}]です', 'I cannot see it.', '', '   ', 'null', 'poſition is {x}, {y}',
    'approx. {x},{y},{x},{y}', 'x={x}, y={y}', '\\boxed{{({x}, {y})}}', '{x}/{y}', 'The 2, 3 of us')
CHOICE_FORMS = (
    '{L}', '({L})', '{l}', '{L}.', ' {L} ', '{L}. Yes', '{L}.No', '**{L}**', '**{L}. Yes**',
    '**Answer: {L}**', '\\boxed{{{L}}}', '$\\boxed{{\\text{{{L}}}}}$', '\\(\\boxed{{\\text{{{L}}}}}'
    '\\)', 'The answer is {L}', 'the correct answer is **{L}**', 'Answer: ({L})', '答案是{L}',
    '选择{L}。', '答案：{L}', 'Ответ: {L}', 'Die Antwort ist {L}.', 'La respuesta es {L}',
    '정답은 {L}', 'Choice {L}', '(Choice {L})',
    'Therefore the point is visible, {L}', 'A cup is on the table.',
    'Both A and {L} could be', 'First A. Then B: so {L}', 'Final Answer: {M}? no, {L}', 'Yes', 'no',
    'Yes, it is visible.', '**Yes**', '**Red dot**', 'So **No**', 'Thus: {l})', '', 'null', 'E',
    '{L}{M}', 'B' * 50, 'Answer:\n{L}\nAnswer:\n{M}', '<think>{M}?</think>{L}', 'answer is: *{L}*',
    'ANSWER IS {l}', 'Not {M}, but {L}.', '{L}）', '（{L}）', 'Ｂ', 'I think that {L}: yes')
QUESTIONS = (
    'Is the point visible in the second image? A.Yes B.No', 'Which dot?\nA. Red dot\nB. Green dot'
    '\nC. Blue dot\nD. Yellow dot', 'Is it? A.  B.No', 'Is it?\nA. Yes\nB. No', '', 'No options')
JUNK = ('{', '}', '[', ']', '```', '```json', '**', '\n', '\t', ', ', ': ', '12, 34', '(', ')', '"',
        '\u2028', '\x00', '答', 'é', '🙂', '\\boxed{', 'x: ', 'y: ', 'point_2d', '"point"', '//',
        '/*', '*/', 'A', 'b.', 'So ', 'is ', '-', '.', '7')


def encode_random_mask(rng: random.Random, size: tuple[int, int]) -> str:
    """A mask with a white half, stored in one of the ways masks come in, or damaged."""
    white = np.zeros((size[1], size[0]), np.uint8)
    white[size[1] // 4:, size[0] // 4:] = 255
    grey = Image.fromarray(white)
    way = rng.choice(('L', 'L', 'L', 'RGB', 'RGBA', '1', 'P', 'LA', '16', 'jpeg', 'cut', 'junk'))
    image = {'RGB': grey.convert('RGB'), 'RGBA': grey.convert('RGBA'), '1': grey.convert('1'),
             'P': grey.convert('RGB').quantize(2), 'LA': grey.convert('LA'),
             '16': Image.fromarray(white.astype(np.uint16) * 257)}.get(way, grey)
    content = io.BytesIO()
    image.save(content, 'JPEG' if way == 'jpeg' else 'PNG')
    text = base64.b64encode(content.getvalue()).decode()
    return {'cut': text[:len(text) // 2], 'junk': '!!not base64é'}.get(way, text)


def generate_reply(rng: random.Random, choice: bool) -> str:
    """One reply."""
    if rng.random() < 0.15:
        return ''.join(rng.choice(JUNK) for _ in range(rng.randint(1, 25)))
    if choice:
        form = rng.choice(CHOICE_FORMS)
        names = {'L': rng.choice('ABCD'), 'M': rng.choice('ABCD')}
        text = form.format(**names, l=names['L'].lower())
    else:
        x, y = (rng.choice(NUMBERS) if rng.random() < 0.4 else str(rng.randint(0, 1000))
                for _ in range(2))
        text = rng.choice(JSON_FORMS + TEXT_FORMS).format(x=x, y=y)
        if rng.random() < 0.05:
            text += ' ' + ' '.join(f'[{i}, {i}]' for i in range(200))
    if rng.random() < 0.2:
        text = rng.choice(('Sure! ', 'Let me think.\n\n', '好的。', 'Here: ')) + text
    if rng.random() < 0.2:
        text = text[:rng.randint(0, len(text))]
    return text


def generate_records(seed: int, count: int, image_names: list[str]) -> list[dict]:
    """Replies with all of their item, as the authors' scripts write them."""
    rng = random.Random(seed)
    made = []
    for idx in range(count):
        choice = rng.random() < 0.45
        kind = rng.choice(CHOICES) if choice else rng.choice((GROUNDING, POINTING))
        if rng.random() < 0.02:
            kind = rng.choice(('Level 1', 'Level 4', 'Another type'))
        record = {'idx': idx, 'type': kind, 'level': rng.choice(('object', 'part', 'Level 2')),
                  'question': rng.choice(QUESTIONS),
                  'images': rng.choice(([rng.choice(image_names) for _ in range(2)],
                                        [image_names[0]], ['absent.png'], [])),
                  'answer': rng.choice(('A', 'B', '(C)', 'd ', 'A.')) if choice
                  else encode_random_mask(rng, rng.choice(((64, 48), (32, 40)))),
                  'assistant': generate_reply(rng, choice)}
        if rng.random() < 0.1:
            record |= {'image_width': 64, 'image_height': 48}
        made.append(record)
    return made


def format_lines(made: list[dict]) -> str:
    """The lines of a file of replies."""
    return ''.join(json.dumps(record, ensure_ascii=False) + '\n' for record in made)


COUNT, SIZE = 10_000, (480, 640)


def draw_mask(rng: random.Random) -> str:
    """A blob as base64 of a PNG."""
    drawn = np.zeros(SIZE, np.uint8)
    centre = rng.randint(60, 580), rng.randint(60, 420)
    cv2.ellipse(drawn, centre, (rng.randint(10, 60), rng.randint(10, 60)), rng.randint(0, 180), 0,
                360, 255, -1)
    return base64.b64encode(cv2.imencode('.png', drawn)[1].tobytes()).decode()


def main(out: Path) -> None:
    """Write them."""
    rng = random.Random(0)
    masks = [draw_mask(rng) for _ in range(500)]
    with out.open('w') as file:
        for idx in range(COUNT):
            points = idx % 2 == 0
            x, y = rng.randint(0, 999), rng.randint(0, 999)
            reply = f'```json\n[{{"point_2d": [{x}, {y}]}}]\n```' if points else \
                f'The answer is {rng.choice("ABCD")}.'
            file.write(json.dumps({
                'idx': idx, 'type': 'Correspondence-Pointing' if points else 'Visibility Reasoning',
                'level': 'object', 'question': 'Which? A. one B. two C. three D. four',
                'images': ['a.png', 'b.png'], 'image_width': 640, 'image_height': 480,
                'answer': rng.choice(masks) if points else rng.choice('ABCD'),
                'assistant': reply}) + '\n')


if __name__ == '__main__':
    main(Path(sys.argv[1]))
