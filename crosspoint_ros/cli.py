"""The `crosspoint` command: finds a subcommand, imports it alone, and runs it."""
from __future__ import annotations

import argparse
import difflib
import logging
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

PACKAGE = 'crosspoint_ros'
ANSWERED, FAILURE, USAGE, REFUSED, NO_NODE = 0, 1, 2, 3, 4
INTERRUPTED, BROKEN_PIPE = 130, 141  # as a shell reports SIGINT and SIGPIPE
EXIT_CODES = {ANSWERED: 'answered', FAILURE: 'failure', USAGE: 'usage', REFUSED: 'refused',
              NO_NODE: 'no node'}

# group -> (title, whether the overview lists it)
GROUPS = {'use': ('Use', True), 'check': ('Check', True), 'data': ('Training data', True),
          'bench': ('Benchmarks', True), 'dev': ('For developers', False)}


class Command(NamedTuple):
    """A subcommand: its module has add_arguments(parser) and main(args) -> exit code."""

    group: str
    module: str
    summary: str
    example: str  # the arguments of a typical call


COMMANDS = {
    'demo': Command('use', 'demo.run', 'play the built-in kitchen and click everything in it',
                    '--count 5'),
    'match': Command('use', 'match', 'find points of one image file in another, without ROS',
                     'front.jpg wrist.jpg --at 320 240 --out pair.png'),
    'click': Command('use', 'ros.client.cli', 'click once on a camera of a running node',
                     'front 320 240'),
    'web': Command('use', 'web.cli', 'serve a page to click on, for any browser', '--port 8080'),
    'mcp': Command('use', 'ros.client.mcp_server', 'serve tools for a language-model agent',
                   '--node /crosspoint'),
    'completion': Command('use', 'completion', 'print the completion script of a shell', 'bash'),
    'doctor': Command('check', 'ros.doctor.cli', 'find what keeps a node from answering clicks',
                      '--json'),
    'replay': Command('check', 'ros.replay.cli', 'answer the clicks of a recording again and '
                      'report what changed', 'click.mcap --params robot.yaml'),
    'mask': Command('check', 'data.self_mask', "find the robot's own body in a moving camera",
                    'recording.mcap --camera wrist --out wrist_mask.png'),
    'calibrate': Command('check', 'data.calibration.cli', 'measure and correct where a camera is '
                         'mounted, without a board',
                         'recording.mcap --camera wrist --hand-frame tool0'),
    'data build': Command('data', 'data.qa.build', "build questions in CrossPoint-378K's format "
                          'from recordings', 'scenes/* --out dataset'),
    'data check': Command('data', 'data.qa.check', 'validate a data set against its files and the '
                          'geometry', 'dataset'),
    'data train-config': Command('data', 'data.llamafactory', 'write the LLaMA-Factory '
                                 'configuration that trains CroPond on a data set',
                                 'dataset --out training --model CroPond-3B'),
    'bench pairs': Command('bench', 'bench.pairs.cli', 'score a matcher on recorded image pairs',
                           'apc_shelf --no-depth'),
    'bench latency': Command('bench', 'bench.latency.cli', 'time a click and compare it with plain '
                             'transformers decoding', '--matcher xfeat'),
    'bench crosspoint': Command('bench', 'bench.crosspoint.cli', 'run CrossPoint-Bench on a '
                                'matcher or a model', 'CrossPoint-Bench --matcher xfeat'),
    'bench score': Command('bench', 'bench.crosspoint.score_cli', 'score replies to '
                           "CrossPoint-Bench by the authors' rules or corrected ones",
                           'replies.jsonl'),
    'bench export': Command('bench', 'bench.pairs.export', 'write image pairs in the format of '
                            'CrossPoint-Bench', 'apc_shelf --out shelf_bench'),
    'bench data': Command('bench', 'bench.data.accuracy', 'measure the accuracy of `data build` '
                          'against ground truth', 'apc_shelf'),
    'bench calibrate': Command('bench', 'bench.calibrate.cli', 'perturb where a camera is mounted, '
                               'and measure how well `calibrate` finds it again',
                               'crosspoint_ros/scenes/kitchen --draws 5'),
    'bench follow': Command('bench', 'bench.follow.cli', 'score following on recordings of moving '
                            'objects', 'kitchen_moving --no-depth'),
    'bench pick': Command('bench', 'bench.pick.cli', 'click on objects in MuJoCo, and count those '
                          'that get lifted', '--trials 5 --pictures failures'),
    'bench segment': Command('bench', 'bench.segment.cli', 'score the masks and widths of clicked '
                             'things on the built-in kitchen', '--clicks 3 --pictures masks'),
    'bench node': Command('bench', 'bench.node.cli', "measure the node's idle load and overhead",
                          '--clicks 30'),
    'dev record': Command('dev', 'bench.record', 'run a benchmark and record what it prints',
                          'docs/benchmarks/results/10.json --title Shelf -- bench pairs apc_shelf'),
    'dev results': Command('dev', 'bench.results', 'write docs/benchmarks/results.md from '
                           'the records',
                           'docs/benchmarks/results --out docs/benchmarks/results.md'),
    'dev build': Command('dev', 'bench.data.throughput', 'time `data build` in one process and in '
                         'several', 'crosspoint_ros/scenes/kitchen --processes 4'),
    'dev web': Command('dev', 'bench.web.cli', 'measure the load and the latency of the page',
                       '--clicks 10'),
    'dev fuzz': Command('dev', 'bench.stress.fuzz', 'send random and mutated messages to a node '
                        "and to the page's server", '--messages 20000'),
    'dev soak': Command('dev', 'bench.stress.soak', 'find what grows while node and page work for '
                        'an hour', '--minutes 15'),
    'dev drill': Command('dev', 'bench.stress.drill', 'kill processes at random, fill the disk, '
                         'turn the clock back', '--minutes 2 --seed 1'),
    'dev page-drill': Command('dev', 'bench.web.drill', 'provoke faults, and compare what the '
                              'page says with TF and the node', '--fault hang-server'),
    'dev restarts': Command('dev', 'bench.node.ends', 'start and end the node again and again; it '
                            'must leave nothing', '--count 10'),
    'dev fit-confidence': Command('dev', 'bench.pairs.fit_confidence', "fit the weights of xfeat's "
                                  'confidence on one set, and show them on another',
                                  'apc_shelf bin_toys --plot reliability.png'),
    'dev fusion': Command('dev', 'bench.pairs.fusion', 'score a matcher that refines a simulated '
                          'model', 'apc_shelf'),
}


