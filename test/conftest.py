"""Fixtures of all tests: the shared recordings, a free DDS domain, no shared memory left behind."""
from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from ros_domains import is_unused, list_own_domains


def unused_domain() -> int:
    """Return a DDS domain without participants on this machine."""
    domains = list_own_domains()
    for attempt in range(len(domains)):
        domain = domains[(os.getpid() + attempt) % len(domains)]
        if is_unused(domain):
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


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the segments, 70 MB each, of processes that tests killed: nothing holds their lock."""
    if hasattr(config, 'workerinput'):  # the controller does it, after its workers
        return
    from crosspoint_ros.ros.shared_memory import remove_dead_segments
    remove_dead_segments(min_age_s=1.0)


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """The folder of real recordings, too large for the repository."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get('CROSSPOINT_SHARED', root.parent / 'shared')) / 'data'
    if not folder.is_dir():
        pytest.skip(f'no recordings at {folder}: CROSSPOINT_SHARED may name the folder above')
    return folder


@pytest.fixture(scope='module')
def networks_once():
    """XFeat's networks see an image only once a module."""
    from cached_networks import keep_network_outputs
    with keep_network_outputs():
        yield


@pytest.fixture(scope='module')
def matches_once():
    """XFeat matches two images by themselves only once a module."""
    from cached_networks import keep_image_matches
    with keep_image_matches():
        yield


@pytest.fixture(scope='session')
def made(tmp_path_factory):
    """The kitchen as a CrossPoint-Bench: its folder, its items, and right replies to them."""
    import kitchen_bench
    return kitchen_bench.build_bench(tmp_path_factory.mktemp('bench') / 'CrossPoint-Bench')


@pytest.fixture
def bench(made, tmp_path):
    """A folder like the made one, for items and images of a test's own."""
    import kitchen_bench

    def begin(items, images: bool = True) -> Path:
        folder = tmp_path / 'bench'
        folder.mkdir()
        if images:
            (folder / 'image').symlink_to(made[0] / 'image')
        kitchen_bench.write_lines(folder / 'CrossPoint-Bench.jsonl', items)
        return folder
    return begin
