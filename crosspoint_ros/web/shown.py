"""Which answer is on the screens: the last one, or the one that undo and redo came back to."""
from __future__ import annotations

from crosspoint_ros.msg import History, HistoryEntry, QueryResult


def shown(last: QueryResult | None, history: History | None,
          last_is_newer: bool) -> tuple[QueryResult | None, bool]:
    """Return the answer to show, and whether it is the current one of the history.

    `last_is_newer`: the last result came after the history. Both are latched, so after a start
    they come in any order; a result that stands in the history is the history's matter.
    """
    entries = [] if history is None else list(history.entries)
    if last is not None and last.query_id not in {e.result.query_id for e in entries} and (
            last_is_newer or history is None):
        return last, False
    current = None if history is None else current_entry(history)
    return (None, False) if current is None else (current.result, True)


def current_entry(history: History) -> HistoryEntry | None:
    """Return the newest entry that is not undone; None if its target was cleared."""
    kept = list(history.entries)[:len(history.entries) - history.undone]
    if not kept or (kept[-1].result.has_target and not history.current):
        return None
    return kept[-1]
