"""`crosspoint bench score`: replies against a benchmark whose truth is known."""
from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip('PIL')
pytest.importorskip('rosbags')
import kitchen_bench
from model_replies import generate_records
from PIL import Image

from crosspoint_ros import cli
from crosspoint_ros.bench.crosspoint import rules_official
from crosspoint_ros.bench.crosspoint.dataset import read_bench
from crosspoint_ros.bench.crosspoint.grading import Accuracy
from crosspoint_ros.bench.crosspoint.rules_corrected import parse_answer_points, parse_letter

OFFICIAL = os.environ.get('CROSSPOINT_OFFICIAL', '')


@pytest.fixture
def run(made, tmp_path, capsys):
    """Score replies by the command; return exit code, report and what was told on stderr."""
    def scored(lines, *words, bench=made[0]):
        replies, out = tmp_path / 'replies.jsonl', tmp_path / 'out.json'
        content = lines if isinstance(lines, bytes) else b''.join(
            json.dumps(line).encode() + b'\n' for line in lines)
        replies.write_bytes(content)
        code = cli.main(['bench', 'score', str(replies), '--bench', str(bench), '--json', str(out),
                         *words])
        told = capsys.readouterr()
        return code, json.loads(out.read_text()), told.out, told.err
    return scored


def answered(made, **changed):
    return [{**item, 'assistant': reply, **changed}
            for item, reply in zip(made[1], made[2], strict=True)]


def test_right_replies_are_all_right_by_both_sets_of_rules(run, made):
    code, told, _, err = run(answered(made))
    assert (code, err) == (0, '')
    for by in ('corrected', 'official'):
        overall = told[by][0]
        assert (overall['right'], overall['total']) == (32, 32)
        assert [row['total'] for row in told[by] if row['level']] == [8] * 4
    assert told['differences'] == []


def test_wrong_replies_are_wrong_and_the_interval_holds_the_share(run, made):
    lines = [{**line, 'assistant': 'B' if line['answer'] == 'A' else '[3, 3]'}
             if line['idx'] % 8 < 4 else line for line in answered(made)]
    _, told, out, _ = run(lines)
    overall = told['corrected'][0]
    assert overall['right'] == 16
    assert overall['interval'] == pytest.approx([0.3364, 0.6636], abs=1e-4)  # Wilson, by hand
    assert '50.00%' in out


def test_wilsons_interval_stays_within_bounds():
    assert Accuracy(0, 10).interval == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert Accuracy(10, 10).interval == pytest.approx((0.7225, 1.0), abs=1e-4)


@pytest.mark.parametrize('mode', ['1', 'P'])
def test_a_mask_of_one_bit_or_a_palette_is_wrong_by_the_authors_rules_alone(
        run, made, tmp_path, mode):
    lines = answered(made)
    for line in lines:
        if len(line['answer']) > 1:
            grey = Image.open(io.BytesIO(base64.b64decode(line['answer'])))
            image = grey.convert('1') if mode == '1' else grey.convert('RGB').quantize(2)
            content = io.BytesIO()
            image.save(content, 'PNG')
            line['answer'] = base64.b64encode(content.getvalue()).decode()
    bench = tmp_path / 'bench'
    bench.mkdir()
    (bench / 'image').symlink_to(made[0] / 'image')
    kitchen_bench.write_lines(
        bench / 'CrossPoint-Bench.jsonl',
        [{k: v for k, v in line.items() if k != 'assistant'} for line in lines])
    _, told, _, _ = run(lines, bench=bench)
    assert told['corrected'][0]['right'] == 32
    assert told['official'][0]['right'] == 16
    assert told['differences'] == [line['idx'] for line in lines if len(line['answer']) > 1]


@pytest.mark.parametrize(('said', 'differ'), [
    ('[-5, 10]', True), ('[-1, -1]', True), ('[1e9, 5]', True), ('null', False), ('', False),
    ('{"point_2d": [1000, 1000]}', False), ('{"point_2d": [1e9, -1]}', False),
    ('{"point_2d": [NaN, 3]}', True), (' '.join(f'[{i}, {i}]' for i in range(200)), True),
    ('```json\n{"point_2d": [null, 1]}\n```', True)])
