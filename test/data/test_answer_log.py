"""Answers are kept with their images, whole or not at all, and the node never waits for a disk."""
from __future__ import annotations

import errno
import json
import multiprocessing
import os
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from log_writer import append_many
from raycast_scenes import LEFT, RIGHT, Box, look_at, project_point
from textured_scenes import render_view

from crosspoint_ros import cli
from crosspoint_ros.bench.pairs.dataset import InputConfig
from crosspoint_ros.bench.pairs.sources import AnswerLogSource
from crosspoint_ros.core.datatypes import Code, Match, Rejected
from crosspoint_ros.core.pipeline import LocateResult, ViewCorrespondence
from crosspoint_ros.core.verify import Consistency
from crosspoint_ros.data import answer_log
from crosspoint_ros.data.answer_log import (
    ANSWERS_FILE,
    AnswerLogger,
    LogEntry,
    append_line,
    read_answers,
)
from crosspoint_ros.data.io import WarningCounter
from crosspoint_ros.data.qa.point_visibility import Visibility

POINT = np.array([-0.06, -0.05, 0.10])
MASK = np.zeros((240, 320), bool)
MASK[200:, :60] = True


@pytest.fixture(scope='module')
def located():
    """A click on a box and where the other view shows it; a third camera refused."""
    box = (Box((-0.10, -0.05, 0.0), (0.05, 0.10, 0.15)),)
    left, right = (render_view(name, look_at(eye), box)
                   for name, eye in (('l', LEFT), ('r', RIGHT)))
    left = replace(left, stamp_ns=111, mask=MASK)
    right = replace(right, stamp_ns=222)
    match = Match(project_point(right, POINT), np.eye(2), 0.9)
    found = (ViewCorrespondence('r', right, match, Consistency(), None),
             ViewCorrespondence('dead', None, None, Consistency(), Rejected(Code.NO_IMAGE, 'none')))
    return LocateResult(left, project_point(left, POINT), found, None, None)


def moved_by(located, dx):
    first = located.correspondences[0]
    told = replace(first, match=Match(np.add(first.match.pixel, (dx, 0)), np.eye(2), 1.0))
    return replace(located, correspondences=(told, *located.correspondences[1:]))


def decided(located, name='a', how='accepted', number=1, target=None):
    return LogEntry(name, number, how, located, target, 'base_link')


@pytest.fixture
def record(tmp_path):
    """Write some decisions into the folder, as a run of the node does."""
    def write(*decisions, folder=tmp_path / 'new/answers'):
        recorder = AnswerLogger(folder)
        for decision in decisions:
            recorder.log(decision)
        recorder.close()
        return folder
    return write


def read_clean(folder):
    """Read the answers, none of which may be skipped."""
    with WarningCounter() as warnings:
        answers = read_answers(folder)
    assert warnings.lines == []
    return answers


def lines(folder):
    return [json.loads(line) for line in (folder / 'answers.jsonl').read_text().splitlines()]


def test_what_was_recorded_is_read_back_as_it_was(record, located, caplog):
    target = look_at((0.1, 0.2, 0.3))
    folder = record(decided(located, target=target))
    assert caplog.messages == []
    (answer,) = read_clean(folder)
    assert (answer.decision, answer.decided_by, answer.corrects) == ('accepted', 'human', None)
    np.testing.assert_allclose(answer.base_from_target.matrix, target.matrix)
    for seen, view in ((answer.clicked, located.clicked),
                       (answer.matches[0].view, located.correspondences[0].view)):
        again = seen.read()
        np.testing.assert_array_equal(again.image, view.image)
        np.testing.assert_allclose(again.depth_m, view.depth_m, atol=0.0006)
        np.testing.assert_allclose(again.base_from_cam.matrix, view.base_from_cam.matrix)
        assert again.intrinsics == view.intrinsics
        assert (again.camera, again.stamp_ns) == (view.camera, view.stamp_ns)
    np.testing.assert_array_equal(answer.clicked.read().mask, MASK)
    assert answer.matches[0].view.read().mask is None
    np.testing.assert_allclose(answer.matches[0].pixel, located.correspondences[0].match.pixel)
    assert answer.matches[0].accepted
    assert not answer.matches[1].accepted
    assert answer.matches[1].view is None
    assert sorted(path.name for path in (folder / 'images').iterdir()) == ['l_111.png', 'r_222.png']


