"""The README is true: parameters, topics, codes and files are those of the package."""
from __future__ import annotations

import re
from pathlib import Path

import pytest
from rclpy.parameter import Parameter

from crosspoint_ros.cli import COMMANDS
from crosspoint_ros.core.datatypes import Code
from crosspoint_ros.ros.config import CAMERAS_PARAMETER, NODE, camera_specs, limit_specs

NODE_PARAMETERSROOT = Path(__file__).resolve().parents[2]
README = (ROOT / 'README.md').read_text()
PARAMETERS = README.split('### Parameters')[1].split('\n## ')[0]
SPECS = (CAMERAS_PARAMETER, *NODE, *camera_specs('<camera>'), *limit_specs())

NODE_PARAMETERS
def shown(default: object) -> str:
    """A default as the table writes it."""
    if isinstance(default, Parameter.Type):
        return 'required'
    if default == '':
        return "`''`"
    return f'`{default}`' if isinstance(default, str) else str(default).lower()


@pytest.mark.parametrize('spec', SPECS, ids=lambda spec: spec.name)
def test_every_parameter_stands_in_the_table_with_its_default(spec):
    row = re.search(rf'^\| `{re.escape(spec.name)}` \| ([^|]+) \|', PARAMETERS, re.M)
    assert row, spec.name
    assert row.group(1).strip().split(':')[0].strip() == shown(spec.default)


def test_no_other_parameter_stands_there():
    rows = re.findall(r'^\| `([^`]+)` \|', PARAMETERS, re.M)
    assert sorted(rows) == sorted(spec.name for spec in SPECS)


@pytest.mark.parametrize('code', list(Code), ids=lambda code: code.name)
def test_every_code_is_explained(code):
    assert re.search(rf'^\| `{code.name}` \| \S', README, re.M)


def test_the_codes_are_those_of_the_message():
    lines = (ROOT / 'msg' / 'Status.msg').read_text()
    assert dict(re.findall(r'^uint8 (\w+)=(\d+)', lines, re.M)) == {
        code.name: str(code.value) for code in Code}


def test_every_link_and_picture_exists():
    for target in re.findall(r'\]\((?!http)([^)#]+)', README):
        assert (ROOT / target).exists(), target


def test_every_command_is_told_of():
    for name in COMMANDS:
        assert f'crosspoint {name}' in README or f'`{name}`' in README, name


def test_measured_figures_name_the_command_that_measures_them():
    measured = README.split('## Measured')[1].split('\n## ')[0]
    for command in ('crosspoint bench pairs', 'crosspoint bench scene', 'crosspoint bench node'):
        assert command in measured
    assert re.search(r'Python 3\.\d+', measured)
