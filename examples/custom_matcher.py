#!/usr/bin/env python3
"""A matcher of your own: any class with match(query), loaded as `module:Class`.

    python examples/custom_matcher.py
    crosspoint match a.png b.png --at 320 240 --matcher custom_matcher:TemplateMatcher
"""
from pathlib import Path

import cv2
import numpy as np

import crosspoint_ros as cp
from crosspoint_ros.core.datatypes import Code, Match, Query


class TemplateMatcher:
    """Normalised cross-correlation of a patch: for views that hardly differ."""

    def __init__(self, radius_px: int = 20, min_score: float = 0.6) -> None:
        self.radius_px, self.min_score = radius_px, min_score

    def match(self, query: Query) -> Match:
        """Return the best place, or raise `Rejected` if it does not look like the patch."""
        x, y = np.round(query.pixel).astype(int)
        r = self.radius_px
        patch = query.clicked.image[max(y - r, 0):y + r + 1, max(x - r, 0):x + r + 1]
        scores = cv2.matchTemplate(query.other.image, patch, cv2.TM_CCOEFF_NORMED)
        _, score, _, corner = cv2.minMaxLoc(scores)
        if score < self.min_score:
            raise cp.Rejected(Code.NOT_VISIBLE, f'correlation {score:.2f} (limit {self.min_score})')
        found = np.array([corner[0] + min(x, r), corner[1] + min(y, r)], float)
        return Match(found, np.eye(2) * 4.0, float(score), 'normalised cross-correlation')


def main() -> None:
    image = cp.read_image(Path(__file__).with_name('front.jpg'))
    front, shifted = cp.View('front', image), cp.View('shifted', np.roll(image, 12, axis=1))
    matcher = cp.load_matcher(f'{__name__}:TemplateMatcher', radius_px=15)
    result = cp.locate(front, [shifted], (500, 280), matcher)
    print(f'found at {result["shifted"].pixel}, confidence {result["shifted"].confidence:.2f}')


if __name__ == '__main__':
    main()
