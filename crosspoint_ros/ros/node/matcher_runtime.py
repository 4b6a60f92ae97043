"""Loading the matcher, which may take minutes, beside the executor and in sight of it."""
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


@dataclass(frozen=True, eq=False)
class Matchers:
    """The matcher, and the one that refines or refuses its finds, if any."""

    matcher: Matcher
    refiner: Refiner | None


class MatcherLoader:
    """Runs once, in the thread that will use the matcher; the executor's thread only looks."""

    def __init__(self, config: Config, log_forwarder: LogForwarder) -> None:
        self._config, self._log_forwarder = config, log_forwarder
        self.matchers: Matchers | None = None
        self.failure = ''
        self._started_s, self._finished_s = time.monotonic(), 0.0

    @property
    def is_loading(self) -> bool:
        """Tell whether it has not come to an end."""
        return self.matchers is None and not self.failure

    @property
    def elapsed_s(self) -> float:
        """How long it took, or has taken so far, s."""
        return (self._finished_s or time.monotonic()) - self._started_s

    @property
    def progress(self) -> str:
        """Say how far it is, in the matcher's own last words."""
        words = f': {self._log_forwarder.last}' if self._log_forwarder.last else ''
        return f'the matcher {self._config.matcher} is loading for {self.elapsed_s:.1f} s{words}'

    def run(self) -> bool:
        """Load; False if that failed, and `failure` says why."""
        config = self._config
        # The matcher of an earlier configuration lies in a circle of references, and its gigabytes
        # would be missing here.
        gc.collect()
        try:
            matcher = load_matcher(config.matcher, **config.matcher_options)
            refiner = load_refiner(config.refiner, **config.refiner_options) \
                if config.refiner else None
        # A matcher is anybody's code, and panics of libraries in Rust are no Exceptions; the node
        # stays up and tells.
        except BaseException as error:
            self._finished_s = time.monotonic()
            self.failure = f'the matcher {config.matcher} was not loaded: {_format_error(error)}'
            return False
        self._finished_s = time.monotonic()
        self.matchers = Matchers(matcher, refiner)
        return True


def _format_error(error: BaseException) -> str:
    """Errors that are made for people speak for themselves; the name of others tells more."""
    made_for_people = isinstance(error, (ValueError, OSError, MemoryError)) and str(error)
    return str(error) if made_for_people else f'{type(error).__name__}: {error}'


FAILURE_COOLDOWN_S = 5.0  # what fails once fails with the next image too, and fills the log


class Prefetcher:
    """Offers the query thread work for when there is no query.

    share: of its time that the matcher may spend so, 0..1. After a preparation that took t it
    rests for t * (1 - share) / share. A click that comes meanwhile waits for its end.
    """

    def __init__(self, share: float, views: ViewCollector, thread: QueryThread,
                 loader: MatcherLoader) -> None:
        self._share, self._views, self._thread, self._loader = share, views, thread, loader
        self._cooldown_until_s = 0.0
        self._last_stamps: tuple[tuple[str, int], ...] = ()

    @property
    def is_enabled(self) -> bool:
        """Tell whether there is any time to spend."""
        return self._share > 0

    def submit(self) -> None:
        """Offer a preparation if the matcher has rested; call it a few times a second."""
        if self.is_enabled and self._loader.matchers and time.monotonic() >= self._cooldown_until_s:
            self._thread.submit_idle(self._prefetch)

    def _prefetch(self) -> None:
        begun_s = time.monotonic()
        if begun_s < self._cooldown_until_s:  # offered while the last one was still going on
            return
        views = self._views.newest_views()
        seen = tuple((view.camera, view.stamp_ns) for view in views)
        if len(views) < 2 or seen == self._last_stamps:
            return
        least_rest_s = FAILURE_COOLDOWN_S
        try:
            self._warm_up(views)
            self._last_stamps, least_rest_s = seen, 0.0
        finally:
            ended_s = time.monotonic()
            rest_s = (ended_s - begun_s) * (1 - self._share) / self._share
            self._cooldown_until_s = ended_s + max(rest_s, least_rest_s)

    def _warm_up(self, views: tuple[View, ...]) -> None:
        assert self._loader.matchers is not None
        for each in (self._loader.matchers.matcher, self._loader.matchers.refiner):
            if isinstance(each, SupportsPrefetch):
                each.warm(views)