def test_the_last_line_of_an_answer_wins_and_undone_takes_it_out(record, located):
    folder = record(decided(located, 'a', 'unreviewed'), decided(located, 'b', 'unreviewed'),
                    decided(None, 'a', 'accepted'), decided(None, 'b', 'undone'))
    assert [(a.id, a.decision) for a in read_clean(folder)] == [('a', 'accepted')]
    assert [line['decided_by'] for line in lines(folder)] == ['model', 'model', 'human', 'human']


def test_what_is_done_again_counts_again(record, located):
    folder = record(decided(located, 'a', 'accepted'), decided(None, 'a', 'undone'),
                    decided(None, 'a', 'accepted'))
    (answer,) = read_clean(folder)
    assert answer.matches[0].view.read().image.any()


def test_a_correction_keeps_what_the_model_said_and_replaces_it(record, located):
    folder = record(decided(located, 'a', 'unreviewed'),
                    decided(moved_by(located, 7), 'b', 'corrected'),
                    decided(moved_by(located, 9), 'c', 'corrected'))
    (answer,) = read_clean(folder)
    assert (answer.id, answer.corrects) == ('c', 'b')
    model = located.correspondences[0].match.pixel
    np.testing.assert_allclose(answer.matches[0].model_pixel, model)
    np.testing.assert_allclose(answer.matches[0].pixel, np.add(model, (9, 0)))


def test_a_correction_that_was_undone_gives_the_answer_back(record, located):
    folder = record(decided(located, 'a', 'accepted'),
                    decided(moved_by(located, 7), 'b', 'corrected'), decided(None, 'b', 'undone'))
    assert [a.id for a in read_clean(folder)] == ['a']


def test_a_correction_after_an_undone_one_replaces_the_answer_and_not_the_undone_one(
        record, located):
    folder = record(decided(located, 'a', 'accepted'),
                    decided(moved_by(located, 7), 'b', 'corrected'),
                    decided(located, 'b', 'undone'),
                    decided(moved_by(located, 9), 'c', 'corrected'))
    (answer,) = read_clean(folder)
    assert (answer.id, answer.corrects) == ('c', 'a')


def test_an_undo_of_what_never_was_written_writes_nothing(record, located):
    assert lines(record(decided(None, 'z', 'undone'), decided(located))) != []
    assert len(lines(record())) == 1


def test_a_later_run_appends_and_another_image_of_that_name_gets_a_name_of_its_own(
        record, located):
    folder = record(decided(located, 'a'))
    view = located.clicked
    record(decided(replace(located, clicked=replace(view, image=255 - view.image)), 'b'),
           decided(located, 'c'))
    answers = read_clean(folder)
    assert [a.id for a in answers] == ['a', 'b', 'c']
    assert [a.clicked.fields['image'] for a in answers] == [
        'images/l_111.png', 'images/l_111_2.png', 'images/l_111.png']
    assert len(list((folder / 'images').iterdir())) == 3


def test_images_of_another_size_are_recorded_like_any(record, located):
    small = replace(located.clicked, image=located.clicked.image[:120].copy(), mask=None,
                    depth_m=None, stamp_ns=333,
                    intrinsics=replace(located.clicked.intrinsics, height_px=120))
    folder = record(decided(located, 'a'), decided(replace(located, clicked=small), 'b'))
    heights = [a.clicked.read().image.shape[0] for a in read_clean(folder)]
    assert heights == [240, 120]
    assert len(list(AnswerLogSource(folder, InputConfig()))) == 2


def test_a_line_that_was_cut_short_is_left_out_with_a_warning_and_the_next_run_goes_on(
        record, located, caplog):
    folder = record(decided(located, 'a'), decided(located, 'b'))
    path = folder / 'answers.jsonl'
    path.write_bytes(path.read_bytes()[:-40])
    assert [a.id for a in read_answers(folder)] == ['a']
    assert 'line 2 is cut short' in caplog.messages[0]
    record(decided(located, 'c'))
    caplog.clear()
    assert [a.id for a in read_answers(folder)] == ['a', 'c']
    assert len(caplog.messages) == 1


def test_a_line_that_is_no_answer_is_left_out_with_a_warning(record, located, caplog):
    folder = record(decided(located, 'a'))
    with (folder / 'answers.jsonl').open('a') as file:
        file.write('{"id": "b"}\n[]\n')
    assert [a.id for a in read_answers(folder)] == ['a']
    assert len(caplog.messages) == 2


# --- disks that fail

