"""Play the built-in kitchen in a loop, and answer clicks on it.

ros2 launch crosspoint_ros demo.launch.py rviz:=true
"""
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

SHARE = Path(get_package_share_directory('crosspoint_ros'))
PARAMETERS = str(SHARE / 'config' / 'demo.yaml')
ARGUMENTS = {
    'rviz': ('false', 'true: also start RViz with two views and the target'),
    'web': ('true', 'false: do not serve the page of `crosspoint web` (docs/ui/web.md)'),
    'rate': ('1.0', 'how fast the scene is played; 1.0: as recorded'),
    'namespace': ('', 'namespace of the node, and of its page'),
    'log_level': ('info', 'debug, info, warn, error or fatal'),
}


def generate_launch_description() -> LaunchDescription:
    """Return the player and the node, which share one parameter file."""
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=text)
          for name, (default, text) in ARGUMENTS.items()),
        # First: it configures Fast DDS, for the player below as well.
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(SHARE / 'launch' / 'bringup.launch.py')),
            launch_arguments={
                'params_file': PARAMETERS, 'required': 'true', 'rviz': LaunchConfiguration('rviz'),
                'web': LaunchConfiguration('web'),
                'namespace': LaunchConfiguration('namespace'),
                'log_level': LaunchConfiguration('log_level')}.items()),
        Node(package='crosspoint_ros', executable='play_bag', name='play_bag', output='screen',
             parameters=[PARAMETERS, {'rate': LaunchConfiguration('rate')}]),
    ])
