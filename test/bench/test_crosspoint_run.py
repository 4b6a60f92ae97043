"""`crosspoint bench crosspoint`: matchers, servers and checkpoints asked; a kill costs little."""
from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip('PIL')
pytest.importorskip('rosbags')

from kitchen_bench import build_bench
from openai_server import FakeOpenAIServer, ServerBehaviour, _RequestHandler

from crosspoint_ros import cli
from crosspoint_ros.bench.crosspoint.dataset import read_bench
from crosspoint_ros.bench.crosspoint.report import measure_paired_difference
from crosspoint_ros.bench.crosspoint.runner import PredictionFile

FAKES = Path(__file__).resolve().parents[1] / 'fakes'
POINTING = 'Correspondence-Pointing'


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """The kitchen's bench of half the size: most of a run is the encoding of its images."""
    return build_bench(tmp_path_factory.mktemp('bench') / 'CrossPoint-Bench', scale=0.5)


@pytest.fixture
def run(tmp_path, capsys):
    def asked(folder, *words):
        replies, out = tmp_path / 'kept.jsonl', tmp_path / 'out.json'
        code = cli.main(['bench', 'crosspoint', str(folder), '--replies', str(replies), '--json',
                         str(out), *words])
        told = capsys.readouterr()
        return (code, json.loads(out.read_text()) if out.is_file() else {}, told.out, told.err,
                [json.loads(line) for line in replies.read_bytes().splitlines()]
                if replies.is_file() else [])
    return asked


def test_a_matcher_is_asked_for_points_and_what_it_cannot_do_is_not_asked(run, made):
    code, told, out, _, kept = run(made[0], '--matcher', 'xfeat', '--limit', '16')
    assert code == 0
    assert told['not_asked'] == {'Fine-grained Grounding': 4, 'Visibility Reasoning': 4,
                                 'Correspondence-Judgement': 4}
    assert [line['type'] for line in kept] == [POINTING] * 4
    rows = {(row['type'], row['level']): row for row in told['corrected']}
    assert rows['', '']['total'] == 4  # what was not asked is not wrong
    assert rows[POINTING, '']['right'] >= 2
    assert told['official'][0]['right'] == rows['', '']['right']
    assert '4 items asked' in out


def test_a_second_run_asks_nothing_again(run, made):
    run(made[0], '--matcher', 'fake_matchers:DelayedMatcher')
    begun = time.monotonic()
    _, told, out, _, kept = run(made[0], '--matcher', 'fake_matchers:DelayedMatcher')
    assert '0 items asked, 8 had their reply' in out
    assert len(kept) == told['corrected'][0]['total'] == 8
    assert time.monotonic() - begun < 60


def test_a_kill_loses_no_more_than_the_item_in_flight_and_nothing_is_done_twice(
        made, bench, tmp_path):
    pointing = [item for item in made[1] if item['type'] == POINTING]
    folder = bench(pointing * 5)  # forty, of which thirty-two are copies
    replies = tmp_path / 'kept.jsonl'
    command = [sys.executable, '-m', 'crosspoint_ros.cli', 'bench', 'crosspoint', str(folder),
               '--matcher', 'fake_matchers:DelayedMatcher', '--replies', str(replies)]
    kept = 0
    for enough in (5, 12, 20):
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while _lines(replies) < enough and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert enough <= _lines(replies) < 40
        assert _lines(replies) >= kept
        kept = _lines(replies)
    with replies.open('ab') as file:  # as a kill amid a line leaves it
        file.write(b'{"idx": 3, "type": "Corr')
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    keys = [json.loads(line)['key'] for line in replies.read_bytes().splitlines()]
    assert len(keys) == len(set(keys)) == 40
    assert set(keys) == {item.key for item in read_bench(folder).items}
    assert f'{40 - kept} items asked, {kept} had their reply' in done.stdout


def environment() -> dict[str, str]:
    places = [str(FAKES), str(FAKES.parents[1]), os.environ.get('PYTHONPATH', '')]
    return {**os.environ, 'PYTHONDONTWRITEBYTECODE': '1', 'PYTHONPATH': os.pathsep.join(places)}


def _lines(path: Path) -> int:
    return path.read_bytes().count(b'\n') if path.is_file() else 0


def test_a_file_that_another_run_is_writing_is_left_alone(run, made, tmp_path):
    with PredictionFile(tmp_path / 'kept.jsonl', 'fake_matchers:DelayedMatcher'):
        code, _, _, err, kept = run(made[0], '--matcher', 'fake_matchers:DelayedMatcher')
    assert code == 1
    assert 'another run is writing it' in err
    assert kept == []


