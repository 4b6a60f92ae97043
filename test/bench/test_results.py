"""The page of results says what was recorded, and nothing else."""
from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from crosspoint_ros.bench import results
from crosspoint_ros.bench.record import Record, reject_private_paths
from crosspoint_ros.cli import main

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_what_the_records_make(tmp_path):
    folder, out = ROOT / 'docs' / 'benchmarks' / 'results', tmp_path / 'results.md'
    assert main(['dev', 'results', str(folder), '--out', str(out)]) == 0
    assert out.read_text() == (ROOT / 'docs' / 'benchmarks' / 'results.md').read_text()


def test_every_record_says_where_and_when_it_was_measured():
    records, broken = results.read_records(ROOT / 'docs' / 'benchmarks' / 'results')
    assert not broken
    for record in records:
        assert 'cores' in record.machine
        assert record.date.startswith('20')
        assert record.command.startswith('crosspoint ')
        assert record.exit_code == 0, record.title


def test_a_command_is_recorded_with_what_it_printed(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(Path(results.__file__).parents[2]))
    path = tmp_path / '1.json'
    assert main(['dev', 'record', str(path), '--title', 'Version', '--', '--version']) == 0
    record = Record(**json.loads(path.read_text()))
    assert record.command == 'crosspoint --version'
    assert record.output.startswith('crosspoint ')
    assert record.output in capfd.readouterr().out
    assert record.wall_s > 0


def test_a_command_that_fails_is_recorded_as_failing(tmp_path):
    path = tmp_path / '1.json'
    words = ['dev', 'record', str(path), '--title', 'Nothing', '--', 'bench', 'pairs', 'nowhere']
    assert main(words) == 1
    out = tmp_path / 'page.md'
    assert main(['dev', 'results', str(tmp_path), '--out', str(out)]) == 0
    assert '| failed: 1 |' in out.read_text()
    assert 'nowhere is not a source of pairs' in out.read_text()


def test_paths_of_this_machine_are_not_kept(tmp_path, capsys):
    path = tmp_path / '1.json'
    words = ['dev', 'record', str(path), '--title', 'x', '--', 'bench', 'pairs', str(tmp_path)]
    assert main(words) == 1
    assert 'is a path of this machine' in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize(('text', 'private'), [
    ('file:///home/me/x', True), ('at:/home/me', True), ('/work', True), ('/usr/bin/python', True),
    ('/camera/color/image_raw', False), ('and/or 3/4', False), ('../shared/data', False)])
def test_a_topic_is_no_path_and_a_path_is_found_wherever_it_stands(text, private):
    with contextlib.nullcontext() if not private else pytest.raises(ValueError, match='a path of'):
        reject_private_paths(text)


def test_a_figure_is_read_and_held_against_its_bound(tmp_path, capfd):
    path = tmp_path / '1.json'
    for least, told in (('0', 'reached'), ('99', 'missed')):
        assert main(['dev', 'record', str(path), '--title', 'x', '--figure', r'(\d+)\.',
                     '--least', least, '--', '--version']) == 0
        record = Record(**json.loads(path.read_text()))
        assert (record.reached, record.wanted) == (told, f'at least {least}')
    assert main(['dev', 'results', str(tmp_path), '--out', str(tmp_path / 'p.md')]) == 0
    assert '| **missed** |' in (tmp_path / 'p.md').read_text()
    assert main(['dev', 'record', str(path), '--title', 'x', '--figure', 'x', '--', '--version'
                 ]) == 1
    assert '--figure needs --least or --most' in capfd.readouterr().err


def record(title):
    return asdict(Record(title, '', None, '', 'crosspoint x', '0.1.0', 'a machine, 2 cores',
                         0.0, '2026-01-01T00:00Z', 1.0, 1.0, 1.0, 0, 'printed\n', ''))


def test_a_broken_record_is_named_and_the_rest_is_shown(tmp_path, capsys):
    (tmp_path / '1.json').write_text(json.dumps(record('First')))
    (tmp_path / '2.json').write_text('{"title": ')
    (tmp_path / '3.json').write_text(json.dumps(record('Third') | {'wall_s': 'long'}))
    (tmp_path / '4.json').write_text(json.dumps(record('First')))
    assert main(['dev', 'results', str(tmp_path), '--out', str(tmp_path / 'p.md')]) == 1
    said, page = capsys.readouterr().err, (tmp_path / 'p.md').read_text()
    assert '## First' in page
    for problem in ('2.json is not a record',
                    "3.json is not a record: wall_s is 'long', not a float",
                    '4.json is not a record: another record has the title First'):
        assert problem in said
        assert problem in page


def test_what_a_command_printed_cannot_end_its_own_block(tmp_path):
    (tmp_path / '1.json').write_text(json.dumps(record('First') | {'output': '```\n# A heading'}))
    assert main(['dev', 'results', str(tmp_path), '--out', str(tmp_path / 'p.md')]) == 0
    assert '````\n```\n# A heading\n````' in (tmp_path / 'p.md').read_text()


@pytest.mark.parametrize('lacking', ['by', 'source', 'measured'])
def test_a_published_figure_without_its_source_is_refused(tmp_path, capsys, lacking):
    known = {'benchmark': 'b', 'subject': 's', 'value': '1 %', 'by': 'x', 'source': 'y',
             'measured': 'First'}
    (tmp_path / '1.json').write_text(json.dumps(record('First')))
    (tmp_path / 'published.json').write_text(json.dumps([known]))
    assert main(['dev', 'results', str(tmp_path), '--out', str(tmp_path / 'p.md')]) == 0
    assert '| x: y | [First](#first) |' in (tmp_path / 'p.md').read_text()
    (tmp_path / 'published.json').write_text(json.dumps([known | {lacking: ''}]))
    assert main(['dev', 'results', str(tmp_path), '--out', str(tmp_path / 'p.md')]) == 1
    assert f'has no {lacking}' in capsys.readouterr().err
