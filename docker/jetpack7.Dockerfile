# crosspoint_ros with CroPond on a Jetson with JetPack 7: Ubuntu 24.04, Python 3.12, CUDA 13, Jazzy.
#   docker build -f docker/jetpack7.Dockerfile -t crosspoint:jetpack7 .
#   docker run --gpus all --network host --ipc host -v /models:/models crosspoint:jetpack7 \
#     cameras:=front,wrist base_frame:=base_link matcher:=cropond matcher_options:='{model: /models/CroPond-3B}'
ARG CUDA=13.0.1
FROM nvcr.io/nvidia/cuda:${CUDA}-runtime-ubuntu24.04
ARG TORCH_INDEX=https://download.pytorch.org/whl/cu130
ARG TORCH=2.9.1
ENV DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8 ROS_DISTRO=jazzy
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl \
 && curl -fsSL https://raw.githubusercontent.com/ros/rosdistro/master/ros.key \
    -o /usr/share/keyrings/ros.gpg \
 && echo "deb [signed-by=/usr/share/keyrings/ros.gpg] http://packages.ros.org/ros2/ubuntu noble main" \
    > /etc/apt/sources.list.d/ros2.list \
 && apt-get update && apt-get install -y --no-install-recommends g++ python3-pip \
    python3-colcon-common-extensions python3-rosdep ros-jazzy-ros-base \
 && rosdep init && rm -rf /var/lib/apt/lists/*

# The slowest layer first. pip may install next to apt, since nothing else uses this image; NumPy
# stays 1: apt's cv2 and cv_bridge are built against it.
RUN pip3 install --no-cache-dir --break-system-packages --extra-index-url "$TORCH_INDEX" \
    "torch==$TORCH" "transformers>=4.57,<6" "numpy>=1.26.4,<2"

# Fails here, not on the robot, if an index had other versions than the package takes.
RUN python3 -c "from importlib.metadata import version; \
    v = {p: tuple(map(int, version(p).split('.')[:2])) for p in ('torch', 'transformers', 'numpy')}; \
    print(v); assert v['torch'] >= (2, 5) and (4, 57) <= v['transformers'] < (6, 0) and v['numpy'] < (2, 0)"

WORKDIR /ws
COPY . src/crosspoint_ros
# OpenCV comes from apt, never from pip.
RUN apt-get update && rosdep update --rosdistro jazzy \
 && rosdep install -y --from-paths src --ignore-src --rosdistro jazzy \
 && . /opt/ros/jazzy/setup.bash && colcon build --cmake-args -DBUILD_TESTING=OFF \
 && rm -rf build log /var/lib/apt/lists/*

COPY docker/entrypoint.sh /entrypoint.sh
# As Ctrl-C: ros2 launch ends its nodes in order on SIGINT alone.
STOPSIGNAL SIGINT
ENTRYPOINT ["/entrypoint.sh"]