def test_a_folder_that_cannot_be_made_is_one_complaint(tmp_path, located, caplog):
    (tmp_path / 'file').write_text('')
    recorder = AnswerLogger(tmp_path / 'file/answers')
    for _ in range(5):
        recorder.log(decided(located))
    recorder.close()
    assert len(caplog.messages) == 1
    assert 'file/answers' in caplog.messages[0]
    assert recorder.failed


def mounted(path, options):
    return subprocess.run(['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(path)],
                          capture_output=True).returncode == 0


def test_a_real_read_only_disk_is_one_complaint(tmp_path, located, caplog):
    disk = tmp_path / 'disk'
    disk.mkdir()
    if not mounted(disk, 'ro,size=1m'):
        pytest.skip('only root may mount a disk')
    try:
        recorder = AnswerLogger(disk / 'answers')
        recorder.log(decided(located))
        recorder.close()
    finally:
        subprocess.run(['umount', str(disk)], check=True)
    assert len(caplog.messages) == 1
    assert 'Read-only' in caplog.messages[0]


def test_a_real_full_disk_ends_the_recording_with_one_complaint_and_whole_lines(
        tmp_path, located, caplog):
    disk = tmp_path / 'disk'
    disk.mkdir()
    if not mounted(disk, 'size=2m'):
        pytest.skip('only root may mount a disk')
    try:
        recorder = AnswerLogger(disk / 'answers')
        for number in range(40):
            recorder.log(decided(noisy(located, number), str(number)))
            while recorder._pending:
                time.sleep(0.001)
        recorder.close()
        kept = read_clean(disk / 'answers')
        assert 0 < len(kept) < 40
        assert all(a.clicked.read().image.any() for a in kept)
        assert not list((disk / 'answers').rglob('*.part'))
    finally:
        subprocess.run(['umount', str(disk)], check=True)
    assert len(caplog.messages) == 1
    assert 'No space left' in caplog.messages[0]


def noisy(located, number):
    """Another image, that no PNG makes small."""
    image = np.random.default_rng(number).integers(0, 255, (240, 320, 3), np.uint8)
    return replace(located, clicked=replace(located.clicked, image=image, stamp_ns=number))


def test_a_line_that_finds_no_room_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    """`fsync` is a double here, that says what a full disk says."""
    path = tmp_path / 'answers.jsonl'
    append_line(path, {'id': 'a'})
    before = path.read_bytes()

    def full(number):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(answer_log.os, 'fsync', full)
    with pytest.raises(OSError, match='No space'):
        append_line(path, {'id': 'b', 'long': 'x' * 10000})
    assert path.read_bytes() == before


def test_nobody_waits_for_a_disk_that_hangs(tmp_path, located, caplog, monkeypatch):
    """The disk is a double here, that hangs."""
    hanging, entered = threading.Event(), threading.Event()

    def hang(path, line):
        entered.set()
        hanging.wait(20)

    monkeypatch.setattr(answer_log, 'append_line', hang)
    monkeypatch.setattr(answer_log, 'CLOSE_TIMEOUT_S', 0.1)
    recorder = AnswerLogger(tmp_path)
    recorder.log(decided(located, '0'))
    assert entered.wait(10)
    begun_s = time.monotonic()
    for number in range(1, 200):
        recorder.log(decided(located, str(number)))
    assert time.monotonic() - begun_s < 10  # the disk hangs for 20 s
    assert len(recorder._pending) == answer_log.MAX_PENDING
    recorder.log(decided(located, '0', 'undone'))  # it weighs nothing, and is never left out
    assert recorder._pending[-1].decision == 'undone'
    assert recorder._pending[-1].result is None, 'images pile up in memory'
    assert len(caplog.messages) == 1
    assert 'too slow' in caplog.messages[0]
    recorder.close()
    assert 'are not recorded: the disk does not respond' in caplog.messages[1]
    hanging.set()
    recorder._thread.join(20)


def test_two_nodes_on_one_folder_write_whole_lines(tmp_path):
    fork = multiprocessing.get_context('spawn')
    start, path = fork.Event(), tmp_path / 'answers.jsonl'
    writers = [fork.Process(target=append_many, args=(path, name, start)) for name in 'ab']
    for writer in writers:
        writer.start()
    start.set()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    ids = [json.loads(line)['id'] for line in path.read_text().splitlines()]
    assert sorted(ids) == sorted(f'{name}{number}' for name in 'ab' for number in range(100))


def test_two_recorders_on_one_folder_keep_all_answers(tmp_path, located, caplog):
    recorders = [AnswerLogger(tmp_path) for _ in range(2)]
    for number in range(5):
        for name, recorder in zip('ab', recorders, strict=True):
            recorder.log(decided(noisy(located, number), f'{name}{number}'))
    for recorder in recorders:
        recorder.close()
    assert caplog.messages == []
    answers = read_clean(tmp_path)
    assert len(answers) == 10
    assert all(a.clicked.read().image.any() for a in answers)


def test_a_full_disk_is_reported_as_it_suits_a_node(tmp_path, located, monkeypatch, caplog):

    def full(path, data):  # a double of a full disk
        raise OSError(errno.ENOSPC, 'No space left on device', str(path))

    monkeypatch.setattr(Path, 'write_bytes', full)
    recorder = AnswerLogger(tmp_path)
    recorder.log(decided(located))
    recorder.close()
    assert len(caplog.messages) == 1
    assert ('is not written; free some space and run it again. Nothing more is recorded until'
            in caplog.messages[0])


# --- bench pairs

def test_the_set_is_what_people_decided_and_with_model_what_nobody_reviewed(
        record, located, caplog):
    folder = record(decided(located, 'a', 'unreviewed'),
                    decided(moved_by(located, 4), 'b', 'accepted'),
                    decided(noisy(located, 5), 'c', 'moved', target=look_at((0.1, 0.1, 1))))
    human, model = (list(AnswerLogSource(folder, InputConfig(), model)) for model in (False, True))
    assert len(human) == 1
    assert len(model) == 2
    assert human[0].visibility == Visibility.VISIBLE
    np.testing.assert_allclose(human[0].ground_truth,
                               np.add(located.correspondences[0].match.pixel, (4, 0)))
    np.testing.assert_allclose(human[0].query.pixel, located.pixel)
    assert human[0].query.clicked.mask.any()


def test_an_unreadable_image_is_reported_and_so_is_that_nothing_is_left(
        record, located, capsys, caplog):
    folder = record(decided(located, 'a', 'accepted'))
    seen = json.loads((folder / ANSWERS_FILE).read_text())['found'][0]['image']
    (folder / seen).write_bytes((folder / seen).read_bytes()[:40])
    assert list(AnswerLogSource(folder, InputConfig())) == []
    (line,) = caplog.messages
    assert Path(seen).name in line
    assert line.endswith('its queries are skipped')
    assert cli.main(['bench', 'pairs', str(folder)]) == 1
    assert 'none of its 1 queries can be read' in capsys.readouterr().err


def test_what_the_matcher_is_not_told_is_not_in_the_views(record, located):
    folder = record(decided(located))
    query = next(iter(AnswerLogSource(folder, InputConfig(poses=False, depth=False)))).query
    for view in (query.clicked, query.other):
        assert view.base_from_cam is None
        assert view.depth_m is None
    noisy_query = next(iter(AnswerLogSource(folder, InputConfig(noise_cm=2)))).query
    shift_m = noisy_query.other.base_from_cam.t_m - \
        located.correspondences[0].view.base_from_cam.t_m
    assert np.linalg.norm(shift_m) == pytest.approx(0.02, abs=1e-6)


def test_a_folder_in_which_nobody_decided_says_what_there_is(record, located, capsys):
    folder = record(decided(located, 'a', 'unreviewed'))
    assert cli.main(['bench', 'pairs', str(folder)]) == 1
    assert '--decided model includes 1 unreviewed' in capsys.readouterr().err


def test_bench_pairs_scores_the_folder(record, located, capsys):
    folder = record(decided(located))
    assert cli.main(['bench', 'pairs', str(folder)]) == 0
    said = capsys.readouterr().out
    assert '1 queries, xfeat' in said
    assert '100.0%' in said


@pytest.mark.parametrize('option', ['--no-mask', '--mask=other.png'])
def test_another_mask_than_the_recorded_one_is_refused(record, located, option, capsys):
    assert cli.main(['bench', 'pairs', str(record(decided(located))), option]) == 1
    assert 'their own masks' in capsys.readouterr().err


def test_a_picture_that_is_gone_is_named(record, located, capsys):
    folder = record(decided(located))
    os.unlink(folder / 'images/r_222.png')
    assert cli.main(['bench', 'pairs', str(folder)]) == 1
    assert 'r_222.png' in capsys.readouterr().err
