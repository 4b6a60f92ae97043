r"""Run crosspoint_node on your cameras.

ros2 launch crosspoint_ros bringup.launch.py cameras:=front,wrist base_frame:=base_link
ros2 launch crosspoint_ros bringup.launch.py params_file:=/path/to/your.yaml rviz:=true web:=true
ros2 launch crosspoint_ros bringup.launch.py cameras:=front,wrist base_frame:=base_link \
  server:=vllm server_model:=/models/CroPond-3B

An argument that is not given leaves the parameter as the params_file has it, else at its default.
"""
import os
import re
from pathlib import Path

import yaml
from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from crosspoint_ros.matchers import get_matcher_options
from crosspoint_ros.ros.config import NODE_PARAMETERS, list_camera_specs

SHARE = Path(get_package_share_directory('crosspoint_ros'))
CONFIG = SHARE / 'config'
SERVER_LOAD_S = 600.0  # how long the node waits for the server; it loads the model meanwhile

# Parameters of the node, one argument each.
PARAMETERS = {
    'cameras': 'names of the views, two or more: front,wrist',
    'base_frame': 'TF frame of every 3D answer: base_link',
    'target_frame': 'TF child frame of the newest grasp target, another one for each node',
    'target_ttl_s': 'how long a target stays on TF, s; 0: until replaced or cleared',
    'on_refusal': 'what a click without a 3D target does to the target that is there: keep or '
                  'clear',
    'publish_target': 'which answers send their target by themselves, the others wait for '
                      '~/accept: always, sure or on_accept',
    'use_tf': 'false: images alone, for cameras whose poses are not known; without any 3D',
    'allow_unconfirmed': 'true: where no other camera shows the point and none contradicts it, a '
                         'target by the clicked depth alone, to be checked',
    'approach': 'direction of the +z of a target, unless a goal says another: auto, from_above, '
                'horizontal or normal',
    'approach_m': 'how far before the target its pre-grasp frame is, m',
    'yaw': 'what turns a target about its +z: image, or shape, across the clicked thing',
    'matcher': 'xfeat, cropond, cropond_remote, or any module:Class',
    'refine': 'the matcher that refines or refuses what that finds: auto, xfeat, none',
    'warm_share': 'share of its time that the matcher may spend on preparing for the newest '
                  'images when there is no query: 0.5',
    'history_s': 'how far back a click may point in time, s; 0: subscribe to the cameras only '
                 'while a query needs images',
    'busy': 'what a new query does to the one that runs for the same target: preempt, queue or '
            'reject',
    'record_dir': 'folder to which every answer is appended with its images',
    'autostart': 'true: configure and activate at start-up; false: wait for a lifecycle manager',
    'use_sim_time': 'true: take the time from /clock (a simulation, a bag)',
}
# Parameters of each camera: one argument for all of `cameras`, with {camera} for the name.
CAMERA_PARAMETERS = {
    'image_topic': 'image topic of every camera; {camera} is its name: '
                   '/{camera}/color/image_raw',
    'info_topic': 'camera info topic of every camera: /{camera}/color/camera_info',
    'depth_topic': 'topic of the depth registered to the image: '
                   '/{camera}/aligned_depth_to_color/image_raw',
    'transport': 'how image and depth arrive: raw, or compressed (<image_topic>/compressed, '
                 '<depth_topic>/compressedDepth)',
    'depth_info_topic': "camera info of the depth, where it is another lens's: "
                        '/{camera}/depth/camera_info',
    'depth_transport': 'how depth arrives, where it is not as the image does: raw or compressed',
    'mask_path': "8-bit PNG, white where the robot's own body hides the scene: "
                 '/path/to/{camera}_mask.png',
    'rectified': 'true: the images are undistorted (image_rect)',
}
# By argument, the node's own defaults: they have the type that the node takes.
DEFAULTS = {'use_sim_time': False, **{spec.name: spec.default for spec in NODE_PARAMETERS},
            **{spec.name.partition('.')[2]: spec.default for spec in list_camera_specs('')}}
