"""State, parameters and health of a crosspoint node, as its clients read them."""
from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import GetState
from rcl_interfaces.msg import Parameter as ParameterMsg
from rcl_interfaces.srv import GetParameters
from rclpy.context import Context
from rclpy.exceptions import NameValidationException, ParameterException
from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.validate_full_topic_name import validate_full_topic_name

from crosspoint_ros.ros.config import (
    CAMERAS_PARAMETER,
    NODE_PARAMETERS,
    ConfigError,
    list_camera_specs,
    list_limit_specs,
)

SIM_TIME = 'use_sim_time'
SKIPPED_PARAMETERS = ('matcher', 'refine')  # a module:Class need not be importable here
RETRY_S = 0.25
ENVIRONMENT_LOCK = threading.Lock()  # of `open_isolated_node`
SpinUntil = Callable[[Callable[[], bool], float], bool]  # RosSession.spin_until
STATE_CURES = {'unconfigured': 'ros2 lifecycle set {node} configure, then activate',
               'inactive': 'ros2 lifecycle set {node} activate',
               'finalized': 'start it again (it was shut down for good)'}


def resolve_topic(topic: str, node: str) -> str:
    """Return a topic's full name as the node of that full name resolves it. Raises ConfigError."""
    namespace, _, name = node.rpartition('/')
    try:
        full = str(expand_topic_name(topic, name, namespace or '/'))
        validate_full_topic_name(full)
    except (NameValidationException, ValueError) as error:
        raise ConfigError(f'invalid topic name {topic!r}') from error
    return full


def suggest_cure(node: str, state: str) -> str:
    """Return what activates a node that is in this lifecycle state; '' for other states."""
    return STATE_CURES.get(state, '').format(node=node)


@dataclass(frozen=True)
class NodeReply:
    """What a node replied; state '' or parameters None: nothing; (): it has no cameras."""

    state: str
    parameters: tuple[Parameter, ...] | None

    @property
    def is_responding(self) -> bool:
        """Whether it replied to anything."""
        return bool(self.state) or self.parameters is not None


@dataclass(frozen=True)
class NodeCamera:
    """Topics of one camera of the node."""

    name: str
    image_topic: str
    info_topic: str
    compressed: bool
    rectified: bool
    depth_topic: str = ''  # of depth that is registered to the image; '': none
    is_depth_compressed: bool = False


@dataclass(frozen=True)
class NodeInfo:
    """Cameras and frames of a node, by its parameters; topics are resolved as the node does."""

    cameras: tuple[NodeCamera, ...] = ()
    base_frame: str = ''
    target_frame: str = ''
    publish_target: str = ''

    PARAMETERS = ('cameras', 'base_frame', 'target_frame', 'publish_target')
    CAMERA_PARAMETERS = ('image_topic', 'info_topic', 'transport', 'rectified', 'depth_topic',
                         'depth_info_topic', 'depth_transport')

    @classmethod
    def from_parameters(cls, values: Mapping[str, Any], node: str) -> NodeInfo:
        """Build it from PARAMETERS and, for each camera, `<camera>.` CAMERA_PARAMETERS."""
        cameras = []
        for name in values['cameras'] or ():
            image, info, transport, rectified, depth, depth_info, depth_transport = (
                values[f'{name}.{each}'] for each in cls.CAMERA_PARAMETERS)
            compressed = transport == 'compressed'
            is_depth_compressed = (depth_transport or transport) == 'compressed'
            cameras.append(NodeCamera(
                name, resolve_topic(image, node) + '/compressed' * compressed,
                resolve_topic(info, node), compressed, bool(rectified),
                resolve_topic(depth, node) + '/compressedDepth' * is_depth_compressed
                if depth and not depth_info else '', is_depth_compressed))
        return cls(tuple(cameras), values['base_frame'] or '', values['target_frame'] or '',
                   values['publish_target'] or '')

    def camera(self, name: str) -> NodeCamera | None:
        """Return the camera of that name, None if there is none."""
        return next((camera for camera in self.cameras if camera.name == name), None)


