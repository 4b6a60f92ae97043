"""The least time that a click can take: its passes must each read all the weights from memory."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crosspoint_ros.bench.stopwatch import Taken
from crosspoint_ros.bench.ways import AGAIN, AGAIN_GREEDY, AUTHORS

if TYPE_CHECKING:
    from crosspoint_ros.matchers.cropond.gauge import Gauge

GB = 1e9


@dataclass(frozen=True)
class Bandwidth:
    """What is read each pass, how fast memory is, measured by copying, and the most it held.

    binding: memory is what limits passes, as on a GPU; on a CPU it is arithmetic.
    """

    bytes_per_pass: int
    bytes_per_s: float
    peak_bytes: int
    binding: bool

    @classmethod
    def of(cls, gauge: Gauge) -> Bandwidth:
        """Measure. The peak is read first: the measurement takes memory of its own."""
        peak = gauge.peak_bytes
        return cls(gauge.bytes_per_pass, gauge.bytes_per_s(), peak, gauge.on_gpu)

    def limit_ms(self, passes: int) -> float:
        """The least time for so many passes: images, keys and the output head come on top."""
        return 1e3 * passes * self.bytes_per_pass / self.bytes_per_s

    def told(self, taken: Sequence[Taken]) -> str:
        """Compare what was measured with what memory allows."""
        lines = [f'a pass reads {self.bytes_per_pass / GB:.2g} GB of weights, memory copies '
                 f'{self.bytes_per_s / GB:.1f} GB/s: {self.limit_ms(1):.2f} ms a pass at least; '
                 f'peak memory {self.peak_bytes / GB:.2f} GB']
        for t in taken:
            if self.binding and t.name in (AUTHORS, AGAIN, AGAIN_GREEDY) and t.passes:
                limit, took = self.limit_ms(t.passes), t.wall_ms[0]
                lines.append(f'{t.name}: {took:.1f} ms, {took / limit:.1f} times the '
                             f'{limit:.1f} ms of its {t.passes} passes')
        return '\n'.join(lines)