def test_replies_of_another_are_not_mixed_in(run, made):
    run(made[0], '--matcher', 'fake_matchers:DelayedMatcher', '--option', 'seconds=0.0')
    code, _, _, err, kept = run(made[0], '--matcher', 'xfeat')
    assert code == 1
    assert "is a reply of 'fake_matchers:DelayedMatcher seconds=0.0', not of 'xfeat'" in err
    assert len(kept) == 8


def test_a_matcher_that_breaks_is_told_of_and_the_rest_goes_on(run, made):
    code, told, out, err, kept = run(made[0], '--matcher', 'fake_matchers:EverySecondMatcher')
    assert code == 1
    assert err.count(
        'no reply: EverySecondMatcher failed: RuntimeError: the double broke; run again') == 4
    assert '4 failed' in out
    assert sum('the double broke' in trouble['what'] for trouble in told['troubles']) == 4
    assert [line['assistant'] for line in kept] == [''] * 8  # a refusal's own numbers are no answer
    assert [line['refused'] for line in kept if 'refused' in line] == [
        'NOT_VISIBLE: not there, at 0.30, 0.5'] * 4
    for by in ('corrected', 'official'):  # what failed is wrong too
        assert (told[by][0]['right'], told[by][0]['total']) == (0, 8)
    assert told['without_answer'] == {'failed': 4, 'refused': 4}


def test_missing_and_damaged_images_are_named_and_the_rest_is_asked(run, made, bench, tmp_path):
    items = [dict(item) for item in made[1] if item['type'] == POINTING]
    items[1]['images'] = ['origin_image/absent.png', items[1]['images'][1]]
    items[2]['images'] = ['damaged.png', items[2]['images'][1]]
    items[3]['images'] = ['empty.png', items[3]['images'][1]]
    folder = bench(items, images=False)
    (folder / 'image').mkdir()
    (folder / 'image' / 'origin_image').symlink_to(made[0] / 'image' / 'origin_image')
    (folder / 'image' / 'damaged.png').write_bytes(b'\x89PNG\r\n\x1a\n, and no more')
    (folder / 'image' / 'empty.png').write_bytes(b'')
    with (folder / 'CrossPoint-Bench.jsonl').open('ab') as file:
        file.write(b'{"idx": 77, "type": "Corr')
    code, told, out, err, kept = run(folder, '--matcher', 'fake_matchers:DelayedMatcher')
    assert code == 1
    assert len(kept) == told['corrected'][0]['total'] == 5
    assert '3 without their images' in out
    for words in ('absent.png is not in image/', 'damaged.png cannot be read',
                  'empty.png cannot be read', 'CrossPoint-Bench.jsonl:9: invalid JSON'):
        assert words in err
    assert len(told['troubles']) == 4


