"""What config/ says is what the node does: every parameter, its default, its range, its meaning."""
from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from contextlib import contextmanager
from pathlib import Path

import pytest
import rclpy
import yaml
from rclpy.context import Context

from crosspoint_ros.ros.config import (
    CAMERAS_PARAMETER,
    NODE_PARAMETERS,
    ConfigError,
    Parameters,
    list_camera_specs,
    list_limit_specs,
)
from crosspoint_ros.ros.tools.play_bag import BagPlayer

CONFIG = Path(__file__).resolve().parents[3] / 'config'
TEXT = (CONFIG / 'crosspoint.yaml').read_text()
EXAMPLES = {'cameras': ['front', 'wrist'], 'base_frame': 'base_link'}  # required: no default
SPECS = {spec.name: spec for spec in (CAMERAS_PARAMETER, *NODE_PARAMETERS, *list_limit_specs(),
                                      *list_camera_specs('front'))}


def flat(tree, prefix=''):
    """Turn nested groups into dotted names."""
    found = {}
    for key, value in tree.items():
        found |= flat(value, f'{prefix}{key}.') if isinstance(value, dict) else {
            f'{prefix}{key}': value}
    return found


def parameters_in(file, node='/**'):
    return flat(yaml.safe_load((CONFIG / file).read_text())[node]['ros__parameters'])


def comments():
    """Return per dotted name the comment above its line and the one behind it."""
    above, groups, found = [], [], {}
    for line in TEXT.splitlines():
        if not line.strip() or line.strip().startswith('#'):
            above = [*above, line.strip(' #')] if line.strip() else []
            continue
        indent, key, rest = re.match(r'( *)([^:]+):(.*)', line).groups()
        groups = [*groups[:len(indent) // 2], key]
        found['.'.join(groups[2:])] = ' '.join(above), rest.partition('#')[2].strip()
        above = []
    return found


@contextmanager
def node_with(file, name='crosspoint', extra=()):
    """A real node that was given the file, as `ros2 run … --params-file` does."""
    context = Context()
    rclpy.init(args=['--ros-args', '--params-file', str(CONFIG / file), *extra], context=context)
    node = rclpy.create_node(name, context=context)
    try:
        yield node
    finally:
        node.destroy_node()
        context.shutdown()


def test_the_file_has_every_parameter_and_no_other():
    names = {name for name in parameters_in('crosspoint.yaml') if not name.startswith('wrist.')}
    assert names == set(SPECS)


@pytest.mark.parametrize('name', SPECS)
def test_the_file_says_default_meaning_range_and_choices(name):
    spec, value = SPECS[name], parameters_in('crosspoint.yaml')[name]
    above, behind = comments()[name]
    assert value == EXAMPLES.get(name, spec.default)
    assert type(value) is type(EXAMPLES.get(name, spec.default))
    assert spec.meaning in above
    if spec.low is not None:
        assert behind == f'{spec.low:g} .. {spec.high:g}'
    if spec.choices:
        assert behind == ' | '.join(choice or "''" for choice in spec.choices)


def test_a_node_takes_the_file_as_it_is():
    with node_with('crosspoint.yaml') as node:
        config = Parameters(node).read()
    assert [camera.name for camera in config.cameras] == EXAMPLES['cameras']
    assert config.base_frame == EXAMPLES['base_frame']


@pytest.mark.parametrize('extra', [[], ['-r', '__ns:=/arm']])
def test_a_node_takes_the_demos_file_in_any_namespace(extra):
    with node_with('demo.yaml', extra=extra) as node:
        config = Parameters(node).read()
        assert node.get_parameter('use_sim_time').value
    assert [camera.name for camera in config.cameras] == ['front', 'side', 'wrist']
    assert all(camera.depth_topic.startswith(f'/{camera.name}/') for camera in config.cameras)


def test_a_misspelt_key_in_the_file_is_refused_with_the_right_one():
    with node_with('crosspoint.yaml', extra=['-p', 'limits.min_confidnce:=0.4']) as node, \
            pytest.raises(ConfigError, match=r'did you mean limits\.min_confidence'):
        Parameters(node)


def test_the_player_knows_all_the_demo_gives_it():
    context = Context()
    rclpy.init(args=['--ros-args', '--params-file', str(CONFIG / 'demo.yaml')], context=context)
    player = BagPlayer(context=context)
    try:
        for name, value in parameters_in('demo.yaml', '/**/play_bag').items():
            assert player.get_parameter(name).value == value
    finally:
        player.destroy_node()
        context.shutdown()


def test_rviz_shows_what_the_node_publishes():
    manager = yaml.safe_load((CONFIG / 'crosspoint.rviz').read_text())['Visualization Manager']
    topics = {item['Topic']['Value'] for item in (*manager['Displays'], *manager['Tools'])
              if 'Topic' in item}
    assert topics == {'/crosspoint/front/overlay', '/crosspoint/wrist/overlay', '/clicked_point',
                      '/crosspoint/markers', '/crosspoint/grasp_target',
                      '/front/color/image_raw', '/wrist/color/image_raw'}
    assert {item['Interactive Markers Namespace'] for item in manager['Displays']
            if 'Interactive Markers Namespace' in item} == {
                '/crosspoint/pictures', '/crosspoint/adjust'}


def test_the_profile_gives_fast_dds_64_mb_of_shared_memory_and_keeps_udp():
    space = {'p': 'http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles'}
    root = ET.parse(CONFIG / 'fastdds_shm.xml').getroot()
    transports = {t.findtext('p:type', namespaces=space): t
                  for t in root.iterfind('.//p:transport_descriptor', space)}
    assert set(transports) == {'SHM', 'UDPv4'}
    assert int(transports['SHM'].findtext('p:segment_size', namespaces=space)) == 64 * 2**20


SEGMENT = '''
import rclpy
rclpy.init()
node = rclpy.create_node('segment')
spans = [line.split()[0].split('-') for line in open('/proc/self/maps') if '/dev/shm/' in line]
print(max((int(end, 16) - int(start, 16) for start, end in spans), default=0))
'''


@pytest.mark.skipif('fastrtps' not in os.environ.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp'),
                    reason='another middleware is set')
def test_fast_dds_takes_the_profile():
    profile = str(CONFIG / 'fastdds_shm.xml')  # the variable's name changed with Fast DDS 3
    environment = {**os.environ, 'FASTRTPS_DEFAULT_PROFILES_FILE': profile,
                   'FASTDDS_DEFAULT_PROFILES_FILE': profile}
    environment.pop('FASTDDS_BUILTIN_TRANSPORTS', None)
    run = subprocess.run([sys.executable, '-c', SEGMENT], env=environment, capture_output=True,
                         text=True, timeout=60)
    assert int(run.stdout) >= 64 * 2**20, run.stderr
