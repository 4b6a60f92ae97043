"""Loading the matcher, which may take minutes, beside the executor and in sight of it."""
from __future__ import annotations

import gc
import time
from dataclasses import dataclass

from crosspoint_ros.core.datatypes import Matcher, Refiner
from crosspoint_ros.matchers import load_matcher, load_refiner
from crosspoint_ros.ros.config import Config
from crosspoint_ros.ros.relay import Relay


@dataclass(frozen=True, eq=False)
class Matchers:
    """The matcher, and the one that refines or refuses its finds, if any."""

    matcher: Matcher
    refiner: Refiner | None


class Loading:
    """Runs once, in the thread that will use the matcher; the executor's thread only looks."""

    def __init__(self, config: Config, relay: Relay) -> None:
        self._config, self._relay = config, relay
        self.matchers: Matchers | None = None
        self.failure = ''
        self._begun_s, self._ended_s = time.monotonic(), 0.0

    @property
    def under_way(self) -> bool:
        """Tell whether it has not come to an end."""
        return self.matchers is None and not self.failure

    @property
    def took_s(self) -> float:
        """How long it took, or has taken so far, s."""
        return (self._ended_s or time.monotonic()) - self._begun_s

    @property
    def progress(self) -> str:
        """Say how far it is, in the matcher's own last words."""
        words = f': {self._relay.last}' if self._relay.last else ''
        return f'the matcher {self._config.matcher} is loading for {self.took_s:.1f} s{words}'

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
            self._ended_s = time.monotonic()
            self.failure = f'the matcher {config.matcher} was not loaded: {_words(error)}'
            return False
        self._ended_s = time.monotonic()
        self.matchers = Matchers(matcher, refiner)
        return True


def _words(error: BaseException) -> str:
    """Errors that are made for people speak for themselves; the name of others tells more."""
    made_for_people = isinstance(error, (ValueError, OSError, MemoryError)) and str(error)
    return str(error) if made_for_people else f'{type(error).__name__}: {error}'
