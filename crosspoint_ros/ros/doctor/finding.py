"""What the doctor can find: a code, how bad it is, what was measured, and what cures it."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """ERROR: clicks are refused, or would be answered wrongly. WARNING: some are, or soon will."""

    ERROR = 'error'
    WARNING = 'warning'


class FindingCode(Enum):
    """Every finding; its value is its name in scripts and in docs/troubleshooting.md."""

    # the node
    NO_NODE = 'no-node'
    OTHER_NODE = 'other-node'
    NODE_HUNG = 'node-hung'
    NODE_NOT_ACTIVE = 'node-not-active'
    TWO_NODES = 'two-nodes'
    PARAMETERS_REFUSED = 'parameters-refused'
    MATCHER_LOADING = 'matcher-loading'
    MATCHER_FAILED = 'matcher-failed'
    # clocks
    NO_CLOCK = 'no-clock'
    SIM_TIME_OFF = 'sim-time-off'
    CLOCKS_DIFFER = 'clocks-differ'
    STAMPS_AHEAD = 'stamps-ahead'
    NO_STAMP = 'no-stamp'
    # topics
    NO_PUBLISHER = 'no-publisher'
    WRONG_TYPE = 'wrong-type'
    QOS_MISMATCH = 'qos-mismatch'
    NOTHING_ARRIVES = 'nothing-arrives'
    TWO_PUBLISHERS = 'two-publishers'
    SAME_TOPIC = 'same-topic'
    # images on their way
    IMAGES_LATE = 'images-late'
    IMAGES_SELDOM = 'images-seldom'
    IMAGES_LOST = 'images-lost'
    DEFAULT_TRANSPORT = 'default-transport'
    # what is in them
    IMAGE_REFUSED = 'image-refused'
    UNCALIBRATED = 'uncalibrated'
    INFO_REFUSED = 'info-refused'
    INFO_SIZE = 'info-size'
    DEPTH_REFUSED = 'depth-refused'
    DEPTH_EMPTY = 'depth-empty'
    DEPTH_SIZE = 'depth-size'
    DEPTH_FRAME = 'depth-frame'
    DEPTH_APART = 'depth-apart'
    MASK_REFUSED = 'mask-refused'
    MASK_SIZE = 'mask-size'
    # TF
    NO_FRAME_ID = 'no-frame-id'
    NO_TF = 'no-tf'
    TF_TIME = 'tf-time'
    SAME_FRAME = 'same-frame'
    SAME_PLACE = 'same-place'


WARNINGS = frozenset({FindingCode.STAMPS_AHEAD, FindingCode.IMAGES_LOST,
                      FindingCode.DEFAULT_TRANSPORT, FindingCode.SAME_PLACE})


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: what was seen, in one sentence, and what to do about it."""

    code: FindingCode
    message: str
    cure: str
    camera: str = ''  # '' when it concerns them all

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return Severity.WARNING if self.code in WARNINGS else Severity.ERROR

    @property
    def is_error(self) -> bool:
        """Tell whether clicks are refused, or answered wrongly, because of it."""
        return self.severity is Severity.ERROR

    def __str__(self) -> str:
        where = f'{self.camera}: ' * bool(self.camera)
        return (f'{self.severity.value} {self.code.value}: {where}{self.message}\n'
                f'    cure: {self.cure}')


def join_names(names: Iterable[str], none: str = 'none', most: int = 12) -> str:
    """Join names for a sentence, and say how many were left out."""
    all_names = sorted(names)
    more = f' and {len(all_names) - most} more' if len(all_names) > most else ''
    return ', '.join(all_names[:most]) + more or none
