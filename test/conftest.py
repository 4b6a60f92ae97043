"""What every test may ask for: the shared recordings, and a DDS domain of its own."""
from __future__ import annotations

import contextlib
import os
import signal
import socket
from pathlib import Path

import pytest
from ros_domains import own_domains


def unused_domain() -> int:
    """Return a DDS domain that nobody on this machine is in: its discovery port is free."""
    domains = own_domains()
    for attempt in range(len(domains)):
        domain = domains[(os.getpid() + attempt) % len(domains)]
        with contextlib.suppress(OSError), socket.socket(type=socket.SOCK_DGRAM) as probe:
            probe.bind(('', 7400 + 250 * domain))  # RTPS 2.5, section 9.6.2.3
            return domain
    raise RuntimeError('all of the DDS domains 1 to 100 are in use on this machine')


# A script that runs the tests in the background has them ignore Ctrl-C, and all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Before anything imports rclpy: neighbours on this machine must not answer our tests.
os.environ['ROS_DOMAIN_ID'] = str(unused_domain())
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


@pytest.fixture(scope='session')
def made(tmp_path_factory):
    """The kitchen as a CrossPoint-Bench: its folder, its items, and right replies to them."""
    import kitchen_bench
    return kitchen_bench.build(tmp_path_factory.mktemp('bench') / 'CrossPoint-Bench')


@pytest.fixture
def bench(made, tmp_path):
    """A folder like the made one, for items and images of a test's own."""
    import kitchen_bench

    def begin(items, images: bool = True) -> Path:
        folder = tmp_path / 'bench'
        folder.mkdir()
        if images:
            (folder / 'image').symlink_to(made[0] / 'image')
        kitchen_bench.write(folder / 'CrossPoint-Bench.jsonl', items)
        return folder
    return begin
