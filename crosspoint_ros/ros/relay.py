"""What matchers and the core log, in the node's own log."""
from __future__ import annotations

import logging
from typing import Any

PACKAGE = 'crosspoint_ros'


class Relay(logging.Handler):
    """Hands Python log records of this package on to a ROS logger, and remembers the last."""

    def __init__(self, logger: Any) -> None:
        super().__init__(logging.INFO)
        self._logger = logger
        self.last = ''
        self._source = logging.getLogger(PACKAGE)
        self._source.addHandler(self)
        if not self._source.isEnabledFor(logging.INFO):
            self._source.setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        """Hand one record on; each severity from a line of its own, as rclpy demands."""
        text = self.format(record)
        self.last = record.getMessage()
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)

    def close(self) -> None:
        """Hand on no more."""
        self._source.removeHandler(self)
        super().close()
