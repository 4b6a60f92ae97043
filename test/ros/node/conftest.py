"""A running node over two cameras, shared by the tests of a module."""
from __future__ import annotations

from collections.abc import Iterator

import pytest
from two_camera_rig import Rig, run_rig


@pytest.fixture(scope='module')
def shared_rig() -> Iterator[Rig]:
    with run_rig() as rig:
        rig.discover()
        yield rig


@pytest.fixture
def rig(shared_rig: Rig) -> Rig:
    shared_rig.results.clear()
    return shared_rig
