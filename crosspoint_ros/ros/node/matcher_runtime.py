"""The matcher in the node: loaded outside the executor's thread, prefetching, its log forwarded."""
from __future__ import annotations

import gc
import logging
import time
from dataclasses import dataclass
from typing import Any

from crosspoint_ros.core.datatypes import Matcher, Refiner, SupportsPrefetch, View
from crosspoint_ros.matchers import load_matcher, load_refiner
from crosspoint_ros.ros.config import Config
from crosspoint_ros.ros.node.query_queue import QueryThread
from crosspoint_ros.ros.node.views import ViewCollector

PACKAGE = 'crosspoint_ros'


class LogForwarder(logging.Handler):
    """Forwards the package's log records to a ROS logger, which is thread-safe, and keeps the last.

    The query's thread, the loader and the recorder log from their own threads.
    """

    def __init__(self, logger: Any) -> None:
        super().__init__(logging.INFO)
        self._logger = logger
        self.last = ''
        self._source = logging.getLogger(PACKAGE)
        self._source.addHandler(self)
        self._previous_level = self._source.level
        if not self._source.isEnabledFor(logging.INFO):
            self._source.setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        """Forward one record; rclpy wants a call site per severity."""
        text = self.format(record)
        self.last = record.getMessage()
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)

    def close(self) -> None:
        """Stop forwarding; the package logs at its previous level again."""
        self._source.removeHandler(self)
        self._source.setLevel(self._previous_level)
        super().close()


@dataclass(frozen=True, eq=False)
class Matchers:
    """The matcher, and the one that refines or refuses its matches, if any."""

    matcher: Matcher
    refiner: Refiner | None

    @property
    def max_concurrent(self) -> int:
        """How many queries may run at a time, each in a thread."""
        is_safe = self.refiner is None or getattr(self.refiner, 'is_thread_safe', False)
        return int(getattr(self.matcher, 'max_concurrent', 1)) if is_safe else 1


class MatcherLoader:
    """Loads once, in the thread that will use the matcher; other threads only read its state."""

    def __init__(self, config: Config, log_forwarder: LogForwarder) -> None:
        self._config, self._log_forwarder = config, log_forwarder
        self.matchers: Matchers | None = None
        self.failure = ''
        self._started_s, self._finished_s = time.monotonic(), 0.0

    @property
    def is_loading(self) -> bool:
        """Whether it has neither loaded nor failed."""
        return self.matchers is None and not self.failure

    @property
    def elapsed_s(self) -> float:
        """How long it took, or has taken so far, s."""
        return (self._finished_s or time.monotonic()) - self._started_s

    @property
    def progress(self) -> str:
        """How far it is, with the matcher's last log message."""
        message = f': {self._log_forwarder.last}' if self._log_forwarder.last else ''
        return f'the matcher {self._config.matcher} is loading for {self.elapsed_s:.1f} s{message}'

    def load(self) -> int:
        """Load, and return how many queries may run at a time.

        0 if it failed, for the reason in `failure`.
        """
        config = self._config
        # The matcher of an earlier configuration is in a reference cycle, and its gigabytes would
        # be missing here.
        gc.collect()
        try:
            matcher = load_matcher(config.matcher, **config.matcher_options)
            refiner = load_refiner(config.refiner, **config.refiner_options) \
                if config.refiner else None
        # A matcher may be third-party code, and panics of Rust libraries are not Exceptions; the
        # node stays up and reports it.
        except BaseException as error:
            self._finished_s = time.monotonic()
            self.failure = f'the matcher {config.matcher} was not loaded: {_format_error(error)}'
            return 0
        self._finished_s = time.monotonic()
        self.matchers = Matchers(matcher, refiner)
        return self.matchers.max_concurrent


def _format_error(error: BaseException) -> str:
    """Return the message of an error made for users, with the type's name for others."""
    is_for_users = isinstance(error, (ValueError, OSError, MemoryError)) and str(error)
    return str(error) if is_for_users else f'{type(error).__name__}: {error}'


FAILURE_COOLDOWN_S = 5.0  # what fails once fails with the next image too, and fills the log


class Prefetcher:
    """Lets the matcher prepare for the newest images when there is no query.

    share: of the matcher's time, 0..1. After a preparation that took t it pauses for
    t * (1 - share) / share. A click that comes meanwhile waits for the preparation's end.
    """

    def __init__(self, share: float, views: ViewCollector, thread: QueryThread,
                 loader: MatcherLoader) -> None:
        self._share, self._views, self._thread, self._loader = share, views, thread, loader
        self._cooldown_until_s = 0.0
        self._last_stamps: tuple[tuple[str, int], ...] = ()

    @property
    def is_enabled(self) -> bool:
        """Whether there is any time to spend."""
        return self._share > 0

    def submit(self) -> None:
        """Submit a preparation unless in the pause; call it a few times a second."""
        if (self.is_enabled and self._loader.matchers
                and time.monotonic() >= self._cooldown_until_s):
            self._thread.submit_idle(self, self._prefetch)

    def _prefetch(self) -> None:
        started_s = time.monotonic()
        if started_s < self._cooldown_until_s:  # submitted during the last preparation
            return
        views = self._views.collect_newest()
        stamps = tuple((view.camera, view.stamp_ns) for view in views)
        if len(views) < 2 or stamps == self._last_stamps:
            return
        min_cooldown_s = FAILURE_COOLDOWN_S
        try:
            self._warm_up(views)
            self._last_stamps, min_cooldown_s = stamps, 0.0
        finally:
            finished_s = time.monotonic()
            cooldown_s = (finished_s - started_s) * (1 - self._share) / self._share
            self._cooldown_until_s = finished_s + max(cooldown_s, min_cooldown_s)

    def _warm_up(self, views: tuple[View, ...]) -> None:
        assert self._loader.matchers is not None
        for each in (self._loader.matchers.matcher, self._loader.matchers.refiner):
            if isinstance(each, SupportsPrefetch):
                each.warm(views)
