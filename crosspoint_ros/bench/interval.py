"""The interval in which a share is known to lie, from how many it was counted of."""
from __future__ import annotations

import math

Z_95 = 1.959963984540054


def wilson(right: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of right / total; NaN where total is 0.

    E. B. Wilson, Probable inference, 1927: it stays within 0..1 and holds for few items too.
    """
    if not total:
        return math.nan, math.nan
    n, p, z2 = total, right / total, Z_95 ** 2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    reach = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(middle - reach, 0.0), min(middle + reach, 1.0)
