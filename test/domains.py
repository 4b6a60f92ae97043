"""The DDS domains of this process, where several run tests side by side."""
from __future__ import annotations

import os


def own_domains() -> list[int]:
    """Return those of the domains 1 to 100 that no other worker of this test run takes."""
    workers = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', '1'))
    worker = int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw'))
    return list(range(1, 101))[worker::workers]