def format_overview(*groups: str) -> str:
    """List the commands of some groups, by default those for users."""
    width = max(map(len, COMMANDS)) + 2
    lines = ['usage: crosspoint COMMAND [OPTIONS]']
    for group in groups or [name for name, (_, listed) in GROUPS.items() if listed]:
        lines += ['', colour(GROUPS[group][0], BOLD)]
        lines += [f'  {name:{width}}{command.summary}' for name, command in COMMANDS.items()
                  if command.group == group]
    codes = ', '.join(f'{code} {meaning}' for code, meaning in EXIT_CODES.items())
    return '\n'.join([*lines, '', 'crosspoint COMMAND --help   options of a command',
                      'crosspoint dev --help       commands for developers',
                      'crosspoint --version        the installed version', '',
                      f'exit codes: {codes}'])


def main(argv: list[str] | None = None) -> int:
    """Run a command; return its exit code."""
    os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')  # as the node does
    try:
        code = dispatch(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:  # while the command is being imported, too
        return INTERRUPTED
    except BrokenPipeError:  # the reader has gone: nothing more to print, at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def dispatch(words: list[str]) -> int:
    """Print the overview, or find the command and run it."""
    if words[:1] == ['--version']:
        try:
            print(f'crosspoint {metadata.version(PACKAGE)}')
        except metadata.PackageNotFoundError:
            print('crosspoint unknown: run from the source tree')
        return ANSWERED
    if not words or words[0] in ('-h', '--help', 'help'):
        print(format_overview())
        return ANSWERED if words else USAGE
    name = next((n for n in COMMANDS if words[:len(n.split())] == n.split()), None)
    if name is not None:
        return run_command(name, words[len(name.split()):])
    if words[0] in GROUPS and words[1:] in ([], ['-h'], ['--help']):
        print(format_overview(words[0]))
        return ANSWERED
    typed = ' '.join(words[:2] if words[0] in GROUPS else words[:1])
    moved = [n for n in COMMANDS if n.split()[-1] == typed.split()[-1]]  # to another group
    print(f'crosspoint: unknown command {typed!r}{suggest(typed, moved or COMMANDS)}\n'
          'crosspoint --help lists the commands', file=sys.stderr)
    return USAGE


def suggest(typed: str, known: Iterable[str]) -> str:
    """Return `; did you mean …?` for the nearest known word, '' if none is near."""
    near = difflib.get_close_matches(typed, known, n=1)
    return f'; did you mean {near[0]}?' if near else ''


class Parser(argparse.ArgumentParser):
    """An argument parser that suggests the nearest option to a misspelt one."""

    def error(self, message: str) -> NoReturn:
        """Print the message in one line and exit with 2."""
        _, unrecognized, typed = message.partition('unrecognized arguments: ')
        if unrecognized:
            message += suggest(typed.split()[0].partition('=')[0], self._option_string_actions)
        self.exit(USAGE, f'{self.prog}: {message} ({self.prog} --help lists the options)\n')


def build_parser(name: str, command: Command) -> argparse.ArgumentParser:
    """Import the command's module, which declares its options."""
    parser = Parser(prog=f'crosspoint {name}', description=command.summary,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    import_module(f'{PACKAGE}.{command.module}').add_arguments(parser)
    example = f'example: crosspoint {name} {command.example}'
    parser.epilog = f'{example}\n\n{textwrap.fill(parser.epilog or "", 78)}'.strip()
    return parser


def run_command(name: str, arguments: list[str]) -> int:
    """Run a command; print an error that its user can correct in one line."""
    command = COMMANDS[name]
    try:
        with log_to_stderr():
            args = build_parser(name, command).parse_args(arguments)
            module = import_module(f'{PACKAGE}.{command.module}')
            return int(module.main(args, *build_inputs(name, args)))
    except ModuleNotFoundError as error:
        if not (hint := find_install_hint(error.name or '')):
            raise
        if {'-h', '--help'} & set(arguments):  # its module, which declares the options, needs it
            print(f'crosspoint {name}: {command.summary}\nexample: crosspoint {name} '
                  f'{command.example}\n\nIts options are listed where it can run. It needs {hint}')
            return ANSWERED
        print(f'crosspoint {name} needs {hint}', file=sys.stderr)
    # What the user gave: a path, an option, a matcher, a model that is too large for the machine.
    except (OSError, ValueError, MemoryError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        print(f'crosspoint {name}: {error}', file=sys.stderr)
    return FAILURE


def build_inputs(name: str, args: argparse.Namespace) -> list[Any]:
    """Return the arguments of a command that its own module must not import."""
    if name == 'demo' and args.pick:
        import_module(f'{PACKAGE}.bench.pick.mujoco_setup').require_mujoco()
        return [import_module(f'{PACKAGE}.bench.pick.live_demo').run]
    if name not in ('mask', 'calibrate') or args.live is None:
        return []
    if name == 'calibrate':
        live_messages = import_module(f'{PACKAGE}.ros.tools.live_messages')
        return [partial(live_messages.open_live, args.camera, args.live)]
    live_camera = import_module(f'{PACKAGE}.ros.tools.live_camera')
    return [live_camera.stream_images(args.camera, args.live, args.topic, args.depth_topic)]


def find_install_hint(module: str) -> str:
    """Return what a missing module belongs to and how to get it, '' for a module of ours."""
    top, _, rest = module.partition('.')
    if top == PACKAGE and rest.partition('.')[0] not in ('msg', 'srv', 'action'):
        return ''
    ours = {'cv2': 'OpenCV: pip install "opencv-python-headless<5", or apt install python3-opencv',
            'PIL': 'Pillow: pip install pillow, or apt install python3-pil',
            'aiohttp': 'aiohttp: pip install aiohttp, or apt install python3-aiohttp',
            'yaml': 'PyYAML: pip install pyyaml, or apt install python3-yaml',
            **{name: f"{title}: pip install 'crosspoint_ros[sim]'" for name, title in (
                ('mujoco', 'MuJoCo'), ('mink', 'mink, inverse kinematics'))},
            **{name: f'{name}: pip install {name}' for name in ('numpy', 'tqdm', 'rosbags')}}
    if top in ours:
        return ours[top]
    distros = sorted(Path('/opt/ros').glob('*/setup.sh'))
    if distros and 'AMENT_PREFIX_PATH' not in os.environ:
        return f'ROS 2, which is installed but not sourced: . {distros[-1]}'
    return (f'ROS 2 ({module} is missing): source a distro with this package built in it; or, in '
            'the repository, `make demo`, or `pip install -r requirements/kilted.txt` and then '
            '`pip install .` again')


# --- terminal -------------------------------------------------------------------------------------

BOLD, RED, GREEN, YELLOW = '1', '31', '32', '33'


def colour(text: str, code: str) -> str:
    """Return the text in an ANSI colour if stdout is a terminal and NO_COLOR is not set."""
    if os.environ.get('NO_COLOR') or os.environ.get('TERM') == 'dumb' or not sys.stdout.isatty():
        return text
    return f'\x1b[{code}m{text}\x1b[0m'


class StderrHandler(logging.Handler):
    """Prints log records to stderr, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        tqdm = sys.modules.get('tqdm')
        write = tqdm.tqdm.write if tqdm else print
        write(self.format(record), file=sys.stderr)


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Print what the package logs, each record once; other handlers are kept."""
    log = logging.getLogger(PACKAGE)
    handlers = log.handlers
    log.handlers = [*(h for h in handlers if not isinstance(h, StderrHandler)), StderrHandler()]
    try:
        yield
    finally:
        log.handlers = handlers


if __name__ == '__main__':
    sys.exit(main())