@dataclass(frozen=True)
class NodeHealth:
    """What the node's diagnostics report of each camera and of the matcher; '' for no fault."""

    cameras: tuple[tuple[str, str], ...] = ()  # name, fault
    image_topics: tuple[tuple[str, str], ...] = ()  # name, topic after remapping
    matcher: str = ''  # fault
    can_ground: bool = False

    @classmethod
    def from_diagnostics(cls, array: DiagnosticArray, node: str) -> NodeHealth | None:
        """Read the node's own statuses; None if these diagnostics are another node's."""
        prefix = f'{node.lstrip("/")}: '
        statuses = {status.name.removeprefix(prefix): status for status in array.status
                    if status.name.startswith(prefix)}
        if not statuses:
            return None
        cameras = {name.removeprefix('camera '): status for name, status in statuses.items()
                   if name.startswith('camera ')}
        matcher = statuses.get('matcher', DiagnosticStatus())
        return cls(tuple((name, _get_fault(status)) for name, status in cameras.items()),
                   tuple((name, _get_values(status).get('image_topic', ''))
                         for name, status in cameras.items()),
                   _get_fault(matcher), _get_values(matcher).get('can ground') == 'true')


def _get_fault(status: DiagnosticStatus) -> str:
    return '' if status.level == DiagnosticStatus.OK else str(status.message)


def _get_values(status: DiagnosticStatus) -> dict[str, str]:
    return {pair.key: pair.value for pair in status.values}


class NodeInfoClient:
    """Service clients for the lifecycle state and the parameters of one node.

    `request_…` return at once and call back; `query…` spin until the reply is there.
    """

    def __init__(self, node: Node, name: str) -> None:
        """Create the clients on `node`; `name` is the full name of the node to ask."""
        self._name = name
        self._state: Any = node.create_client(GetState, f'{name}/get_state')
        self._parameters: Any = node.create_client(GetParameters, f'{name}/get_parameters')

    def is_discovered(self) -> bool:
        """Whether a node of that name offers its parameters, as every node does."""
        return bool(self._parameters.service_is_ready())

    def is_ready(self) -> bool:
        """Whether it offers its lifecycle state too."""
        return self.is_discovered() and bool(self._state.service_is_ready())

    def request_state(self, on_state: Callable[[str], None]) -> Any:
        """Request the lifecycle state; return the future, which `cancel` takes."""
        future = self._state.call_async(GetState.Request())
        future.add_done_callback(lambda done: on_state(str(done.result().current_state.label)))
        return future

    def cancel(self, future: Any) -> None:
        """Drop a request of `request_state`: its callback is not called any more."""
        self._state.remove_pending_request(future)

    def request_info(self, on_info: Callable[[NodeInfo], None]) -> None:
        """Request cameras and frames; calls back unless that node has no such parameters."""
        def request_cameras(values: dict[str, Any]) -> None:
            names = [f'{camera}.{name}' for camera in values['cameras'] or ()
                     for name in NodeInfo.CAMERA_PARAMETERS]
            self._request_parameters(names, lambda more: on_info(
                NodeInfo.from_parameters({**values, **more}, self._name)))
        self._request_parameters(NodeInfo.PARAMETERS, request_cameras)

    def _request_parameters(self, names: Sequence[str],
                            on_values: Callable[[dict[str, Any]], None]) -> None:
        def read(done: Any) -> None:
            parameters = _to_parameters(names, done.result())
            if len(parameters) == len(names):
                on_values({parameter.name: parameter.value for parameter in parameters})
        self._parameters.call_async(GetParameters.Request(names=names)).add_done_callback(read)

    def query_state(self, spin_until: SpinUntil, timeout_s: float) -> str:
        """Return the lifecycle state, '' if the node does not reply in time."""
        reply = _query(self._state, GetState.Request(), spin_until, timeout_s)
        return '' if reply is None else str(reply.current_state.label)

    def query(self, spin_until: SpinUntil, timeout_s: float) -> NodeReply:
        """Return state and parameters, waiting up to `timeout_s` for each reply."""
        cameras = self._query_parameters([CAMERAS_PARAMETER.name], spin_until, timeout_s)
        if cameras is None:
            return NodeReply('', None)
        state = self.query_state(spin_until, timeout_s)
        if not cameras or not cameras[0].value:
            return NodeReply(state, ())
        rest = self._query_parameters(list_parameter_names(cameras[0].value), spin_until,
                                      timeout_s)
        return NodeReply(state, None if rest is None else (*cameras, *rest))

    def _query_parameters(self, names: Sequence[str], spin_until: SpinUntil, timeout_s: float
                          ) -> tuple[Parameter, ...] | None:
        reply = _query(self._parameters, GetParameters.Request(names=names), spin_until, timeout_s)
        return None if reply is None else _to_parameters(names, reply)


