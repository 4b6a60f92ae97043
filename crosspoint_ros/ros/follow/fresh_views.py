"""Says which cameras have a new image, which are due to send one, and which are overdue.

A camera is judged by what it could have delivered, in the node's clock: its own period, whatever
that of the others is, and however slowly simulated time goes.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from crosspoint_ros.core.datatypes import Code, MissingView, Rejected, View
from crosspoint_ros.ros.node.views import ViewCollector

DUE_PERIODS = 2.5  # one lost image is none that is overdue
MIN_DUE_S, MAX_DUE_S = 0.4, 1.5  # a camera slower than 1 Hz does not say where a target is now
LATE_CODES = (Code.NO_TF, Code.NO_DEPTH)  # of an image whose transform or depth may still come


@dataclass(frozen=True, eq=False)
class FreshLook:
    """Views that are new, or missing; `due`: cameras whose last image is still the newest."""

    views: tuple[View | MissingView, ...]
    due: frozenset[str]


class FreshViews:
    """Remembers of each camera which image was taken last, and since when it is the newest."""

    def __init__(self, source: ViewCollector, now_ns: Callable[[], int]) -> None:
        self._source, self._now_ns = source, now_ns
        self._taken: dict[str, tuple[int, int]] = {}  # stamp, and when it was first seen
        self._missing: set[str] = set()

    def collect(self, same_time_s: float, should_stop: Callable[[], bool]) -> FreshLook | None:
        """Return what is new; None if nothing is, and something is due.

        same_time_s: images without depth that are so near in time are taken together: only
        together do they say where a point is.
        """
        collected = self._source.collect_for_following(should_stop)
        now_ns = self._now_ns()
        new: list[View] = []
        known: dict[str, View | MissingView] = {}
        missing: list[MissingView] = []
        for view in collected:
            stamp_ns, since_ns = self._taken.get(view.camera, (None, now_ns))
            waited_s, limit_s = (now_ns - since_ns) * 1e-9, self._get_due_s(view.camera)
            if isinstance(view, View) and view.stamp_ns != stamp_ns:
                self._taken[view.camera] = view.stamp_ns, now_ns
                new.append(view)
            elif stamp_ns is not None and abs(waited_s) <= limit_s and self._may_hold(
                    view, now_ns - stamp_ns):
                known[view.camera] = view
            elif isinstance(view, View):
                missing.append(MissingView(view.camera, Rejected(
                    Code.STALE, f'{view.camera}: no new image for {waited_s:.1f} s (limit '
                    f'{limit_s:.1f} s)')))
            else:
                missing.append(view)
        has_changed = bool(new) or {view.camera for view in missing} != self._missing
        self._missing = {view.camera for view in missing}
        if known and not has_changed:
            return None
        newest_ns = max((view.stamp_ns for view in new), default=0)
        again = [view for view in known.values() if isinstance(view, View) and view.depth_m is None
                 and abs(newest_ns - view.stamp_ns) <= same_time_s * 1e9]
        return FreshLook((*new, *again, *missing),
                         frozenset(known) - {view.camera for view in again})

    def _may_hold(self, view: View | MissingView, age_ns: int) -> bool:
        """Return whether nothing but the next image is missing, and the last one is not too old."""
        return abs(age_ns) <= self._source.max_image_age_s * 1e9 and (
            isinstance(view, View) or view.rejected.code in LATE_CODES)

    def _get_due_s(self, camera: str) -> float:
        """Return how long after the last image the next one is overdue."""
        period_s = self._source.get_period_s(camera)
        return MAX_DUE_S if period_s is None else min(
            max(DUE_PERIODS * period_s, MIN_DUE_S), MAX_DUE_S)
