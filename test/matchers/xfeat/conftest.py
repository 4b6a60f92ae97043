"""The views of the box that several files make claims about."""
from __future__ import annotations

import pytest
from raycast_scenes import LEFT, RIGHT, look_at
from textured_scenes import BOX, render_view

from crosspoint_ros.core.datatypes import View


@pytest.fixture(scope='module')
def left() -> View:
    return render_view('left', look_at(LEFT), BOX)


@pytest.fixture(scope='module')
def right() -> View:
    return render_view('right', look_at(RIGHT), BOX)
