"""`pip install .` where there is no ROS: a pure-Python wheel that answers on image files."""
from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What setup.py takes for the environment: one that holds no ROS.
BUILD = """import runpy, sys
sys.prefix = '/nowhere'
sys.argv = ['setup.py', '-q', *sys.argv[1:]]
runpy.run_path('setup.py', run_name='__main__')"""
# No module of ROS can be imported, wherever it is installed.
BLOCK = '''
import sys
class NoRos:
    def find_spec(self, name, path=None, target=None):
        top, _, rest = name.partition('.')
        if top.startswith('rclpy') or top.endswith(('_msgs', '_interfaces', '_srvs')) or (
                top == 'crosspoint_ros' and rest.split('.')[0] in ('msg', 'srv', 'action')):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, NoRos())
from crosspoint_ros.cli import main
sys.exit(main(sys.argv[1:]))
'''


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the tree without ROS, CMake or a compiler."""
    folder = tmp_path_factory.mktemp('without_ros')
    for name in ('crosspoint_ros', 'requirements', 'setup.py', 'pyproject.toml', 'package.xml'):
        (folder / name).symlink_to(ROOT / name)
    env = {k: v for k, v in os.environ.items() if k not in ('AMENT_PREFIX_PATH', 'PYTHONPATH')}
    env.update(PATH=str(folder / 'bin'), CC='/bin/false', CXX='/bin/false')
    subprocess.run([sys.executable, '-c', BUILD, 'bdist_wheel', '--dist-dir', str(folder)],
                   cwd=folder, env=env, check=True)
    return next(folder.glob('*.whl'))


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('installed')
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def crosspoint(installed: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, '-c', BLOCK, *words], text=True, capture_output=True,
                          cwd=installed)


def test_the_wheel_is_for_every_platform(wheel):
    assert wheel.name.endswith('-py3-none-any.whl')
    assert wheel.stat().st_size < 20e6


def test_the_wheel_holds_the_python_tree_with_its_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {str(p.relative_to(ROOT)) for p in (ROOT / 'crosspoint_ros').rglob('*')
               if p.is_file() and '__pycache__' not in p.parts}
    assert sources <= names
    assert {n.split('/')[0] for n in names - sources} == {
        f'crosspoint_ros-{wheel.name.split("-")[1]}.dist-info'}


def test_the_wheel_requires_numpy_and_tqdm_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(next(n for n in archive.namelist() if n.endswith('METADATA')))
    requires = [line.split()[1] for line in metadata.decode().splitlines()
                if line.startswith('Requires-Dist') and 'extra' not in line]
    assert [r.split('>')[0] for r in requires] == ['numpy', 'tqdm']
    for extra in ('images', 'cropond', 'remote', 'ros', 'web'):
        assert f'Provides-Extra: {extra}' in metadata.decode()


@pytest.mark.parametrize('words', [
    'click front 320 240', 'web', 'doctor', 'replay bag.mcap', 'bench node', 'demo'])
def test_a_command_that_needs_ros_names_the_way_to_it_in_one_line(installed, words):
    run = crosspoint(installed, *words.split())
    assert run.returncode == 1
    assert re.match(r'crosspoint (bench node|\w+) needs ROS 2', run.stderr)
    assert 'requirements/kilted.txt' in run.stderr
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize('words', ['click', 'web', 'doctor', 'replay', 'bench node'])
def test_the_help_of_a_command_that_needs_ros_says_so_and_is_no_failure(installed, words):
    run = crosspoint(installed, *words.split(), '--help')
    assert (run.returncode, run.stderr) == (0, '')
    assert f'example: crosspoint {words}' in run.stdout
    assert 'It needs ROS 2' in run.stdout


@pytest.mark.parametrize('words', [
    'bench pairs', 'bench crosspoint', 'data build', 'mask', 'match'])
def test_a_command_that_needs_none_has_its_help(installed, words):
    run = crosspoint(installed, *words.split(), '--help')
    assert (run.returncode, run.stderr) == (0, '')


def test_two_photographs_are_matched(installed, tmp_path):
    out = tmp_path / 'pair.png'
    images = ROOT / 'examples'
    run = crosspoint(installed, 'match', str(images / 'front.jpg'), str(images / 'side.jpg'),
                     '--at', '500', '280', '--out', str(out))
    assert run.returncode == 0, run.stderr
    assert out.is_file()
