"""Imports run ros | web | bench | data | cli -> matchers -> core, never back or sideways."""
from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / 'crosspoint_ros'
FILES = sorted(p.relative_to(PACKAGE) for p in PACKAGE.rglob('*.py'))
MESSAGES = {f'crosspoint_ros.{kind}' for kind in ('msg', 'srv', 'action')}
BANNED_NAMES = ('util', 'helper', 'common', 'manager', 'handler', 'base', 'misc')


def imported(file: Path) -> Iterator[str]:
    """Dotted names that a file imports, inside functions too."""
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{file}:{node.lineno}: a relative import'
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def under(name: str, *packages: str) -> bool:
    return any(name == p or name.startswith(f'{p}.') for p in packages)


def ours(file: Path) -> list[str]:
    return [n for n in imported(file) if under(n, 'crosspoint_ros')]


def backend(file_or_name: str) -> str:
    """The matcher that a path or a dotted name belongs to; '' for the package itself."""
    parts = file_or_name.removesuffix('.py').replace('/', '.').split('.')
    name = parts[parts.index('matchers') + 1] if parts[-1] != 'matchers' else ''
    return '' if name == '__init__' or not (
        (PACKAGE / 'matchers' / name).is_dir() or (PACKAGE / f'matchers/{name}.py').is_file()
    ) else name


@pytest.mark.parametrize('file', [f for f in FILES if f.parts[0] == 'core'], ids=str)
def test_the_core_imports_nothing_but_numpy_and_opencv(file):
    allowed = ('crosspoint_ros.core', 'numpy', 'cv2', '__future__', 'collections', 'contextlib',
               'dataclasses', 'enum', 'functools', 'itertools', 'logging', 'math', 'os', 'struct',
               'typing')
    assert [n for n in imported(file) if not under(n, *allowed)] == []


@pytest.mark.parametrize('file', [f for f in FILES if f.parts[0] == 'matchers'], ids=str)
def test_a_matcher_imports_the_core_and_itself_only(file):
    strangers = [n for n in ours(file) if not under(n, 'crosspoint_ros.core')
                 and not (under(n, 'crosspoint_ros.matchers')
                          and backend(n) in ('', backend(str(file))))]
    assert strangers == []


@pytest.mark.parametrize('file', FILES, ids=str)
def test_ros_stays_in_its_rooms(file):
    ros = ('rclpy', 'tf2_ros', 'tf2_msgs', 'sensor_msgs', 'geometry_msgs', 'std_msgs', 'std_srvs',
           'visualization_msgs', 'diagnostic_msgs', 'cv_bridge', *MESSAGES)
    may = file.parts[0] in ('ros', 'web', 'cli.py')
    assert may or [n for n in imported(file) if under(n, *ros)] == []


@pytest.mark.parametrize('file', FILES, ids=str)
def test_torch_stays_with_the_model_that_needs_it(file):
    may = file.parts[:2] == ('matchers', 'cropond')
    assert may or [n for n in imported(file) if under(n, 'torch', 'transformers')] == []


@pytest.mark.parametrize('file', FILES, ids=str)
def test_a_file_is_named_for_what_it_does(file):
    assert [n for n in BANNED_NAMES if file.stem.rstrip('s') == n] == []
