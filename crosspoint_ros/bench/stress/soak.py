"""`crosspoint dev soak`: whether node and page's server grow while they work for an hour."""
from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crosspoint_ros.bench.environment import describe_machine, write_figures
from crosspoint_ros.bench.stress.rig import (
    START_TIMEOUT_S,
    ProcessFigures,
    StressClient,
    StressRig,
    measure_shared_memory_mb,
)
from crosspoint_ros.bench.web.browsers import BrowserClients
from crosspoint_ros.ros.process import ProcessExited

WATCHED = ('node', 'server')
MAX_GROWTH_PERCENT = 2.0  # of RSS: PSS changes with the other programs that share a library
MIN_MINUTES = 10.0  # a shorter run is still filling its buffers, so its memory is not judged
MAX_SAMPLE_S = 60.0
MIN_SAMPLES = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('--minutes', type=float, default=60.0, help='how long (default: 60)')
    parser.add_argument('--rate-hz', type=float, default=30.0,
                        help='of two RGB-D cameras 640x480 (default: 30)')
    parser.add_argument('--clicks-per-s', type=float, default=1.0, help='(default: 1)')
    parser.add_argument('--json', type=Path, help='write the figures')


def main(args: argparse.Namespace) -> int:
    """Print a line a minute and the growth; 1 if something grew, ended or was not answered."""
    print(describe_machine())
    end_s, ended = 60.0 * args.minutes, ''
    with StressRig(rate_hz=args.rate_hz) as rig:
        rig.start('cameras', 'node', 'server')
        with BrowserClients(rig.port, 1, cameras=rig.cameras) as browser, StressClient(rig) as c:
            c.wait_until_answered(START_TIMEOUT_S, rig.check)
            soak = Soak(rig, c, browser)
            try:
                soak.run(end_s, min(MAX_SAMPLE_S, end_s / (2 * MIN_SAMPLES)),
                         1.0 / args.clicks_per_s)
            except KeyboardInterrupt:
                print(f'ended after {soak.elapsed_s / 60:.1f} minutes')
            except ProcessExited as error:
                ended = str(error)
    figures = soak.summarize()
    for name, value in figures.items():
        print(f'  {name}: {value}')
    for text, times in c.refusals.most_common(5):
        print(f'    {times} x refused, {text}')
    write_figures(args.json, figures | {'samples': soak.samples})
    faults = [*filter(None, [ended]), *find_faults(figures)]
    for fault in faults:
        print(f'FAILED: {fault}')
    return 1 if faults else 0


class Soak:
    """Clicks at a rate, and samples the processes."""

    def __init__(self, rig: StressRig, client: StressClient, browser: BrowserClients) -> None:
        self._rig, self._client, self._browser = rig, client, browser
        self._begun_s = time.monotonic()
        self.samples: list[dict[str, float]] = []

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._begun_s

    def run(self, duration_s: float, sample_s: float, click_s: float) -> None:
        """Click and sample until the time is over."""
        next_click_s, next_sample_s = self.elapsed_s, self.elapsed_s + sample_s
        while next_sample_s <= duration_s + 0.5 * sample_s:
            self._rig.check()
            self._client.click_once()
            next_click_s = max(next_click_s + click_s, self.elapsed_s)
            self._client.spin_for(next_click_s - self.elapsed_s)
            if self.elapsed_s >= next_sample_s:
                next_sample_s += sample_s
                self._take_sample()

    def _take_sample(self) -> None:
        latencies_ms = self._client.latencies_ms or [float('nan')]
        sample: dict[str, float] = {'minutes': self.elapsed_s / 60}
        for name in WATCHED:
            figures = ProcessFigures.read(self._rig.get_pid(name))
            sample |= {f'{name} RSS MB': figures.rss_mb, f'{name} PSS MB': figures.pss_mb,
                       f'{name} threads': figures.threads, f'{name} handles': figures.handles}
        sample |= {'/dev/shm MB': measure_shared_memory_mb(),
                   'p50 ms': float(np.percentile(latencies_ms, 50)),
                   'p99 ms': float(np.percentile(latencies_ms, 99)),
                   'page images': self._browser.images_received.total(), **self._client.counts}
        self._client.latencies_ms.clear()
        self.samples.append(sample)
        print(', '.join(f'{name} {value:.6g}' if isinstance(value, int) else f'{name} {value:.1f}'
                        for name, value in sample.items()), flush=True)

    def summarize(self) -> dict[str, Any]:
        """Return the growth over the second half, and the counts."""
        figures: dict[str, Any] = {'minutes': round(self.elapsed_s / 60, 1)}
        half = self.samples[len(self.samples) // 2:]
        for name in WATCHED:
            for what in ('RSS MB', 'PSS MB'):
                figures[f'{name} {what} growth %'] = round(measure_growth_percent(
                    [sample['minutes'] for sample in half],
                    [sample[f'{name} {what}'] for sample in half]), 2)
            for what in ('threads', 'handles'):
                figures[f'{name} {what} growth'] = measure_count_growth(
                    [sample[f'{name} {what}'] for sample in half])
        pages = [sample['page images'] for sample in self.samples]
        figures['page images in the last sample'] = (pages[-1] - pages[-2] if len(pages) > 1
                                                     else sum(pages))
        return figures | dict(self._client.counts)


def measure_growth_percent(minutes: Sequence[float], values: Sequence[float]) -> float:
    """Return the growth of a line fitted to the values, from the first time to the last, % of mean.

    0.0 for fewer than two values.
    """
    if len(values) < 2:
        return 0.0
    slope, _ = np.polyfit(minutes, values, 1)
    return float(100 * slope * (minutes[-1] - minutes[0]) / np.mean(values))


def measure_count_growth(counts: Sequence[float]) -> int:
    """Return by how much the least of the last half exceeds the most of the first; at least 0.

    A thread or connection that comes and goes does not count.
    """
    middle = len(counts) // 2
    return max(0, int(min(counts[middle:], default=0) - max(counts[:middle], default=np.inf))
               if middle else 0)


def find_faults(figures: dict[str, Any]) -> list[str]:
    """Return which figures are beyond what a node that works for weeks may have."""
    is_long = figures['minutes'] >= MIN_MINUTES
    limits = {'RSS MB growth %': MAX_GROWTH_PERCENT if is_long else np.inf, 'threads growth': 0,
              'handles growth': 0, 'unanswered': 0, 'wrong': 0}
    faults = [f'{name} {value} (limit {limit:g})' for end, limit in limits.items()
              for name, value in figures.items() if name.endswith(end) and value > limit]
    for name in ('accepted', 'page images in the last sample'):
        if not figures[name]:
            faults.append(f'{name}: none')
    return faults
