"""From the steps of the history to the recording of `record_dir`."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from crosspoint_ros.core.pipeline import Located
from crosspoint_ros.data.recording import UNDONE, Decision, Recorder
from crosspoint_ros.msg import HistoryEntry
from crosspoint_ros.ros.convert import transform_from_pose
from crosspoint_ros.ros.history import DECIDED


class StepRecorder:
    """Listens to the steps; without a folder it does nothing."""

    def __init__(self, folder: str, complain: Callable[[str], object]) -> None:
        self._recorder = Recorder(Path(folder).expanduser(), complain) if folder else None

    def __call__(self, entry: HistoryEntry, located: Located | None, undone: bool) -> None:
        """Take a step that was made, done again or undone; never waits."""
        if self._recorder is not None:
            self._recorder.put(decision(entry, located, undone))

    def close(self) -> None:
        """Write what waits."""
        if self._recorder is not None:
            self._recorder.close()


def decision(entry: HistoryEntry, located: Located | None, undone: bool) -> Decision:
    """Return what the recording keeps of a step."""
    result = entry.result
    pose = transform_from_pose(result.target.pose.pose) if result.has_target else None
    return Decision(result.query_id, entry.number, UNDONE if undone else DECIDED[entry.decided],
                    located, pose, result.target.header.frame_id)
