"""`crosspoint …`: the overview, one imported command, exit codes, and errors in one line."""
from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from crosspoint_ros import cli
from crosspoint_ros.completion import format_script

# What a fresh machine may lack, and what makes a start slow.
HEAVY = ('rclpy', 'cv2', 'numpy', 'rosbags', 'tqdm')
USER_COMMANDS = [name for name, command in cli.COMMANDS.items() if command.group != 'dev']


def crosspoint(*words: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, '-m', 'crosspoint_ros.cli', *words], text=True,
                          capture_output=True, env={**os.environ, **env})


# --- overview -------------------------------------------------------------------------------------

def test_help_imports_neither_ros_nor_numpy_nor_opencv():
    code = ('import sys\nfrom crosspoint_ros.cli import main\nassert main(["--help"]) == 0\n'
            'assert main(["completion", "bash"]) == 0\n'
            f'loaded = [name for name in {HEAVY} if name in sys.modules]\nsys.exit(str(loaded))')
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert run.stderr.strip() == '[]'
    assert 'crosspoint COMMAND' in run.stdout


@pytest.mark.parametrize(('given', 'threads'), [({}, '1'), ({'OPENBLAS_NUM_THREADS': '3'}, '3')])
@pytest.mark.parametrize('start', ['import crosspoint_ros.ros.node.matcher_runtime',
                                   'from crosspoint_ros.cli import main; main(["--version"])'])
def test_numpy_gets_one_thread_in_the_node_and_the_command_unless_told(start, given, threads):
    code = f'import os\nassert "numpy" not in __import__("sys").modules\n{start}\n' \
        'print(os.environ["OPENBLAS_NUM_THREADS"])'
    env = {k: v for k, v in os.environ.items() if k != 'OPENBLAS_NUM_THREADS'} | given
    done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert done.stdout.split()[-1] == threads, done.stderr


def test_help_lists_the_commands_in_groups_and_the_exit_codes(capsys):
    assert cli.main(['--help']) == 0
    overview = capsys.readouterr().out
    assert all(f'  {name} ' in overview for name in USER_COMMANDS)
    titles = [title for title, listed in cli.GROUPS.values() if listed]
    assert [line for line in overview.splitlines() if line in titles] == titles
    assert 'exit codes: 0 answered, 1 failure, 2 usage, 3 refused, 4 no node' in overview


def test_the_laboratory_has_an_overview_of_its_own(capsys):
    assert cli.main(['--help']) == 0
    assert 'dev fusion' not in capsys.readouterr().out
    assert cli.main(['dev', '--help']) == 0
    overview = capsys.readouterr().out
    assert all(f'  {name} ' in overview for name in cli.COMMANDS if name not in USER_COMMANDS)
    assert 'bench pairs' not in overview


@pytest.mark.parametrize('words', [['bench'], ['bench', '--help'], ['data', '-h']])
def test_a_group_lists_its_commands(capsys, words):
    assert cli.main(words) == 0
    overview = capsys.readouterr().out
    assert f'  {words[0]} ' in overview
    assert '  demo ' not in overview


def test_without_a_command_the_overview_is_a_usage_error(capsys):
    assert cli.main([]) == 2
    assert 'crosspoint COMMAND' in capsys.readouterr().out


@pytest.mark.parametrize(('typed', 'meant'), [
    ('doctr', 'doctor'), ('bench latncy', 'bench latency'), ('pairs', 'bench pairs'),
    ('bench record', 'dev record'), ('data chekc', 'data check')])
def test_a_misspelt_command_is_answered_with_the_nearest(capsys, typed, meant):
    assert cli.main(typed.split()) == 2
    assert f'unknown command {typed!r}; did you mean {meant}?' in capsys.readouterr().err


def test_a_command_that_resembles_none_gets_no_suggestion(capsys):
    assert cli.main(['xyzzy']) == 2
    error = capsys.readouterr().err
    assert "unknown command 'xyzzy'\n" in error
    assert 'crosspoint --help' in error


def test_a_misspelt_option_is_answered_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(['bench', 'pairs', '.', '--no-dephts'])
    assert exit_.value.code == 2
    assert 'did you mean --no-depth?' in capsys.readouterr().err


def test_the_version_is_printed(capsys):
    assert cli.main(['--version']) == 0
    assert capsys.readouterr().out.startswith('crosspoint ')


@pytest.mark.parametrize('name', cli.COMMANDS)
def test_every_command_explains_its_options_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main([*name.split(), '--help'])
    assert exit_.value.code == 0
    page = capsys.readouterr().out
    assert f'usage: crosspoint {name}' in page
    assert page.count('example: ') == 1
    assert max(map(len, page.splitlines())) <= 120


@pytest.mark.parametrize('name', cli.COMMANDS)
def test_every_example_has_options_that_exist(name):
    words = cli.COMMANDS[name].example.split()
    arguments, options = cli.build_parser(name, cli.COMMANDS[name]).parse_known_args(words)
    assert options == []
    assert arguments


# --- errors ---------------------------------------------------------------------------------------

@pytest.mark.parametrize(('missing', 'advice'), [
    ('rclpy', 'requirements/kilted.txt'), ('crosspoint_ros.msg', 'source a distro'),
    ('sensor_msgs', 'make demo'), ('cv2', 'python3-opencv'), ('rosbags', 'pip install rosbags'),
    ('aiohttp', 'python3-aiohttp')])
