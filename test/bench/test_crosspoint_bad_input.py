"""What people do to the benchmark's commands: odd files, Ctrl-C, a server that goes away."""
from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('PIL')
pytest.importorskip('rosbags')
import kitchen_bench
from PIL import Image

from crosspoint_ros import cli
from crosspoint_ros.bench.crosspoint.failures import UnreadableImage, read_item_image
from crosspoint_ros.bench.crosspoint.runner import MAX_UNREACHABLE, FailureLimit
from crosspoint_ros.core.datatypes import Code
from crosspoint_ros.matchers.cropond.server.errors import ServerError

FAKES = Path(__file__).resolve().parents[1] / 'fakes'
POINTING = 'Correspondence-Pointing'


@pytest.fixture
def score(tmp_path, capsys):
    """Score the bytes of a file without a benchmark; return exit code, report, stderr."""
    def scored(content: bytes, *words: str):
        replies, out = tmp_path / 'replies.jsonl', tmp_path / 'out.json'
        replies.write_bytes(content)
        code = cli.main(['bench', 'score', str(replies), '--json', str(out), *words])
        return code, json.loads(out.read_text()), capsys.readouterr().err
    return scored


def answered(made) -> list[dict]:
    return [{**item, 'assistant': reply} for item, reply in zip(made[1], made[2], strict=True)]


def lines_of(*records: object) -> bytes:
    return b''.join(json.dumps(record).encode() + b'\n' for record in records)


@pytest.mark.parametrize('ending', [b'a note of mine', b'{"idx": 3, "assistant": "B"}', b'{"idx'])
def test_a_file_that_is_not_ours_is_left_as_it_is(made, tmp_path, capsys, ending):
    theirs = tmp_path / 'notes.jsonl'
    theirs.write_bytes(b'{"idx": 2, "assistant": "A"}\n' + ending)
    before = theirs.read_bytes()
    assert cli.main(['bench', 'crosspoint', str(made[0]),
                     '--matcher', 'fake_matchers:DelayedMatcher',
                     '--replies', str(theirs)]) == 1
    assert 'choose another file with --replies' in capsys.readouterr().err
    assert theirs.read_bytes() == before


def test_images_that_are_no_list_are_scored_like_none(made, score):
    lines = [{**line, 'images': 5} for line in answered(made)]
    for coordinates in ('relative_1000', 'absolute'):
        _, told, _ = score(lines_of(*lines), '--coordinates', coordinates)
        assert told['corrected'][0]['total'] == 32
        assert told['official_stops'] == ('' if coordinates == 'absolute' else
                                          "TypeError: 'int' object is not subscriptable")


@pytest.mark.parametrize('value', [None, 'many', math.nan, math.inf, [1]])
def test_times_and_tokens_of_another_program_that_are_no_numbers_do_not_end_a_score(
        made, score, value):
    lines = [{**line, 'tokens': value, 'took_s': value} for line in answered(made)]
    code, told, err = score(lines_of(*lines), '--bench', str(made[0]))
    assert (code, told['corrected'][0]['total']) == (0, 32), err


def test_without_a_benchmark_unknown_types_and_a_repeated_idx_are_told(made, score):
    one, two, *_ = answered(made)
    code, told, err = score(lines_of(one, {**two, 'type': 'Level 1'}, one))
    assert code == 1
    assert "item 1: unknown type 'Level 1'; known: " in err
    assert 'replies.jsonl:3: item 0: a second reply with this idx' in err
    assert (told['corrected'][0]['total'], told['official'][0]['total']) == (2, 3)


@pytest.mark.parametrize(('changed', 'error'), [
    ({'question': 'half \ud83d'}, 'UnicodeEncodeError'), ({'more': ['\udc00']},
                                                          'UnicodeEncodeError'),
    ({'type': None}, 'TypeError'), ({'type': 'Overall'}, 'KeyError'), ({'level': 2}, '')])
def test_what_ends_the_authors_scripts_in_a_whole_file_is_said(made, score, changed, error):
    one, two, *_ = answered(made)
    _, told, _ = score(lines_of(one, {**two, **changed}))
    assert told['official_stops'].partition(':')[0] == error


@pytest.mark.parametrize(('line', 'error'), [
    (b'5\n', 'AttributeError'), (b'"x"\n', 'AttributeError'), (b'[1]\n', 'TypeError')])
def test_a_line_that_is_no_object_ends_the_authors_scripts_with_its_own_error(
        made, score, line, error):
    _, told, err = score(lines_of(answered(made)[0]) + line)
    assert told['official_stops'] == error
    assert 'replies.jsonl:2: a ' in err


@pytest.mark.parametrize('between', [b'\r', b'\r\n', b'\xc2\xa0\n', b'\xe2\x80\xa8\n', b'\x1c\n'])
def test_lines_end_where_they_end_for_the_authors_scripts(made, score, between):
    one, two, *_ = (json.dumps(line).encode() for line in answered(made))
    code, told, err = score(one + between + two)
    assert (code, err) == (0, '')
    assert told['corrected'][0]['total'] == told['official'][0]['total'] == 2


def test_half_of_an_emoji_in_a_name_is_written_and_does_not_end_the_report(made, score):
    one, *_ = answered(made)
    code, told, _ = score(lines_of({**one, 'level': 'Level \ud83d'}))
    assert code == 0
    assert told['corrected'][2]['level'] == 'Level \ud83d'


