"""`crosspoint bench latency`: turns are fair, figures are per click, and nothing wrong is timed."""
from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from functools import partial

import numpy as np
import pytest

from crosspoint_ros import cli
from crosspoint_ros.bench.latency import multiples
from crosspoint_ros.bench.latency.cases import (
    BASELINE,
    BASELINE_SHORT,
    BATCH,
    BATCH_SIZE,
    CLICKED_MOVED,
    FIRST_CLICK,
    NEXT_CLICK,
    OTHER_MOVED,
    build_variants,
    draw_frames,
    sample_queries,
)
from crosspoint_ros.bench.latency.cli import MemoryBound, format_table, parse_size
from crosspoint_ros.bench.latency.timing import Timing, Variant, compute_speedup, time_variants
from crosspoint_ros.core.datatypes import Code, Match, Rejected

draw = partial(draw_frames, width_px=96, height_px=64)


class Counting:
    """What a model's device would tell: three passes an answer."""

    passes = 0
    waited = 0

    def wait(self) -> None:
        self.waited += 1

    def answer(self, frames, seed) -> list:
        self.passes += 3
        return []


class Recorder:
    """A matcher that notes what it was asked, and refuses with a code if it has one."""

    def __init__(self, code: Code = Code.OK) -> None:
        self.asked: list = []
        self.code = code

    def match(self, query) -> Match:
        self.asked.append(query)
        if self.code is not Code.OK:
            raise Rejected(self.code, 'no')
        return Match(query.pixel)


class RecorderOfMany(Recorder):
    """One that answers many at once, too."""

    def match_all(self, queries) -> list:
        self.asked += queries
        return [Match(query.pixel) for query in queries]


def taken(name: str, cpu_s: list[float], passes: int | None = None) -> Timing:
    return Timing(name, 1, cpu_s, [2 * s for s in cpu_s], passes)


def test_the_frames_of_each_round_are_new_and_a_moved_camera_is_one_alone():
    frames, later = draw(0), draw(1)
    assert frames.other_moved[0] is frames.pair[0]
    assert frames.clicked_moved[1] is frames.other_moved[1]
    images = [view.image for f in (frames, later) for view in (*f.pair, *f.other_moved[1:],
                                                                *f.clicked_moved[:1])]
    assert len({image.tobytes() for image in images}) == 8
    np.testing.assert_array_equal(draw(0).pair[1].image, frames.pair[1].image)


def test_clicks_lie_on_the_first_image_and_are_others_for_each_seed():
    pixels = np.array([query.pixel for seed in range(9)
                       for query in sample_queries(draw(0).pair, BATCH_SIZE, seed)])
    assert len(np.unique(pixels, axis=0)) == 9 * BATCH_SIZE
    assert ((pixels > 0) & (pixels < (96, 64))).all()


def test_the_ways_take_turns_and_the_warm_up_does_not_count():
    order: list[str] = []
    some = [Variant(name, lambda frames, seed, name=name: order.append(name) or [])
            for name in ('a', 'b')]
    found = time_variants(some, draw, rounds=2, warm_up=1)
    assert order == ['a', 'b'] * 3
    assert [len(t.cpu_s) for t in found] == [2, 2]
    assert [t.passes for t in found] == [None, None]


def test_passes_are_those_of_one_answer_and_the_device_is_waited_for():
    model = Counting()
    (found,) = time_variants([Variant('one', model.answer)], draw, rounds=3, warm_up=1,
                             device=model)
    assert found.passes == 3
    assert model.waited == 4


def test_time_is_per_click(monkeypatch):
    clock = iter(range(0, 1000, 8))
    monkeypatch.setattr('time.perf_counter', lambda: next(clock))
    (found,) = time_variants([Variant('many', lambda frames, seed: [], 4)], draw, rounds=1,
                             warm_up=1)
    assert found.wall_s == [2.0]


