"""What a node is told, without a node: parameters from a file, names, a log; nothing is sent."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterUninitializedException,
)
from rclpy.expand_topic_name import expand_topic_name
from rclpy.logging import get_logger
from rclpy.parameter import Parameter

from crosspoint_ros.ros.config import Config, ConfigError, Parameters

USE_SIM_TIME = 'use_sim_time'  # every node has it


class OfflineNode:
    """As much of a node as `Parameters` and the topics' names need."""

    def __init__(self, name: str, overrides: dict[str, Any]) -> None:
        """name: '/crosspoint', or with a namespace. overrides: parameters by their dotted names."""
        self._namespace, _, self._base = name.rpartition('/')
        self._full_name = name
        self._parameter_overrides = {n: _to_parameter(n, value) for n, value in overrides.items()}
        self._declared: dict[str, Parameter] = {}
        self.declare_parameter(USE_SIM_TIME, False, ParameterDescriptor())

    def declare_parameter(self, name: str, default: Any, descriptor: ParameterDescriptor) -> None:
        """Declare it, by the same rules as a node: its type is that of the default."""
        kind = default if isinstance(default, Parameter.Type) else \
            Parameter.Type.from_parameter_value(default)
        value = self._parameter_overrides.get(name)
        if value is None:
            if isinstance(default, Parameter.Type):
                raise ParameterUninitializedException(name)
            value = Parameter(name, kind, default)
        if value.type_ != kind:
            raise InvalidParameterTypeException(value, kind.name)
        for limits in descriptor.floating_point_range:
            if not limits.from_value <= value.value <= limits.to_value:
                raise InvalidParameterValueException(name, value.value, 'out of range')
        self._declared[name] = value

    def has_parameter(self, name: str) -> bool:
        """Tell whether it was declared."""
        return name in self._declared

    def get_parameter(self, name: str) -> Parameter:
        """Return it."""
        if name not in self._declared:
            raise ParameterUninitializedException(name)
        return self._declared[name]

    def get_fully_qualified_name(self) -> str:
        """Return the name with its namespace."""
        return self._full_name

    def resolve_topic_name(self, topic: str) -> str:
        """Return the full name of a topic."""
        return str(expand_topic_name(topic, self._base, self._namespace or '/'))

    def get_logger(self) -> Any:
        """Return the log of this name."""
        return get_logger(self._base)

    def read_config(self) -> Config:
        """Return what the node is told. Raises ConfigError for the first value that will not do."""
        parameters: Any = Parameters
        config: Config = parameters(self).read()
        return config

    @property
    def use_sim_time(self) -> bool:
        """Tell whether the clock is that of /clock."""
        return bool(self.get_parameter(USE_SIM_TIME).value)


def read_parameters(path: Path | None, name: str, assignments: list[str]) -> dict[str, Any]:
    """Read the parameters of a node from a file, then NAME=VALUE pairs over them.

    Raises ValueError, naming the file or the pair.
    """
    found: dict[str, Any] = {}
    if path is not None:
        try:
            tree = yaml.safe_load(path.read_text())
        except yaml.YAMLError as error:
            raise ValueError(f'{path} is no YAML: {error}') from error
        # A node's own values stand over those of all nodes, one by one.
        for node in ('/**', name.lstrip('/'), name):
            group = tree.get(node) if isinstance(tree, dict) else None
            if isinstance(group, dict):
                found |= _flatten(group.get('ros__parameters') or {})
        if not found:
            raise ValueError(f'{path} has no parameters for {name} (/** or {name}, and under it '
                             'ros__parameters)')
    for assignment in assignments:
        key, equals, value = assignment.partition('=')
        if not equals:
            raise ValueError(f'--set takes NAME=VALUE, got {assignment!r}')
        found[key] = yaml.safe_load(value)
    return found


def _flatten(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f'{prefix}{key}.') if isinstance(value, dict) else {
            f'{prefix}{key}': value}
    return flat


def _to_parameter(name: str, value: Any) -> Parameter:
    try:
        return Parameter(name, value=value)
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f'{name}: {value!r} is no value of a parameter') from error