def test_items_that_can_never_be_asked_do_not_keep_a_later_run_from_its_score(
        made, bench, tmp_path, capsys):
    item = next(item for item in made[1] if item['type'] == POINTING)
    folder = bench([{**item, 'idx': x, 'question': f'Where is [{x}, 500]?'}
                    for x in (900, 100, 110, 120, 130, 140, 150)])
    for asked in (1, 0):
        assert cli.main(['bench', 'crosspoint', str(folder), '--matcher',
                         'fake_matchers:RightHalfMatcher', '--replies',
                         str(tmp_path / 'kept.jsonl')]) == 1
        told = capsys.readouterr()
        assert told.out.startswith(f'{asked} items asked')
        assert '6 failed' in told.out
        assert told.err.count(
            'no reply: RightHalfMatcher failed: RuntimeError: the left is out') == 6


def test_a_server_that_is_gone_ends_a_run_that_had_begun(made, tmp_path, capsys):
    pytest.importorskip('httpx2')
    from openai_server import FakeOpenAIServer
    server = FakeOpenAIServer()
    words = ['bench', 'crosspoint', str(made[0]), '--model', server.url, '--replies',
             str(tmp_path / 'kept.jsonl')]
    try:
        assert cli.main([*words, '--limit', '3']) == 0
        name = json.loads((tmp_path / 'kept.jsonl').read_text().splitlines()[0])['asked']
    finally:
        server.stop()
    capsys.readouterr()
    assert cli.main([*words, '--model-name', name.split()[0]]) == 1
    told = capsys.readouterr().err
    assert f'{MAX_UNREACHABLE} items in a row did not reach the server; 3 replies are in ' in told
    assert told.count('run again to ask it') == MAX_UNREACHABLE


def test_a_server_that_refuses_single_items_is_not_gone():
    patience = FailureLimit(at_first=False)
    refused = ServerError(Code.MATCHER_FAILED, 'too large', retryable=False, status=413)
    assert not any(patience.on_failure(refused) for _ in range(3 * MAX_UNREACHABLE))


def test_a_deadline_that_is_over_before_it_begins_is_refused(made, capsys):
    assert cli.main(['bench', 'crosspoint', str(made[0]), '--model', 'http://127.0.0.1:9/v1',
                     '--model-name', 'one', '--deadline-s', '-1']) == 1
    assert '--deadline-s must be above 0, got -1' in capsys.readouterr().err


def test_ctrl_c_says_what_is_awaited_and_a_second_one_does_not_wait(made, tmp_path):
    command = [sys.executable, '-m', 'crosspoint_ros.cli', 'bench', 'crosspoint', str(made[0]),
               '--matcher', 'fake_matchers:DelayedMatcher', '--option', 'seconds=60.0', '--replies',
               str(tmp_path / 'kept.jsonl')]
    places = os.pathsep.join([str(FAKES), str(FAKES.parents[1]), os.environ.get('PYTHONPATH', '')])
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={
        **os.environ, 'PYTHONDONTWRITEBYTECODE': '1', 'PYTHONPATH': places})
    deadline = time.monotonic() + 60
    while not (tmp_path / 'kept.jsonl').is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)  # the first item is under way
    process.send_signal(signal.SIGINT)
    told = ''
    while 'Ctrl-C again' not in told:
        line = process.stderr.readline()
        assert line, told
        told += line
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    told += process.communicate(timeout=50)[1]
    assert process.returncode == 130
    assert time.monotonic() - begun < 30
    assert 'waiting for the 1 items in progress' in told
    assert 'Traceback' not in told


def test_ctrl_c_while_a_command_is_imported_leaves_no_traceback(monkeypatch):
    def interrupted(_name: str) -> None:
        raise KeyboardInterrupt
    monkeypatch.setattr(cli, 'import_module', interrupted)
    assert cli.main(['bench', 'score', 'replies.jsonl']) == 130


def test_an_image_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(UnreadableImage, match='cannot be read'):
        read_item_image(tmp_path, 'x' * 300 + '.png')


def draw(folder: Path, lines: list[dict], drawn: Path) -> list[np.ndarray]:
    """Score the replies of a benchmark of their own items; return the pictures of the wrong."""
    items = [{name: line[name] for name in line if name != 'assistant'} for line in lines]
    kitchen_bench.write_lines(folder / 'CrossPoint-Bench.jsonl', items)
    kitchen_bench.write_lines(folder / 'replies.jsonl', lines)
    cli.main(['bench', 'score', str(folder / 'replies.jsonl'), '--bench', str(folder),
              '--failures', str(drawn)])
    return [np.asarray(Image.open(path)).astype(int) for path in sorted(drawn.iterdir())]


def yellow(picture: np.ndarray) -> int:
    return int(((picture[..., 0] > 240) & (picture[..., 1] > 200) & (picture[..., 2] < 40)).sum())


def test_equal_items_have_a_picture_each_and_a_judgement_shows_both_its_points(
        made, bench, tmp_path):
    line = next(line for line in answered(made) if line['type'] == 'Correspondence-Judgement')
    pictures = draw(bench([]), [{**line, 'assistant': 'B'}] * 2, tmp_path / 'drawn')
    assert len(pictures) == 2
    left, right = np.array_split(pictures[0], 2, axis=1)
    assert min(yellow(left[40:500]), yellow(right[40:500])) > 30


def test_a_strip_of_an_image_comes_out_as_wide_as_others(made, tmp_path):
    folder = tmp_path / 'bench'
    (folder / 'image').mkdir(parents=True)
    Image.new('RGB', (9000, 6)).save(folder / 'image' / 'strip.png')
    line = {**answered(made)[0], 'images': ['strip.png'], 'assistant': '',
            'answer': kitchen_bench.draw_mask(np.array([4000.0, 3.0]), 9000, 6)}
    (picture,) = draw(folder, [line], tmp_path / 'drawn')
    assert picture.shape[1] <= 1280


def test_no_pictures_at_all_are_not_asked_for_with_a_number(made):
    with pytest.raises(SystemExit):
        cli.main(['bench', 'score', 'replies.jsonl', '--most-failures', '-1'])
