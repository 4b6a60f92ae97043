"""The XFeat matcher: finds the clicked pixel in the other view, with its confidence."""
from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from crosspoint_ros.core.datatypes import Array, Code, Match, Query, Rejected, Transform, View
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.matchers.xfeat.aliked import Aliked
from crosspoint_ros.matchers.xfeat.confidence import (
    find_appearance_doubt,
    predict_confidence,
    predict_covariance_px2,
)
from crosspoint_ros.matchers.xfeat.features import FeatureFrame
from crosspoint_ros.matchers.xfeat.matching import (
    find_candidates,
    mutual_matches,
    neighbourhood_consensus,
)
from crosspoint_ros.matchers.xfeat.network import Backbone
from crosspoint_ros.matchers.xfeat.options import XFeatOptions
from crosspoint_ros.matchers.xfeat.pair_geometry import (
    PairGeometry,
    depth_at,
    pair_from_depth,
    pair_from_images,
    pair_from_poses,
)
from crosspoint_ros.matchers.xfeat.score_map import SearchPrior
from crosspoint_ros.matchers.xfeat.search import (
    Candidate,
    require_near_prior,
    search_by_appearance,
    search_by_depth,
)
from crosspoint_ros.matchers.xfeat.turn import (
    CHANCE_SUPPORT,
    measure_turn,
    require_turn,
    turn_from_images,
    turn_from_rotation,
)

IMAGE_SCALES = (1.0,)  # of `match_images`
WIDE_ANGLE_DEG = 30.0  # beyond it a sure match of one descriptor is checked by the second


