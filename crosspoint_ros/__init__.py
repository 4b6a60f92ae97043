"""A click in any camera becomes the same point in every other camera, and a 3D grasp target.

`import crosspoint_ros as cp` gives the names below; each is imported when it is first used.
"""
from importlib import import_module
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

# Lets the source tree find msg/, srv/ and action/ of an installed build.
__path__ = extend_path(__path__, __name__)

_MODULES = {
    'Approach': 'core.grasp.approach',
    'ApproachMode': 'core.grasp.approach',
    'Client': 'ros.client.client',
    'Intrinsics': 'core.camera',
    'Limits': 'core.verify',
    'LocateResult': 'core.pipeline',
    'Rejected': 'core.datatypes',
    'Transform': 'core.datatypes',
    'View': 'core.datatypes',
    'load_matcher': 'matchers',
    'locate': 'core.pipeline',
    'read_image': 'core.image_io',
}
__all__ = sorted(_MODULES)

if TYPE_CHECKING:
    from crosspoint_ros.core.camera import Intrinsics as Intrinsics
    from crosspoint_ros.core.datatypes import Rejected as Rejected
    from crosspoint_ros.core.datatypes import Transform as Transform
    from crosspoint_ros.core.datatypes import View as View
    from crosspoint_ros.core.grasp.approach import Approach as Approach
    from crosspoint_ros.core.grasp.approach import ApproachMode as ApproachMode
    from crosspoint_ros.core.image_io import read_image as read_image
    from crosspoint_ros.core.pipeline import LocateResult as LocateResult
    from crosspoint_ros.core.pipeline import locate as locate
    from crosspoint_ros.core.verify import Limits as Limits
    from crosspoint_ros.matchers import load_matcher as load_matcher
    from crosspoint_ros.ros.client.client import Client as Client


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(import_module(f'{__name__}.{_MODULES[name]}'), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
