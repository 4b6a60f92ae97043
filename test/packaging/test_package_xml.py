"""package.xml names what the code imports, so that rosdep installs all of it."""
from __future__ import annotations

import ast
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The rosdep key where it is not the module's own name.
KEY_OF = {'cv2': 'python3-opencv', 'numpy': 'python3-numpy', 'yaml': 'python3-yaml',
          'tf2_ros': 'tf2_ros_py', 'httpx': 'python3-httpx', 'httpx2': 'python3-httpx',
          'PIL': 'python3-pil', 'aiohttp': 'python3-aiohttp', 'tqdm': 'python3-tqdm'}
# From PyPI in both worlds: README.md says so.
WITHOUT_A_KEY = {'bitsandbytes', 'huggingface_hub', 'mcp', 'mink', 'mujoco', 'ray', 'rosbags',
                 'safetensors', 'tokenizers', 'torch', 'transformers'}


def imported_modules() -> set[str]:
    """Return the top-level modules that the package and its launch files import."""
    modules = set()
    for path in [*(ROOT / 'crosspoint_ros').rglob('*.py'), *(ROOT / 'launch').glob('*.py')]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {name.name.split('.')[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.split('.')[0])
    return modules - set(sys.stdlib_module_names) - {'crosspoint_ros'}


@pytest.fixture(scope='module')
def keys() -> set[str]:
    manifest = ET.parse(ROOT / 'package.xml').getroot()
    return {entry.text for tag in ('depend', 'exec_depend') for entry in manifest.iter(tag)}


def test_every_module_the_code_imports_has_its_rosdep_key(keys):
    modules = imported_modules() - WITHOUT_A_KEY
    assert {'rclpy', 'numpy', 'cv2'} <= modules
    assert {KEY_OF.get(module, module) for module in modules} - keys == set()


def test_every_package_that_a_launch_file_starts_has_its_rosdep_key(keys):
    started = {keyword.value.value for path in (ROOT / 'launch').glob('*.py')
               for keyword in ast.walk(ast.parse(path.read_text()))
               if isinstance(keyword, ast.keyword) and keyword.arg == 'package'
               and isinstance(keyword.value, ast.Constant)} - {'crosspoint_ros'}
    assert started - keys == {'rviz2'}  # of the desktop: a robot has no screen


def test_each_distro_pins_every_message_package_that_package_xml_names(keys):
    messages = {key for key in keys if key.endswith(('_msgs', '_srvs', '_interfaces'))}
    for distro in ('kilted', 'jazzy'):
        pins = (ROOT / 'requirements' / f'{distro}.txt').read_text()
        missing = {m for m in messages if f'ros-{m.replace("_", "-")}==' not in pins}
        assert missing == {'tf2_msgs'}, distro  # the one we build ourselves


def test_every_requirement_is_pinned_to_one_version():
    for path in (ROOT / 'requirements').glob('*.txt'):
        lines = [line for line in path.read_text().splitlines() if line and line[0] not in '#-']
        assert lines
        assert [line for line in lines if '==' not in line] == []
