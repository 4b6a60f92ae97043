"""Lets an idle matcher prepare for the newest images, within its share of the time."""
from __future__ import annotations

import time

from crosspoint_ros.core.datatypes import View, Warmable
from crosspoint_ros.ros.loading import Loading
from crosspoint_ros.ros.queries import QueryThread
from crosspoint_ros.ros.views import ViewSource

REST_AFTER_FAILURE_S = 5.0  # what fails once fails with the next image too, and fills the log


class Warming:
    """Offers the query thread work for when there is no query.

    share: of its time that the matcher may spend so, 0..1. After a preparation that took t it
    rests for t * (1 - share) / share. A click that comes meanwhile waits for its end.
    """

    def __init__(self, share: float, views: ViewSource, thread: QueryThread,
                 loading: Loading) -> None:
        self._share, self._views, self._thread, self._loading = share, views, thread, loading
        self._rest_until_s = 0.0
        self._seen: tuple[tuple[str, int], ...] = ()

    @property
    def wanted(self) -> bool:
        """Tell whether there is any time to spend."""
        return self._share > 0

    def offer(self) -> None:
        """Offer a preparation if the matcher has rested; call it a few times a second."""
        if self.wanted and self._loading.matchers and time.monotonic() >= self._rest_until_s:
            self._thread.offer(self._prepare)

    def _prepare(self) -> None:
        begun_s = time.monotonic()
        if begun_s < self._rest_until_s:  # offered while the last one was still going on
            return
        views = self._views.newest_known()
        seen = tuple((view.camera, view.stamp_ns) for view in views)
        if len(views) < 2 or seen == self._seen:
            return
        least_rest_s = REST_AFTER_FAILURE_S
        try:
            self._warm(views)
            self._seen, least_rest_s = seen, 0.0
        finally:
            ended_s = time.monotonic()
            rest_s = (ended_s - begun_s) * (1 - self._share) / self._share
            self._rest_until_s = ended_s + max(rest_s, least_rest_s)

    def _warm(self, views: tuple[View, ...]) -> None:
        assert self._loading.matchers is not None
        for each in (self._loading.matchers.matcher, self._loading.matchers.refiner):
            if isinstance(each, Warmable):
                each.warm(views)
