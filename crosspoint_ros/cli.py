"""`crosspoint …`: every command, each imported only when it runs."""
from __future__ import annotations

import argparse
import sys
from importlib import import_module, metadata

# command -> (module with add_arguments(parser) and main(args) -> int, what it does)
COMMANDS = {
    'demo': ('crosspoint_ros.demo.run', 'play the built-in kitchen and click everything in it'),
    'click': ('crosspoint_ros.ros.client.client', 'click once on a camera of a running node'),
    'web': ('crosspoint_ros.web.cli', 'serve a page to click on, for any browser'),
    'doctor': ('crosspoint_ros.ros.doctor.cli', 'say what keeps a node from answering clicks, and '
               'what cures it'),
    'replay': ('crosspoint_ros.ros.replay.cli', 'answer the clicks of a recording again, and say what '
               'changed'),
    'mask': ('crosspoint_ros.data.self_mask', "find the robot's own body in a moving camera"),
    'data build': ('crosspoint_ros.data.qa.build', "make questions in CrossPoint-378K's format from "
                   'recordings'),
    'data check': ('crosspoint_ros.data.qa.check', 'hold a data set against its files and the '
                   'geometry'),
    'data train-config': ('crosspoint_ros.data.llamafactory', 'write what LLaMA-Factory needs to '
                          'train CroPond on a data set'),
    'bench scene': ('crosspoint_ros.bench.scene', 'score clicks on a recorded scene'),
    'bench pairs': ('crosspoint_ros.bench.pairs.cli', 'score a matcher on a folder of real pairs'),
    'bench refine': ('crosspoint_ros.bench.pairs.fusion', 'score a matcher that refines a simulated one'),
    'bench latency': ('crosspoint_ros.bench.latency.cli', 'time a click, and compare it with the '
                      "authors' way"),
    'bench crosspoint': ('crosspoint_ros.bench.crosspoint.cli', 'ask CrossPoint-Bench of a '
                         'matcher or a model, and score it'),
    'bench score': ('crosspoint_ros.bench.crosspoint.score_cli', "score anybody's replies on "
                    "CrossPoint-Bench, by the authors' rules or corrected ones"),
    'bench export': ('crosspoint_ros.bench.pairs.export', 'write a set of pairs as CrossPoint-Bench has '
                     'it'),
    'bench build': ('crosspoint_ros.bench.data.throughput', 'time how questions are built, in one process '
                    'and in several'),
    'bench data': ('crosspoint_ros.bench.data.accuracy', 'hold what `data build` says of points against '
                   'their known places'),
    'bench record': ('crosspoint_ros.bench.record', 'run a command, and keep what it printed for '
                     'the page of results'),
    'bench results': ('crosspoint_ros.bench.results', 'write the page of results from what was '
                      'recorded'),
    'bench web': ('crosspoint_ros.bench.web.cli', 'measure what the page costs, and how soon it '
                  'answers'),
    'bench node': ('crosspoint_ros.bench.node.cli', 'measure what the node itself costs'),
}


def get_version() -> str:
    """Return the version that is installed."""
    try:
        return metadata.version('crosspoint_ros')
    except metadata.PackageNotFoundError:
        return 'is not installed; this is its source'


def format_overview() -> str:
    """List the commands, a line each."""
    width = max(map(len, COMMANDS)) + 2
    return '\n'.join(['usage: crosspoint COMMAND [OPTIONS]', '',
                      *(f'  {name:{width}}{text}' for name, (_, text) in COMMANDS.items()), '',
                      'crosspoint COMMAND --help tells the options; crosspoint --version the '
                      'version.'])


def main(argv: list[str] | None = None) -> int:
    """Run a command; 2 for one that does not exist."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ['--version']:
        print(f'crosspoint {get_version()}')
        return 0
    if not words or words[0] in ('-h', '--help', 'help'):
        print(format_overview())
        return 0 if words else 2
    name = next((n for n in COMMANDS if words[:len(n.split())] == n.split()), None)
    if name is None and words[1:] in ([], ['-h'], ['--help']) and any(
            n.startswith(f'{words[0]} ') for n in COMMANDS):
        print(format_overview())
        return 0
    if name is None:
        print(f'crosspoint: there is no command {" ".join(words[:2])!r}\n\n{format_overview()}',
              file=sys.stderr)
        return 2
    try:
        return run_command(name, words[len(name.split()):])
    except KeyboardInterrupt:  # while the command is being imported, too
        return 130


def run_command(name: str, arguments: list[str]) -> int:
    """Import the command's module, let it declare its options, and run it."""
    module_name, text = COMMANDS[name]
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        print(f'crosspoint {name} needs {error.name}: {install_hint(error.name or "")}', file=sys.stderr)
        return 1
    parser = argparse.ArgumentParser(prog=f'crosspoint {name}', description=text)
    module.add_arguments(parser)
    try:
        return int(module.main(parser.parse_args(arguments)))
    # What the user gave: a path, an option, a matcher, a model that is too large for the machine.
    except (OSError, ValueError, MemoryError) as error:
        print(f'crosspoint {name}: {error}', file=sys.stderr)
        return 1


def install_hint(module: str) -> str:
    """Say where a missing module comes from."""
    if module.partition('.')[0] in ('rclpy', 'rcl_interfaces', 'sensor_msgs', 'geometry_msgs',
                                    'lifecycle_msgs', 'tf2_msgs'):
        return 'source a ROS 2 distro, or run it in the environment that `make demo` sets up'
    if module.startswith('crosspoint_ros.'):
        return 'it is not part of this build; install the package, or build and source it'
    return {'cv2': 'pip install "opencv-python-headless<5", or apt install python3-opencv',
            'PIL': 'pip install pillow, or apt install python3-pil',
            'aiohttp': 'apt install python3-aiohttp, or pip install aiohttp',
            'rosbags': 'pip install rosbags'}.get(module, f'pip install {module}')


if __name__ == '__main__':
    sys.exit(main())
