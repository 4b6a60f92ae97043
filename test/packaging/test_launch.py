"""The launch files: what their arguments come to, in a double and, where it is, in real launch.

`launch` and `launch_ros` are on no package index, so without a distro the files run against the
double below, which only records what they build.
"""
from __future__ import annotations

import ast
import importlib.util
import itertools
import json
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from crosspoint_ros.matchers.cropond.options import RemoteOptions
from crosspoint_ros.ros.config import NODE_PARAMETERS, list_camera_specs
from crosspoint_ros.web import cli as web_command

ROOT = Path(__file__).resolve().parents[2]
EXECUTABLES = {'crosspoint': 'crosspoint_ros.cli',
               'crosspoint_node': 'crosspoint_ros.ros.node.lifecycle_node',
               'play_bag': 'crosspoint_ros.ros.tools.play_bag'}


class Recorded:
    """DOUBLE of every class of launch that the files use: keeps what it was built with."""

    def __init__(self, *args, **kwargs):
        self.args, self.kwargs = args, kwargs


class Configuration(Recorded):
    """DOUBLE of LaunchConfiguration; the context is the dict of arguments."""

    def perform(self, context):
        return context[self.args[0]]


CLASSES = {
    'launch': ['LaunchDescription'],
    'launch.actions': ['DeclareLaunchArgument', 'ExecuteProcess', 'IncludeLaunchDescription',
                       'OpaqueFunction', 'SetEnvironmentVariable'],
    'launch.launch_description_sources': ['PythonLaunchDescriptionSource'],
    'launch.substitutions': ['LaunchConfiguration'],
    'launch_ros': [],
    'launch_ros.actions': ['Node'],
    'ament_index_python': [],
    'ament_index_python.packages': [],
}


@pytest.fixture
def double(monkeypatch):
    """Put the double in the place of launch; classes keep their names."""
    for module_name, classes in CLASSES.items():
        module = ModuleType(module_name)
        for name in classes:
            base = Configuration if name == 'LaunchConfiguration' else Recorded
            setattr(module, name, type(name, (base,), {}))
        monkeypatch.setitem(sys.modules, module_name, module)
    sys.modules['ament_index_python.packages'].get_package_share_directory = {
        'crosspoint_ros': str(ROOT)}.__getitem__
    for name in ('RMW_IMPLEMENTATION', 'ROS_DISTRO', 'FASTDDS_BUILTIN_TRANSPORTS',
                 'FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'):
        monkeypatch.delenv(name, raising=False)


