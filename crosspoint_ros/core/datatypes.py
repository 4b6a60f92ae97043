"""The data types of the data path: views, matches, targets, matcher protocols.

Conventions, everywhere in this package:

* Pixels follow OpenCV: (0, 0) is the centre of the top-left pixel, x right, y down, in the image
  as published (distorted if that topic is).
* `a_from_b @ point_b == point_a`, metres. Camera frames are optical: z forward, x right, y down.
* Every name that crosses a function carries its frame and unit: `point_base_m`, `stamp_ns`.
* The *clicked* view has the given pixel; the *other* views are searched for the same point.
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.camera import Array as Array
from crosspoint_ros.core.camera import Intrinsics as Intrinsics
from crosspoint_ros.core.transform import Transform as Transform


class Code(IntEnum):
    """The status of a query or of one view: the codes of `Status.msg`."""

    OK = 0
    PARTIAL = 1
    NOT_VISIBLE = 2
    LOW_CONFIDENCE = 3
    INCONSISTENT = 4
    NO_DEPTH = 5
    NO_IMAGE = 6
    STALE = 7
    NO_TF = 8
    BAD_REQUEST = 9
    BUSY = 10
    CANCELLED = 11
    TIMEOUT = 12
    MATCHER_FAILED = 13
    NOT_SUPPORTED = 14
    UNSET = 255


class Rejected(Exception):  # noqa: N818  (a refusal is a result, not an error)
    """A refusal: a code, and a message with the measured value and the limit."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, eq=False, init=False)
class View:
    """One camera's image and what is known about it.

    image: (h, w, 3) RGB uint8, as published. intrinsics: assumed if none are given. depth_m: (h, w)
    float32 registered to the image, z along the optical axis, NaN where unknown; or None.
    base_from_cam: pose at the image's own stamp; or None. mask: (h, w) bool, True where the robot's
    own body hides the scene; or None.
    """

    camera: str
    image: npt.NDArray[np.uint8]
    intrinsics: Intrinsics
    stamp_ns: int
    frame_id: str
    depth_m: npt.NDArray[np.float32] | None
    base_from_cam: Transform | None
    mask: npt.NDArray[np.bool_] | None

    def __init__(self, camera: str, image: npt.NDArray[np.uint8],
                 intrinsics: Intrinsics | None = None, stamp_ns: int = 0, frame_id: str = '',
                 depth_m: npt.NDArray[np.float32] | None = None,
                 base_from_cam: Transform | None = None,
                 mask: npt.NDArray[np.bool_] | None = None) -> None:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f'{camera}: the image is {image.shape} {image.dtype} (must be (h, w, '
                             '3) uint8)')
        size = image.shape[:2]
        if intrinsics is None:
            intrinsics = Intrinsics.assume(size[1], size[0])
        if size != (intrinsics.height_px, intrinsics.width_px):
            raise ValueError(f'{camera}: the image is {size[1]}x{size[0]}, its intrinsics are for '
                             f'{intrinsics.width_px}x{intrinsics.height_px}')
        for name, array in (('depth', depth_m), ('mask', mask)):
            if array is not None and array.shape != size:
                raise ValueError(f'{camera}: the {name} is {array.shape}, the image {size}')
        for name, value in (('camera', camera), ('image', image), ('intrinsics', intrinsics),
                            ('stamp_ns', stamp_ns), ('frame_id', frame_id), ('depth_m', depth_m),
                            ('base_from_cam', base_from_cam), ('mask', mask)):
            object.__setattr__(self, name, value)

    @property
    def ray_pose(self) -> Transform | None:
        """`base_from_cam` where the view's rays are known too, not for assumed intrinsics."""
        return None if self.intrinsics.is_assumed else self.base_from_cam

    def turn(self, quarters: int) -> View:
        """Return the view of a camera turned about its axis: `np.rot90(image, quarters)`, exactly.

        Image, depth and mask are turned, intrinsics and pose follow: a 3D point is in the same
        place of the scene. Pixels: `Intrinsics.turn_pixel`.
        """
        def rotate(array: Any) -> Any:
            return None if array is None else np.ascontiguousarray(np.rot90(array, quarters))

        pose = self.base_from_cam
        if pose is not None:
            old_from_new = np.linalg.matrix_power([[0, -1, 0], [1, 0, 0], [0, 0, 1]], quarters % 4)
            pose = pose @ Transform(old_from_new, np.zeros(3))
        return View(self.camera, rotate(self.image), self.intrinsics.turn(quarters), self.stamp_ns,
                    self.frame_id, rotate(self.depth_m), pose, rotate(self.mask))

    def backproject(self, pixel: npt.ArrayLike, depth_m: npt.ArrayLike) -> Array:
        """Return the points (..., 3) in the camera's frame at pixels (..., 2), m.

        depth_m: (...) along the optical axis. NaN where no ray reaches the pixel.
        """
        rays = self.intrinsics.unproject(pixel)
        return np.asarray(rays / rays[..., 2:] * np.asarray(depth_m, dtype=np.float64)[..., None])

    def is_masked(self, pixel: npt.ArrayLike) -> bool:
        """Return whether the robot's own body covers the pixel (2,), which is on the image."""
        if self.mask is None:
            return False
        x, y = np.asarray(pixel, dtype=np.float64)
        column = min(max(round(float(x)), 0), self.intrinsics.width_px - 1)
        row = min(max(round(float(y)), 0), self.intrinsics.height_px - 1)
        return bool(self.mask[row, column])


@dataclass(frozen=True, eq=False)
class MissingView:
    """A camera without a usable view, and why."""

    camera: str
    rejected: Rejected