def _query(client: Any, request: Any, spin_until: SpinUntil, timeout_s: float) -> Any:
    # A node that discovers our request before our reply subscription drops it: ask again.
    futures: list[Any] = []
    for _ in range(round(timeout_s / RETRY_S) if client.service_is_ready() else 0):
        futures.append(client.call_async(request))
        if spin_until(lambda: any(future.done() for future in futures), RETRY_S):
            return next(future.result() for future in futures if future.done())
    return None


def _to_parameters(names: Sequence[str], reply: Any) -> tuple[Parameter, ...]:
    # A node that does not know one of the names returns nothing at all.
    return tuple(Parameter.from_parameter_msg(ParameterMsg(name=name, value=value))
                 for name, value in zip(names, reply.values, strict=False))


def list_parameter_names(cameras: Sequence[str]) -> list[str]:
    """Return the parameters that shape the node's subscriptions, without `cameras` itself."""
    specs = (*NODE_PARAMETERS, *list_limit_specs(),
             *(spec for camera in cameras for spec in list_camera_specs(camera)))
    return [SIM_TIME, *(s.name for s in specs if s.name not in SKIPPED_PARAMETERS)]


@contextmanager
def open_isolated_node(name: str, ros_arguments: Sequence[str] = (),
                       parameters: Sequence[Parameter] = ()) -> Iterator[Node]:
    """Yield a node of that full name with parameters, and those that rcl reads from ROS arguments.

    It is alone in its domain: on the graph of the robot it would be the node's twin. Raises
    ValueError with rcl's reason.
    """
    namespace, _, short_name = name.rpartition('/')
    variable, value = ('ROS_LOCALHOST_ONLY', '1') if os.environ.get('ROS_DISTRO') == 'humble' \
        else ('ROS_AUTOMATIC_DISCOVERY_RANGE', 'OFF')
    context = Context()
    with ENVIRONMENT_LOCK:
        before = os.environ.get(variable)
        os.environ[variable] = value
        try:
            context.init(args=[], domain_id=_find_unused_domain())
            node = Node(short_name, namespace=namespace, context=context,
                        use_global_arguments=False, cli_args=['--ros-args', *ros_arguments],
                        parameter_overrides=[*parameters], enable_rosout=False,
                        start_parameter_services=False)
        except (RuntimeError, ParameterException) as error:  # RCLError is a RuntimeError
            context.try_shutdown()
            raise ValueError(f'{" ".join(ros_arguments)}: {error}') from error
        finally:
            del os.environ[variable]
            if before is not None:
                os.environ[variable] = before
    try:
        yield node
    finally:
        node.destroy_node()
        context.try_shutdown()


def _find_unused_domain() -> int:
    """Return a DDS domain without participants on this machine: its discovery port is free."""
    for domain in range(101, 0, -1):
        with contextlib.suppress(OSError), socket.socket(type=socket.SOCK_DGRAM) as probe:
            probe.bind(('', 7400 + 250 * domain))  # RTPS 2.5, section 9.6.2.3
            return domain
    raise ValueError('all of the DDS domains 1 to 101 are in use on this machine')


def read_params_files(files: Sequence[Path], node: str, assignments: Sequence[str] = ()
                      ) -> dict[str, Parameter]:
    """Read what params files, then NAME=VALUE pairs, give a node, by dotted names, as rcl does.

    Raises OSError, or ValueError naming the file or the pair.
    """
    arguments = []
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f'there is no params file {file}')
        arguments += ['--params-file', str(file)]
        if not _read_arguments(node, arguments[-2:]):
            raise ValueError(f'{file} has no parameters for {node} (ros__parameters under {node}, '
                             f'{node.rpartition("/")[2]} or /**)')
    values = _read_arguments(node, arguments)  # together: the order of their groups matters to rcl
    for assignment in assignments:
        key, equals, value = assignment.partition('=')
        if not (key and equals and value):
            raise ValueError(f"--set takes NAME=VALUE, got {assignment!r} ('' for an empty text)")
        values |= _read_arguments(node, ['-p', f'{key}:={value}'])
    return values


def _read_arguments(node: str, ros_arguments: Sequence[str]) -> dict[str, Parameter]:
    with open_isolated_node(node, ros_arguments) as isolated:
        return dict(isolated._parameter_overrides)
