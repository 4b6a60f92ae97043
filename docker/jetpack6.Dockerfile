# crosspoint_ros with CroPond on a Jetson with JetPack 6: Ubuntu 22.04, Python 3.10, CUDA 12.6, Humble.
#   docker build -f docker/jetpack6.Dockerfile -t crosspoint:jetpack6 .
#   docker run --runtime nvidia --network host --ipc host -v /models:/models crosspoint:jetpack6 \
#     cameras:=front,wrist base_frame:=base_link matcher:=cropond matcher_options:='{model: /models/CroPond-3B}'
ARG L4T=r36.4.0
FROM nvcr.io/nvidia/l4t-jetpack:${L4T}
ARG TORCH_INDEX=https://pypi.jetson-ai-lab.io/jp6/cu126
ARG TORCH=2.8.0
ENV DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8 ROS_DISTRO=humble
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl \
 && curl -fsSL https://raw.githubusercontent.com/ros/rosdistro/master/ros.key \
    -o /usr/share/keyrings/ros.gpg \
 && echo "deb [signed-by=/usr/share/keyrings/ros.gpg] http://packages.ros.org/ros2/ubuntu jammy main" \
    > /etc/apt/sources.list.d/ros2.list \
 && apt-get update && apt-get install -y --no-install-recommends g++ python3-pip \
    python3-colcon-common-extensions python3-rosdep ros-humble-ros-base \
 && rosdep init && rm -rf /var/lib/apt/lists/*

# The slowest layer first. NumPy stays 1: apt's cv2 and cv_bridge are built against it.
RUN pip3 install --no-cache-dir --extra-index-url "$TORCH_INDEX" "torch==$TORCH" \
    "transformers>=4.57,<6" "numpy>=1.21.6,<2"

# Fails here, not on the robot, if an index had other versions than the package takes.
RUN python3 -c "from importlib.metadata import version; \
    v = {p: tuple(map(int, version(p).split('.')[:2])) for p in ('torch', 'transformers', 'numpy')}; \
    print(v); assert v['torch'] >= (2, 5) and (4, 57) <= v['transformers'] < (6, 0) and v['numpy'] < (2, 0)"

WORKDIR /ws
COPY . src/crosspoint_ros
# OpenCV comes from apt, never from pip.
RUN apt-get update && rosdep update --rosdistro humble \
 && rosdep install -y --from-paths src --ignore-src --rosdistro humble \
 && . /opt/ros/humble/setup.bash && colcon build --cmake-args -DBUILD_TESTING=OFF \
 && rm -rf build log /var/lib/apt/lists/*

COPY docker/entrypoint.sh /entrypoint.sh
# As Ctrl-C: ros2 launch ends its nodes in order on SIGINT alone.
STOPSIGNAL SIGINT
ENTRYPOINT ["/entrypoint.sh"]
