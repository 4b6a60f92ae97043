"""The matcher `cropond`: the model on this machine's GPU, or its CPU."""
from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

from crosspoint_ros.core.datatypes import Array, Code, Match, Query, Rejected, View
from crosspoint_ros.matchers.cropond import prompt, self_test
from crosspoint_ros.matchers.cropond.coordinate_distribution import PointEstimate, estimate_point
from crosspoint_ros.matchers.cropond.image_processor import smart_resize
from crosspoint_ros.matchers.cropond.options import AUTO, LocalOptions
from crosspoint_ros.matchers.cropond.prompt import CoordinateFormat, ImageSizes, ReplyTemplate
from crosspoint_ros.matchers.cropond.reply_parser import ParseError, parse_point, parse_points

if TYPE_CHECKING:
    from crosspoint_ros.matchers.cropond.engine.checkpoint import Checkpoint
    from crosspoint_ros.matchers.cropond.engine.engine import Engine, FreeReply, Picture
    from crosspoint_ros.matchers.cropond.engine.reply_grammar import ReplyFormat

FREE_TOKENS = 96  # a sentence about both points, and then JSON

log = logging.getLogger(__name__)


class CropondMatcher:
    """Asks CroPond, or any Qwen2.5-VL, where the other view shows the click."""

    Options = LocalOptions
    refined_by = 'xfeat'

    def __init__(self, checkpoint: Checkpoint | None = None, **options: Any) -> None:
        """Load the model and put it to its test. loaded: one that is in memory already.

        Raises ValueError, OSError or MemoryError with words for people.
        """
        self.options = LocalOptions(**options)
        try:  # here, since it takes seconds, and not everybody has it
            from crosspoint_ros.matchers.cropond.engine import checkpoint, memory
            from crosspoint_ros.matchers.cropond.engine.engine import Engine, EngineOptions
        except ModuleNotFoundError as error:
            raise ValueError(f'cropond needs {error.name}: pip install torch '
                             '"transformers>=4.57,<6" pillow; on a Jetson torch comes from '
                             'NVIDIA') from error
        self.checkpoint = checkpoint = checkpoint or checkpoint.load_checkpoint(
            self.options.model, self.options.revision, self.options.device, self.options.weights)
        engine_options = EngineOptions(
            max_pixels=self.options.max_pixels, max_pairs=self.options.max_pairs,
            cuda_graphs=self.options.cuda_graphs)
        self._description = {'model': checkpoint.folder.name, 'device': checkpoint.device_name,
                       'weights': checkpoint.weights}
        with memory.explain_memory_errors(checkpoint.folder.name, checkpoint.required_bytes, checkpoint.device):
            self._start(Engine(checkpoint.model, checkpoint.tokenizer, engine_options))

    def _start(self, engine: Engine) -> None:
        self.engine, self._lock = engine, threading.Lock()
        self._learned_formats: dict[CoordinateFormat, ReplyFormat] = {}
        self.coord_format = self.options.coord_formats[0]
        self._score: self_test.SelfTestScore | None = None
        if self.options.self_test:
            self._score = self_test.run_self_test(self, self.options.coord_formats,
                                           self.options.allow_repeating)
            self.coord_format = self._score.coord_format
        else:
            log.warning('self_test is off: nobody has seen whether this model finds anything')

    # --- what the matcher's protocols ask for

    def match(self, query: Query) -> Match:
        """Ask where the other view shows the click.

        Raises `Rejected`: NOT_VISIBLE when the model names no point.
        """
        views = (query.clicked, query.other)
        with self._lock:
            (answer,) = self._locate_pixels(views, [query.pixel], self.coord_format)
        if isinstance(answer, Rejected):
            raise answer
        return self._make_match(answer, self._image_sizes(query.other))

    def ground(self, view: View, instruction: str) -> Match:
        """Return the point that an instruction names.

        Raises `Rejected`: NOT_VISIBLE when the model names none, LOW_CONFIDENCE when it guesses.
        """
        sizes, images = self._image_sizes(view), (self._image_input(view),)
        question = prompt.build_grounding_prompt(instruction)
        with self._lock:
            (answer,) = self._estimate_points(images, [question], [None], sizes, self.coord_format)
            if not isinstance(answer, Rejected):  # the forced form ends with the first place
                self._require_single_point(self.engine.generate(images, question, FREE_TOKENS), instruction)
        if isinstance(answer, Rejected):
            raise answer
        if answer.confidence < self.options.min_ground_confidence:
            raise Rejected(Code.LOW_CONFIDENCE, f'{instruction!r} may be in several places of '
                           f'{view.camera}: {answer.confidence:.2f} at the likeliest '
                           f'(cropond.min_ground_confidence '
                           f'{self.options.min_ground_confidence:g})')
        return self._make_match(answer, sizes)

    def warm(self, views: tuple[View, ...]) -> None:
        """Prefill as many pairs of the newest frames as are remembered."""
        pairs = list(permutations(map(self._image_input, views), 2))[:self.options.max_pairs]
        for pair in pairs:
            with self._lock:
                self.engine.prefill(pair)

    def describe(self) -> Mapping[str, str]:
        """Say what it runs on, and how it reads and writes coordinates."""
        return {**self._description, 'coordinates': self.coord_format.value,
                'template': "the model's own" if self.coord_format in self._learned_formats else 'json',
                'self_test': 'off' if self._score is None else str(self._score)}

    def match_all(self, queries: Sequence[Query]) -> list[Match | Rejected]:
        """Answer many clicks on the same two frames in one pass."""
        views = {(id(q.clicked.image), id(q.other.image)) for q in queries}
        if len(views) != 1:
            raise ValueError(f'queries on {len(views)} pairs of frames, one is needed')
        first = queries[0]
        with self._lock:
            answers = self._locate_pixels((first.clicked, first.other), [q.pixel for q in queries],
                                  self.coord_format)
        sizes = self._image_sizes(first.other)
        return [a if isinstance(a, Rejected) else self._make_match(a, sizes) for a in answers]

    # --- what the self-test asks for

    def predict_points(self, first: self_test.Image, second: self_test.Image, pixels: Sequence[Array],
            coord_format: CoordinateFormat) -> list[Array | None]:
        """Return where the second image shows pixels of the first; None where nothing is said."""
        from crosspoint_ros.matchers.cropond.engine.engine import Picture
        images = (Picture('self-test', first),
                    Picture('self-test' if second is first else 'self-test, changed', second))
        sizes = [self._compute_sizes(p.rgb.shape[1], p.rgb.shape[0]) for p in images]
        clicks = [prompt.format_point(coord_format, pixel, sizes[0]) for pixel in pixels]
        answers = self._estimate_points(images, [self._build_question(click) for click in clicks], clicks,
                               sizes[1], coord_format)
        return [None if isinstance(a, Rejected)
                else a.xy * prompt.compute_unit_size_px(coord_format, sizes[1]) for a in answers]

    # --- the way of a click

    def _locate_pixels(self, views: tuple[View, View], pixels: Sequence[Array], coord_format: CoordinateFormat
               ) -> list[PointEstimate | Rejected]:
        clicks = [prompt.format_point(coord_format, p, self._image_sizes(views[0])) for p in pixels]
        return self._estimate_points((self._image_input(views[0]), self._image_input(views[1])),
                            [self._build_question(click) for click in clicks], clicks,
                            self._image_sizes(views[1]), coord_format)

    def _estimate_points(self, images: tuple[Picture, ...], questions: Sequence[str],
                clicks: Sequence[tuple[str, str] | None], sizes: ImageSizes, coord_format: CoordinateFormat
                ) -> list[PointEstimate | Rejected]:
        """Ask with the reply's form forced; where the model would not have it, let it reply."""
        reply_format = self._get_reply_format(coord_format, sizes)
        asked = self.engine.decode_distributions(images, questions, reply_format)
        answers: list[PointEstimate | Rejected] = []
        for question, click, (spread, *heard) in zip(questions, clicks, asked, strict=True):
            instead = next((said.preferred_token for said in heard if said.preferred_token), '')
            if self.options.template == AUTO and not all(said.is_model_choice for said in heard):
                answers.append(self._estimate_from_free_reply(images, question, click, sizes, coord_format))
            elif instead:  # words may be insisted upon, a number may not
                answers.append(Rejected(Code.NOT_VISIBLE, 'where a number was due, the model '
                                        f'would have said {instead!r}: it names no point'))
            else:
                answers.append(estimate_point(spread, self._window_units(coord_format, sizes)))
        return answers

    def _estimate_from_free_reply(self, images: tuple[Picture, ...], question: str,
                      click: tuple[str, str] | None, sizes: ImageSizes, coord_format: CoordinateFormat
                      ) -> PointEstimate | Rejected:
        """Let the model reply freely; if that holds a point, learn the form and weigh it."""
        reply = self.engine.generate(images, question, FREE_TOKENS)
        try:
            numbers = parse_point(reply.text, click)
        except ParseError as error:
            return Rejected(Code.NOT_VISIBLE, str(error))
        if min(numbers) < 0:
            return Rejected(Code.NOT_VISIBLE, f'the model replied {reply.text[:80]!r}: a point '
                            'with a sign is on no image')
        digits = prompt.count_digits(coord_format, sizes)
        reply_format = self.engine.tokenizer.infer_format(reply.tokens, coord_format, digits)
        if reply_format is None:
            return self._reject_unclear(reply.text)
        ((distribution, *_),) = self.engine.decode_distributions(images, [question], reply_format)
        estimate = estimate_point(distribution, self._window_units(coord_format, sizes))
        scale = prompt.RELATIVE_UNITS if coord_format is CoordinateFormat.RELATIVE_1 else 1
        if np.abs(np.array(numbers) * scale - distribution.mode).max() > max(
                self._window_units(coord_format, sizes)):
            return self._reject_unclear(reply.text)  # other numbers than those of the point
        self._learned_formats[coord_format] = reply_format
        log.info('the model replies in a form of its own: %r', reply.text)
        return estimate

    @staticmethod
    def _require_single_point(reply: FreeReply, instruction: str) -> None:
        """Raise `Rejected` unless a free reply names one place, and ends."""
        count = len(set(parse_points(reply.text)))
        if count != 1 or len(reply.tokens) >= FREE_TOKENS:
            raise Rejected(Code.LOW_CONFIDENCE if count else Code.NOT_VISIBLE,
                           f'{instruction!r} names {count} places, or more than {FREE_TOKENS} '
                           f'tokens hold; one is needed: the model replied {reply.text[:160]!r}')

    @staticmethod
    def _reject_unclear(text: str) -> Rejected:
        return Rejected(Code.LOW_CONFIDENCE, f'the model replied {text[:80]!r}: how certain it is '
                        'of the point cannot be read from that')

    def _make_match(self, estimate: PointEstimate, sizes: ImageSizes) -> Match:
        scale = np.diag(prompt.compute_unit_size_px(self.coord_format, sizes))
        return Match(scale @ estimate.xy, scale @ estimate.covariance @ scale, estimate.confidence,
                     f'{self._description["model"]}, {estimate.confidence:.2f} of its digits agree')

    def _get_reply_format(self, coord_format: CoordinateFormat, sizes: ImageSizes) -> ReplyFormat:
        digits = prompt.count_digits(coord_format, sizes)
        learned = self._learned_formats.get(coord_format)
        if learned is not None and learned.digits == digits:
            return learned
        return self.engine.tokenizer.form(ReplyTemplate(), coord_format, digits)

    def _build_question(self, click: tuple[str, str]) -> str:
        return prompt.build_pointing_prompt(*click, self.options.question)

    def _window_units(self, coord_format: CoordinateFormat, sizes: ImageSizes) -> tuple[float, float]:
        """The window in units along x and y: as many pixels both ways."""
        reach_px = self.options.window * max(sizes.width_px, sizes.height_px)
        x, y = reach_px / prompt.compute_unit_size_px(coord_format, sizes)
        return float(x), float(y)

    def _image_input(self, view: View) -> Picture:
        from crosspoint_ros.matchers.cropond.engine.engine import Picture
        return Picture((view.camera, view.stamp_ns), view.image)

    def _image_sizes(self, view: View) -> ImageSizes:
        return self._compute_sizes(view.intrinsics.width_px, view.intrinsics.height_px)

    def _compute_sizes(self, width_px: int, height_px: int) -> ImageSizes:
        return ImageSizes(width_px, height_px,
                     *smart_resize(width_px, height_px, self.options.max_pixels))