def test_odd_coordinates_are_wrong_and_the_report_lists_where_the_rules_differ(
        run, made, said, differ):
    lines = [{**line, 'assistant': said} if line['idx'] == 3 else line for line in answered(made)]
    code, told, _, _ = run(lines)
    assert code == 0
    assert told['corrected'][0]['right'] == 31
    assert told['differences'] == [3] * differ


def test_a_point_repeated_from_the_question_is_not_the_answer(run, made):
    lines = answered(made)
    for line, right in zip(lines, made[2], strict=True):
        if line['type'] == 'Correspondence-Pointing':
            line['assistant'] = line['question'].partition(' corr')[0] + f' maps to {right[13:-1]}.'
    _, told, _, _ = run(lines)
    assert told['corrected'][0]['right'] == 32
    assert told['official'][0]['right'] == 24
    assert len(told['differences']) == 8


@pytest.mark.parametrize(('said', 'letter'), [
    ('b', 'B'), ('（Ｂ）', 'B'), ('答案是：B', 'B'), ('Ответ: C', 'C'), ('정답은 D', 'D'),
    ('Not A. The answer is B.', 'B'), ('A or B', None), ('A cup is there', None), ('Yes', 'A'),
    ('\\boxed{C}', 'C'), ('B. No, since A is hidden', 'B'), ('the option: (b)', 'B'), ('', None),
    ('I choose not to say', None)])
def test_the_letter_that_a_reply_settles_on_is_read(said, letter):
    assert parse_letter(said, 'Is it? A. Yes B. No') == letter


def test_of_a_long_reply_the_end_counts():
    assert list(parse_answer_points('I look around. ' * 600 + '[5, 6]', '')) == [(5.0, 6.0)]


def test_lines_that_cannot_be_read_are_named_counted_and_the_rest_is_scored(run, made):
    whole = [json.dumps(line).encode() for line in answered(made)]
    content = b'\n'.join([b'{"idx": 1, "type": "Fi', b'\xff\xfe', b'[1]', b'', *whole,
                          whole[0], b'{"idx": 99, "assistant": "A"}', whole[2][:40]])
    code, told, _, err = run(content)
    assert code == 1
    assert (told['corrected'][0]['right'], told['corrected'][0]['total']) == (32, 32)
    # The authors' scripts take every line that is an object, or end; a line that is cut they skip.
    assert told['official'][0]['total'] == 34
    assert told['official_stops'] == 'UnicodeDecodeError'
    places = [line.partition(': ')[0] for line in err.splitlines()]
    assert places == [f'replies.jsonl:{n}' for n in (1, 2, 3, 37, 38, 39)]
    assert len(told['troubles']) == 6
    assert 'the file ends within it' in err


@pytest.mark.parametrize(('answer', 'words'), [
    ('!!!', 'not base64'), ('aGVsbG8=', 'not an image'), ('', 'no mask')])
def test_a_mask_that_cannot_be_read_is_named_and_left_out_of_the_corrected_score(
        run, made, tmp_path, answer, words):
    bench = tmp_path / 'bench'
    bench.mkdir()
    (bench / 'image').symlink_to(made[0] / 'image')
    items = [{**item, 'answer': answer} if item['idx'] == 0 else item for item in made[1]]
    kitchen_bench.write_lines(bench / 'CrossPoint-Bench.jsonl', items)
    lines = [{**item, 'assistant': reply} for item, reply in zip(items, made[2], strict=True)]
    code, told, _, err = run(lines, bench=bench)
    assert code == 1
    assert told['corrected'][0]['total'] == 31
    assert told['official'][0]['total'] == 32
    assert 'item 0' in err
    assert words in err