def test_a_missing_module_is_named_with_how_to_get_it(missing, advice, monkeypatch, capsys):
    def absent(name):
        raise ModuleNotFoundError(f'No module named {missing!r}', name=missing)

    monkeypatch.setattr(cli, 'import_module', absent)
    assert cli.main(['bench', 'pairs']) == 1
    error = capsys.readouterr().err
    assert error.startswith('crosspoint bench pairs needs ')
    assert advice in error
    assert len(error.splitlines()) == 1


def test_a_missing_module_of_this_package_is_a_bug_and_shown_as_one(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError('No module', name='crosspoint_ros.core.nothing')

    monkeypatch.setattr(cli, 'import_module', absent)
    with pytest.raises(ModuleNotFoundError):
        cli.main(['bench', 'pairs'])


@pytest.mark.parametrize(('words', 'reason'), [
    ('bench pairs /nowhere', '/nowhere'),
    ('bench pairs crosspoint_ros/scenes/kitchen --matcher nope', "no matcher 'nope'"),
])
def test_what_a_user_gets_wrong_is_one_line(capsys, words, reason):
    assert cli.main(words.split()) == 1
    error = capsys.readouterr().err
    assert reason in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize('words', ['bench pairs . --limit 0', 'bench node --clicks 0',
                                   'dev web --clicks 0'])
def test_nothing_to_measure_is_refused(capsys, words):
    with pytest.raises(SystemExit):
        cli.main(words.split())
    assert "'0'" in capsys.readouterr().err


def test_a_reader_that_closes_the_pipe_is_no_error():
    shell = f'{sys.executable} -m crosspoint_ros.cli --help | true; echo ${{PIPESTATUS[0]}}'
    run = subprocess.run(['bash', '-c', shell], text=True, capture_output=True,
                         env={**os.environ, 'PYTHONUNBUFFERED': '1'})
    assert run.stderr == ''
    assert run.stdout.strip() in ('0', '141')  # 0: written before the reader left


def test_live_images_come_to_the_mask_from_ros(monkeypatch):
    module = SimpleNamespace(stream_images=lambda *words: iter([words]))
    monkeypatch.setitem(sys.modules, 'crosspoint_ros.ros.tools.live_camera', module)
    words = ['mask', '--live', '5', '--camera', 'wrist', '--topic', '/wrist/image']
    args = cli.build_parser('mask', cli.COMMANDS['mask']).parse_args(words[1:])
    images, = cli.build_inputs('mask', args)
    assert next(images) == ('wrist', 5.0, '/wrist/image', '')
    assert cli.build_inputs('doctor', args) == []


# --- terminal -------------------------------------------------------------------------------------

class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(('stream', 'no_color', 'coloured'), [
    (Terminal, '', True), (Terminal, '1', False), (io.StringIO, '', False)])
def test_colour_needs_a_terminal_and_no_no_color(monkeypatch, stream, no_color, coloured):
    monkeypatch.setattr(sys, 'stdout', stream())
    monkeypatch.setenv('NO_COLOR', no_color)
    monkeypatch.setenv('TERM', 'xterm')
    assert (cli.colour('sure', cli.GREEN) != 'sure') is coloured


def test_warnings_of_the_package_go_to_stderr_once(capsys):
    log = logging.getLogger('crosspoint_ros.data.anything')
    handlers = list(logging.getLogger('crosspoint_ros').handlers)
    with cli.log_to_stderr(), cli.log_to_stderr():
        log.warning('%d frames skipped', 3)
    assert logging.getLogger('crosspoint_ros').handlers == handlers
    captured = capsys.readouterr()
    assert captured.err == '3 frames skipped\n'
    assert captured.out == ''


def test_a_warning_leaves_a_progress_bar_whole(capsys):
    from tqdm import tqdm
    with cli.log_to_stderr(), tqdm(total=2, disable=False, ncols=40) as bar:
        logging.getLogger('crosspoint_ros').warning('one frame skipped')
        bar.update()
    error = capsys.readouterr().err
    assert 'one frame skipped\n' in error
    assert '%|' not in error.split('one frame skipped')[0].rpartition('\r')[2]


# --- completion -----------------------------------------------------------------------------------

def complete(*words: str) -> list[str]:
    """Let a real bash complete the last word."""
    script = format_script('bash') + '''
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _crosspoint; printf '%s\\n' "${COMPREPLY[@]}"'''
    run = subprocess.run(['bash', '-c', script, 'bash', *words], text=True, capture_output=True)
    assert run.stderr == ''
    return run.stdout.split()


@pytest.mark.parametrize(('words', 'offered'), [
    (['crosspoint', 'd'], ['demo', 'doctor', 'data', 'dev']),
    (['crosspoint', 'data', ''], ['build', 'check', 'train-config']),
    (['crosspoint', 'bench', 'c'], ['crosspoint', 'calibrate']),
    (['crosspoint', 'click', 'fr'], []),  # bash's own completion of files
])
def test_bash_completes_commands(words, offered):
    assert complete(*words) == offered


@pytest.mark.parametrize('shell', ['bash', 'zsh', 'fish'])
def test_a_completion_script_names_every_command(shell, capsys):
    assert cli.main(['completion', shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for name in cli.COMMANDS for word in name.split())


def test_a_shell_without_a_script_is_a_usage_error():
    run = crosspoint('completion', 'tcsh')
    assert run.returncode == 2
    assert 'tcsh' in run.stderr