@dataclass(frozen=True, eq=False)
class Query:
    """A matcher's input: find the point at `pixel` (2,) of `clicked` in `other`."""

    clicked: View
    other: View
    pixel: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, 'pixel', np.asarray(self.pixel, dtype=np.float64))

    @property
    def frames(self) -> tuple[int, int]:
        """Identifies the pair of images."""
        return id(self.clicked.image), id(self.other.image)

    def reverse(self, match: Match) -> Query:
        """Return the query of the forward-backward check: from the match to the clicked view."""
        return Query(self.other, self.clicked, match.pixel)


@dataclass(frozen=True, eq=False)
class CorrectedPose:
    """The relative pose of two cameras, TF's corrected by the images.

    covariance: (6, 6) of a small rotation, rad, then a translation, m, both in the other camera:
    a point there is off by rotation x point + translation.
    """

    other_from_clicked: Transform
    covariance: Array


@dataclass(frozen=True, eq=False)
class TrackedPixel:
    """Where a further image of the same camera shows what a match found.

    pixel: (2,). covariance_px2: (2, 2) of tracking, without the error of the match.
    """

    view: View
    pixel: Array
    covariance_px2: Array


@dataclass(frozen=True, eq=False)
class Match:
    """A matcher's result.

    pixel: (2,) in the other view. covariance_px2: (2, 2), NaN where unknown. confidence: 0..1.
    basis: what it is based on, for messages ("depth reprojection, 212 inliers"). corrected_pose:
    of the two cameras, from a matcher that measures it; the poses must be known too. doubt: why it
    is to be checked, however confident; '': none. tracked: the same in further images of a camera
    that moves, while the point rests. unseen_m: by how much a movement too small to be seen in the
    clicked camera may misplace the point by them.
    """

    pixel: Array
    covariance_px2: Array = field(default_factory=lambda: np.full((2, 2), np.nan))
    confidence: float = 0.0
    basis: str = ''
    corrected_pose: CorrectedPose | None = None
    doubt: str = ''
    tracked: tuple[TrackedPixel, ...] = ()
    unseen_m: float = 0.0


class Method(IntEnum):
    """What a target is based on: the constants of `GraspTarget.msg`."""

    DEPTH_CLICKED = 1
    DEPTH_FOUND = 2
    TRIANGULATED = 3
    FUSED = 4


@dataclass(frozen=True, eq=False)
class GraspTarget:
    """The 3D target.

    base_from_target: +z is the approach, into the thing; the jaws close along x. covariance: (6, 6)
    of x, y, z (m) and rotations about x, y, z (rad), in the base frame. gap_m: largest distance
    between the estimates; NaN with a single one. doubt: why it is to be checked, whatever the
    matches say; '': nothing found. normal_measured, sigma_normal_rad, sigma_yaw_rad: as in
    `ApproachFrame`. standoff_m: how far before the target the pre-grasp pose is. width_m: of the
    thing along x; NaN: unknown.
    """

    base_from_target: Transform
    covariance: Array
    method: Method
    gap_m: float
    confidence: float
    doubt: str = ''
    normal_measured: bool = False
    sigma_normal_rad: float = math.nan
    sigma_yaw_rad: float = math.nan
    standoff_m: float = 0.0
    width_m: float = math.nan

    @property
    def base_from_pregrasp(self) -> Transform:
        """The pose from which the target is approached along its +z."""
        return self.base_from_target @ Transform(np.eye(3), np.array([0, 0, -self.standoff_m]))


@runtime_checkable
class Matcher(Protocol):
    """Finds the clicked physical point in the other view."""

    def match(self, query: Query) -> Match:
        """Return the match; raise `Rejected` if the other view does not show the point."""
        ...


@runtime_checkable
class BatchMatcher(Matcher, Protocol):
    """Answers several queries at once: clicks, other views, or both."""

    def match(self, query: Query) -> Match:
        """Return the match of a batch of one; raise `Rejected` for its refusal."""
        (match,) = self.match_all([query])
        if isinstance(match, Rejected):
            raise match
        return match

    def match_all(self, queries: Sequence[Query]) -> Iterable[Match | Rejected]:
        """Return the match or the refusal of each query, in their order.

        An iterator that answers in turn lets a query be cancelled in between.
        """
        ...


@runtime_checkable
class Refiner(Matcher, Protocol):
    """Finds the exact place near another matcher's coarse match, or by itself."""

    def refine(self, query: Query, near: Match) -> Match:
        """Return the best match within the covariance of `near`, which must be finite.

        Its confidence does not count `near` as evidence. Raise `Rejected` if geometry excludes that
        the point is there.
        """
        ...


@runtime_checkable
class ImageMatcher(Matcher, Protocol):
    """Matches whole images, too."""

    def match_images(self, a: View, b: View) -> tuple[Array, Array]:
        """Return pixels (n, 2) in a and in b that show the same, by the images and masks alone."""
        ...


@runtime_checkable
class Grounder(Protocol):
    """Finds the point that an instruction names."""

    def ground(self, view: View, instruction: str) -> Match:
        """Return where the view shows "the drawer handle"; raise `Rejected` if nowhere.

        Its confidence scales that of every match of this pixel.
        """
        ...


@runtime_checkable
class SupportsPrefetch(Protocol):
    """Prepares for the newest frames before a click."""

    def warm(self, views: tuple[View, ...]) -> None:
        """Compute what queries on these views will need."""
        ...


@runtime_checkable
class SupportsDescribe(Protocol):
    """Describes its setup for diagnostics."""

    def describe(self) -> Mapping[str, str]:
        """Return names and values: the device, its memory, its version."""
        ...
