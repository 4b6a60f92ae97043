"""`crosspoint …`: help without ROS, commands imported only when they run, errors in words."""
from __future__ import annotations

import subprocess
import sys

import pytest

from crosspoint_ros import cli

# What a fresh machine may lack, and what makes a start slow.
HEAVY = ('rclpy', 'cv2', 'numpy', 'rosbags')


def test_help_imports_neither_ros_nor_numpy_nor_opencv():
    code = ('import sys\nfrom crosspoint_ros.cli import main\nassert main(["--help"]) == 0\n'
            f'loaded = [name for name in {HEAVY} if name in sys.modules]\nsys.exit(str(loaded))')
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert run.stderr.strip() == '[]'
    assert 'crosspoint COMMAND' in run.stdout


def test_help_names_every_command(capsys):
    assert cli.main(['--help']) == 0
    told = capsys.readouterr().out
    assert all(f'  {name} ' in told for name in cli.COMMANDS)


def test_no_command_and_an_unknown_one_fail_with_the_list(capsys):
    assert cli.main([]) == 2
    assert cli.main(['bench', 'nothing']) == 2
    assert "'bench nothing'" in capsys.readouterr().err


def test_the_version_is_told(capsys):
    assert cli.main(['--version']) == 0
    assert capsys.readouterr().out.startswith('crosspoint ')


@pytest.mark.parametrize('name', cli.COMMANDS)
def test_every_command_explains_its_options(name, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([*name.split(), '--help'])
    assert ended.value.code == 0
    assert f'usage: crosspoint {name}' in capsys.readouterr().out


@pytest.mark.parametrize(('missing', 'advice'), [
    ('rclpy', 'source a ROS 2 distro'), ('cv2', 'python3-opencv'), ('rosbags', 'pip install'),
    ('aiohttp', 'python3-aiohttp')])
def test_a_missing_module_is_named_with_what_to_do(missing, advice, monkeypatch, capsys):
    def absent(name):
        raise ModuleNotFoundError(f'No module named {missing!r}', name=missing)

    monkeypatch.setattr(cli, 'import_module', absent)
    assert cli.main(['bench', 'scene']) == 1
    told = capsys.readouterr().err
    assert f'needs {missing}' in told
    assert advice in told


@pytest.mark.parametrize(('words', 'said'), [
    ('bench pairs /nowhere', '/nowhere is no set of pairs'),
    ('bench scene /nowhere', '/nowhere is no recorded scene'),
    ('bench scene --matcher nope', "no matcher 'nope'; known: xfeat"),
    ('bench scene --matcher os:path', 'is no class'),
])
def test_what_a_user_gets_wrong_is_one_sentence(capsys, words, said):
    assert cli.main(words.split()) == 1
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_a_group_of_commands_is_told_of(capsys):
    assert cli.main(['bench', '--help']) == 0
    assert 'bench pairs' in capsys.readouterr().out


@pytest.mark.parametrize('words', ['bench pairs . --limit 0', 'bench node --clicks 0',
                                   'bench web --clicks 0'])
def test_nothing_to_measure_is_refused(capsys, words):
    with pytest.raises(SystemExit):
        cli.main(words.split())
    assert "'0'" in capsys.readouterr().err