OTHERS = {
    'matcher_options': ('', "options of `matcher`, as YAML: '{model: /models/CroPond-3B}'"),
    'server': ('', 'vllm or llama_cpp: also start that server on this machine (server.launch.py), '
               'and ask it with matcher:=cropond_remote'),
    'server_model': ('', 'its model: a folder (vllm), or a GGUF file next to its mmproj*.gguf'),
    'server_port': ('8000', 'its TCP port'),
    'server_arguments': ('', "more of its arguments: '--gpu-memory-utilization 0.6'"),
    'params_file': ('', 'a YAML of parameters; config/crosspoint.yaml of this package shows all'),
    'namespace': ('', 'namespace of the node, whose topics are <namespace>/crosspoint/…'),
    'respawn': ('false', 'true: start the node again, 2 s after it ended by itself'),
    'required': ('false', 'true: if the node cannot start, as with a parameter that it refuses, '
                 'launch ends with an error, and with it all that a launch file which includes '
                 'this one has started; false: only the node is missing'),
    'log_level': ('info', 'debug, info, warn, error or fatal'),
    'fastdds': ('shm', 'how Fast DDS carries images, unless you have set that yourself. shm: 64 MB '
                'of shared memory (camera drivers need the same, to send them). large_data: '
                'FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA; then every other node and tool needs it '
                'too, and does not see this one without. leave: as it is'),
    'rviz': ('false', 'true: also start RViz, with pictures to click on and the overlays of the '
             'first two of `cameras`'),
    'web': ('false', 'true: also serve the page of `crosspoint web`, see docs/ui/web.md'),
    'web_host': ('127.0.0.1', 'address that the page is served on; any other asks for a token, '
                 'printed in the log'),
    'web_port': ('8088', 'TCP port of the page'),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; `start` evaluates them."""
    unset = {**PARAMETERS, **CAMERA_PARAMETERS}
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value='', description=text)
          for name, text in unset.items()),
        *(DeclareLaunchArgument(name, default_value=default, description=text)
          for name, (default, text) in OTHERS.items()),
        OpaqueFunction(function=start),
    ])


def configure_fastdds(environment, how):
    """Return the environment that lets Fast DDS carry images; by default it loses most of them.

    Its shared-memory segment (0.5 MB) cannot hold a raw 1280x720 image (2.76 MB): of 30 a second,
    1 arrived. With a segment of 64 MB, and with LARGE_DATA (from Jazzy on), all do. But a node
    with LARGE_DATA and one without do not discover each other, `ros2` in the next terminal
    included; the profile has no such effect. Existing settings and other middlewares are left
    alone.
    """
    if how not in ('shm', 'large_data', 'leave'):
        raise RuntimeError(f'fastdds: {how!r} is not one of shm, large_data, leave')
    profiles = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
    is_set = any(environment.get(name) for name in ('FASTDDS_BUILTIN_TRANSPORTS', *profiles))
    rmw = environment.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp')
    if is_set or how == 'leave' or not rmw.startswith('rmw_fastrtps'):
        return []
    if how == 'large_data':
        return [SetEnvironmentVariable('FASTDDS_BUILTIN_TRANSPORTS', 'LARGE_DATA')]
    # Fast DDS 3, of Kilted, renamed the variable.
    name = profiles[environment.get('ROS_DISTRO') not in ('humble', 'iron', 'jazzy')]
    return [SetEnvironmentVariable(name, str(CONFIG / 'fastdds_shm.xml'))]


def start(context):
    """Return the node, and RViz and the page if requested."""
    def given(name):
        return LaunchConfiguration(name).perform(context)

    # launch_ros itself applies a PushRosNamespace around this file to the nodes.
    pushed = context.launch_configurations.get('ros_namespace', '')
    prefix = '/' + f'{"" if given("namespace").startswith("/") else pushed}/{given("namespace")}'
    prefix = re.sub('/+', '/', prefix).rstrip('/')
    cameras = [name.strip() for name in given('cameras').strip('[] ').split(',') if name.strip()]
    node = Node(
        package='crosspoint_ros', executable='crosspoint_node', name='crosspoint',
        namespace=given('namespace'), output='screen', emulate_tty=True,
        respawn=is_on(given, 'respawn'), respawn_delay=2.0,
        on_exit=require_start if is_on(given, 'required') and not is_on(given, 'respawn') else None,
        parameters=[*find_params_file(given('params_file')), build_parameters(given, cameras)],
        arguments=['--ros-args', '--log-level', given('log_level')])
    # RViz first: where it is not installed, launch ends before it has started a node.
    return [*configure_fastdds(os.environ, given('fastdds')), *start_rviz(given, cameras, prefix),
            *start_server(given), node, *start_web(given)]


def is_on(given, name):
    """Return whether a switch is on; raise if it is neither true nor false."""
    text = given(name).lower()
    if text not in ('true', '1', 'yes', 'on', 'false', '0', 'no', 'off'):
        raise RuntimeError(f'{name}: {given(name)!r} is neither true nor false')
    return text in ('true', '1', 'yes', 'on')


def require_start(event, context):
    """Raise, which ends launch with an error, if the node could not start: its exit code is 1."""
    if event.returncode == 1 and not context.is_shutdown:
        raise RuntimeError('crosspoint_node could not start: its reason is above (required:=false '
                           'leaves the rest of this launch running)')


def find_params_file(path):
    """Return the file in a list, or an empty list; raise if there is no such file."""
    if path and not Path(path).is_file():
        raise FileNotFoundError(f'params_file: there is no file {path}')
    return [path] if path else []


def build_parameters(given, cameras):
    """Return the parameters given as arguments, with the types of the node."""
    named = [name for name in CAMERA_PARAMETERS if given(name)]
    if named and not cameras:
        raise RuntimeError(f'{named[0]} needs cameras:=…; for cameras of a params_file set it '
                           'there')
    if not cameras and not given('params_file'):
        raise RuntimeError('no cameras: give cameras:=front,wrist base_frame:=base_link, or '
                           'a params_file (ros2 launch crosspoint_ros bringup.launch.py -s '
                           'lists all arguments)')
    values = {name: convert(name, given(name)) for name in PARAMETERS
              if name != 'cameras' and given(name)}
    if cameras:
        values['cameras'] = cameras
    for camera in cameras:
        for name in named:
            values[f'{camera}.{name}'] = convert(name, given(name).replace('{camera}', camera))
    if given('server'):
        if given('matcher') not in ('', 'cropond_remote'):
            raise RuntimeError(f"server:={given('server')} is asked by matcher:=cropond_remote, "
                               f"not by {given('matcher')}")
        values |= {'matcher': 'cropond_remote', 'cropond_remote.server': given('server'),
                   'cropond_remote.url': f"http://127.0.0.1:{given('server_port')}/v1",
                   'cropond_remote.wait_s': SERVER_LOAD_S}
    return values | build_matcher_options(given)


def start_server(given):
    """Return the model's server, if requested."""
    if not given('server'):
        return []
    return [IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / 'launch' / 'server.launch.py')),
        launch_arguments={'server': given('server'), 'model': given('server_model'),
                          'port': given('server_port'),
                          'arguments': given('server_arguments')}.items())]


