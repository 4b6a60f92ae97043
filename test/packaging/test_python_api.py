"""`import crosspoint_ros as cp`: lazy names, in dir() and in docs/python_api.md."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import crosspoint_ros as cp

PAGE = (Path(__file__).resolve().parents[2] / 'docs' / 'python_api.md').read_text()
NAMES = ['Approach', 'ApproachMode', 'Client', 'Intrinsics', 'Limits', 'LocateResult', 'Rejected',
         'Transform', 'View', 'load_matcher', 'locate', 'read_image']


def imported_by(code: str) -> set[str]:
    """The top-level modules that are loaded after some code."""
    run = subprocess.run([sys.executable, '-c', f'{code}\nimport sys; print(*sys.modules)'],
                         text=True, capture_output=True, check=True)
    return {name.partition('.')[0] for name in run.stdout.split()}


def test_the_import_loads_neither_numpy_nor_opencv_nor_ros():
    assert not {'numpy', 'cv2', 'rclpy'} & imported_by('import crosspoint_ros as cp; dir(cp)')


def test_only_the_client_needs_ros():
    names = ', '.join(name for name in NAMES if name != 'Client')
    assert 'rclpy' not in imported_by(f'from crosspoint_ros import {names}')
    assert 'rclpy' in imported_by('from crosspoint_ros import Client')


def test_the_public_names_are_these():
    assert cp.__all__ == NAMES
    assert set(NAMES) <= set(dir(cp))


@pytest.mark.parametrize('name', NAMES)
def test_a_public_name_is_what_it_is_called(name):
    assert getattr(cp, name).__name__ == name
    assert getattr(cp, name) is getattr(cp, name)


@pytest.mark.parametrize('name', NAMES)
def test_a_public_name_is_documented(name):
    assert f'`cp.{name}' in PAGE


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'crosspoint_ros' has no attribute 'nothing'"):
        cp.nothing  # noqa: B018
    with pytest.raises(ImportError):
        from crosspoint_ros import nothing  # noqa: F401


def test_a_click_passes_at_most_32_modules():
    code = ("import crosspoint_ros as cp\n"
            "views = [cp.View(n, cp.read_image(f'examples/{n}.jpg')) for n in ('front', 'side')]\n"
            "cp.locate(views[0], views[1:], (500, 280), cp.load_matcher('xfeat'))\n"
            "import sys\n"
            "print(*(n for n, m in sys.modules.items() if n.startswith('crosspoint_ros')"
            " and not m.__file__.endswith('__init__.py')))")
    run = subprocess.run([sys.executable, '-c', code], text=True, capture_output=True, check=True,
                         cwd=Path(__file__).resolve().parents[2])
    assert 10 < len(run.stdout.split()) <= 32, run.stdout
