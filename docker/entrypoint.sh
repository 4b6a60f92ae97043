#!/usr/bin/env bash
# Arguments go to bringup.launch.py; if the first has no := they are a command to run instead.
set -e
. "/opt/ros/$ROS_DISTRO/setup.bash"
. /ws/install/setup.bash
if [[ ${1:-} == *:=* || $# -eq 0 ]]; then
  exec ros2 launch crosspoint_ros bringup.launch.py "$@"
fi
exec "$@"
