#!/bin/sh
# Usage: preflight.sh PYTHON DISTRO. Lists what this machine lacks to build against the wheels.
set -u
python=$1
distro=$2
requirements="$(dirname "$0")/../requirements/$distro.txt"

refuse() {
  printf 'crosspoint_ros: %s\n' "$@" >&2
  exit 1
}
python_has() { "$python" -c "import $1" 2>/dev/null; }

[ -z "${AMENT_PREFIX_PATH:-}" ] || refuse \
  "a ROS 2 distro is sourced (AMENT_PREFIX_PATH=$AMENT_PREFIX_PATH), it would mix with the wheels." \
  'With it use: colcon build, ros2 launch, colcon test. Without it: open a shell where it is not sourced.'

{ [ -f "$requirements" ] && [ "$distro" != python ] && [ "$distro" != test ]; } || refuse \
  "there are wheels for DISTRO=kilted and DISTRO=jazzy, not for '$distro'."

command -v "$python" >/dev/null || refuse \
  "no '$python' on the PATH: apt install python3, or make PYTHON=python3.12 ..."
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || refuse \
  "'$python' does not run (its output is above): name another, make PYTHON=/path/to/python3.12 ..."
case $version in
  3.10 | 3.11 | 3.12 | 3.13) ;;
  *) refuse "'$python' is Python $version, the ROS 2 wheels are for 3.10 to 3.13: make PYTHON=python3.12 ..." ;;
esac

platform="$(uname -s) $(uname -m)"
[ "$platform" = 'Linux x86_64' ] || refuse \
  "there are no ROS 2 wheels for $platform, only for Linux x86_64." \
  'Install a ROS 2 distro (a Jetson: apt or a container), source it, and use: colcon build.'

packages=
lacks() {
  printf 'crosspoint_ros: %s\n' "$1" >&2
  packages="$packages $2"
}
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
[ -f "$headers/Python.h" ] || lacks \
  "Python $version has no headers ($headers/Python.h)." "python$version-dev"
{ python_has venv && python_has ensurepip; } || lacks \
  "Python $version has no venv module." "python$version-venv"
command -v "${CC:-cc}" >/dev/null && command -v "${CXX:-c++}" >/dev/null || lacks \
  'no C and C++ compiler (cc, c++; or what CC and CXX name).' g++
[ -z "$packages" ] || refuse "install what is missing: apt install$packages"
