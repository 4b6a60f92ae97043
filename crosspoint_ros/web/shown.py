"""Which answer is on the screens: the last one, or the one that undo and redo came back to."""
from __future__ import annotations

from crosspoint_ros.msg import History, HistoryEntry, QueryResult
from crosspoint_ros.ros.convert import stamp_ns
from crosspoint_ros.ros.report import is_answered


def shown(last: QueryResult | None, history: History | None,
          last_is_newer: bool) -> QueryResult | None:
    """Return the answer to show, None for none.

    `last_is_newer`: the last result came after the history. Both are latched, so after a start
    they come in any order; a result that stands in the history is the history's matter.
    """
    if history is None:
        return last
    current = current_entry(history)
    if last is not None and last_is_newer and not _is_of(last, history, current):
        return last
    return None if current is None else current.result


def _is_of(last: QueryResult, history: History, current: HistoryEntry | None) -> bool:
    """Tell whether the history says what became of a result: it is in it, or did not get there.

    A correction that was refused is of the same click; what it was to correct stands.
    """
    if last.query_id in {entry.result.query_id for entry in history.entries}:
        return True
    return (current is not None and not is_answered(last)
            and _click(last) == _click(current.result))


def _click(result: QueryResult) -> tuple[str, int, float, float]:
    clicked = result.clicked
    return clicked.camera, stamp_ns(clicked.header.stamp), clicked.x, clicked.y


def current_entry(history: History) -> HistoryEntry | None:
    """Return the newest entry that is not undone; None if its target was cleared."""
    kept = list(history.entries)[:len(history.entries) - history.undone]
    if not kept or (kept[-1].result.has_target and not history.current):
        return None
    return kept[-1]
