"""The options of the XFeat matcher."""
from __future__ import annotations

from dataclasses import dataclass, fields

from crosspoint_ros.core.verify import Limits

SECOND_DESCRIPTOR = ('auto', 'always', 'never')


@dataclass(frozen=True)
class XFeatOptions:
    """Options of `XFeatMatcher`; docs/matchers/xfeat.md shows what each stage is worth.

    Pixels (`_px`) are of an image scaled to a long side of `working_px`.
    """

    # Inputs other than the image.
    use_mask: bool = True
    use_poses: bool = True
    use_depth: bool = True
    # Error of the given poses.
    pose_noise_cm: float = 1.0
    pose_noise_deg: float = 1.0

    # Features.
    working_px: float = 640.0
    scales: tuple[float, ...] = (0.75, 1.0, 1.5)
    depth_scales: tuple[float, ...] = (1.0,)
    min_heat: float = 0.05
    max_keypoints: int = 3000
    # Matches.
    min_cosine: float = 0.75
    min_guided_cosine: float = 0.6
    guided: bool = True  # images only
    posed_guided: bool = False
    guided_band_px: float = 4.0
    posed_guided_band_px: float = 5.0
    consistent_neighbours: bool = True
    # Two views.
    refine_pose: bool = True
    min_baseline_m: float = 0.03  # below it the motion is estimated from the images
    posed_near_m: float = 0.2
    posed_far_m: float = 8.0
    # The score map.
    patch_consensus: bool = True
    affine_prior: bool = True
    epipolar_band: bool = True
    second_descriptor: str = 'auto'  # where one is not sure or the angle is wide; always; never
    # Depth.
    correct_pose: bool = True
    max_depth_gap_m: float = Limits.max_depth_gap_m
    # Memory.
    remembered_frames: int = 8

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str):
                continue
            if isinstance(value, (list, tuple)):
                object.__setattr__(self, field.name, tuple(float(v) for v in value))
                low = min(getattr(self, field.name), default=0.0)
            else:
                low = value
            if not low >= 0:
                raise ValueError(f'{field.name} must not be negative, got {value}')
        if self.second_descriptor not in SECOND_DESCRIPTOR:
            raise ValueError(f'second_descriptor must be one of {", ".join(SECOND_DESCRIPTOR)}, '
                             f'got {self.second_descriptor!r}')
        for name in ('scales', 'depth_scales'):
            if not all(0.25 <= scale <= 2 for scale in getattr(self, name)):
                raise ValueError(f'{name} must lie in 0.25..2, got {getattr(self, name)}')