class XFeatMatcher:
    """Matches by XFeat descriptors and two-view geometry, on the CPU; options: `XFeatOptions`.

    Features of a frame and the geometry of a pair are cached, so that another click on the same
    frames costs little. Their key is the camera, the stamp and the identity of the image.
    """

    Options = XFeatOptions
    is_thread_safe = True  # one call waits for the other

    def __init__(self, **options: Any) -> None:
        self.options = XFeatOptions(**options)
        self._backbone = Backbone()
        self._aliked = None if self.options.second_descriptor == 'never' else Aliked()
        self._workers = ThreadPoolExecutor(2, 'xfeat')
        self._frames: OrderedDict[tuple[str, int], FeatureFrame] = OrderedDict()
        self._pairs: OrderedDict[tuple[FeatureFrame, FeatureFrame, bool],
                                 tuple[bytes, PairGeometry | Rejected]] = OrderedDict()
        self._lock = threading.Lock()

    def match(self, query: Query) -> Match:
        """Find the click in the other view by the depth, poses or images that the views have.

        Raises `Rejected` if depth shows that it is not visible there, or many matches that the
        poses are wrong; a doubtful match is returned with its low confidence.
        """
        return self._match(query, None)

    def refine(self, query: Query, near: Match) -> Match:
        """Find the best place within the covariance of `near`, which must be finite.

        Its confidence does not count `near`. Raises `Rejected` as `match` does, and INCONSISTENT
        where appearance or depth put the point elsewhere.
        """
        if not np.isfinite(near.covariance_px2).all():
            raise ValueError('the coarse match has no finite covariance: '
                             f'{near.covariance_px2.tolist()} px^2')
        return self._match(query, near)

    def search(self, query: Query, near: Match | None = None) -> tuple[PairGeometry, Candidate]:
        """Return the pair's geometry and the candidate, with its evidence, behind a match.

        Raises `Rejected` as `match` and `refine` do.
        """
        with self._lock:
            clicked, other = self._frame(query.clicked), self._frame(query.other)
            pixel = clicked.scaled.to_scaled(query.pixel)
            pair, depth_m = self._find_pair(query, clicked, other, pixel)
            scaled = pair.other.scaled
            prior = None if near is None else SearchPrior(
                scaled.to_scaled(near.pixel), scaled.scale_covariance(near.covariance_px2))
            found = self._search_by_appearance(pair, pixel, prior) if depth_m is None \
                else search_by_depth(pair, pixel, depth_m, self.options, prior)
        if prior is not None:
            require_near_prior(pair, found, prior)
        return pair, found

    def _match(self, query: Query, near: Match | None) -> Match:
        pair, found = self.search(query, near)
        scaled = pair.other.scaled
        return Match(scaled.to_image(found.pixel),
                     scaled.covariance_to_image(predict_covariance_px2(found)),
                     predict_confidence(found), pair.basis, pair.corrected_pose,
                     find_appearance_doubt(found))

    def warm(self, views: tuple[View, ...]) -> None:
        """Compute the features of frames before anyone clicks on them."""
        with self._lock:
            frames = [self._frame(view) for view in views]
            by_depth = self.options.use_poses and any(
                f.view.depth_m is not None and f.view.ray_pose is not None for f in frames)
            self._ensure(frames, self.options.depth_scales if by_depth else self.options.scales)

    def match_images(self, a: View, b: View) -> tuple[Array, Array]:
        """Match keypoints by the images alone: pixels (n, 2) in a and in b.

        Mutual matches that move like their neighbours, upright unless too few agree then, else at
        the turn that they support. Neither intrinsics nor poses nor depth take part. Raises
        `Rejected` as `match` does.
        """
        bare = [View(view.camera, view.image, stamp_ns=view.stamp_ns, mask=view.mask)
                for view in (a, b)]
        with self._lock:
            first, second = (self._frame(view) for view in bare)
            scale, min_cosine = IMAGE_SCALES[0], self.options.min_cosine
            self._ensure((first, second), IMAGE_SCALES)
            if not measure_turn(first, second, scale, min_cosine).is_beyond_chance:
                second = self._turn_by_images(first, second, IMAGE_SCALES)
            candidates = find_candidates(first.levels[scale], second.levels[scale], min_cosine)
            found = mutual_matches([candidates], min_cosine)
            found = found.select(neighbourhood_consensus(found))
        return first.scaled.to_image(found.clicked), second.scaled.to_image(found.other)

    def _find_pair(self, query: Query, clicked: FeatureFrame, other: FeatureFrame, pixel: Array
                   ) -> tuple[PairGeometry, float | None]:
        """Return the pair by the best that is known, and the click's depth where it is known:
        that, the other's, poses, images."""
        pose, other_pose = query.clicked.ray_pose, query.other.ray_pose
        if not self.options.use_poses or pose is None or other_pose is None:
            return self._pair(clicked, other, None, False), None
        given, depth_m = other_pose.inverse @ pose, depth_at(clicked, pixel)
        if np.isfinite(depth_m):
            return self._pair(clicked, other, given, True), depth_m
        return self._pair(clicked, other, given, other.has_depth), None

    def _search_by_appearance(self, pair: PairGeometry, pixel: Array, near: SearchPrior | None
                              ) -> Candidate:
        """Search with one descriptor; with both if that is not sure, or the views are far apart.

        Where the other view has depth, one is enough.
        """
        aliked, by_depth = self._aliked, np.isfinite(pair.reprojection_sigma_px)
        found = search_by_appearance(pair, pixel, self.options, near)
        if aliked is None or by_depth or (
                self.options.second_descriptor == 'auto'
                and predict_confidence(found) >= Limits.sure_confidence
                and not find_appearance_doubt(found)
                and not found.viewing_angle_deg > WIDE_ANGLE_DEG):
            return found
        list(self._workers.map(lambda frame: frame.ensure_second(aliked),
                               (pair.clicked, pair.other)))
        return search_by_appearance(pair, pixel, self.options, near, with_second=True)

    def _frame(self, view: View) -> FeatureFrame:
        """Return the frame of a view, cached by its image."""
        key = (view.camera, view.stamp_ns)
        frame = self._frames.get(key)
        if frame is None or not frame.is_same_image(view):
            if not self.options.use_depth:
                view = replace(view, depth_m=None)
            frame = self._frames[key] = FeatureFrame(view, self.options)
        self._frames.move_to_end(key)
        while len(self._frames) > self.options.remembered_frames:
            self._frames.popitem(last=False)
        return frame

    def _ensure(self, frames: Sequence[FeatureFrame], scales: Sequence[float]) -> None:
        """Compute missing levels, two at a time, the large scales first."""
        missing = [(frame, scale) for scale in sorted(scales, reverse=True) for frame in frames
                   if scale not in frame.levels]
        list(self._workers.map(lambda job: job[0].ensure(job[1], self._backbone), missing))

    def _pair(self, clicked: FeatureFrame, other: FeatureFrame, given: Transform | None,
              by_depth: bool) -> PairGeometry:
        """Return the geometry of two frames, or raise its refusal, cached by frames and poses."""
        key = (clicked, other, by_depth)
        pose = b'' if given is None else given.matrix.tobytes()
        known_pose, pair = self._pairs.get(key, (b'', None))
        if pair is None or known_pose != pose:
            try:
                pair = self._compute_pair(clicked, other, given, by_depth)
            except Rejected as rejected:
                pair = rejected
            self._pairs[key] = pose, pair
        self._pairs.move_to_end(key)
        while len(self._pairs) > self.options.remembered_frames:
            self._pairs.popitem(last=False)
        if isinstance(pair, Rejected):
            raise Rejected(pair.code, pair.message)
        if pair.contradiction:
            raise Rejected(Code.INCONSISTENT, f'{clicked.view.camera} and {other.view.camera}: '
                           f'{pair.contradiction}, or raise xfeat.pose_noise_cm and _deg')
        return pair

    def _compute_pair(self, clicked: FeatureFrame, other: FeatureFrame, given: Transform | None,
                      by_depth: bool) -> PairGeometry:
        options, parallel = self.options, self._workers.map
        if given is None or (not by_depth
                             and np.linalg.norm(given.t_m) < options.min_baseline_m):
            turned = self._turn_by_images(clicked, other, options.scales)
            return pair_from_images(clicked, turned, options, parallel)
        turned = other.turn(turn_from_rotation(given.R))
        self._ensure((clicked, turned), options.depth_scales if by_depth else options.scales)
        from_poses = pair_from_depth if by_depth else pair_from_poses
        pair = from_poses(clicked, turned, given, options, parallel)
        if len(pair.matches) < 2 * CHANCE_SUPPORT and not (pair.contradiction or pair.is_confirmed):
            require_turn(clicked, other, given.R, min(options.scales), options.min_cosine,
                         self._ensure)
        return pair

    def _turn_by_images(self, clicked: FeatureFrame, other: FeatureFrame,
                        scales: Sequence[float]) -> FeatureFrame:
        """Return the other frame, turned as the images match, with the features of both."""
        turned = other.turn(turn_from_images(clicked, other, min(scales), self.options.min_cosine,
                                             self._ensure))
        self._ensure((clicked, turned), scales)
        return turned
