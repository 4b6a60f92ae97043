"""The things of 3 to 25 cm in the built-in kitchen, measured on all its depth images together.

A thing is the space of an upright box or cylinder; a pixel is of the thing if the point that its
depth measures is in there, and above the support.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crosspoint_ros.core.datatypes import Array, View
from crosspoint_ros.core.grasp.planes import Mask

MARGIN_M = 0.006  # around the space: noise of the depth
MIN_HEIGHT_M = 0.003  # above the support: what is lower is either's


@dataclass(frozen=True)
class KnownThing:
    """A thing's space: footprint and heights in the base, m.

    size_m: of the footprint along its own x and y, at yaw_deg in the base; a handle included.
    width_m: the least that jaws from above must open. fitted: the limits were chosen on it.
    surface: of which its side is, up to known_below_m: flat or
    round.
    """

    name: str
    centre_m: tuple[float, float]
    size_m: tuple[float, float]
    yaw_deg: float
    heights_m: tuple[float, float]
    width_m: float
    fitted: bool
    surface: str = ''
    known_below_m: float = 1.0

    def contains(self, points_base_m: Array) -> Mask:
        """Return which points (..., 3) are in its space."""
        yaw = np.radians(self.yaw_deg)
        axes = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        inside = np.abs((points_base_m[..., :2] - self.centre_m) @ axes)
        low, high = self.heights_m
        with np.errstate(invalid='ignore'):
            return np.asarray((inside < np.divide(self.size_m, 2) + MARGIN_M).all(axis=-1)
                              & (points_base_m[..., 2] > low + MIN_HEIGHT_M)
                              & (points_base_m[..., 2] < high + MARGIN_M))

    def find_width_m(self, way_base: Array) -> float:
        """Return its width between jaws that close along a level direction (3,), m."""
        if self.surface != 'flat':
            return self.width_m
        yaw = np.radians(self.yaw_deg)
        x, y = way_base[:2] @ np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        return float(abs(x) * self.size_m[0] + abs(y) * self.size_m[1])

    def find_normal(self, point_base_m: Array, about_base: Array) -> Array | None:
        """Return the outward normal (3,) at a point (3,): of its faces that nearest to another.

        None where it is not known.
        """
        if not self.surface or point_base_m[2] > self.known_below_m:
            return None
        yaw = np.radians(self.yaw_deg)
        x, up = np.array([np.cos(yaw), np.sin(yaw), 0.0]), np.array([0.0, 0.0, 1.0])
        if self.surface == 'round':
            x = np.append(point_base_m[:2] - self.centre_m, 0.0)
            x /= np.linalg.norm(x)
        y = np.array([-x[1], x[0], 0.0])
        faces = [x, up] if self.surface == 'round' else [x, -x, y, -y, up]
        return max(faces, key=lambda face: float(face @ about_base))


def read_points(view: View) -> Array:
    """Return the points (h, w, 3) that a view's depth measures, base; NaN where unknown."""
    assert view.depth_m is not None
    assert view.base_from_cam is not None
    rows, columns = np.mgrid[:view.depth_m.shape[0], :view.depth_m.shape[1]]
    places = np.stack([columns, rows], axis=-1).reshape(-1, 2).astype(np.float64)
    points = view.base_from_cam.transform_points(view.backproject(places, view.depth_m.ravel()))
    return np.asarray(points.reshape(*view.depth_m.shape, 3))


TABLE, SHELF, CABINET = 0.0, 0.445, 0.3605
THINGS = (
    KnownThing('can', (0.160, -0.2205), (0.067, 0.067), 0.0, (TABLE, 0.090), 0.067, True,
               surface='round'),
    KnownThing('white mug', (0.035, -0.142), (0.086, 0.110), -87.8, (TABLE, 0.100), 0.081, True),
    KnownThing('crackers', (0.121, 0.243), (0.046, 0.143), -77.4, (TABLE, 0.200), 0.046, True,
               surface='flat'),
    KnownThing('cookbook', (-0.128, -0.024), (0.226, 0.166), -70.2, (TABLE, 0.022), 0.166, True,
               surface='flat'),
    KnownThing('paprika', (-0.100, 0.350), (0.084, 0.084), 0.0, (SHELF, 0.560), 0.084, True,
               surface='round'),
    KnownThing('curry', (0.140, 0.350), (0.084, 0.084), 0.0, (SHELF, 0.560), 0.084, True,
               surface='round'),
    KnownThing('bowl', (-0.5525, 0.228), (0.135, 0.135), 0.0, (CABINET, 0.470), 0.130, True),
    KnownThing('orange mug', (0.416, 0.164), (0.079, 0.103), -77.1, (TABLE, 0.090), 0.075, False),
    KnownThing('bottle', (0.235, 0.060), (0.072, 0.072), 0.0, (TABLE, 0.220), 0.072, False,
               surface='round', known_below_m=0.13),
    KnownThing('milk', (0.300, 0.286), (0.082, 0.082), -20.2, (TABLE, 0.230), 0.081, False,
               surface='flat', known_below_m=0.15),
    KnownThing('oaties', (-0.1155, 0.261), (0.163, 0.056), -7.9, (TABLE, 0.250), 0.056, False,
               surface='flat'),
    KnownThing('panel', (0.499, -0.164), (0.241, 0.103), -17.4, (TABLE, 0.156), 0.103, False),
    KnownThing('oregano', (0.020, 0.350), (0.084, 0.084), 0.0, (SHELF, 0.560), 0.084, False,
               surface='round'),
    KnownThing('pepper', (0.260, 0.350), (0.084, 0.084), 0.0, (SHELF, 0.560), 0.084, False,
               surface='round'))
