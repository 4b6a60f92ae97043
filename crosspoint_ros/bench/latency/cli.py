"""`crosspoint bench latency`: click latency, compared with the bound of the model or network."""
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
from crosspoint_ros.bench.latency import cases, multiples
from crosspoint_ros.bench.latency.timing import Timing, compute_speedup, time_variants
from crosspoint_ros.bench.pairs.cli import parse_options
from crosspoint_ros.core.datatypes import Matcher
from crosspoint_ros.matchers import MATCHERS, find_matcher_class, load_matcher
from crosspoint_ros.matchers.cropond.local import CropondMatcher
from crosspoint_ros.matchers.xfeat.matcher import XFeatMatcher

if TYPE_CHECKING:
    from crosspoint_ros.bench.latency.baseline import ModelVariants

SIZES = ((640, 480),)
MIN_SIZE_PX = 64
GB = 1e9
# Random weights pass no self-test, and reply in no format.
DUMMY_OPTIONS = {'self_test': False, 'template': 'json', 'coordinates': 'relative_1000'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('--matcher', default='cropond',
                        help=f'{", ".join(MATCHERS)}, or module:Class (default: cropond)')
    parser.add_argument('--option', action='append', default=[], metavar='KEY=VALUE',
                        help='an option of the matcher; may be repeated')
    parser.add_argument('--random-weights', choices=cases.SHAPES,
                        help='cropond with random weights: the speed of a checkpoint of that '
                             'size, meaningless answers')
    parser.add_argument('--size', action='append', type=parse_size, metavar='WxH',
                        help='size of both images, px; may be repeated (default: 640x480)')
    parser.add_argument('--rounds', type=parse_positive, default=5,
                        help='timed rounds of all variants (default: 5)')
    parser.add_argument('--warm-up', type=parse_positive, default=1,
                        help='untimed rounds before those (default: 1)')
    parser.add_argument('--threads', type=parse_positive,
                        help='CPU threads (default: 1 if the model runs on the CPU)')
    parser.add_argument('--json', type=Path, metavar='OUT', help='write all figures')


def parse_size(text: str) -> tuple[int, int]:
    """Parse WxH, px (for argparse)."""
    width, by, height = text.lower().partition('x')
    if not by or min(int(width), int(height)) < MIN_SIZE_PX:
        raise ValueError(text)
    return int(width), int(height)


def main(args: argparse.Namespace) -> int:
    """Run the benchmark and print a table for each size."""
    matcher = build_matcher(args.matcher, parse_options(args.option), args.random_weights)
    baseline: ModelVariants | None = None
    if isinstance(matcher, CropondMatcher):  # runs its model on this machine
        baseline = import_module('crosspoint_ros.bench.latency.baseline').ModelVariants(matcher)
    on_gpu = baseline is not None and baseline.device_meter.on_gpu
    if args.threads or (baseline and not on_gpu):
        cv2.setNumThreads(args.threads or 1)
        if baseline:
            baseline.device_meter.set_threads(args.threads or 1)
    setup = ' '.join(filter(None, [args.matcher, args.random_weights, *args.option]))
    machine = describe_machine() + (f', {baseline.device_meter.versions}' if baseline else '')
    print(f'{setup}, {args.rounds} rounds after {args.warm_up}\n{machine}', flush=True)
    timings: dict[str, list[Timing]] = {}
    for width_px, height_px in args.size or SIZES:
        draw = partial(cases.draw_frames, width_px=width_px, height_px=height_px)
        name = f'{width_px}x{height_px}'
        timings[name] = time_variants(cases.build_variants(matcher, baseline), draw, args.rounds,
                                      args.warm_up, baseline)
        print(f'\n{name}\n{format_table(timings[name], not on_gpu)}', flush=True)
        if baseline:
            meter = baseline.device_meter
            print(baseline.describe(cases.sample_queries(draw(0).pair, 1, 0)[0]))
            bound = MemoryBound(  # the peak is read first: the measurement allocates memory
                peak_bytes=meter.peak_bytes, bytes_per_pass=meter.bytes_per_pass,
                bytes_per_s=meter.measure_bandwidth(), binding=on_gpu)
            print(bound.format_report(timings[name]), flush=True)
    situations = {}
    if isinstance(matcher, XFeatMatcher):
        situations = multiples.measure_situations(parse_options(args.option), args.rounds,
                                                  args.warm_up)
        print(f'\n{multiples.format_situations(situations)}')
    if args.json:
        sizes = {name: [{'name': t.name, 'clicks': t.clicks, 'cpu_s': t.cpu_s, 'wall_s': t.wall_s,
                         'passes': t.passes, 'refused': t.refusals} for t in each]
                 for name, each in timings.items()}
        args.json.write_text(json.dumps({
            'matcher': setup, 'machine': machine, 'sizes': sizes,
            'situations': {name: asdict(each) for name, each in situations.items()}}, indent=1))
    return 0


def build_matcher(name: str, options: dict[str, Any], shape: str | None) -> Matcher:
    """Build the matcher. Raises ValueError for conflicting options or a missing package."""
    if shape is None:
        return load_matcher(name, **options)
    if name != 'cropond':
        raise ValueError(f'--random-weights are for the matcher cropond, not for {name}')
    if 'model' in options:
        raise ValueError('--random-weights and --option model=… exclude each other')
    try:
        dummy_model = import_module('crosspoint_ros.bench.latency.dummy_model')
    except ModuleNotFoundError as error:
        raise ValueError(f'--random-weights needs {error.name}: pip install '
                         'torch "transformers>=4.57,<6" pillow') from error
    checkpoint = dummy_model.build_dummy_checkpoint(shape, options.get('device', 'auto'),
                                                    options.get('weights', 'auto'))
    return find_matcher_class(name)(checkpoint=checkpoint, model=shape, **DUMMY_OPTIONS | options)


def format_table(timings: Sequence[Timing], by_cpu: bool) -> str:
    """Format the timings as text. by_cpu: speed-ups are of CPU time, not of wall time."""
    by_name = {t.name: t for t in timings}
    baselines = [by_name[name] for name in cases.BASELINES if name in by_name]
    width = max(map(len, by_name)) + 2
    heads = ''.join(f'{head:>9}' for head in ('vs 30', 'vs 20')[:len(baselines)])
    lines = [f'{"":{width}}{"passes":>7}{"CPU ms":>10}{"least .. most":>20}{"wall ms":>10}'
             f'{"least .. most":>20}{heads}']
    for t in timings:
        ratios = ''.join(f'{compute_speedup(slow, t, by_cpu):8.1f}x' for slow in baselines)
        passes = '-' if t.passes is None else str(t.passes)
        lines.append(f'{t.name:{width}}{passes:>7}{_format_ms(t.cpu_ms)}{_format_ms(t.wall_ms)}'
                     f'{ratios}')
    if refusals := [f'{t.name}: {n} {code}' for t in timings for code, n in t.refusals.items()]:
        lines.append(f'refused: {"; ".join(refusals)}')
    if baselines:
        lines.append(f'speed-up: of {"CPU" if by_cpu else "wall"} time, median of the rounds')
    return '\n'.join(lines)


def _format_ms(ms: tuple[float, float, float]) -> str:
    median, least, most = ms
    return f'{median:10.1f}{f"{least:.1f} .. {most:.1f}":>20}'


@dataclass(frozen=True)
class MemoryBound:
    """The least time of a forward pass: reading the weights at the measured memory bandwidth.

    binding: bandwidth limits a pass, as on a GPU; on a CPU arithmetic does.
    """

    bytes_per_pass: int
    bytes_per_s: float
    peak_bytes: int
    binding: bool

    def limit_ms(self, passes: int) -> float:
        """Return the least time of some passes; images, keys and the output head add to it."""
        return 1e3 * passes * self.bytes_per_pass / self.bytes_per_s

    def format_report(self, timings: Sequence[Timing]) -> str:
        """Format the bound, and the timings as multiples of it."""
        lines = [f'a pass reads {self.bytes_per_pass / GB:.2g} GB of weights at '
                 f'{self.bytes_per_s / GB:.1f} GB/s: at least {self.limit_ms(1):.2f} ms; '
                 f'peak memory {self.peak_bytes / GB:.2f} GB']
        for t in timings:
            if self.binding and t.passes and t.name in (
                    cases.BASELINE, cases.NEXT_CLICK, cases.NEXT_CLICK_GREEDY):
                limit_ms, wall_ms = self.limit_ms(t.passes), t.wall_ms[0]
                lines.append(f'{t.name}: {wall_ms:.1f} ms, {wall_ms / limit_ms:.1f} times the '
                             f'{limit_ms:.1f} ms of its {t.passes} passes')
        return '\n'.join(lines)
