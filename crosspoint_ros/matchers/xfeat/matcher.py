"""The matcher: a query in, the found pixel with its confidence out."""
from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from crosspoint_ros.core.datatypes import Code, Match, Query, Rejected, View
from crosspoint_ros.matchers.xfeat import score
from crosspoint_ros.matchers.xfeat.affine import local_affine
from crosspoint_ros.matchers.xfeat.backbone import Backbone
from crosspoint_ros.matchers.xfeat.features import Frame
from crosspoint_ros.matchers.xfeat.pair import Pair, pair_from_images, pair_from_poses
from crosspoint_ros.matchers.xfeat.recipe import Recipe


class XFeatMatcher:
    """Matches by XFeat descriptors and two-view geometry, on the CPU; options: see `Recipe`."""

    def __init__(self, **options: Any) -> None:
        self.recipe = Recipe(**options)
        self._backbone = Backbone()
        self._workers = ThreadPoolExecutor(2, 'xfeat')
        self._frames: OrderedDict[tuple[str, int], Frame] = OrderedDict()
        self._pairs: OrderedDict[tuple[int, int], Pair] = OrderedDict()
        self._lock = threading.Lock()

    def match(self, query: Query) -> Match:
        with self._lock:
            return self._match(query)

    def _frame(self, view: View) -> Frame:
        key = (view.camera, view.stamp_ns)
        frame = self._frames.get(key)
        if frame is None or frame.view.image is not view.image:
            frame = Frame(view, self.recipe)
            self._frames[key] = frame
        self._frames.move_to_end(key)
        while len(self._frames) > 8:
            self._frames.popitem(last=False)
        return frame

    def _match(self, query: Query) -> Match:
        a, b = self._frame(query.clicked), self._frame(query.other)
        jobs = [(f, s) for s in sorted(self.recipe.scales, reverse=True) for f in (a, b)
                if s not in f.levels]
        list(self._workers.map(lambda job: job[0].ensure(job[1], self._backbone), jobs))
        key = (id(a), id(b))
        pair = self._pairs.get(key)
        if pair is None:
            posed = self.recipe.use_poses and query.clicked.base_from_cam is not None \
                and query.other.base_from_cam is not None
            pair = self._pairs[key] = (pair_from_poses if posed else pair_from_images)(
                a, b, self.recipe)
        while len(self._pairs) > 8:
            self._pairs.popitem(last=False)
        p = a.working.working(query.pixel)
        prior = local_affine(pair.matches.clicked, pair.matches.other, p, pair.overall)
        S = score.appearance(pair, p, prior.linear, self.recipe.patch_consensus)
        if self.recipe.affine_prior:
            S = S + score.prior_term(pair, prior)
        if self.recipe.epipolar_band:
            S = S + score.band_term(pair, p)
        S[b.fine_hidden] = score.HIDDEN
        peak = score.peak(S, b.fine_grid)
        logit = 2.4 * peak.score + peak.margin + np.log(prior.density + 0.02) - 7.0
        self.debug = (peak, prior, pair)
        return Match(b.working.published(peak.pixel), confidence=float(1 / (1 + np.exp(-logit))),
                     basis='')