def test_a_refusal_for_what_the_images_show_counts_as_an_answer():
    found = time_variants(build_variants(Recorder(Code.NOT_VISIBLE)), draw, rounds=2, warm_up=1)
    assert [t.refusals['NOT_VISIBLE'] for t in found] == [2] * 4
    assert 'another click: 2 NOT_VISIBLE' in format_table(found, True)


@pytest.mark.parametrize('code', [Code.MATCHER_FAILED, Code.TIMEOUT, Code.BAD_REQUEST])
def test_a_failure_is_not_timed(code):
    with pytest.raises(ValueError, match=f'{FIRST_CLICK}: no \\({code.name}\\)'):
        time_variants(build_variants(Recorder(code)), draw, rounds=1, warm_up=1)


def test_a_round_begins_on_a_new_pair_and_then_moves_one_camera_after_the_other():
    matcher = RecorderOfMany()
    chosen = build_variants(matcher)
    assert [way.name for way in chosen] == [FIRST_CLICK, NEXT_CLICK, BATCH, OTHER_MOVED,
                                            CLICKED_MOVED]
    frames = draw(0)
    for seed, way in enumerate(chosen):
        assert len(way.answer(frames, seed)) == way.clicks
    pairs = [(query.clicked, query.other) for query in matcher.asked]
    assert pairs == [frames.pair] * (2 + BATCH_SIZE) + [frames.other_moved, frames.clicked_moved]


def test_a_matcher_that_answers_one_at_a_time_is_not_asked_for_many():
    assert BATCH not in [way.name for way in build_variants(Recorder())]


def test_ratios_are_taken_within_a_round_where_the_machine_was_as_slow_for_both():
    slow, fast = taken(BASELINE, [10.0, 40.0, 12.0]), taken(NEXT_CLICK, [1.0, 4.0, 1.0])
    assert compute_speedup(slow, fast, by_cpu=True) == 10.0
    assert fast.cpu_ms == (1000.0, 1000.0, 4000.0)
    assert fast.wall_ms == (2000.0, 2000.0, 8000.0)


def test_the_table_compares_with_the_authors_where_they_were_asked():
    rows = [taken(BASELINE, [3.0], 30), taken(BASELINE_SHORT, [2.0], 20),
            taken(NEXT_CLICK, [0.2], 6)]
    told = format_table(rows, by_cpu=True)
    assert f'{15.0:8.1f}x{10.0:8.1f}x' in told.splitlines()[3]
    assert 'of CPU time' in told
    assert 'vs 30' not in format_table(rows[2:], by_cpu=True)


def test_what_memory_allows_is_the_weights_of_all_passes_at_its_bandwidth():
    memory = MemoryBound(6_170_000_000, 3e12, 9_000_000_000, binding=True)
    assert memory.limit_ms(6) == pytest.approx(12.34)
    told = memory.format_report([taken(NEXT_CLICK, [0.01], 6)])
    assert 'another click: 20.0 ms, 1.6 times the 12.3 ms of its 6 passes' in told
    assert 'peak memory 9.00 GB' in told


def test_on_a_cpu_nothing_is_said_of_a_limit_that_does_not_bind():
    memory = MemoryBound(340_000_000, 20e9, 1_000_000_000, binding=False)
    assert 'another click' not in memory.format_report([taken(NEXT_CLICK, [0.01], 6)])


def test_xfeat_is_timed_from_the_command_line(tmp_path, capsys):
    out = tmp_path / 'out.json'
    assert cli.main(['bench', 'latency', '--matcher', 'xfeat', '--option', 'scales=[1.0]',
                     '--option', 'second_descriptor=never', '--size', '160x120', '--rounds', '1',
                     '--json', str(out)]) == 0
    told = capsys.readouterr().out
    assert '160x120' in told
    assert 'authors' not in told
    (rows,) = json.loads(out.read_text())['sizes'].values()
    assert [row['name'] for row in rows] == [FIRST_CLICK, NEXT_CLICK, OTHER_MOVED, CLICKED_MOVED]
    assert all(row['wall_s'][0] > 0 for row in rows)