def test_a_mask_of_another_size_is_scored_by_its_own_size_and_named(run, made, tmp_path):
    bench = tmp_path / 'bench'
    bench.mkdir()
    (bench / 'image').symlink_to(made[0] / 'image')
    items = [dict(item) for item in made[1]]
    grey = Image.open(io.BytesIO(base64.b64decode(items[3]['answer']))).resize((320, 240))
    content = io.BytesIO()
    grey.save(content, 'PNG')
    items[3]['answer'] = base64.b64encode(content.getvalue()).decode()
    kitchen_bench.write_lines(bench / 'CrossPoint-Bench.jsonl', items)
    lines = [{**item, 'assistant': reply} for item, reply in zip(items, made[2], strict=True)]
    code, told, _, err = run(lines, bench=bench)
    assert code == 1
    assert 'item 3: its mask is 320x240, its images 640x480' in err
    assert told['corrected'][0]['right'] == 32
    assert told['official'][0]['right'] == 31


def test_duplicated_idx_and_equal_items_are_each_counted(run, made, tmp_path):
    bench = tmp_path / 'bench'
    bench.mkdir()
    (bench / 'image').symlink_to(made[0] / 'image')
    items = [*made[1], made[1][3], {**made[1][7], 'idx': 3}]
    kitchen_bench.write_lines(bench / 'CrossPoint-Bench.jsonl', items)
    assert len({item.key for item in read_bench(bench).items}) == 34
    replies = [*made[2], made[2][3], made[2][7]]
    lines = [{**item, 'assistant': reply} for item, reply in zip(items, replies, strict=True)]
    code, told, _, err = run(lines, bench=bench)
    assert code == 1
    assert '3 items have this idx' in err
    assert told['corrected'][0] | {'right': 0, 'share': 0, 'interval': 0} == {
        'type': '', 'level': '', 'right': 0, 'total': 34, 'no_answer': 0, 'share': 0, 'interval': 0}


def test_items_without_a_reply_are_wrong_and_types_without_any_are_not_asked(run, made):
    lines = [line for line in answered(made)
             if line['type'] != 'Visibility Reasoning' and line['idx'] not in (0, 3)]
    _, told, out, _ = run(lines)
    assert told['unanswered'] == 2
    assert told['not_asked'] == {'Visibility Reasoning': 8}
    assert (told['corrected'][0]['right'], told['corrected'][0]['total']) == (22, 24)
    assert (told['official'][0]['right'], told['official'][0]['total']) == (22, 22)
    assert 'not asked: 8 of Visibility Reasoning' in out


def test_replies_of_somebody_elses_script_need_no_more_than_idx_and_words(run, made):
    lines = [{'idx': item['idx'], 'assistant': reply}
             for item, reply in zip(made[1], made[2], strict=True)]
    code, told, _, _ = run(lines)
    assert code == 0
    assert told['corrected'][0]['right'] == told['official'][0]['right'] == 32


def test_absolute_pixels_and_fractions_are_read_when_told_so(run, made):
    for coordinates, scale in (('absolute', np.array([0.640, 0.480])), ('relative_1', 1 / 1000)):
        lines = answered(made)
        for line in lines:
            if line['assistant'].startswith('{'):
                point = np.array(json.loads(line['assistant'])['point_2d']) * scale
                line['assistant'] = json.dumps({'point_2d': point.tolist()})
        _, told, _, _ = run(lines, '--coordinates', coordinates)
        assert told['corrected'][0]['right'] == told['official'][0]['right'] == 32


def rewrite_points(made, write) -> list[dict]:
    """The right replies, their points written by a function of x and y in thousandths."""
    return [{**line, 'assistant': write(*json.loads(line['assistant'])['point_2d'])}
            if line['assistant'].startswith('{') else line for line in answered(made)]


@pytest.mark.parametrize(('coordinates', 'write'), [
    ('relative_1000_yx', lambda x, y: f'{{"point": [{y}, {x}]}}'),
    ('relative_100', lambda x, y: f'<point x="{x / 10}" y="{y / 10}">it</point>'),
    ('relative_1', lambda x, y: f'[({x / 1000}, {y / 1000})]'),
    ('absolute_shown', lambda x, y: f'[{x * 0.644}, {y * 0.476}]')])  # 644x476
