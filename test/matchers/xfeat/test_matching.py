"""Claims about keypoints that look alike."""
from __future__ import annotations

import numpy as np

from crosspoint_ros.matchers.xfeat import matching
from crosspoint_ros.matchers.xfeat.features import FeatureLevel
from crosspoint_ros.matchers.xfeat.matching import (
    Matches,
    concatenate,
    find_candidates,
    fit_local_affine,
    mutual_matches,
)


def level(count, seed=0, noise=0.0):
    rng = np.random.default_rng(seed)
    descriptors = rng.normal(size=(count, 64))
    descriptors += noise * np.random.default_rng(seed + 1).normal(size=(count, 64))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    pixels = np.stack([np.arange(count) * 7.0, np.full(count, 50.0)], axis=1)
    return FeatureLevel(pixels, pixels, descriptors.astype(np.float32), None)


def brute_force_mutual(cosine, least):
    i, j = cosine.argmax(axis=1), cosine.argmax(axis=0)
    rows = np.arange(len(cosine))
    keep = (j[i] == rows) & (cosine[rows, i] > least)
    return {(int(a), int(b)) for a, b in zip(rows[keep], i[keep], strict=True)}


def test_sparse_mutual_matching_equals_brute_force():
    a, b = level(60), level(60, noise=0.8)
    alike = find_candidates(a, b, 0.1)
    chosen = alike.mutual(alike.cosine > 0.5)
    found = set(zip(alike.clicked[chosen].tolist(), alike.other[chosen].tolist(), strict=True))
    assert found == brute_force_mutual(a.descriptors @ b.descriptors.T, 0.5)
    assert len(found) > 10


def test_a_scene_of_lookalikes_is_cut_to_the_most_alike(monkeypatch):
    monkeypatch.setattr(matching, 'MAX_CANDIDATES', 50)
    a, b = level(40), level(40, noise=0.8)
    alike = find_candidates(a, b, -1.0)
    assert len(alike.cosine) == 50
    assert alike.cosine.min() >= np.sort((a.descriptors @ b.descriptors.T).ravel())[-50]


def test_frames_without_keypoints_match_nothing():
    assert len(mutual_matches([find_candidates(level(0), level(5), 0.5)], 0.7)) == 0


def test_the_same_match_at_two_scales_counts_once():
    one = np.array([[10.0, 10.0], [200.0, 40.0]])
    matches = Matches(one, one, one, one)
    again = Matches(one + 0.3, one + 0.3, one, one)
    assert len(concatenate([matches, again])) == 2


def test_matches_around_a_pixel_carry_it_along():
    rng = np.random.default_rng(0)
    clicked = rng.uniform(0, 400, (60, 2))
    linear = np.array([[1.1, 0.1], [-0.05, 0.9]])
    found = fit_local_affine(clicked, clicked @ linear.T + [30, -10], np.array([200.0, 210.0]),
                         np.eye(2))
    assert np.linalg.norm(found.pixel - (linear @ [200, 210] + [30, -10])) < 2
    assert found.density > 0.5


def test_without_matches_nothing_speaks_for_the_prior():
    none = np.zeros((0, 2))
    assert fit_local_affine(none, none, np.array([5.0, 6.0]), np.eye(2)).density == 0
