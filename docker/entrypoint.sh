#!/usr/bin/env bash
# What it is given are arguments of bringup.launch.py; a first word without := is a command instead.
set -e
. "/opt/ros/$ROS_DISTRO/setup.bash"
. /ws/install/setup.bash
if [[ ${1:-} == *:=* || $# -eq 0 ]]; then
  exec ros2 launch crosspoint_ros bringup.launch.py "$@"
fi
exec "$@"
