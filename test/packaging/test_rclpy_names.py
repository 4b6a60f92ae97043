"""Every name that is used of rclpy is one that Humble, Jazzy, Kilted and Lyrical have."""
from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIST = ROOT / 'test' / 'fixtures' / 'rclpy_names.txt'
FILES = sorted(p for folder in ('crosspoint_ros', 'launch', 'examples', 'scripts')
               for p in (ROOT / folder).rglob('*.py'))
NODES = {'node', '_node', 'self', 'passive', 'isolated'}  # variables that hold one


@cache
def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def read_list() -> dict[str, set[str]]:
    lines = [line for line in LIST.read_text().splitlines() if not line.startswith('#')]
    return {module: set(names.split()) for module, _, names in
            (line.partition(': ') for line in lines)}


@cache
def find_imports(tree: ast.Module) -> dict[str, set[str]]:
    """Names by module; of a module 'try rclpy.x' where `except ImportError` follows."""
    guarded = {id(node) for block in ast.walk(tree) if isinstance(block, ast.Try)
               and any(isinstance(handler.type, ast.Name) and handler.type.id == 'ImportError'
                       for handler in block.handlers) for node in ast.walk(block)}
    found: dict[str, set[str]] = defaultdict(set)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'rclpy':
            found['try ' * (id(node) in guarded) + node.module] |= {a.name for a in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) \
                and node.value.id == 'rclpy':
            found['rclpy'].add(node.attr)
    return found


def find_members(tree: ast.Module, members: set[str]) -> set[str]:
    """What is used of a node."""
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
            and ast.unparse(node.value).split('.')[-1] in NODES and node.attr in members}


def explain(file: Path, module: str, names: set[str]) -> str:
    return (f'{file.relative_to(ROOT)}: {module}: {", ".join(sorted(names))} not in '
            f'{LIST.relative_to(ROOT)}. Look it up in rclpy/rclpy of github.com/ros2/rclpy, on the '
            'branches humble, jazzy, kilted and lyrical. If all four have it, add it there; '
            'otherwise do without, or import it in a `try` with the older name in its '
            '`except ImportError`, and add both as `try`.')


def test_every_imported_name_is_on_the_list():
    known = read_list()
    missing = [explain(file, module, names - known.get(module, set()))
               for file in FILES for module, names in find_imports(
                   parse(file)).items() if names - known.get(module, set())]
    assert not missing, '\n'.join(missing)


def test_every_member_of_a_node_that_is_used_is_on_the_list():
    lifecycle = pytest.importorskip('rclpy.lifecycle')
    members = {name for name in dir(lifecycle.LifecycleNode) if not name.startswith('_')}
    known = read_list()['node']
    missing = [explain(file, 'node', names - known) for file in FILES
               if (names := find_members(parse(file), members)) - known]
    assert not missing, '\n'.join(missing)


def test_the_list_has_nothing_that_is_not_used():
    used: dict[str, set[str]] = defaultdict(set)
    for file in FILES:
        for module, names in find_imports(parse(file)).items():
            used[module] |= names
    assert {module: names for module, names in read_list().items() if module != 'node'} == used


@pytest.mark.parametrize('text', [
    'from rclpy.parameter import parameter_dict_from_yaml_file',  # not in Humble
    'from rclpy.topic_endpoint_info import TopicEndpointInfo',  # not in Lyrical
    'import rclpy\nrclpy.get_global_executor_of_all()'])
def test_a_name_that_one_distro_lacks_is_found(text):
    found = find_imports(ast.parse(text))
    assert any(names - read_list().get(module, set()) for module, names in found.items())