def build_matcher_options(given):
    """Return the options of the matcher as parameters, such as `cropond.model`."""
    try:
        options = yaml.safe_load(given('matcher_options') or '{}')
    except yaml.YAMLError:
        options = None
    if not isinstance(options, dict):
        raise RuntimeError(f"matcher_options: {given('matcher_options')!r} is not a YAML mapping; "
                           "give '{model: /models/CroPond-3B}'")
    empty = [name for name, value in options.items() if value is None]
    if empty:
        raise RuntimeError(f"matcher_options: {empty[0]} has no value; give one ('' for an empty "
                           "text), with a space after its colon")
    matcher = given('matcher') or ('cropond_remote' if given('server') else '')
    if options and not matcher:
        raise RuntimeError('matcher_options needs matcher:=…; for the matcher of a params_file '
                           'set them there')
    prefix = matcher.rpartition(':')[2]
    defaults = read_option_defaults(matcher)
    return {f'{prefix}.{name}': convert_number(value, defaults.get(name))
            for name, value in options.items()}


def read_option_defaults(matcher):
    """Return the matcher's options by name; none if it cannot be imported: the node reports it."""
    try:
        return get_matcher_options(matcher)
    except (ImportError, ValueError):
        return {}


def convert_number(value, default):
    """Return an integer as a float, alone or in a list, where the default is one."""
    if isinstance(value, list) and isinstance(default, (list, tuple)):
        return [convert_number(each, default[0] if default else None) for each in value]
    is_float = isinstance(default, float) and isinstance(value, int)
    return float(value) if is_float and not isinstance(value, bool) else value


def convert(name, text):
    """Return an argument with the type of its parameter: 5 for a duration is 5.0."""
    if isinstance(DEFAULTS[name], float):
        try:
            return float(text)
        except ValueError:
            raise RuntimeError(f'{name}: {text!r} is not a number') from None
    if not isinstance(DEFAULTS[name], bool):
        return text
    value = yaml.safe_load(text)
    if not isinstance(value, bool):
        raise RuntimeError(f'{name}: {text!r} is neither true nor false')
    return value


def start_rviz(given, cameras, prefix):
    """Return RViz with overlays of the first two cameras of the node below `prefix`."""
    if not is_on(given, 'rviz'):
        return []
    topics = ['markers', 'grasp_target', *(
        f'{markers}/{name}' for markers in ('pictures', 'adjust')
        for name in ('update', 'feedback', 'get_interactive_markers'))]
    remappings = [(f'/crosspoint/{topic}', f'{prefix}/crosspoint/{topic}') for topic in topics]
    for shown, camera in zip(('front', 'wrist'), cameras, strict=False):
        remappings += [
            (f'/crosspoint/{shown}/overlay', f'{prefix}/crosspoint/{camera}/overlay'),
            *((f'/{shown}/color/{name}', resolve_topic(
                given(f'{kind}_topic').replace('{camera}', camera) or f'/{camera}/color/{name}',
                prefix))
              for kind, name in (('image', 'image_raw'), ('info', 'camera_info')))]
    frame = ['-f', given('base_frame')] if given('base_frame') else []
    return [Node(
        package='rviz2', executable='rviz2', name='crosspoint_rviz', output='log',
        arguments=['-d', str(CONFIG / 'crosspoint.rviz'), *frame], remappings=remappings,
        parameters=[{'use_sim_time': convert('use_sim_time', given('use_sim_time') or 'false')}])]


def resolve_topic(topic, prefix):
    """Return the topic of a camera as the node resolves it."""
    return topic if topic.startswith('/') else f'{prefix}/{topic}'


def start_web(given):
    """Return the server of the page, if requested."""
    if not is_on(given, 'web'):
        return []
    return [Node(
        package='crosspoint_ros', executable='crosspoint', name='crosspoint_web',
        namespace=given('namespace'), output='screen', emulate_tty=True,
        arguments=['web', '--node', 'crosspoint', '--host', given('web_host'),
                   '--port', given('web_port')])]
