"""`crosspoint bench calibrate`: its figures, on synthetic matches."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
from posed_matches import DECLARED, HAND_FROM_CAM, hand_pairs, rich_views

from crosspoint_ros.bench.calibrate.cli import format_draws, run_draws


def test_draws_are_corrected_and_counted():
    mounts = {'wrist': replace(DECLARED, body_from_cam=HAND_FROM_CAM)}
    draws = run_draws(hand_pairs(rich_views(6)), mounts, 'wrist', 0.02, np.radians(3), 2, seed=0)
    assert all(np.linalg.norm(draw.error[3:]) < 0.003 for draw in draws)
    assert all(draw.residual_ratio < 1.3 for draw in draws)
    text = format_draws(draws)
    assert 'corrected: 2 of 2' in text
    assert 'all six errors within 2 sigma in' in text


def test_a_refused_draw_is_counted_with_its_reason():
    mounts = {'wrist': replace(DECLARED, body_from_cam=HAND_FROM_CAM)}
    draws = run_draws(hand_pairs(rich_views(3)), mounts, 'wrist', 0.02, 0.05, 1, seed=0)
    assert 'corrected: 0 of 1' in format_draws(draws)
    assert 'refused: too few pairs' in format_draws(draws)