def test_a_convention_that_would_score_far_better_is_named(run, made, coordinates, write):
    lines = rewrite_points(made, write)
    _, told, out, _ = run(lines)
    assert told['corrected'][0]['right'] <= 20
    (fault,) = told['faults']
    assert fault in out
    if coordinates != 'absolute_shown':  # so near to `absolute` that either is named
        assert fault.startswith(f'--coordinates {coordinates} makes ')
    _, told, out, _ = run(lines, '--coordinates', coordinates)
    assert told['corrected'][0]['right'] == 32
    assert told['faults'] == []
    assert ('the official rules do not know' in out) == (coordinates != 'relative_1')


def test_answers_that_are_all_one_point_or_none_are_named(run, made):
    _, told, out, _ = run(rewrite_points(made, lambda x, y: '[500, 500]'))
    assert told['faults'] == ['all 16 points are the same one, (500.0, 500.0): does the model get '
                              'the images?']
    _, told, out, _ = run([{**line, 'assistant': 'Sorry, which?'} for line in answered(made)])
    assert told['faults'] == [f"no {what} was read in any of 16 replies; the first: 'Sorry, which?'"
                              for what in ('letter', 'point')]
    assert told['faults'][0] in out
    _, told, _, _ = run(answered(made))
    assert told['faults'] == []


def test_a_score_without_the_images_says_so_first(made, tmp_path, capsys):
    replies = kitchen_bench.write_lines(tmp_path / 'replies.jsonl', answered(made))
    cli.main(['bench', 'score', str(replies)])
    assert capsys.readouterr().out.startswith('without the images (--bench was not given): ')
    bench = tmp_path / 'bench'
    bench.mkdir()
    kitchen_bench.write_lines(bench / 'CrossPoint-Bench.jsonl', made[1])
    cli.main(['bench', 'score', str(replies), '--bench', str(bench)])
    assert capsys.readouterr().out.startswith(f'without the images ({bench / "image"} is missing)')
    cli.main(['bench', 'score', str(replies), '--bench', str(made[0])])
    assert capsys.readouterr().out.startswith('replies, corrected rules')


def test_failures_are_drawn_with_the_mask_and_the_answer(run, made, tmp_path):
    lines = [{**line, 'assistant': '{"point_2d": [100, 900]}'} if line['idx'] == 3 else
             {**line, 'assistant': 'B'} if line['idx'] == 1 else line for line in answered(made)]
    _, _, out, _ = run(lines, '--failures', str(tmp_path / 'drawn'))
    assert '2 of 2 wrong answers are drawn' in out
    (picture,) = [np.asarray(Image.open(p)).astype(int) for p in (tmp_path / 'drawn').iterdir()
                  if 'Pointing' in p.name]
    red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
    assert ((red > 240) & (green < 80) & (blue < 80)).sum() > 30  # the answer
    assert ((red > 240) & (green > 200) & (blue < 40)).sum() > 30  # the question's point
    assert (green - np.maximum(red, blue) > 40).sum() > 150  # the mask


def test_markdown_lists_every_item_on_which_the_rules_differ(run, made, tmp_path):
    lines = [{**line, 'assistant': '|\n<b> [-1, 2]'} for line in answered(made)]
    run(lines, '--markdown', str(tmp_path / 'out.md'))
    text = (tmp_path / 'out.md').read_text()
    items = ', '.join(str(line['idx']) for line in lines if len(line['answer']) > 1)
    assert f'## Items on which the rules differ\n\n{items}\n' in text
    assert 'Wilson' in text


def test_an_empty_file_of_replies_is_refused_in_words(made, tmp_path, capsys):
    (tmp_path / 'none.jsonl').write_text('')
    assert cli.main(['bench', 'score', str(tmp_path / 'none.jsonl'), '--bench',
                     str(tmp_path)]) == 1
    assert 'is not a CrossPoint-Bench' in capsys.readouterr().err