class Server:
    """A DOUBLE of a chat server: gives each question the right reply; counts what is under way.

    Nothing is replied before so many questions are under way as it expects, or ten seconds passed.
    """

    def __init__(self, replies: dict[str, str], expected: int) -> None:
        self.most = self.now = 0
        self.bodies: list[dict] = []
        lock, outer, met = threading.Lock(), self, threading.Event()

        class Conversation(BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def do_GET(self) -> None:
                self.tell({'data': [{'id': 'one'}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
                with lock:
                    outer.now += 1
                    outer.most = max(outer.most, outer.now)
                    outer.bodies.append(body)
                    if outer.now >= expected:
                        met.set()
                met.wait(10)
                time.sleep(0.02)
                with lock:
                    outer.now -= 1
                asked = body['messages'][-1]['content'][-1]['text']
                self.tell({'model': 'one', 'choices': [{'message': {
                    'role': 'assistant', 'content': replies[asked]}}]})

            def tell(self, what: dict) -> None:
                content = json.dumps(what).encode()
                self.send_response(200)
                self.send_header('Content-Type', 'application/json')
                self.send_header('Content-Length', str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(('127.0.0.1', 0), Conversation)
        self.url = f'http://127.0.0.1:{self.http.server_port}/v1'
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def test_a_server_is_asked_every_type_as_the_authors_ask_no_more_than_n_at_once(run, made):
    pytest.importorskip('httpx2')
    suffix = ' Output the point coordinates in JSON format.'
    server = Server({item['question'] + (suffix if len(item['answer']) > 1 else ''): reply
                     for item, reply in zip(made[1], made[2], strict=True)}, expected=3)
    try:
        code, told, _, _, kept = run(made[0], '--model', server.url, '--at-once', '3')
    finally:
        server.stop()
    assert code == 0
    assert told['corrected'][0]['right'] == told['official'][0]['right'] == 32
    assert server.most == 3
    body = server.bodies[0]
    assert body['temperature'] == 0
    assert [part['type'] for part in body['messages'][0]['content']][-1] == 'text'
    assert len({line['key'] for line in kept}) == 32


def test_a_server_that_is_not_there_ends_the_run_in_words(run, made):
    pytest.importorskip('httpx2')
    code, _, _, err, kept = run(made[0], '--model', 'http://127.0.0.1:9/v1', '--model-name', 'one')
    assert code == 1
    assert 'the first 5 items all failed; 0 replies are in' in err
    assert all('not reachable' in line['failed'] for line in kept)


HELPERS = {'_allowed', '_reply', '_completion', '_text', '_prompt_tokens', '_image_tokens',
           '_token', '_native', '_trickle', '_chunked', '_reply_logprobs', '_echoed', '_raw'}
FAULTS = ['429', '500', '503', *sorted(
    name[1:] for name in {*vars(_RequestHandler)} - HELPERS
    if name.startswith('_') and not name.startswith('__'))]


@pytest.mark.parametrize('fault', FAULTS)
def test_both_commands_give_the_same_number_whatever_the_server_does(made, tmp_path, capsys, fault):
    pytest.importorskip('httpx2')
    scores = []
    server = FakeOpenAIServer(ServerBehaviour(faults=['', *[fault] * 2]))  # a reply, then faults
    words = ['bench', 'crosspoint', str(made[0]), '--model', server.url, '--at-once', '1',
             '--deadline-s', '0.5', '--max-wait-s', '0', '--limit', '6', '--replies',
             str(tmp_path / 'kept.jsonl'), '--json', str(tmp_path / 'out.json')]
    try:
        for always in ('', fault):
            server.behaviour.always = always  # the second run asks what failed once more
            cli.main(words)
            scores.append(json.loads((tmp_path / 'out.json').read_text()))
            cli.main(['bench', 'score', str(tmp_path / 'kept.jsonl'), '--bench', str(made[0]),
                      '--json', str(tmp_path / 'again.json')])
            again = json.loads((tmp_path / 'again.json').read_text())
            for name in ('corrected', 'official', 'without_answer'):
                assert scores[-1][name] == again[name]
    finally:
        server.stop()
    for by in ('corrected', 'official'):  # no item leaves the denominator
        assert [score[by][0]['total'] for score in scores] == [6, 6]
    capsys.readouterr()


@pytest.mark.parametrize('body', [
    {'choices': [{'message': {'content': None, 'reasoning_content': '...'},
                  'finish_reason': 'length'}]},
    {'choices': [{'message': {'content': '<think>at (512, 307), A'}, 'finish_reason': 'length'}]},
    {'choices': [{'message': {'content': None, 'refusal': 'no'}}]},
    {'error': {'message': 'too many free requests today'}}])
def test_a_server_whose_replies_hold_no_answer_ends_the_run_and_is_told_of(run, made, body):
    pytest.importorskip('httpx2')
    server = FakeOpenAIServer(ServerBehaviour(always='echoed', echo=json.dumps(body).encode()))
    try:
        code, told, out, err, _ = run(made[0], '--model', server.url, '--at-once', '1')
        before = len(server.requests)
        server.behaviour.always = ''  # it works again: what had no answer is asked again
        again = run(made[0], '--model', server.url, '--at-once', '1')
        assert len([r for r in server.requests[before:] if 'messages' in r]) == 32
        assert again[1]['corrected'][0]['total'] == 32
        assert again[1]['without_answer'].keys() <= {'unread'}
    finally:
        server.stop()
    assert code == 1
    assert ('the first 5 items all failed' if 'error' in body else
            'the first 5 items have no usable reply') in err
    assert (told['corrected'][0]['right'], told['corrected'][0]['total']) == (0, 5)
    assert told['official'][0]['total'] == 5
    (outcome,) = told['without_answer'].items()
    assert outcome == ('failed' if 'error' in body else 'refused' if 'refusal' in str(body)
                       else 'cut off', 5)
    assert f'without an answer, and wrong: 5 {outcome[0]}' in out
    assert ('too many free requests today' in err) == ('error' in body)


@pytest.mark.parametrize(('retry_after', 'least_s', 'most_s'), [('0.2', 0.2, 3.0),
                                                                ('3600', 0.4, 3.0)])
def test_an_overloaded_server_gets_its_pause_up_to_a_limit(run, made, retry_after, least_s, most_s):
    pytest.importorskip('httpx2')
    server = FakeOpenAIServer(ServerBehaviour(faults=['busy'], retry_after=retry_after))
    begun = time.monotonic()
    try:
        code, told, *_ = run(made[0], '--model', server.url, '--limit', '1', '--max-wait-s', '0.4')
    finally:
        server.stop()
    assert code == 0
    assert told['without_answer'] == {}
    assert len(server.requests) == 2
    assert least_s <= time.monotonic() - begun < most_s + 20


def test_several_are_compared_in_one_table_on_the_items_that_both_were_asked(
        made, tmp_path, capsys, monkeypatch):
    pytest.importorskip('httpx2')
    monkeypatch.chdir(tmp_path)
    suffix = ' Output the point coordinates in JSON format.'
    right = {item['question'] + (suffix if len(item['answer']) > 1 else ''): reply
             for item, reply in zip(made[1], made[2], strict=True)}
    wrong = {question: '{"point_2d": [3, 3]}' if reply.startswith('{') else reply
             for question, reply in right.items()}
    servers = [Server(replies, expected=1) for replies in (right, wrong)]
    words = ['bench', 'crosspoint', str(made[0]), '--matcher', 'fake_matchers:DelayedMatcher',
             *(word for server in servers for word in ('--model', server.url))]
    try:
        code = cli.main([*words, '--json', 'out.json', '--markdown', 'out.md'])
        out = capsys.readouterr().out
        again = cli.main(words)
        assert capsys.readouterr().out.count('0 items asked') == 3
    finally:
        for server in servers:
            server.stop()
    assert code == again == 0
    rows = {(row['type'], row['level'], row['name'].partition(' on ')[2] or row['name']): row
            for row in json.loads(Path('out.json').read_text())['rows']}
    matcher, good, bad = 'fake_matchers:DelayedMatcher', *(server.url for server in servers)
    assert [rows['', '', name]['total'] for name in (matcher, good, bad)] == [8, 32, 32]
    assert [rows['', '', name]['right'] for name in (good, bad)] == [32, 16]
    assert rows['', '', good]['common'] == rows[POINTING, 'Level 1', good]['common'] == 8
    ours = rows[POINTING, '', matcher]['share']
    assert rows[POINTING, '', good]['difference'][0] == pytest.approx(1 - ours)
    assert rows[POINTING, '', bad]['difference'][0] == pytest.approx(-ours)
    assert rows['Visibility Reasoning', '', good]['difference'] is None  # the first was not asked
    assert rows[POINTING, '', good]['seconds'] > 0
    assert 'minus the first' in out
    assert Path('out.md').read_text().count('| all | ') == 3


def test_paired_differences_have_the_interval_of_their_source():
    # by hand: 12 gained, 3 lost of 30: (13 - 4) / 32, Z sqrt((17 / 32 - (9 / 32)^2) / 32)
    first = [True] * 10 + [False] * 20
    second = [True] * 7 + [False] * 3 + [True] * 12 + [False] * 8
    assert measure_paired_difference(first, second) == pytest.approx((0.3, 0.0483, 0.5142),
                                                                     abs=1e-4)
    low, high = measure_paired_difference([True] * 5, [True] * 5)[1:]
    assert low < 0 < high  # equal on five items is not known to be equal


@pytest.mark.parametrize('words', [
    [], ['--matcher', 'xfeat', '--matcher', 'xfeat'],
    ['--model', 'http://127.0.0.1:9/v1', '--model-name', 'a', '--model-name', 'b']])
def test_a_comparison_without_or_with_equal_contestants_is_refused(made, capsys, words):
    assert cli.main(['bench', 'crosspoint', str(made[0]), *words]) == 1
    assert 'give --matcher, --checkpoint or --model' in capsys.readouterr().err


def test_a_checkpoint_of_this_machine_is_asked_every_type(run, made, tmp_path):
    pytest.importorskip('torch')
    pytest.importorskip('transformers')
    import tiny_qwen
    folder = tiny_qwen.build(tmp_path / 'tiny')
    code, told, _, _, kept = run(made[0], '--checkpoint', str(folder), '--limit', '4')
    assert code == 0
    assert [line['idx'] for line in kept] == [0, 1, 2, 3]
    assert told['corrected'][0]['total'] == 4


def test_a_disk_that_is_full_ends_the_run_in_words_and_leaves_whole_lines(made, tmp_path):
    replies = tmp_path / 'kept.jsonl'
    limited = ('import resource, sys; from crosspoint_ros import cli; '
               'resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); '
               'sys.exit(cli.main(sys.argv[1:]))')
    done = subprocess.run(
        [sys.executable, '-c', limited, 'bench', 'crosspoint', str(made[0]), '--matcher',
         'fake_matchers:DelayedMatcher', '--replies', str(replies)], capture_output=True, text=True,
        timeout=120, env=environment())
    assert done.returncode == 1
    assert 'File too large: the reply to item ' in done.stderr
    assert f'replies are in {replies}; the same command resumes' in done.stderr
    assert 'Traceback' not in done.stderr
    lines = replies.read_bytes().splitlines()
    assert 1 <= len(lines) < 8
    assert all(json.loads(line)['key'] for line in lines)


MATCHER = ('--matcher', 'fake_matchers:DelayedMatcher')


def test_replies_in_another_unit_are_not_mixed_in(run, made):
    *_, kept = run(made[0], *MATCHER)
    code, *_, err, again = run(made[0], *MATCHER, '--coordinates', 'relative_1')
    assert code == 1
    assert "is a reply of 'fake_matchers:DelayedMatcher', not of 'fake_matchers:DelayedMatcher " \
        "--coordinates relative_1'; choose another file with --replies" in err
    assert again == kept
    _, scores, *_ = run(made[0], *MATCHER)
    assert scores['corrected'][0]['total'] == 8


def test_the_unit_of_the_points_of_a_model_is_a_matter_of_scoring(run, made):
    pytest.importorskip('httpx2')
    server = Server(dict.fromkeys([item['question'] + suffix for item in made[1] for suffix in (
        '', ' Output the point coordinates in JSON format.')], '[0.5, 0.5]'), expected=1)
    try:
        run(made[0], '--model', server.url, '--limit', '4')
        code, _, out, _, kept = run(made[0], '--model', server.url, '--limit', '4',
                                    '--coordinates', 'relative_1')
    finally:
        server.stop()
    assert code == 0
    assert '0 items asked, 4 had their reply' in out
    assert len(kept) == len(server.bodies) == 4


def test_a_reply_to_other_images_is_not_taken_for_one_to_these(run, made, bench, tmp_path):
    items = [item for item in made[1] if item['type'] == POINTING][:3]
    folder = bench(items, images=False)
    shutil.copytree(made[0] / 'image', folder / 'image')
    *_, kept = run(folder, *MATCHER)
    name = items[0]['images'][1]
    path = folder / 'image' / name
    os.utime(path, (1, 1))  # a copy of the same image
    code, *_ = run(folder, *MATCHER)
    assert code == 0
    path.write_bytes((folder / 'image' / items[0]['images'][0]).read_bytes())
    code, *_, err, again = run(folder, *MATCHER)
    assert code == 1
    assert 'kept.jsonl has replies to other images: item' in err
    assert name in err
    assert '--replies' in err
    assert again == kept


def test_a_matcher_with_other_weights_does_not_go_on_with_the_file(
        run, made, tmp_path, monkeypatch):
    weights = tmp_path / 'weights'
    weights.write_bytes(b'first')
    words = [*MATCHER, '--option', 'seconds=0', '--option', f'weights={weights}']
    monkeypatch.setattr('fake_matchers.DelayedMatcher.__init__',
                        lambda self, seconds=0.0, weights='': setattr(self, '_seconds', seconds))
    *_, err, kept = run(made[0], *words)
    assert len(kept) == 8, err
    code, *_ = run(made[0], *words)
    assert code == 0
    weights.write_bytes(b'again')
    code, *_, err, again = run(made[0], *words)
    assert code == 1
    assert 'kept.jsonl:1 is a reply of other files or of another version' in err
    assert again == kept


def test_a_checkpoint_that_was_trained_again_does_not_go_on_with_the_file(run, made, tmp_path):
    pytest.importorskip('torch')
    pytest.importorskip('transformers')
    import tiny_qwen
    folder = tiny_qwen.build(tmp_path / 'tiny')
    run(made[0], '--checkpoint', str(folder), '--limit', '2')
    os.utime(folder / 'config.json', (1, 1))
    code, *_, err, kept = run(made[0], '--checkpoint', str(folder), '--limit', '3')
    assert code == 1
    assert 'is a reply of other files or of another version' in err
    assert len(kept) == 2
