"""scripts/preflight.sh says in one message what a machine lacks, before anything is downloaded."""
from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / 'scripts' / 'preflight.sh'
VERSION = f'{sys.version_info.major}.{sys.version_info.minor}'


@pytest.fixture
def machine(tmp_path):
    """A PATH that holds only the programs a test puts there: at first all that is needed."""
    (tmp_path / 'dirname').symlink_to(shutil.which('dirname'))
    (tmp_path / 'python3').symlink_to(sys.executable)
    program(tmp_path / 'uname', '[ "$1" = -m ] && echo x86_64 || echo Linux')
    for name in ('cc', 'c++'):
        program(tmp_path / name, 'exit 0')
    return tmp_path


def program(path: Path, script: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(f'#!/bin/sh\n{script}\n')
    path.chmod(0o755)


def preflight(machine, python='python3', distro='kilted', **env):
    return subprocess.run([SCRIPT, python, distro], text=True, capture_output=True,
                          env={'PATH': str(machine), **env})


def assert_refused(done, *words: str) -> None:
    assert done.returncode == 1
    assert all(word in done.stderr for word in words), done.stderr
    assert 'Traceback' not in done.stderr


def test_a_python_that_does_not_run_is_told_so_with_what_it_said(machine):
    program(machine / 'python3.12', 'echo shim: not active >&2; exit 127')
    assert_refused(preflight(machine, python='python3.12'), 'shim: not active',
                   "'python3.12' does not run")


def test_make_names_the_distros_that_have_wheels():
    done = subprocess.run(['make', '-n', 'demo', 'DISTRO=foxy'], cwd=SCRIPT.parents[1], text=True,
                          capture_output=True)
    assert done.returncode == 2
    assert "DISTRO=kilted and DISTRO=jazzy, not for 'foxy'" in done.stderr


@pytest.mark.parametrize('distro', ['kilted', 'jazzy'])
def test_a_machine_with_python_and_a_compiler_is_enough(machine, distro):
    done = preflight(machine, distro=distro)
    assert (done.returncode, done.stderr) == (0, '')


def test_all_that_is_missing_is_named_at_once(machine, tmp_path_factory):
    broken = tmp_path_factory.mktemp('modules')
    (broken / 'ensurepip.py').write_text('raise ImportError("no ensurepip")')
    (machine / 'c++').unlink()
    assert_refused(preflight(machine, PYTHONPATH=str(broken)),
                   f'apt install python{VERSION}-venv g++')


@pytest.mark.parametrize('compiler', ['cc', 'c++'])
def test_a_missing_compiler_is_named(machine, compiler):
    (machine / compiler).unlink()
    assert_refused(preflight(machine), 'no C and C++ compiler', 'apt install g++')


def test_a_compiler_may_be_named_by_the_environment(machine):
    (machine / 'cc').rename(machine / 'clang')
    (machine / 'c++').rename(machine / 'clang++')
    assert preflight(machine, CC='clang', CXX='clang++').returncode == 0


def test_a_missing_python_is_named(machine):
    assert_refused(preflight(machine, python='python3.12'), "no 'python3.12' on the PATH")


@pytest.mark.parametrize('version', ['3.9', '3.14'])
def test_a_python_without_wheels_is_refused_with_its_version(machine, version):
    program(machine / 'python3', f'echo {version}')  # stands in for that interpreter
    assert_refused(preflight(machine), f'Python {version}', '3.10 to 3.13')


@pytest.mark.parametrize('module', ['venv', 'ensurepip'])
def test_a_missing_venv_module_is_named_with_its_package(machine, module, tmp_path_factory):
    broken = tmp_path_factory.mktemp('modules')
    (broken / f'{module}.py').write_text(f'raise ImportError("no {module}")')
    done = preflight(machine, PYTHONPATH=str(broken))
    assert_refused(done, f'apt install python{VERSION}-venv\n')


def test_missing_python_headers_are_named_with_their_package(machine, tmp_path_factory):
    without_headers = tmp_path_factory.mktemp('modules')
    (without_headers / 'sysconfig.py').write_text('def get_path(name): return "/nowhere"')
    done = preflight(machine, PYTHONPATH=str(without_headers))
    assert_refused(done, '/nowhere/Python.h', f'apt install python{VERSION}-dev python')


def test_a_sourced_distro_is_not_mixed_with_the_wheels(machine):
    done = preflight(machine, AMENT_PREFIX_PATH='/opt/ros/jazzy')
    assert_refused(done, 'AMENT_PREFIX_PATH=/opt/ros/jazzy', 'colcon build')


@pytest.mark.parametrize('distro', ['humble', 'python', 'test'])
def test_a_distro_without_wheels_is_refused(machine, distro):
    assert_refused(preflight(machine, distro=distro), f"not for '{distro}'", 'kilted', 'jazzy')


def test_a_machine_of_another_kind_is_refused(machine):
    program(machine / 'uname', '[ "$1" = -m ] && echo aarch64 || echo Linux')  # a Jetson
    assert_refused(preflight(machine), 'Linux aarch64', 'only for Linux x86_64', 'colcon build')