@pytest.mark.parametrize(('words', 'said'), [
    ('--matcher xfeat --random-weights tiny', 'are for the matcher cropond'),
    ('--random-weights tiny --option model=there', 'exclude each other'),
    ('--matcher nope', "no matcher 'nope'"),
    ('--matcher xfeat --option nope=1', "has no option 'nope'"),
])
def test_what_does_not_go_together_is_one_sentence(capsys, words, said):
    assert cli.main(['bench', 'latency', *words.split()]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.parametrize('words', ['--random-weights 5b', '--size 640', '--size 9x3000',
                                   '--size 0x0', '--rounds 0'])
def test_a_wrong_value_is_refused_with_the_usage(capsys, words):
    with pytest.raises(SystemExit) as ended:
        cli.main(['bench', 'latency', *words.split()])
    assert ended.value.code == 2
    assert words.split()[1] in capsys.readouterr().err


def test_sizes_are_read_as_they_are_written():
    assert parse_size('1280x720') == (1280, 720)


@pytest.mark.parametrize('words', [['--random-weights', 'tiny'], ['--option', 'model=/nowhere']])
def test_without_torch_one_sentence_says_what_to_install(words):
    code = ('import sys\nsys.modules["torch"] = None\nfrom crosspoint_ros.cli import main\n'
            f'sys.exit(main(["bench", "latency", *{words}]))')
    ended = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert 'needs torch' in line
    assert 'pip install torch "transformers>=4.57,<6" pillow' in line


# --- in passes of the network ---------------------------------------------------------------------

def burn(seconds):
    end_s = time.thread_time() + seconds
    while time.thread_time() < end_s:
        sum(range(50))


def test_the_time_of_a_stage_is_that_of_its_module_in_every_thread(tmp_path, monkeypatch):
    (tmp_path / 'slow.py').write_text('def work(burn):\n    burn(0.06)\n')
    (tmp_path / 'quick.py').write_text(
        'import slow\n\ndef work(burn):\n    slow.work(burn)\n    burn(0.02)\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(multiples, 'PACKAGE', tmp_path)
    import quick
    with multiples.StageProfiler() as profiler:
        threads = [threading.Thread(target=quick.work, args=(burn,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        burn(0.03)
    assert profiler.seconds['slow'] == pytest.approx(0.12, rel=0.25)
    assert profiler.seconds['quick'] == pytest.approx(0.04, rel=0.25)
    assert profiler.seconds[multiples.OUTSIDE] == pytest.approx(0.03, rel=0.4)
    assert sys.getprofile() is None


def test_clicks_are_given_in_two_passes_next_to_them_and_stages_as_shares():
    latency = multiples.SituationLatency(multiples.ClickTimes(), multiples.ClickTimes(),
                                         multiples.ClickTimes(), {'network': 30.0, 'search': 10.0})
    latency.passes.add((50.0, 60.0), (50.0, 60.0))
    latency.first.add((400.0, 300.0), (50.0, 60.0))
    latency.again.add((10.0, 12.0), (50.0, 60.0))
    table = multiples.format_situations({'images': latency})
    assert '8.00 (8.00 .. 8.00)   5.00    400' in table
    assert '0.20 (0.20 .. 0.20)   0.20     10' in table
    shares = {row.split()[0]: row.split()[-1] for row in table.splitlines()[-2:]}
    assert shares == {'network': '75.0', 'search': '25.0'}


def test_a_pair_is_of_the_same_clicks_in_each_situation_and_unknown_to_caches():
    pair = next(multiples.draw_pairs())
    images, poses, depth = pair.values()
    assert len(images) == multiples.CLICKS
    assert [tuple(q.pixel) for q in images] == [tuple(q.pixel) for q in depth]
    assert (images[0].other.base_from_cam, poses[0].other.depth_m) == (None, None)
    assert depth[0].other.depth_m is not None
    assert images[0].clicked.image.shape == (480, 640, 3)
    copied = multiples.copy_views(depth)
    assert copied[0].clicked is copied[1].clicked
    assert copied[0].clicked.image is not depth[0].clicked.image
