"""The matcher `cropond`: the model on this machine's GPU or CPU."""
from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, permutations
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from crosspoint_ros.core.datatypes import Array, BatchMatcher, Code, Match, Query, Rejected, View
from crosspoint_ros.matchers.cropond import coordinate_distribution, prompt, self_test
from crosspoint_ros.matchers.cropond.engine.reply_grammar import ReplyFormat
from crosspoint_ros.matchers.cropond.image_processor import ImageInput, ImageSizes
from crosspoint_ros.matchers.cropond.options import AUTO, LocalOptions
from crosspoint_ros.matchers.cropond.prompt import (
    FREE_REPLY_TOKENS,
    CoordinateFormat,
    PointCodec,
    ReplyTemplate,
)
from crosspoint_ros.matchers.cropond.reply_parser import parse_points, parse_visible_point

if TYPE_CHECKING:  # importing torch takes seconds, and it is optional
    from crosspoint_ros.matchers.cropond.engine.checkpoint import Checkpoint
    from crosspoint_ros.matchers.cropond.engine.engine import Engine, FreeReply

log = logging.getLogger(__name__)


class CropondMatcher(BatchMatcher):
    """Asks CroPond, or any Qwen2.5-VL or Qwen3-VL, where the other view shows the click."""

    Options = LocalOptions
    refined_by = 'xfeat'

    def __init__(self, checkpoint: Checkpoint | None = None, **options: Any) -> None:
        """Load the model, unless a loaded checkpoint is given, and run its self-test.

        Raises ValueError, OSError or MemoryError; the message says what to do.
        """
        self.options = LocalOptions(**options)
        try:
            from crosspoint_ros.matchers.cropond.engine.checkpoint import load_checkpoint
            from crosspoint_ros.matchers.cropond.engine.engine import Engine, EngineOptions
            from crosspoint_ros.matchers.cropond.engine.memory import explain_memory_errors
        except ModuleNotFoundError as error:
            raise ValueError(f'cropond needs {error.name}: pip install torch '
                             '"transformers>=4.57,<6" pillow; on a Jetson torch comes from '
                             'NVIDIA') from error
        self.checkpoint = loaded = checkpoint or load_checkpoint(
            self.options.model, self.options.revision, self.options.device, self.options.weights)
        with explain_memory_errors(loaded.folder.name, loaded.required_bytes, loaded.device):
            self._start(Engine(loaded.model, loaded.tokenizer, EngineOptions(
                max_pixels=self.options.max_pixels, max_pairs=self.options.max_pairs,
                preprocessor=loaded.preprocessor)))

    def _start(self, engine: Engine) -> None:
        self.engine, self._lock = engine, threading.Lock()
        self._inferred_formats: dict[CoordinateFormat, ReplyFormat] = {}
        self.coord_format = self.options.coord_formats[0]
        self._score: self_test.SelfTestScore | None = None
        if self.options.self_test:
            self._score = self_test.run_self_test(
                self.predict_points, self.options.coord_formats, self.options.allow_repeating)
            self.coord_format = self._score.coord_format
        else:
            log.warning(self_test.SKIPPED)

    # --- the matcher's protocols

    def match_all(self, queries: Sequence[Query]) -> Iterator[Match | Rejected]:
        """Answer the clicks on each pair of frames in one pass, pair after pair.

        The refusal is NOT_VISIBLE if the model names no point.
        """
        for _, pair in groupby(queries, attrgetter('frames')):
            yield from self._match_pair(list(pair))

    def _match_pair(self, queries: Sequence[Query]) -> list[Match | Rejected]:
        clicked, other = queries[0].clicked, queries[0].other
        with self._lock:
            return self._estimate_matches(
                (self._make_input(clicked), self._make_input(other)), [q.pixel for q in queries],
                (self._make_codec(clicked), self._make_codec(other)))

    def ground(self, view: View, instruction: str) -> Match:
        """Return the point that an instruction names.

        Raises `Rejected`: NOT_VISIBLE if the model names none, LOW_CONFIDENCE for several or an
        uncertain one.
        """
        images = (self._make_input(view),)
        question = prompt.build_grounding_prompt(instruction)
        with self._lock:
            (match,) = self._estimate_points(images, [question], [None], self._make_codec(view))
            if isinstance(match, Rejected):
                raise match
            # The forced format ends after the first point; a free reply may name several.
            _require_single_point(self.engine.generate(images, question, FREE_REPLY_TOKENS),
                                  instruction)
        self.options.check_grounded(match, instruction, view.camera)
        return match

    def warm(self, views: tuple[View, ...]) -> None:
        """Prefill pairs of the newest frames, at most `max_pairs`."""
        pairs = list(permutations(map(self._make_input, views), 2))[:self.options.max_pairs]
        for pair in pairs:
            with self._lock:
                self.engine.prefill(pair)

    def describe(self) -> Mapping[str, str]:
        is_inferred = self.coord_format in self._inferred_formats
        return {'model': self.checkpoint.folder.name, 'device': self.checkpoint.device_name,
                'weights': self.checkpoint.weights, 'coordinates': self.coord_format.value,
                'template': "the model's own" if is_inferred else 'json',
                'self_test': 'off' if self._score is None else str(self._score)}

    def predict_points(self, first: self_test.Image, second: self_test.Image,
                       pixels: Sequence[Array], coord_format: CoordinateFormat
                       ) -> list[Array | None]:
        """Return the pixel of the second image for each of the first, for the self-test."""
        images = (ImageInput('self-test', first),
                  ImageInput('self-test' if second is first else 'self-test, changed', second))
        codecs = [PointCodec(coord_format, self._get_sizes(*image.rgb.shape[1::-1]))
                  for image in images]
        estimates = self._estimate_matches(images, pixels, (codecs[0], codecs[1]))
        return [None if isinstance(e, Rejected) else e.pixel for e in estimates]

    # --- decoding

    def _estimate_matches(self, images: tuple[ImageInput, ImageInput], pixels: Sequence[Array],
                          codecs: tuple[PointCodec, PointCodec]) -> list[Match | Rejected]:
        clicks = [codecs[0].encode(pixel) for pixel in pixels]
        questions = [prompt.build_pointing_prompt(*click, self.options.question)
                     for click in clicks]
        return self._estimate_points(images, questions, clicks, codecs[1])

    def _estimate_points(self, images: tuple[ImageInput, ...], questions: Sequence[str],
                         clicks: Sequence[tuple[str, str] | None], codec: PointCodec
                         ) -> list[Match | Rejected]:
        """Decode with a forced reply format; freely where the model prefers another reply."""
        decoded = self.engine.decode_distributions(images, questions,
                                                   self._get_reply_format(codec))
        estimates: list[Match | Rejected] = []
        for question, click, (distribution, *stats) in zip(questions, clicks, decoded,
                                                           strict=True):
            preferred = next((s.preferred_token for s in stats if s.preferred_token), '')
            if self.options.template == AUTO and not all(s.is_model_choice for s in stats):
                estimates.append(self._estimate_from_free_reply(images, question, click, codec))
            elif preferred:  # a format may be forced, a number may not
                estimates.append(Rejected(Code.NOT_VISIBLE, f'the model prefers {preferred!r} to '
                                          'a number: it names no point'))
            else:
                estimates.append(self._estimate_point(distribution, codec, stats[0]))
        return estimates

    def _estimate_from_free_reply(self, images: tuple[ImageInput, ...], question: str,
                                  click: tuple[str, str] | None, codec: PointCodec
                                  ) -> Match | Rejected:
        """Let the model reply freely; infer the format of its point and decode with that."""
        reply = self.engine.generate(images, question, FREE_REPLY_TOKENS)
        try:
            numbers = parse_visible_point(reply.text, click, codec.coord_format.is_y_first)
        except Rejected as rejected:
            return rejected
        unclear = Rejected(Code.LOW_CONFIDENCE, f'the model replied {reply.text[:80]!r}: the '
                           'confidence of the point cannot be determined from this reply')
        reply_format = self.engine.tokenizer.infer_format(reply.tokens, codec.coord_format,
                                                          codec.digits)
        if reply_format is None:
            return unclear
        ((distribution, before, _),) = self.engine.decode_distributions(images, [question],
                                                                    reply_format)
        written = codec.to_units(*numbers)
        errors = np.abs((written[::-1] if codec.coord_format.is_y_first else written)
                        - distribution.mode)
        if errors.max() > max(codec.window_units(self.options.window)):
            return unclear  # the format's numbers are not those of the point
        self._inferred_formats[codec.coord_format] = reply_format
        log.info('the model uses its own reply format: %r', reply.text)
        return self._estimate_point(distribution, codec, before)

    def _estimate_point(self, distribution: coordinate_distribution.CoordinateDistribution,
                        codec: PointCodec, before: coordinate_distribution.ForcedTokenStats
                        ) -> Match:
        if self.options.template == AUTO:  # a reply that begins otherwise may name no point
            distribution = replace(distribution, p_format=(
                distribution.p_format * math.exp(before.logprob)))
        return coordinate_distribution.estimate_point(
            distribution.swap_axes() if codec.coord_format.is_y_first else distribution,
            codec.window_units(self.options.window), codec.unit_px,
            self.checkpoint.folder.name)

    def _get_reply_format(self, codec: PointCodec) -> ReplyFormat:
        inferred = self._inferred_formats.get(codec.coord_format)
        if inferred is not None and inferred.max_digits == codec.digits:
            return inferred
        return self.engine.tokenizer.build_format(ReplyTemplate(), codec.coord_format,
                                                  codec.digits)

    def _make_codec(self, view: View) -> PointCodec:
        return PointCodec(self.coord_format, self._get_sizes(
            view.intrinsics.width_px, view.intrinsics.height_px))

    def _get_sizes(self, width_px: int, height_px: int) -> ImageSizes:
        return ImageSizes.from_image_size(width_px, height_px, self.options.max_pixels,
                                          self.checkpoint.preprocessor)

    @staticmethod
    def _make_input(view: View) -> ImageInput:
        return ImageInput((view.camera, view.stamp_ns), view.image)


def _require_single_point(reply: FreeReply, instruction: str) -> None:
    """Raise `Rejected` unless a free reply names one point, and ends."""
    count = len(set(parse_points(reply.text)))
    if count != 1 or len(reply.tokens) >= FREE_REPLY_TOKENS:
        raise Rejected(Code.LOW_CONFIDENCE if count else Code.NOT_VISIBLE,
                       f'{instruction!r} must name one point: the model named {count} in '
                       f'{len(reply.tokens)} tokens (limit {FREE_REPLY_TOKENS}), '
                       f'{reply.text[:160]!r}')
