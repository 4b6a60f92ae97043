#!/bin/sh
# Usage: colcon_on_wheels.sh VENV WORKSPACE build|test [colcon's own arguments]
# Runs colcon on this repository against the ROS 2 wheels in VENV, as a distro's colcon would;
# tf2_msgs is built with it, since the wheels have none.
set -eu
venv=$(cd "$1" && pwd)
mkdir -p "$2"
workspace=$(cd "$2" && pwd)
verb=$3
shift 3
cd "$(dirname "$0")/.."

export PATH="$venv/bin:$PATH" VIRTUAL_ENV="$venv"
export AMENT_PREFIX_PATH="$venv" CMAKE_PREFIX_PATH="$venv"
base="--build-base $workspace/build --install-base $workspace/install"
case $verb in
  build)
    exec colcon --log-base "$workspace/log" build --paths . tf2_msgs $base "$@" --cmake-args \
      -G Ninja -DCMAKE_BUILD_TYPE=Release "-DPython3_EXECUTABLE=$venv/bin/python3" \
      "-DCMAKE_PROJECT_INCLUDE=$PWD/cmake/pip_wheels.cmake"
    ;;
  test)
    exec colcon --log-base "$workspace/log" test --paths . $base --return-code-on-test-failure \
      --event-handlers console_direct+ "$@"
    ;;
esac
