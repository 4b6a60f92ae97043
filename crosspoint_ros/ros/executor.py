"""An executor that logs the exception of a callback and goes on; services that refuse instead."""
from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor, await_or_execute
from rclpy.logging import get_logger

from crosspoint_ros.msg import QueryResult, Status

log = logging.getLogger(__name__)
REPEAT_S = 10.0  # between two lines on the same error
NAMES = ('topic_name', 'topic', 'service_name', 'srv_name')  # of an entity, in any distro


class FaultTolerantExecutor(SingleThreadedExecutor):
    """Logs the exception of a callback, the first time with its traceback, and goes on.

    rclpy raises it from `spin_once`, which ends the program. An exception while a message is taken
    would also block the callback group for good; here that message is lost.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.error_count = 0
        self._logged_s: dict[tuple[str, str], float] = {}  # error and place: when, monotonic

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Wait for a callback and execute it. Raises ExternalShutdownException alone."""
        try:
            super().spin_once(timeout_sec)
        except ExternalShutdownException:
            raise
        except Exception as error:
            if not self.context.ok():
                raise
            self._log(error, 'a callback failed')

    def _make_handler(self, entity: Any, node: Any, take_from_wait_list: Callable[[Any], Any],
                      *call: Any) -> Any:
        """Override rclpy's. call: how Humble executes what was taken."""
        def take(entity: Any) -> Any:
            try:
                return take_from_wait_list(entity)
            except Exception as error:
                name = next((getattr(entity, attribute) for attribute in NAMES
                             if hasattr(entity, attribute)), type(entity).__name__)
                self._log(error, f'what came on {name} cannot be read')
                return None
        return super()._make_handler(entity, node, take, *call)

    def _log(self, error: Exception, what: str) -> None:
        self.error_count += 1
        summary = traceback.format_exception_only(type(error), error)[-1].strip()
        key = (type(error).__name__, str(traceback.extract_tb(error.__traceback__)[-1:]))
        last_s, now_s = self._logged_s.get(key), time.monotonic()
        if last_s is not None and now_s - last_s < REPEAT_S:
            return
        self._logged_s[key] = now_s
        nodes = self.get_nodes()
        logger = nodes[0].get_logger() if nodes else get_logger(__name__)
        details = ''.join(traceback.format_exception(type(error), error, error.__traceback__))
        logger.error(f'{what}: {summary}' if last_s is not None else f'{what}:\n{details}')


def refuse_on_error(callback: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Awaitable[Any]]:
    """Wrap the callback of a service: an exception is logged, and the response refuses.

    rclpy would send no response, and the client would wait for ever.
    """
    @wraps(callback)
    async def respond(request: Any, response: Any) -> Any:
        try:
            return await await_or_execute(callback, request, response)
        except Exception as error:
            log.exception('%s failed', type(request).__qualname__)
            return _refuse(type(response)(), f'{type(error).__name__}: {error}')
    return respond


def _refuse(response: Any, reason: str) -> Any:
    """Write the reason into the fields that a response has for it."""
    if hasattr(response, 'success'):
        response.success = False
    if hasattr(response, 'message'):
        response.message = reason
    if isinstance(getattr(response, 'result', None), QueryResult):
        response.result.status = Status(code=Status.MATCHER_FAILED, message=reason)
    return response
