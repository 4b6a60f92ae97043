"""`crosspoint bench latency`: how long a click takes, and how much of that the hardware excuses."""
from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from crosspoint_ros.bench.environment import describe_machine, parse_positive
from crosspoint_ros.bench.latency.cases import (
    BASELINE,
    BASELINE_SHORT,
    NEXT_CLICK,
    NEXT_CLICK_GREEDY,
    SHAPES,
    build_variants,
    draw_frames,
    sample_queries,
)
from crosspoint_ros.bench.latency.timing import Timing, compute_speedup, time_variants
from crosspoint_ros.bench.pairs.cli import parse_options
from crosspoint_ros.core.datatypes import Matcher
from crosspoint_ros.matchers import MATCHERS, load_matcher, matcher_class
from crosspoint_ros.matchers.cropond.local import CropondMatcher

if TYPE_CHECKING:
    from crosspoint_ros.bench.latency.baseline import ModelVariants
    from crosspoint_ros.bench.latency.roofline import DeviceMeter

SIZES = ((640, 480),)
MIN_SIZE_PX = 64
# What random weights reply is in no form, and finds nothing.
DUMMY_OPTIONS = {'self_test': False, 'template': 'json', 'coordinates': 'relative_1000'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('--matcher', default='cropond',
                        help=f'{", ".join(MATCHERS)}, or module:Class (default: cropond)')
    parser.add_argument('--option', action='append', default=[], metavar='KEY=VALUE',
                        help='an option of the matcher; may be repeated')
    parser.add_argument('--random-weights', choices=SHAPES,
                        help='cropond without a checkpoint: as fast as one of that size, and '
                             'finds nothing')
    parser.add_argument('--size', action='append', type=parse_size, metavar='WxH',
                        help='of both images, px; may be repeated (default: 640x480)')
    parser.add_argument('--rounds', type=parse_positive, default=5,
                        help='each runs every way once (default: 5)')
    parser.add_argument('--warm-up', type=parse_positive, default=1,
                        help='rounds before those, which do not count (default: 1)')
    parser.add_argument('--threads', type=parse_positive,
                        help='of the CPU (default: 1 where the model runs there)')
    parser.add_argument('--json', type=Path, metavar='OUT', help='write every figure there')


def parse_size(text: str) -> tuple[int, int]:
    """Read WxH, px, for argparse. Raises ValueError below what a camera has."""
    width, by, height = text.lower().partition('x')
    if not by or min(int(width), int(height)) < MIN_SIZE_PX:
        raise ValueError(text)
    return int(width), int(height)


def main(args: argparse.Namespace) -> int:
    """Run the benchmark and print a table for each size."""
    matcher = build_matcher(args.matcher, parse_options(args.option), args.random_weights)
    compared = _load_baseline(matcher)
    set_threads(args.threads, compared)
    told = ' '.join(filter(None, [args.matcher, args.random_weights, *args.option]))
    runs_on = describe_machine() + (f', {compared.device_meter.versions}' if compared else '')
    print(f'{told}, {args.rounds} rounds after {args.warm_up}\n{runs_on}', flush=True)
    taken = {}
    for width_px, height_px in args.size or SIZES:
        draw = partial(draw_frames, width_px=width_px, height_px=height_px)
        named = f'{width_px}x{height_px}'
        taken[named] = time_variants(build_variants(matcher, compared), draw, args.rounds, args.warm_up, compared)
        print(f'\n{named}\n{format_table(taken[named], not _on_gpu(compared))}', flush=True)
        if compared:
            print(compared.describe(sample_queries(draw(0).pair, 1, 0)[0]))
            print(MemoryBound.measure(compared.device_meter).format_report(taken[named]), flush=True)
    if args.json:
        args.json.write_text(json.dumps({
            'matcher': told, 'machine': runs_on,
            'sizes': {name: [timing_to_dict(t) for t in each] for name, each in taken.items()}}, indent=1))
    return 0


def timing_to_dict(timing: Timing) -> dict[str, Any]:
    """All of a way's figures; `asdict` up to Python 3.11 counts the pairs of a Counter."""
    return {**asdict(timing), 'refused': dict(timing.refusals)}


def build_matcher(name: str, options: dict[str, Any], shape: str | None) -> Matcher:
    """Build the matcher. Raises ValueError for what does not go together, or is not installed."""
    if shape is None:
        return load_matcher(name, **options)
    if name != 'cropond':
        raise ValueError(f'--random-weights are for the matcher cropond, not for {name}')
    if 'model' in options:
        raise ValueError('--random-weights and --option model=… exclude each other')
    try:
        random_weights = import_module('crosspoint_ros.bench.latency.dummy_model')
    except ModuleNotFoundError as error:
        raise ValueError(f'--random-weights needs {error.name}: pip install '
                         'torch "transformers>=4.57,<6" pillow') from error
    loaded = random_weights.build_dummy_checkpoint(shape, options.get('device', 'auto'), options.get('weights', 'auto'))
    return matcher_class(name)(checkpoint=loaded, model=shape, **DUMMY_OPTIONS | options)


def _load_baseline(matcher: Matcher) -> ModelVariants | None:
    """Return what to compare the matcher with, None for those that run no model here."""
    if not isinstance(matcher, CropondMatcher):
        return None
    compared: ModelVariants = import_module('crosspoint_ros.bench.latency.baseline').ModelVariants(matcher)
    return compared


def _on_gpu(baseline: ModelVariants | None) -> bool:
    return baseline is not None and baseline.device_meter.on_gpu


def set_threads(threads: int | None, baseline: ModelVariants | None) -> None:
    """Let everything compute with so many threads: one, unless said, if a model runs on them."""
    if threads is None and (baseline is None or baseline.device_meter.on_gpu):
        return
    cv2.setNumThreads(threads or 1)
    if baseline is not None:
        baseline.device_meter.set_threads(threads or 1)


def format_table(timings: Sequence[Timing], by_cpu: bool) -> str:
    """Lay the figures out, a row a way. by_cpu: ratios are of CPU time, not of wall time."""
    named = {t.name: t for t in timings}
    authors = [named[name] for name in (BASELINE, BASELINE_SHORT) if name in named]
    width = max(map(len, named)) + 2
    heads = ''.join(f'{head:>9}' for head in ('vs 30', 'vs 20')[:len(authors)])
    lines = [f'{"":{width}}{"passes":>7}{"CPU ms":>10}{"least .. most":>20}{"wall ms":>10}'
             f'{"least .. most":>20}{heads}']
    for t in timings:
        ratios = ''.join(f'{compute_speedup(slow, t, by_cpu):8.1f}x' for slow in authors)
        passes = '-' if t.passes is None else str(t.passes)
        lines.append(f'{t.name:{width}}{passes:>7}{_format_ms(t.cpu_ms)}{_format_ms(t.wall_ms)}'
                     f'{ratios}')
    refused = [f'{t.name}: {n} {code}' for t in timings for code, n in t.refusals.items()]
    if refused:
        lines.append(f'refused: {"; ".join(refused)}')
    if authors:
        lines.append(f'ratios: of {"CPU" if by_cpu else "wall"} time, median of the rounds')
    return '\n'.join(lines)


def _format_ms(ms: tuple[float, float, float]) -> str:
    median, least, most = ms
    return f'{median:10.1f}{f"{least:.1f} .. {most:.1f}":>20}'


@dataclass(frozen=True)
class MemoryBound:
    """What is read each pass, how fast memory is, measured by copying, and the most it held.

    binding: memory is what limits passes, as on a GPU; on a CPU it is arithmetic.
    """

    bytes_per_pass: int
    bytes_per_s: float
    peak_bytes: int
    binding: bool

    @classmethod
    def measure(cls, gauge: DeviceMeter) -> MemoryBound:
        """Measure. The peak is read first: the measurement takes memory of its own."""
        peak = gauge.peak_bytes
        return cls(gauge.bytes_per_pass, gauge.bytes_per_s(), peak, gauge.on_gpu)

    def limit_ms(self, passes: int) -> float:
        """The least time for so many passes: images, keys and the output head come on top."""
        return 1e3 * passes * self.bytes_per_pass / self.bytes_per_s

    def format_report(self, timings: Sequence[Timing]) -> str:
        """Compare what was measured with what memory allows."""
        lines = [f'a pass reads {self.bytes_per_pass / GB:.2g} GB of weights, memory copies '
                 f'{self.bytes_per_s / GB:.1f} GB/s: {self.limit_ms(1):.2f} ms a pass at least; '
                 f'peak memory {self.peak_bytes / GB:.2f} GB']
        for t in timings:
            if self.binding and t.name in (BASELINE, NEXT_CLICK, NEXT_CLICK_GREEDY) and t.passes:
                limit, took = self.limit_ms(t.passes), t.wall_ms[0]
                lines.append(f'{t.name}: {took:.1f} ms, {took / limit:.1f} times the '
                             f'{limit:.1f} ms of its {t.passes} passes')
        return '\n'.join(lines)


GB = 1e9
