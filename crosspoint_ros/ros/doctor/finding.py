"""What the doctor can find: a code, how bad it is, what was measured, and what cures it."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """ERROR: clicks are refused, or would be answered wrongly. WARNING: some are, or soon will."""

    ERROR = 'error'
    WARNING = 'warning'


class Sign(Enum):
    """Every finding there is: its name in scripts and docs/troubleshooting.md; how bad it is."""

    def __init__(self, code: str, severity: Severity) -> None:
        self.code, self.severity = code, severity

    # the node
    NO_NODE = 'no-node', Severity.ERROR
    OTHER_NODE = 'other-node', Severity.ERROR
    NODE_HUNG = 'node-hung', Severity.ERROR
    NODE_NOT_ACTIVE = 'node-not-active', Severity.ERROR
    TWO_NODES = 'two-nodes', Severity.ERROR
    PARAMETERS_REFUSED = 'parameters-refused', Severity.ERROR
    MATCHER_LOADING = 'matcher-loading', Severity.ERROR
    MATCHER_FAILED = 'matcher-failed', Severity.ERROR
    # clocks
    NO_CLOCK = 'no-clock', Severity.ERROR
    SIM_TIME_OFF = 'sim-time-off', Severity.ERROR
    CLOCKS_DIFFER = 'clocks-differ', Severity.ERROR
    STAMPS_AHEAD = 'stamps-ahead', Severity.WARNING
    NO_STAMP = 'no-stamp', Severity.ERROR
    # topics
    NO_PUBLISHER = 'no-publisher', Severity.ERROR
    WRONG_TYPE = 'wrong-type', Severity.ERROR
    QOS_MISMATCH = 'qos-mismatch', Severity.ERROR
    NOTHING_ARRIVES = 'nothing-arrives', Severity.ERROR
    TWO_PUBLISHERS = 'two-publishers', Severity.ERROR
    SAME_TOPIC = 'same-topic', Severity.ERROR
    # images on their way
    IMAGES_LATE = 'images-late', Severity.ERROR
    IMAGES_SELDOM = 'images-seldom', Severity.ERROR
    IMAGES_LOST = 'images-lost', Severity.WARNING
    DEFAULT_TRANSPORT = 'default-transport', Severity.WARNING
    # what is in them
    IMAGE_REFUSED = 'image-refused', Severity.ERROR
    UNCALIBRATED = 'uncalibrated', Severity.ERROR
    INFO_REFUSED = 'info-refused', Severity.ERROR
    INFO_SIZE = 'info-size', Severity.ERROR
    DEPTH_REFUSED = 'depth-refused', Severity.ERROR
    DEPTH_EMPTY = 'depth-empty', Severity.ERROR
    DEPTH_SIZE = 'depth-size', Severity.ERROR
    DEPTH_FRAME = 'depth-frame', Severity.ERROR
    DEPTH_APART = 'depth-apart', Severity.ERROR
    MASK_REFUSED = 'mask-refused', Severity.ERROR
    MASK_SIZE = 'mask-size', Severity.ERROR
    # TF
    NO_FRAME_ID = 'no-frame-id', Severity.ERROR
    NO_TF = 'no-tf', Severity.ERROR
    TF_TIME = 'tf-time', Severity.ERROR
    SAME_FRAME = 'same-frame', Severity.ERROR
    SAME_PLACE = 'same-place', Severity.WARNING


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: what was seen, in one sentence, and what to do about it."""

    sign: Sign
    sentence: str
    cure: str
    camera: str = ''  # '' when it concerns them all

    @property
    def stops(self) -> bool:
        """Tell whether clicks are refused, or answered wrongly, because of it."""
        return self.sign.severity is Severity.ERROR

    def __str__(self) -> str:
        where = f'{self.camera}: ' * bool(self.camera)
        return (f'{self.sign.severity.value} {self.sign.code}: {where}{self.sentence}\n'
                f'    cure: {self.cure}')


def listed(names: Iterable[str], none: str = 'none', most: int = 12) -> str:
    """Join names for a sentence, and say how many were left out."""
    all_names = sorted(names)
    more = f' and {len(all_names) - most} more' if len(all_names) > most else ''
    return ', '.join(all_names[:most]) + more or none
