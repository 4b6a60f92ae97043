"""Which view sees a 3D point, and which sees it best."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crosspoint_ros.core.datatypes import Array, Code, MissingView, Rejected, View


def select_best_view(views: Sequence[View | MissingView], point_base_m: Array,
                     max_depth_gap_m: float) -> tuple[View, Array]:
    """Return the view that shows the point (3,) largest, and its pixel (2,) there.

    A view whose depth at that pixel is nearer than the point by more than `max_depth_gap_m` does
    not show it. Raises `Rejected` (NOT_VISIBLE) saying of each view why not.
    """
    seen: list[tuple[float, View, Array]] = []
    reasons: list[str] = []
    for view in views:
        if isinstance(view, MissingView):
            reasons.append(f'{view.camera}: {view.rejected.message}')
            continue
        pixel, range_m, hidden = _visible_pixel(view, point_base_m, max_depth_gap_m)
        if hidden:
            reasons.append(f'{view.camera}: {hidden}')
        else:
            seen.append((view.intrinsics.fx_px / range_m, view, pixel))
    if not seen:
        at = ', '.join(f'{value:.3f}' for value in point_base_m)
        raise Rejected(Code.NOT_VISIBLE, f'no camera sees the point ({at}) m: {"; ".join(reasons)}')
    _, view, pixel = max(seen, key=lambda each: each[0])
    return view, pixel


def _visible_pixel(view: View, point_base_m: Array, max_depth_gap_m: float) -> tuple[Array, float, str]:
    """Pixel, distance along the optical axis in m, and why the point is not seen ('' if it is)."""
    if view.base_from_cam is None:
        return np.full(2, np.nan), np.nan, 'its pose is not known'
    point_cam_m = view.base_from_cam.inverse.transform_points(point_base_m)
    pixel, range_m = view.intrinsics.project(point_cam_m), float(point_cam_m[2])
    if range_m <= 0:
        return pixel, range_m, f'it lies {-range_m:.3f} m behind the camera'
    if not view.intrinsics.contains(pixel):
        return pixel, range_m, f'it would be at ({pixel[0]:.0f}, {pixel[1]:.0f}), off the image'
    if view.is_masked(pixel):
        return pixel, range_m, "the robot's own body covers it"
    if view.depth_m is not None:
        column, row = np.clip(np.rint(pixel).astype(int), 0, np.array(view.depth_m.shape[::-1]) - 1)
        surface_m = float(view.depth_m[row, column])
        if range_m - surface_m > max_depth_gap_m:  # False where the depth is not known
            return pixel, range_m, (f'something {surface_m:.3f} m away hides it, at '
                                    f'{range_m:.3f} m (limit {max_depth_gap_m} m)')
    return pixel, range_m, ''
