"""What a node says when it is asked for its state and parameters, or a params file for it."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import GetState
from rcl_interfaces.msg import Parameter as ParameterMsg
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import GetParameters
from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_dict_from_yaml_file, parameter_value_to_python

from crosspoint_ros.ros.config import CAMERAS_PARAMETER, NODE_PARAMETERS, camera_specs, limit_specs

SIM_TIME = 'use_sim_time'
# A module:Class may be importable for the node and not here; what it is, diagnostics tell.
SKIPPED_PARAMETERS = ('matcher', 'refine')
MAX_ATTEMPTS = 12
SpinUntil = Callable[[Callable[[], bool], float], bool]  # spins until that holds, or so long; did it?


@dataclass(frozen=True)
class NodeReply:
    """What the node said; `parameters` is None when it did not, empty when it has no cameras."""

    state: str
    parameters: tuple[Parameter, ...] | None

    @property
    def is_responding(self) -> bool:
        """Tell whether it said anything."""
        return bool(self.state) or self.parameters is not None


class NodeInfoClient:
    """Asks one node for its state and its parameters."""

    def __init__(self, node: Node, name: str, until: SpinUntil) -> None:
        self._until = until
        self._state: Any = node.create_client(GetState, f'{name}/get_state')
        self._parameters: Any = node.create_client(GetParameters, f'{name}/get_parameters')

    def is_ready(self) -> bool:
        """Tell whether a node offers to answer."""
        return bool(self._parameters.service_is_ready())

    def query(self, timeout_s: float) -> NodeReply:
        """Return what it says, each answer within so many seconds."""
        first = self._get_parameters([CAMERAS_PARAMETER.name], timeout_s)
        if first is None:
            return NodeReply('', None)
        reply = self._call(self._state, GetState.Request(), timeout_s)
        state = '' if reply is None else str(reply.current_state.label)
        if not first or not first[0].value:
            return NodeReply(state, ())
        rest = self._get_parameters(list_parameter_names(first[0].value), timeout_s)
        return NodeReply(state, None if rest is None else (*first, *rest))

    def _get_parameters(self, names: Sequence[str], timeout_s: float) -> tuple[Parameter, ...] | None:
        reply = self._call(self._parameters, GetParameters.Request(names=names), timeout_s)
        if reply is None:
            return None
        # A node that does not know one of the names returns nothing at all.
        return tuple(Parameter.from_parameter_msg(ParameterMsg(name=name, value=value))
                     for name, value in zip(names, reply.values, strict=False))

    def _call(self, client: Any, request: Any, timeout_s: float) -> Any:
        # A node that sees our request before our ear for its reply drops it: ask again.
        asked: list[Any] = []
        for _ in range(MAX_ATTEMPTS if client.service_is_ready() else 0):
            asked.append(client.call_async(request))
            if self._until(lambda: any(future.done() for future in asked), timeout_s / MAX_ATTEMPTS):
                return next(future.result() for future in asked if future.done())
        return None


def list_parameter_names(cameras: Sequence[str]) -> list[str]:
    """Return the parameters that matter, `cameras` itself left out."""
    specs = (*NODE_PARAMETERS, *limit_specs(), *(s for c in cameras for s in camera_specs(c)))
    return [SIM_TIME, *(s.name for s in specs if s.name not in SKIPPED_PARAMETERS)]


def read_params_file(file: Path, node: str) -> tuple[Parameter, ...]:
    """Return the values that a params file has for a node. Raises OSError, or ValueError."""
    if not file.is_file():
        raise FileNotFoundError(f'there is no params file {file}')
    try:
        messages = parameter_dict_from_yaml_file(str(file), True, [node])
    except (RuntimeError, yaml.YAMLError, LookupError, AttributeError, TypeError,
            ValueError) as error:  # rclpy checks little of what it reads
        raise ValueError(f'{file} is no params file with values for {node}: {error}') from error
    values = tuple(map(Parameter.from_parameter_msg, messages.values()))
    for value in values:
        if value.name == SIM_TIME and not isinstance(value.value, bool):
            raise ValueError(f'{file}: {SIM_TIME} is {value.value!r}; it must be true or false')
    return values


NODE_INFO_PARAMETERS = ('cameras', 'base_frame', 'target_frame')
CAMERA_PARAMETERS = ('image_topic', 'info_topic', 'transport', 'rectified')


@dataclass(frozen=True)
class NodeCamera:
    """One camera of the node: where its images come from."""

    name: str
    image_topic: str
    info_topic: str
    compressed: bool
    rectified: bool


@dataclass(frozen=True)
class NodeInfo:
    """The node as its parameters tell it."""

    cameras: tuple[NodeCamera, ...] = ()
    base_frame: str = ''
    target_frame: str = ''

    def camera(self, name: str) -> NodeCamera | None:
        """Return the camera of that name, None if there is none."""
        return next((camera for camera in self.cameras if camera.name == name), None)


@dataclass(frozen=True)
class NodeHealth:
    """What the node's diagnostics say: of each camera, and of the matcher."""

    cameras: tuple[tuple[str, str], ...] = ()  # name, what is wrong with it ('' for nothing)
    image_topics: tuple[tuple[str, str], ...] = ()  # name, topic after remapping
    matcher: str = ''  # what is wrong with it
    can_ground: bool = False


def camera_parameter_names(cameras: list[str]) -> list[str]:
    """Name the parameters of these cameras."""
    return [f'{camera}.{name}' for camera in cameras for name in CAMERA_PARAMETERS]


def parse_node_info(whole: list[Any], cameras: list[Any], node: str) -> NodeInfo:
    """Read the values of WHOLE and of `parameter_names`; topics are resolved as the node does."""
    names, base_frame, target_frame = map(_to_python, whole)
    namespace, _, own_name = node.rpartition('/')
    values = [_to_python(value) for value in cameras]
    known = []
    for index, name in enumerate(names or ()):
        image, info, transport, rectified = values[len(CAMERA_PARAMETERS) * index:len(CAMERA_PARAMETERS) * (index + 1)]
        compressed = transport == 'compressed'
        known.append(NodeCamera(
            name, expand_topic_name(image, own_name, namespace or '/') + '/compressed' * compressed,
            expand_topic_name(info, own_name, namespace or '/'), compressed, bool(rectified)))
    return NodeInfo(tuple(known), base_frame or '', target_frame or '')


def parse_health(array: DiagnosticArray, node: str) -> NodeHealth | None:
    """Read what the node said of itself; None if these diagnostics are another node's."""
    said = {status.hardware_id: status for status in array.status
            if status.name.startswith(f'{node}: ')}
    if not said:
        return None
    cameras, topics = [], []
    for name, status in said.items():
        if name.startswith('camera '):
            camera = name.removeprefix('camera ')
            cameras.append((camera, _fault_message(status)))
            topics.append((camera, _key_values(status).get('image_topic', '')))
    matcher = said.get('matcher', DiagnosticStatus())
    return NodeHealth(tuple(cameras), tuple(topics), _fault_message(matcher),
                  _key_values(matcher).get('can ground') == 'true')


def _to_python(value: ParameterValue) -> Any:
    return parameter_value_to_python(value)


def _fault_message(status: DiagnosticStatus) -> str:
    return '' if status.level == DiagnosticStatus.OK else str(status.message)


def _key_values(status: DiagnosticStatus) -> dict[str, str]:
    return {pair.key: pair.value for pair in status.values}
