"""Joins the graph for a few seconds, and returns what was to be seen there. It changes nothing."""
from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import rclpy
from rclpy.context import Context
from rclpy.exceptions import NameValidationException
from rclpy.executors import SingleThreadedExecutor
from rclpy.expand_topic_name import expand_topic_name
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rclpy.validate_full_topic_name import validate_full_topic_name

from crosspoint_ros.ros.asking import Question, Told, parameters_from
from crosspoint_ros.ros.config import Config, ConfigError, Parameters
from crosspoint_ros.ros.ears import Ears
from crosspoint_ros.ros.graph import full_name, mismatches, surroundings
from crosspoint_ros.ros.onlooker import Onlooker
from crosspoint_ros.ros.seen import NodeSeen, Seen

PATIENCE_S = 10.0  # rarely, two processes take some seconds to find each other
ANSWER_S = 3.0  # a node that is busy with starting answers later than others
STEP_S = 0.05


def look(node: str, seconds: float, params: Path | None = None,
         patience_s: float = PATIENCE_S) -> Seen:
    """Return what was seen of a node and of all that it needs.

    params: take the parameters from this file, not from the node. The node is waited for, and
    what is missing after `seconds` too, for `patience_s` in all. Raises OSError or ValueError for a
    file or a name that will not do.
    """
    name = full_name(node)
    given = None if params is None else parameters_from(params, name)
    end_s = time.monotonic() + patience_s
    with Visit() as visit:
        told = visit.ask(name, patience_s)
        values = told.parameters if given is None else given
        watching = Onlooker(visit.context, values or ())
        visit.add(watching)
        config = _config(watching) if values else None
        ears = _ears(watching, name, config)
        if isinstance(ears, ConfigError):
            config, ears = ears, _no_ears(watching, name)
        since_ns = watching.get_clock().now().nanoseconds
        visit.until(lambda: False, seconds)
        visit.until(lambda: not ears.missing(told.state), end_s - time.monotonic())
        ears.keep_poses(visit.until)
        return _seen(watching, name, told, config, ears, since_ns)


def _seen(node: Onlooker, name: str, told: Told, config: Config | ConfigError | None,
          ears: Ears, since_ns: int) -> Seen:
    around = surroundings(node)
    cameras = ears.cameras()
    expected = {s.topic: qos_profile_sensor_data for c in cameras for s in c.streams}
    is_crosspoint = told.parameters is None or bool(told.parameters)
    return Seen(
        NodeSeen(name, around.nodes.count(name), told.answers, told.state, is_crosspoint,
                 ears.matcher),
        around, config, bool(node.get_parameter('use_sim_time').value), cameras,
        mismatches(node, name, expected), ears.tree.links(), ears.clock.stream(), since_ns)


def _config(node: Onlooker) -> Config | ConfigError:
    """Let the node's own code read the parameters, and say what it would not take."""
    try:
        return Parameters(node).read()
    except ConfigError as error:
        return error


def _ears(node: Onlooker, name: str, config: Config | ConfigError | None) -> Ears | ConfigError:
    if not isinstance(config, Config):
        return _no_ears(node, name)
    try:
        return Ears(node, name, config, _resolver(name))
    except ConfigError as error:
        return error


def _no_ears(node: Onlooker, name: str) -> Ears:
    return Ears(node, name, None, _resolver(name))


def _resolver(node: str) -> Callable[[str], str]:
    """Return what makes a topic's full name out of the one that a node was given."""
    space, _, name = node.rpartition('/')

    def resolve(topic: str) -> str:
        try:
            full = expand_topic_name(topic, name, space or '/')
            validate_full_topic_name(full)
        except (NameValidationException, ValueError) as error:
            raise ConfigError(f'a topic cannot be called {topic!r}') from error
        return full
    return resolve


class Visit:
    """A place on the graph, for as long as it is open."""

    def __init__(self) -> None:
        self.context = Context()
        # Ctrl-C stays with the program that uses this.
        rclpy.init(context=self.context, signal_handler_options=SignalHandlerOptions.NO)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._nodes: list[Onlooker] = []

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._executor.shutdown()
        for node in self._nodes:
            node.destroy_node()
        self.context.try_shutdown()

    def add(self, node: Onlooker) -> None:
        """Let its callbacks run, and take it off the graph at the end."""
        self._nodes.append(node)
        self._executor.add_node(node)

    def ask(self, name: str, patience_s: float) -> Told:
        """Wait for the node, and return what it says of itself."""
        asking = Onlooker(self.context)
        self.add(asking)
        question = Question(asking, name, self.until)
        self.until(question.ready, patience_s)
        return question.ask(ANSWER_S)

    def until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Let callbacks run until the condition holds, or so long; return whether it does."""
        end_s = time.monotonic() + timeout_s
        while not condition():
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                return False
            self._executor.spin_once(timeout_sec=min(left_s, STEP_S))
        return True
