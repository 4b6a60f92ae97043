"""How far a find may be trusted, and how far off it may be."""
from __future__ import annotations

import numpy as np

from crosspoint_ros.core.datatypes import Array
from crosspoint_ros.matchers.xfeat.search import Found


def confidence(found: Found) -> float:
    """Return 0..1, by a logistic."""
    return float(1 / (1 + np.exp(-_logit(found))))


def _logit(found: Found) -> float:
    doubt = np.log1p(found.return_px / 8)
    return float(2.0 * found.score + 0.5 * found.margin + 1.2 * np.log(found.density + 0.02)
                 - 0.6 * doubt - 5.5)


def covariance_px2(found: Found) -> Array:
    """Covariance (2, 2) of the found working pixel."""
    return np.eye(2) * 25.0
