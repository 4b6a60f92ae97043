"""The findings of `crosspoint doctor`: code, severity, measured fact and cure."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class FindingCode(Enum):
    """Every finding; its value is its name in scripts and in docs/troubleshooting.md."""

    # node
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
    INFO_CLOCK = 'info-clock'
    # topics
    NO_PUBLISHER = 'no-publisher'
    WRONG_TYPE = 'wrong-type'
    QOS_MISMATCH = 'qos-mismatch'
    NOTHING_ARRIVES = 'nothing-arrives'
    TWO_PUBLISHERS = 'two-publishers'
    SAME_TOPIC = 'same-topic'
    # delivery
    IMAGES_LATE = 'images-late'
    IMAGES_SELDOM = 'images-seldom'
    IMAGES_LOST = 'images-lost'
    DEFAULT_TRANSPORT = 'default-transport'
    # content
    IMAGE_REFUSED = 'image-refused'
    UNCALIBRATED = 'uncalibrated'
    ONLY_RECTIFIED = 'only-rectified'
    INFO_REFUSED = 'info-refused'
    INFO_SIZE = 'info-size'
    LENS_IMPLAUSIBLE = 'lens-implausible'
    DEPTH_REFUSED = 'depth-refused'
    DEPTH_EMPTY = 'depth-empty'
    DEPTH_SIZE = 'depth-size'
    DEPTH_FRAME = 'depth-frame'
    DEPTH_APART = 'depth-apart'
    MASK_REFUSED = 'mask-refused'
    MASK_SIZE = 'mask-size'
    # agreement of the views
    DEPTH_UNIT = 'depth-unit'
    DEPTH_DISPARITY = 'depth-disparity'
    LENS_SCALE = 'lens-scale'
    CAMERA_AXES = 'camera-axes'
    POSE_INVERTED = 'pose-inverted'
    VIEWS_DISAGREE = 'views-disagree'
    MOUNT_MOVED = 'mount-moved'
    # TF
    NO_FRAME_ID = 'no-frame-id'
    NO_TF = 'no-tf'
    TF_TIME = 'tf-time'
    SAME_FRAME = 'same-frame'
    SAME_PLACE = 'same-place'
    TF_CONFLICT = 'tf-conflict'
    TARGET_FRAME = 'target-frame'


WARNINGS = frozenset({FindingCode.STAMPS_AHEAD, FindingCode.INFO_CLOCK, FindingCode.IMAGES_LOST,
                      FindingCode.DEFAULT_TRANSPORT, FindingCode.SAME_PLACE,
                      FindingCode.VIEWS_DISAGREE, FindingCode.MOUNT_MOVED})


@dataclass(frozen=True)
class Finding:
    """One fault: the measured fact in one sentence, and its cure."""

    code: FindingCode
    message: str
    cure: str
    camera: str = ''  # '' if it concerns the whole system
    is_warning: bool = False  # of a code that may be both

    @property
    def is_error(self) -> bool:
        """Whether clicks are refused, or answered wrongly; a warning concerns only some."""
        return not self.is_warning and self.code not in WARNINGS

    @property
    def severity(self) -> str:
        """'error' or 'warning'."""
        return 'error' if self.is_error else 'warning'

    def __str__(self) -> str:
        where = f'{self.camera}: ' * bool(self.camera)
        return (f'{self.severity} {self.code.value}: {where}{self.message}\n'
                f'    cure: {self.cure}')


def join_names(names: Iterable[str], none: str = 'none', max_names: int = 12) -> str:
    """Join sorted names for a sentence, and count those left out."""
    all_names = sorted(names)
    more = f' and {len(all_names) - max_names} more' if len(all_names) > max_names else ''
    return ', '.join(all_names[:max_names]) + more or none


def find_shared(owners: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Return each key of (key, name) that several names share, with these names."""
    names: dict[str, list[str]] = defaultdict(list)
    for key, name in owners:
        names[key].append(name)
    return [(key, users) for key, users in names.items() if key and len(users) > 1]