def load(name):
    """Import a launch file as `ros2 launch` does."""
    spec = importlib.util.spec_from_file_location(name, ROOT / 'launch' / f'{name}.launch.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def of(entities, kind):
    return [entity for entity in entities if type(entity).__name__ == kind]


def arguments(module):
    (entities,) = module.generate_launch_description().args
    return {a.args[0]: a.kwargs for a in of(entities, 'DeclareLaunchArgument')}


class Context(dict):
    """DOUBLE of LaunchContext: the arguments, and what is configured around the file."""

    is_shutdown = False


def bring_up(pushed='', **given):
    """Return what bringup starts with these arguments, below a PushRosNamespace."""
    module = load('bringup')
    context = Context({name: kwargs['default_value'] for name, kwargs in arguments(module).items()})
    context.launch_configurations = {'ros_namespace': pushed} if pushed else {}
    assert set(given) <= set(context)
    context.update(given)
    return module.start(context)


def node_of(entities):
    (node,) = (n for n in of(entities, 'Node') if n.kwargs['package'] == 'crosspoint_ros')
    return node.kwargs


def parameters_of(**given):
    return node_of(bring_up(**given))['parameters'][-1]


@pytest.mark.parametrize('name', ['bringup', 'demo', 'server'])
def test_every_argument_is_described(double, name):
    for argument, kwargs in arguments(load(name)).items():
        assert len(kwargs['description']) > 10, argument


def test_every_parameter_of_the_node_and_of_a_camera_is_an_argument(double):
    wanted = {spec.name for spec in NODE_PARAMETERS}
    wanted |= {spec.name.partition('.')[2] for spec in list_camera_specs('x')}
    assert wanted | {'cameras', 'use_sim_time', 'params_file', 'namespace', 'log_level', 'rviz'} \
        <= set(arguments(load('bringup')))


def test_arguments_that_are_not_given_do_not_override_the_file(double):
    file = str(ROOT / 'config' / 'crosspoint.yaml')
    assert node_of(bring_up(params_file=file))['parameters'] == [file, {}]


def test_given_arguments_come_after_the_file_and_so_win(double):
    file = str(ROOT / 'config' / 'crosspoint.yaml')
    given = node_of(bring_up(params_file=file, target_ttl_s='5', autostart='false'))['parameters']
    assert given == [file, {'target_ttl_s': 5.0, 'autostart': False}]
    assert isinstance(given[1]['target_ttl_s'], float)  # the node refuses an integer


def test_an_argument_has_the_type_of_its_parameter(double):
    """The node refuses an integer for a number, and a text for either."""
    specs = [*NODE_PARAMETERS, *list_camera_specs('a')]
    for spec in (spec for spec in specs if type(spec.default) in (bool, int, float)):
        text = 'true' if type(spec.default) is bool else '1'
        given = parameters_of(cameras='a,b', **{spec.name.rpartition('.')[2]: text})
        assert type(given[spec.name]) is type(spec.default), spec.name


@pytest.mark.parametrize('cameras', ['front,wrist', '[front, wrist]', ' front , wrist '])
def test_camera_patterns_become_a_topic_for_each_camera(double, cameras):
    assert parameters_of(cameras=cameras, base_frame='base_link', image_topic='/{camera}/rgb',
                         rectified='true') == {
        'cameras': ['front', 'wrist'], 'base_frame': 'base_link', 'front.image_topic': '/front/rgb',
        'wrist.image_topic': '/wrist/rgb', 'front.rectified': True, 'wrist.rectified': True}


def test_options_of_the_matcher_become_its_parameters(double):
    assert parameters_of(cameras='a,b', matcher='cropond', warm_share='1', refine='none',
                         matcher_options='{model: /models/3B, max_pairs: 2}') == {
        'cameras': ['a', 'b'], 'matcher': 'cropond', 'warm_share': 1.0, 'refine': 'none',
        'cropond.model': '/models/3B', 'cropond.max_pairs': 2}


def test_a_whole_number_is_a_float_where_the_option_is_one(double):
    """As of any other argument: the node refuses an integer."""
    parameters = parameters_of(cameras='a,b', matcher='xfeat', matcher_options=(
        '{pose_noise_cm: 2, scales: [1, 0.5], max_keypoints: 2000, use_poses: true}'))
    assert repr(parameters['xfeat.pose_noise_cm']) == '2.0'
    assert repr(parameters['xfeat.scales']) == '[1.0, 0.5]'
    assert repr(parameters['xfeat.max_keypoints']) == '2000'
    assert parameters['xfeat.use_poses'] is True


def test_a_node_that_cannot_start_ends_launch_with_an_error(double):
    """Its exit code is 1; a crash later ends nothing but itself."""
    node = node_of(bring_up(cameras='a,b', required='true'))
    for code, is_error in ((1, True), (0, False), (-11, False)):
        event = SimpleNamespace(returncode=code)
        if is_error:
            with pytest.raises(RuntimeError, match='could not start'):
                node['on_exit'](event, Context())
        else:
            node['on_exit'](event, Context())
    # By default it does not end the launch file of the robot that includes it.
    assert node_of(bring_up(cameras='a,b'))['on_exit'] is None


def test_the_node_is_started_again_only_on_request(double):
    assert node_of(bring_up(cameras='a,b'))['respawn'] is False
    node = node_of(bring_up(cameras='a,b', respawn='true'))
    assert (node['respawn'], node['respawn_delay'], node['on_exit']) == (True, 2.0, None)


@pytest.mark.parametrize('switch', ['respawn', 'required', 'rviz', 'web', 'autostart'])
def test_a_switch_that_is_misspelt_is_refused(double, switch):
    with pytest.raises(RuntimeError, match=f"{switch}: 'ture' is neither true nor false"):
        bring_up(cameras='a,b', **{switch: 'ture'})


@pytest.mark.parametrize(('given', 'said'), [
    ({}, 'no cameras'),
    ({'image_topic': '/{camera}/rgb', 'params_file': str(ROOT / 'config' / 'demo.yaml')},
     'image_topic needs cameras'),
    ({'params_file': '/nowhere.yaml'}, '/nowhere.yaml'),
    ({'cameras': 'a,b', 'fastdds': 'quick'}, 'shm, large_data, leave'),
    ({'cameras': 'a,b', 'matcher_options': '{model: x}'}, 'matcher_options needs matcher'),
    ({'cameras': 'a,b', 'matcher': 'cropond', 'matcher_options': 'x'}, 'not a YAML mapping'),
    ({'cameras': 'a,b', 'matcher': 'cropond', 'matcher_options': '{model: x'},
     'matcher_options: .* not a YAML mapping'),
    ({'cameras': 'a,b', 'matcher': 'cropond', 'matcher_options': '{model:x}'},
     'model:x has no value'),
    ({'cameras': 'a,b', 'history_s': 'long'}, "history_s: 'long' is not a number"),
    ({'cameras': 'a,b', 'autostart': '1'}, "autostart: '1' is neither true nor false"),
])
def test_arguments_that_cannot_work_are_refused_in_words(double, given, said):
    with pytest.raises((RuntimeError, FileNotFoundError), match=said):
        bring_up(**given)


@pytest.mark.parametrize(('environment', 'how', 'expected'), [
    ({}, 'shm', 'FASTDDS_DEFAULT_PROFILES_FILE'),
    ({'ROS_DISTRO': 'kilted'}, 'shm', 'FASTDDS_DEFAULT_PROFILES_FILE'),
    ({'ROS_DISTRO': 'jazzy'}, 'shm', 'FASTRTPS_DEFAULT_PROFILES_FILE'),
    ({'ROS_DISTRO': 'humble'}, 'shm', 'FASTRTPS_DEFAULT_PROFILES_FILE'),
    ({'RMW_IMPLEMENTATION': 'rmw_fastrtps_cpp'}, 'shm', 'FASTDDS_DEFAULT_PROFILES_FILE'),
    ({}, 'large_data', 'FASTDDS_BUILTIN_TRANSPORTS'),
    ({}, 'leave', None),
    ({'RMW_IMPLEMENTATION': 'rmw_zenoh_cpp'}, 'shm', None),
    ({'RMW_IMPLEMENTATION': 'rmw_cyclonedds_cpp'}, 'large_data', None),
    ({'FASTDDS_BUILTIN_TRANSPORTS': 'UDPv4'}, 'shm', None),
    ({'FASTRTPS_DEFAULT_PROFILES_FILE': '/my.xml'}, 'large_data', None),
])
def test_fast_dds_is_set_up_for_images_where_nobody_else_has_done_it(
        double, monkeypatch, environment, how, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    entities = bring_up(cameras='a,b', fastdds=how)
    variables = {v.args[0]: v.args[1] for v in of(entities, 'SetEnvironmentVariable')}
    assert list(variables) == ([] if expected is None else [expected])
    for value in variables.values():
        assert value == 'LARGE_DATA' or Path(value).is_file()
    if variables:  # it must be set before the node starts
        assert type(entities[0]).__name__ == 'SetEnvironmentVariable'


def test_the_page_is_served_only_when_asked_for_the_node_of_its_own_namespace(double):
    assert len(of(bring_up(cameras='a,b'), 'Node')) == 1
    _, page = of(bring_up(cameras='a,b', web='true', web_host='0.0.0.0', web_port='9000',
                          namespace='arm'), 'Node')
    assert page.kwargs['executable'] == 'crosspoint'
    assert page.kwargs['namespace'] == 'arm'
    command, *options = page.kwargs['arguments']
    parser = ArgumentParser()
    web_command.add_arguments(parser)
    given = parser.parse_args([*options, '--ros-args', '-r', '__ns:=/arm'])
    assert (command, given.node, given.host, given.port) == ('web', 'crosspoint', '0.0.0.0', 9000)
    assert given.ros_args == ['-r', '__ns:=/arm']


def test_rviz_starts_only_when_asked(double):
    assert len(of(bring_up(cameras='a,b'), 'Node')) == 1
    assert len(of(bring_up(cameras='a,b', rviz='true'), 'Node')) == 2


def test_rviz_shows_the_first_two_cameras_in_the_namespace_of_the_node(double):
    rviz, _ = of(bring_up(cameras='left,right,top', rviz='true', namespace='arm',
                          base_frame='world'), 'Node')
    markers = {f'/crosspoint/{namespace}/{name}': f'/arm/crosspoint/{namespace}/{name}'
               for namespace in ('pictures', 'adjust')
               for name in ('update', 'feedback', 'get_interactive_markers')}
    assert dict(rviz.kwargs['remappings']) == {
        '/crosspoint/front/overlay': '/arm/crosspoint/left/overlay',
        '/crosspoint/wrist/overlay': '/arm/crosspoint/right/overlay',
        '/crosspoint/markers': '/arm/crosspoint/markers',
        '/crosspoint/grasp_target': '/arm/crosspoint/grasp_target',
        '/front/color/image_raw': '/left/color/image_raw',
        '/front/color/camera_info': '/left/color/camera_info',
        '/wrist/color/image_raw': '/right/color/image_raw',
        '/wrist/color/camera_info': '/right/color/camera_info', **markers}
    assert rviz.kwargs['arguments'][-2:] == ['-f', 'world']
    assert Path(rviz.kwargs['arguments'][1]).is_file()


@pytest.mark.parametrize(('pushed', 'namespace', 'prefix'), [
    ('robot', '', '/robot'), ('/robot', 'arm', '/robot/arm'), ('robot', '/arm', '/arm')])
def test_rviz_follows_a_pushed_namespace_as_the_node_does(double, pushed, namespace, prefix):
    rviz, _ = of(bring_up(pushed, cameras='a,b', rviz='true', namespace=namespace,
                          image_topic='rgb'), 'Node')
    remapped = dict(rviz.kwargs['remappings'])
    assert remapped['/crosspoint/markers'] == f'{prefix}/crosspoint/markers'
    assert remapped['/front/color/image_raw'] == f'{prefix}/rgb'


def test_rviz_shows_the_images_that_the_node_takes(double):
    rviz, _ = of(bring_up(cameras='a,b', rviz='true', image_topic='{camera}/rgb', namespace='arm',
                          info_topic='/{camera}/info'), 'Node')
    remapped = dict(rviz.kwargs['remappings'])
    assert remapped['/front/color/image_raw'] == '/arm/a/rgb'
    assert remapped['/wrist/color/camera_info'] == '/b/info'


# --- the model's server

@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Empty programs called as the servers are, first on PATH, and a GGUF with its vision file."""
    for name in ('vllm', 'llama-server'):
        (tmp_path / name).write_text('#!/bin/sh\n')
        (tmp_path / name).chmod(0o755)
    for name in ('model-q8_0.gguf', 'mmproj-model-f16.gguf'):
        (tmp_path / name).touch()
    monkeypatch.setenv('PATH', str(tmp_path), prepend=':')
    return tmp_path


def serve(**given):
    """Return the process that server.launch.py starts."""
    module = load('server')
    context = Context({name: kwargs['default_value'] for name, kwargs in arguments(module).items()})
    assert set(given) <= set(context)
    context.update(given)
    (process,) = module.start(context)
    return process.kwargs


def flags_of(process):
    return {name: value for name, value in itertools.pairwise(process['cmd'])
            if name.startswith('-')}


def test_vllm_is_started_for_two_images_with_its_prefix_cache_and_restarted(double, programs):
    process = serve(model='/models/one', port='8001', arguments="--dtype 'bfloat16'")
    assert process['cmd'][:3] == ['vllm', 'serve', '/models/one']
    flags = flags_of(process)
    assert json.loads(flags['--limit-mm-per-prompt']) == {'image': 2, 'video': 0}
    assert '--enable-prefix-caching' in flags
    assert (flags['--served-model-name'], flags['--generation-config']) == ('cropond', 'vllm')
    assert (flags['--host'], flags['--port'], flags['--dtype']) == ('127.0.0.1', '8001', 'bfloat16')
    assert (process['respawn'], process['sigterm_timeout']) == (True, '20')


def test_llama_server_is_started_with_the_vision_file_next_to_the_model(double, programs):
    process = serve(server='llama_cpp', model=str(programs / 'model-q8_0.gguf'))
    flags = flags_of(process)
    assert process['cmd'][0] == 'llama-server'
    assert flags['--mmproj'] == str(programs / 'mmproj-model-f16.gguf')
    assert int(flags['-c']) == 4096 * int(flags['--parallel'])
    assert flags['--alias'] == 'cropond'


@pytest.mark.parametrize(('broken', 'given', 'words'), [
    ('', {'server': 'tgi'}, "'tgi' is not one of vllm, llama_cpp"),
    ('', {'model': ''}, 'no model: give model:='),
    ('vllm', {}, 'vllm is not installed: pip install vllm'),
    ('llama-server', {'server': 'llama_cpp'}, 'llama-server is not installed'),
    ('', {'server': 'llama_cpp'}, 'is not a GGUF file'),
    ('mmproj-model-f16.gguf', {'server': 'llama_cpp', 'model': 'model-q8_0.gguf'},
     'holds 0 vision files')])
def test_a_server_that_cannot_start_says_what_is_missing(double, programs, monkeypatch, broken,
                                                         given, words):
    if broken:
        (programs / broken).unlink()
    monkeypatch.setenv('PATH', str(programs))
    monkeypatch.chdir(programs)
    with pytest.raises(RuntimeError, match=words):
        serve(**{'model': '/models/one', **given})


def test_bringup_with_a_server_starts_it_and_asks_it_when_it_is_ready(double, programs):
    entities = bring_up(cameras='a,b', server='vllm', server_model='/models/one',
                        server_port='8001', server_arguments='--dtype half',
                        matcher_options='{deadline_s: 2}')
    (include,) = of(entities, 'IncludeLaunchDescription')
    assert Path(include.args[0].args[0]) == ROOT / 'launch' / 'server.launch.py'
    passed = dict(include.kwargs['launch_arguments'])
    assert passed == {'server': 'vllm', 'model': '/models/one', 'port': '8001',
                      'arguments': '--dtype half'}
    assert set(passed) <= set(arguments(load('server')))
    parameters = node_of(entities)['parameters'][-1]
    options = {name.partition('.')[2]: value for name, value in parameters.items()
               if name.startswith('cropond_remote.')}
    assert parameters['matcher'] == 'cropond_remote'
    assert options == {'server': 'vllm', 'url': 'http://127.0.0.1:8001/v1', 'wait_s': 600.0,
                       'deadline_s': 2.0}
    RemoteOptions(**options)
    assert of(bring_up(cameras='a,b'), 'IncludeLaunchDescription') == []
    with pytest.raises(RuntimeError, match='asked by matcher:=cropond_remote, not by xfeat'):
        bring_up(cameras='a,b', server='vllm', matcher='xfeat')


def displays():
    config = yaml.safe_load((ROOT / 'config' / 'crosspoint.rviz').read_text())
    return config['Visualization Manager']


def test_the_remapped_topics_are_those_of_the_rviz_file(double):
    shown = {d['Topic']['Value'] for d in displays()['Displays'] if 'Topic' in d}
    shown |= {topic.replace('image_raw', 'camera_info') for topic in shown if 'image_raw' in topic}
    shown |= {f'{d["Interactive Markers Namespace"]}/{name}' for d in displays()['Displays']
              if 'Interactive Markers Namespace' in d
              for name in ('update', 'feedback', 'get_interactive_markers')}
    rviz, _ = of(bring_up(cameras='a,b', rviz='true'), 'Node')
    assert {topic for topic, _ in rviz.kwargs['remappings']} == shown


def test_the_rviz_file_clicks_again_and_again_and_takes_images_from_any_publisher():
    tools = {tool['Class']: tool for tool in displays()['Tools']}
    assert next(iter(tools)) == 'rviz_default_plugins/Interact'  # the first is chosen at the start
    assert tools['rviz_default_plugins/PublishPoint']['Single click'] is False
    cameras = [d for d in displays()['Displays'] if d['Class'] == 'rviz_default_plugins/Camera']
    named = {d['Name'] for d in displays()['Displays']}
    for camera in cameras:
        assert camera['Topic']['Reliability Policy'] == 'Best Effort'
        assert camera['Visibility']['Pictures'] is True
        assert set(camera['Visibility']) - {'Value'} <= named
    assert len(cameras) == 2


def test_rqt_opens_with_the_click_published_where_the_node_listens():
    keys = json.loads((ROOT / 'config' / 'crosspoint.perspective').read_text())
    plugins = keys['groups']['pluginmanager']
    opened = plugins['groups']['plugin__rqt_image_view__ImageView__1']['groups']['plugin']['keys']
    values = {name: ast.literal_eval(key['repr']) for name, key in opened.items()}
    assert values['publish_click_location'] in (True, 'true')
    assert values['mouse_pub_topic'] == values['topic'] + '_mouse_left'
    running = ast.literal_eval(plugins['keys']['running-plugins']['repr'])
    assert running == {'rqt_image_view/ImageView': [1]}


def test_the_demo_plays_and_answers_with_the_same_file(double):
    (entities,) = load('demo').generate_launch_description().args
    (include,), (player,) = of(entities, 'IncludeLaunchDescription'), of(entities, 'Node')
    passed = dict(include.kwargs['launch_arguments'])
    assert set(passed) <= set(arguments(load('bringup')))
    assert Path(include.args[0].args[0]) == ROOT / 'launch' / 'bringup.launch.py'
    assert player.kwargs['parameters'][0] == passed['params_file']
    sections = yaml.safe_load(Path(passed['params_file']).read_text())
    assert set(sections) == {f'/**/{name}' for name in (
        player.kwargs['name'], node_of(bring_up(cameras='a,b'))['name'])}
    assert entities.index(include) < entities.index(player)  # the include sets up Fast DDS for both


def test_every_executable_is_installed(double):
    cmake = (ROOT / 'CMakeLists.txt').read_text()
    (demo,) = load('demo').generate_launch_description().args
    nodes = [*of(bring_up(cameras='a,b', web='true'), 'Node'), *of(demo, 'Node')]
    for node in nodes:
        executable = node.kwargs['executable']
        module = EXECUTABLES[executable]
        assert f'install_executable({executable} {module.partition(".")[2]} lib/' in cmake
        assert callable(importlib.import_module(module).main)


def test_real_launch_lists_and_runs_the_demo():
    pytest.importorskip('launch_ros', reason='launch is on no package index: needs a distro')
    pytest.importorskip('ros2launch', reason='needs the distro\'s ros2 launch')
    told = subprocess.run(['ros2', 'launch', 'crosspoint_ros', 'bringup.launch.py', '-s'],
                          capture_output=True, text=True, timeout=60)
    assert "'cameras'" in told.stdout, told.stderr
    demo = subprocess.run(
        ['timeout', '-s', 'INT', '10', 'ros2', 'launch', 'crosspoint_ros', 'demo.launch.py'],
        capture_output=True, text=True, timeout=60)
    assert 'cameras front, side, wrist' in demo.stdout, demo.stdout + demo.stderr
    assert 'http://127.0.0.1:8088/' in demo.stdout, demo.stdout
    assert demo.stdout.count('process has finished cleanly') == 3, demo.stdout
