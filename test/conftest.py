"""What every test may ask for: the shared recordings, and a DDS domain of its own."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before anything imports rclpy: neighbours on this machine must not answer our tests.
os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 100)
# Fast DDS's default shared memory loses most images that are larger than 0.5 MB. (LARGE_DATA is no
# cure here: its TCP sockets can deadlock when one process ends and begins participants in turn.)
PROFILE = Path(__file__).resolve().parents[1] / 'config' / 'fastdds_shm.xml'
for variable in ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'):
    os.environ.setdefault(variable, str(PROFILE))


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """The folder of real recordings that are too large for the repository."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get('CROSSPOINT_SHARED', root.parent / 'shared')) / 'data'
    if not folder.is_dir():
        pytest.skip(f'no recordings at {folder}: CROSSPOINT_SHARED may name the folder above')
    return folder
