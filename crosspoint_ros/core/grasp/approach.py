"""From where a target is approached: the +z of its pose, how it is turned about it, the standoff.

+z points into the thing, the jaws close along +x.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np

from crosspoint_ros.core.datatypes import Array, Code, Rejected, View
from crosspoint_ros.core.geometry import ray_base, require_pose
from crosspoint_ros.core.grasp.normal import MAX_SIGMA_RAD, measure_normal

DOWN_BASE = np.array([0.0, 0.0, -1.0])  # z of the base is up (REP-103)
NO_NORMAL_SIGMA_RAD = 1.0
YAW_SIGMA_RAD = np.pi / np.sqrt(3)  # unknown: any angle is as likely
MIN_HORIZONTAL = 0.35  # of a unit vector, some 20 deg from the vertical: less has no side
MIN_VECTOR = 1e-9
STANDOFF_M, MAX_STANDOFF_M = 0.1, 2.0  # unless one is asked for
MAX_OUTWARD, OUTWARD_SIGMAS = 0.1, 2.0  # cosine of the approach and the outward normal


class ApproachMode(IntEnum):
    """What the approach is bound to: the constants of `Correspond.action`."""

    AUTO = 0
    FROM_ABOVE = 1
    HORIZONTAL = 2
    NORMAL = 3
    ALONG = 4


@dataclass(frozen=True, eq=False)
class Approach:
    """From where a target is to be approached.

    AUTO: along the measured normal, else along the clicked ray. vector_base: (3,) for ALONG, of any
    length. standoff_m: from the pre-grasp pose to the target, along the approach; 0: left open, as
    the node's parameter says. Raises `Rejected` (BAD_REQUEST).
    """

    mode: ApproachMode = ApproachMode.AUTO
    vector_base: Array = field(default_factory=lambda: np.zeros(3))
    standoff_m: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.mode, ApproachMode):
            raise Rejected(Code.BAD_REQUEST, f'approach {self.mode!r} is not one of ' + ', '.join(
                f'{mode.name} {mode.value}' for mode in ApproachMode))
        vector, given = self._read_vector()
        has_vector = float(np.linalg.norm(vector)) > MIN_VECTOR
        if self.mode == ApproachMode.ALONG and not has_vector:
            raise Rejected(Code.BAD_REQUEST, f'{given} has no direction: ALONG needs a vector in '
                           'the base frame that points into the thing')
        if self.mode != ApproachMode.ALONG and has_vector:
            raise Rejected(Code.BAD_REQUEST, f'{given} is for ALONG alone; the approach is '
                           f'{self.mode.name}')
        if not 0 <= self.standoff_m <= MAX_STANDOFF_M:
            raise Rejected(Code.BAD_REQUEST, f'approach_m {self.standoff_m:g} is not between 0 and '
                           f'{MAX_STANDOFF_M:g} m')

    def _read_vector(self) -> tuple[Array, str]:
        """Make the vector an array (3,), and return it with its words."""
        try:
            vector = np.asarray(self.vector_base, dtype=np.float64)
        except (TypeError, ValueError):
            vector = np.zeros(0)
        if vector.shape != (3,):
            raise Rejected(Code.BAD_REQUEST, f'approach_vector {self.vector_base!r} is not three '
                           'numbers')
        object.__setattr__(self, 'vector_base', vector)
        given = f'approach_vector ({", ".join(f"{v:g}" for v in vector)})'
        with np.errstate(over='ignore'):
            if not np.isfinite(np.linalg.norm(vector)):
                raise Rejected(Code.BAD_REQUEST, f'{given} is not finite, or nor is its length')
        return vector, given

    def fill(self, default: Approach) -> Approach:
        """Return it with the default's direction where it is AUTO, and standoff where it is 0."""
        filled = replace(default, standoff_m=self.standoff_m or default.standoff_m)
        return filled if self.mode == ApproachMode.AUTO else replace(
            self, standoff_m=filled.standoff_m)


OPEN_APPROACH = Approach()  # all of it is left to the node's parameters


@dataclass(frozen=True, eq=False)
class ApproachFrame:
    """The axes of a target in the base as columns (3, 3), and how well they are known, rad.

    normal_measured: +z is the normal that depth measured. sigma_normal_rad: of the direction of +z;
    0 where it was given. sigma_yaw_rad: of the angle about it.
    """

    rotation: Array
    normal_measured: bool
    sigma_normal_rad: float
    sigma_yaw_rad: float = float(YAW_SIGMA_RAD)

    @property
    def covariance_rad2(self) -> Array:
        """The covariance (3, 3) of a small rotation about the axes of the base, rad^2."""
        turns = self.rotation * (self.sigma_normal_rad, self.sigma_normal_rad, self.sigma_yaw_rad)
        return np.asarray(turns @ turns.T)