@pytest.mark.skipif(not OFFICIAL, reason="CROSSPOINT_OFFICIAL names no folder of the authors' "
                                         'scripts')
def test_the_official_table_is_that_of_the_authors_programs(run, tmp_path):
    bench = tmp_path / 'CrossPoint-Bench'
    (bench / 'image').mkdir(parents=True)
    for name, size in (('a.png', (64, 48)), ('b.png', (128, 96))):
        Image.new('RGB', size).save(bench / 'image' / name)
    lines = [line for line in generate_records(11, 3000, ['a.png', 'b.png'])
             if not rules_official.grade(line, 'relative_1000', bench / 'image').crash]
    kitchen_bench.write_lines(bench / 'CrossPoint-Bench.jsonl', [
        {k: v for k, v in line.items() if k != 'assistant'} for line in lines])
    _, told, _, _ = run(lines, '--official', bench=bench)
    assert told['official_stops'] == ''
    folder = tmp_path / 'inference'
    folder.mkdir()
    kitchen_bench.write_lines(folder / 'eval_m.jsonl', lines)
    for words in (('extract_answers.py', '--file', str(folder / 'eval_m.jsonl'), '--coord_format',
                   'relative_1000', '--image_base', str(bench / 'image')),
                  ('calc_score.py', '--extracted_root', str(tmp_path / 'extracted'),
                   '--output_dir', str(tmp_path / 'scores'))):
        subprocess.run([sys.executable, f'{OFFICIAL}/{words[0]}', *words[1:]], check=True,
                       capture_output=True)
    report = (tmp_path / 'scores' / 'evaluation_report.txt').read_text()
    theirs = [line.split('|')[2].strip() for line in report.splitlines() if line.count('|') == 2]
    ours = [f'{row["right"]}/{row["total"]}' for row in told['official']]
    assert theirs[1:] == ours
    assert len(ours) > 12


@pytest.mark.parametrize(('said', 'letter'), [
    ('Not A, but B. The answer is B', 'B'), ('It is either A or B: A or B', None),
    ('Option C is wrong. The answer is D.', 'D'), ('<think>The answer is A.</think>B', 'B')])
def test_options_that_a_reply_rules_out_are_not_its_answer(made, run, said, letter):
    lines = [{**line, 'assistant': said} for line in answered(made) if len(line['answer']) == 1]
    _, told, _, _ = run(lines)
    right = sum(line['answer'] == letter for line in lines)
    assert told['corrected'][0]['right'] == right
    assert len(lines) == 16


@pytest.mark.parametrize(('said', 'point'), [
    ('The point is at 512, 307', (512, 307)), ('位置: 512, 307', (512, 307)),
    ('y: 307, x: 512', (512, 307)), ('I count 3, 4 mugs', None)])
def test_a_point_without_brackets_is_read_where_it_is_called_one(said, point):
    assert list(parse_answer_points(said, '')) == ([] if point is None else [point])


def test_half_of_an_emoji_is_told_and_the_rest_is_scored(run, made):
    lines = answered(made)
    lines[0]['assistant'] += ' \ud83d'
    _, told, out, _ = run(lines)
    assert told['corrected'][0]['total'] == 32
    assert 'UnicodeEncodeError' in out


def test_a_truncated_jpeg_is_damaged_not_grey(tmp_path):
    from crosspoint_ros.bench.crosspoint.failures import UnreadableImage, read_item_image
    Image.effect_noise((64, 48), 50).save(tmp_path / 'a.jpg')
    whole = (tmp_path / 'a.jpg').read_bytes()
    assert read_item_image(tmp_path, 'a.jpg').shape == (48, 64, 3)
    (tmp_path / 'a.jpg').write_bytes(whole[:len(whole) // 2])
    with pytest.raises(UnreadableImage, match='is cut off'):
        read_item_image(tmp_path, 'a.jpg')
