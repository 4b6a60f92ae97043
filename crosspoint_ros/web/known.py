"""What the web page knows of the crosspoint node, read from its parameters and diagnostics."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import ParameterValue
from rclpy.expand_topic_name import expand_topic_name
from rclpy.parameter import parameter_value_to_python

WHOLE = ('cameras', 'base_frame', 'target_frame')
EACH = ('image_topic', 'info_topic', 'transport', 'rectified')


@dataclass(frozen=True)
class KnownCamera:
    """One camera of the node: where its images come from."""

    name: str
    image_topic: str
    info_topic: str
    compressed: bool
    rectified: bool


@dataclass(frozen=True)
class KnownNode:
    """The node as its parameters tell it."""

    cameras: tuple[KnownCamera, ...] = ()
    base_frame: str = ''
    target_frame: str = ''

    def camera(self, name: str) -> KnownCamera | None:
        """Return the camera of that name, None if there is none."""
        return next((camera for camera in self.cameras if camera.name == name), None)


@dataclass(frozen=True)
class Health:
    """What the node's diagnostics say: of each camera, and of the matcher."""

    cameras: tuple[tuple[str, str], ...] = ()  # name, what is wrong with it ('' for nothing)
    image_topics: tuple[tuple[str, str], ...] = ()  # name, topic after remapping
    matcher: str = ''  # what is wrong with it
    can_ground: bool = False


def parameter_names(cameras: list[str]) -> list[str]:
    """Name the parameters of these cameras."""
    return [f'{camera}.{name}' for camera in cameras for name in EACH]


def node_from_parameters(whole: list[Any], cameras: list[Any], node: str) -> KnownNode:
    """Read the values of WHOLE and of `parameter_names`; topics are resolved as the node does."""
    names, base_frame, target_frame = map(_python, whole)
    namespace, _, own_name = node.rpartition('/')
    values = [_python(value) for value in cameras]
    known = []
    for index, name in enumerate(names or ()):
        image, info, transport, rectified = values[len(EACH) * index:len(EACH) * (index + 1)]
        compressed = transport == 'compressed'
        known.append(KnownCamera(
            name, expand_topic_name(image, own_name, namespace or '/') + '/compressed' * compressed,
            expand_topic_name(info, own_name, namespace or '/'), compressed, bool(rectified)))
    return KnownNode(tuple(known), base_frame or '', target_frame or '')


def health_from_diagnostics(array: DiagnosticArray, node: str) -> Health | None:
    """Read what the node said of itself; None if these diagnostics are another node's."""
    said = {status.hardware_id: status for status in array.status
            if status.name.startswith(f'{node}: ')}
    if not said:
        return None
    cameras, topics = [], []
    for name, status in said.items():
        if name.startswith('camera '):
            camera = name.removeprefix('camera ')
            cameras.append((camera, _problem(status)))
            topics.append((camera, _values(status).get('image_topic', '')))
    matcher = said.get('matcher', DiagnosticStatus())
    return Health(tuple(cameras), tuple(topics), _problem(matcher),
                  _values(matcher).get('can ground') == 'true')


def _python(value: ParameterValue) -> Any:
    return parameter_value_to_python(value)


def _problem(status: DiagnosticStatus) -> str:
    return '' if status.level == DiagnosticStatus.OK else str(status.message)


def _values(status: DiagnosticStatus) -> dict[str, str]:
    return {pair.key: pair.value for pair in status.values}