def choose_frame(approach: Approach, clicked: View, pixel: Array,
                 found: Sequence[tuple[View, Array]] = ()) -> ApproachFrame:
    """Return the axes of a target at a click; `found`: where other views show the point.

    The normal is that of the depth around the point, the clicked view's first. +x is the clicked
    image's x projected along the approach, its y where it looks along x: nothing measures here how
    the thing is turned. Raises `Rejected`: NO_DEPTH if the approach needs what was not measured,
    BAD_REQUEST if it comes out of the measured surface.
    """
    normal = _find_normal([(clicked, pixel), *found])
    z_base, sigma_rad, is_normal = _choose_direction(
        approach, normal, ray_base(clicked, pixel)[1])
    if normal is not None and normal[1] <= MAX_SIGMA_RAD:
        _require_inward(approach.mode, z_base, *normal)
    image_x, image_y, _ = require_pose(clicked).R.T
    aside = image_x if abs(z_base @ image_x) < 0.99 else image_y
    return ApproachFrame(turn_about(z_base, aside), is_normal, sigma_rad)


def turn_about(z_base: Array, aside_base: Array) -> Array:
    """Return axes (3, 3) with this +z (3,) and +x the part of `aside_base` (3,) normal to it."""
    x_base = aside_base - z_base * (z_base @ aside_base)
    x_base /= np.linalg.norm(x_base)
    return np.stack([x_base, np.cross(z_base, x_base), z_base], axis=1)


def _find_normal(places: Sequence[tuple[View, Array]]) -> tuple[Array, float] | None:
    """Return the first normal that is measured, else the first known, and its sigma."""
    first = None
    for view, pixel in places:
        normal = measure_normal(view, pixel)
        if normal is not None and normal[1] <= MAX_SIGMA_RAD:
            return normal
        first = first or normal
    return first


def _require_inward(mode: ApproachMode, z_base: Array, normal: Array, sigma_rad: float) -> None:
    """Raise if +z (3,) comes out of the surface: the pre-grasp pose would be inside the thing."""
    outward, limit = float(-z_base @ normal), MAX_OUTWARD + OUTWARD_SIGMAS * sigma_rad
    if outward > limit:
        raise Rejected(Code.BAD_REQUEST, f'no 3D: the approach {mode.name} comes out of the '
                       f'surface: the cosine of its angle to the outward normal is {outward:.2f} '
                       f'(limit {limit:.2f}); ask for AUTO or NORMAL')


def _choose_direction(approach: Approach, normal: tuple[Array, float] | None, ray: Array
                      ) -> tuple[Array, float, bool]:
    """Return +z (3,), its sigma, rad, and whether it is the measured normal."""
    mode = approach.mode
    is_measured = normal is not None and normal[1] <= MAX_SIGMA_RAD
    if mode == ApproachMode.FROM_ABOVE:
        return DOWN_BASE, 0.0, False
    if mode == ApproachMode.ALONG:
        return approach.vector_base / np.linalg.norm(approach.vector_base), 0.0, False
    if mode == ApproachMode.HORIZONTAL:
        return (*_project_horizontal(normal, ray), False)
    if mode == ApproachMode.NORMAL and not is_measured:
        raise Rejected(Code.NO_DEPTH, 'no 3D: the approach NORMAL needs the normal of the surface, '
                       + ('and there is too little depth around the point' if normal is None else
                          f'which is known to {np.degrees(normal[1]):.0f} deg only (limit '
                          f'{np.degrees(MAX_SIGMA_RAD):.0f} deg)')
                       + ': ask for AUTO, FROM_ABOVE or HORIZONTAL')
    return (ray, NO_NORMAL_SIGMA_RAD, False) if normal is None else (*normal, is_measured)


def _project_horizontal(normal: tuple[Array, float] | None, ray: Array) -> tuple[Array, float]:
    """Return the horizontal direction (3,) nearest to the normal, else to the ray; its sigma."""
    known = ([] if normal is None else [normal]) + [(ray, NO_NORMAL_SIGMA_RAD)]
    for direction, sigma_rad in known:
        flat = direction * (1.0, 1.0, 0.0)
        length = float(np.linalg.norm(flat))
        if length >= MIN_HORIZONTAL:
            return flat / length, min(sigma_rad / length, NO_NORMAL_SIGMA_RAD)
    tilt_deg = np.degrees(np.arcsin(np.linalg.norm(ray[:2])))
    raise Rejected(Code.NO_DEPTH, 'no 3D: nothing says from which side to approach HORIZONTAL: '
                   f'{"no normal is known" if normal is None else "the surface is level"}, and the '
                   f'camera looks {tilt_deg:.0f} deg from the vertical (at least '
                   f'{np.degrees(np.arcsin(MIN_HORIZONTAL)):.0f} deg): ask for ALONG')
