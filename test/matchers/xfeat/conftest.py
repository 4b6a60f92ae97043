"""What several files share: the views of the box, and networks that see an image only once."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from raycast_scenes import LEFT, RIGHT, look_at
from textured_scenes import BOX, render_view

from crosspoint_ros.core.datatypes import View
from crosspoint_ros.matchers.xfeat.aliked import Aliked
from crosspoint_ros.matchers.xfeat.network import Backbone


@pytest.fixture(scope='module')
def left() -> View:
    return render_view('left', look_at(LEFT), BOX)


@pytest.fixture(scope='module')
def right() -> View:
    return render_view('right', look_at(RIGHT), BOX)


@pytest.fixture(scope='module')
def networks_once() -> Iterator[None]:
    """Compute an image once a module, in whatever matcher: most of the time of a match."""
    with pytest.MonkeyPatch.context() as patch:
        for network in (Backbone, Aliked):
            patch.setattr(network, '__call__', keep_outputs(network.__call__))
        yield


def keep_outputs(run: Callable[..., Any]) -> Callable[..., Any]:
    known: dict[tuple[tuple[int, ...], bytes], Any] = {}

    def run_once(self: Any, image: Any) -> Any:
        key = image.shape, image.tobytes()
        if key not in known:
            known[key] = run(self, image)
        return known[key]
    return run_once
