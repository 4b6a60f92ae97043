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
from crosspoint_ros.matchers.cropond.coordinate_distribution import Place, place
from crosspoint_ros.matchers.cropond.image_processor import seen_size_px
from crosspoint_ros.matchers.cropond.options import AUTO, LocalOptions
from crosspoint_ros.matchers.cropond.prompt import Convention, Shown, Template
from crosspoint_ros.matchers.cropond.reply_parser import NoPoint, point, points

if TYPE_CHECKING:
    from crosspoint_ros.matchers.cropond.engine.checkpoint import Checkpoint
    from crosspoint_ros.matchers.cropond.engine.engine import Engine, FreeReply, Picture
    from crosspoint_ros.matchers.cropond.engine.reply_grammar import Form

FREE_TOKENS = 96  # a sentence about both points, and then JSON

log = logging.getLogger(__name__)


class CropondMatcher:
    """Asks CroPond, or any Qwen2.5-VL, where the other view shows the click."""

    Options = LocalOptions
    refined_by = 'xfeat'

    def __init__(self, loaded: Checkpoint | None = None, **options: Any) -> None:
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
        self.checkpoint = loaded = loaded or checkpoint.load(
            self.options.model, self.options.revision, self.options.device, self.options.weights)
        engine_options = EngineOptions(
            max_pixels=self.options.max_pixels, max_pairs=self.options.max_pairs,
            cuda_graphs=self.options.cuda_graphs)
        self._about = {'model': loaded.folder.name, 'device': loaded.device_name,
                       'weights': loaded.weights}
        with memory.memory_errors(loaded.folder.name, loaded.needs_bytes, loaded.device):
            self._begin(Engine(loaded.model, loaded.tokenizer, engine_options))

    def _begin(self, engine: Engine) -> None:
        self.engine, self._lock = engine, threading.Lock()
        self._learnt: dict[Convention, Form] = {}
        self.convention = self.options.conventions[0]
        self._score: self_test.Score | None = None
        if self.options.self_test:
            self._score = self_test.decide(self, self.options.conventions,
                                           self.options.allow_repeating)
            self.convention = self._score.convention
        else:
            log.warning('self_test is off: nobody has seen whether this model finds anything')

    # --- what the matcher's protocols ask for

    def match(self, query: Query) -> Match:
        """Ask where the other view shows the click.

        Raises `Rejected`: NOT_VISIBLE when the model names no point.
        """
        views = (query.clicked, query.other)
        with self._lock:
            (answer,) = self._asked(views, [query.pixel], self.convention)
        if isinstance(answer, Rejected):
            raise answer
        return self._match(answer, self._shown(query.other))

    def ground(self, view: View, instruction: str) -> Match:
        """Return the point that an instruction names.

        Raises `Rejected`: NOT_VISIBLE when the model names none, LOW_CONFIDENCE when it guesses.
        """
        shown, pictures = self._shown(view), (self._picture(view),)
        question = prompt.grounding(instruction)
        with self._lock:
            (answer,) = self._places(pictures, [question], [None], shown, self.convention)
            if not isinstance(answer, Rejected):  # the forced form ends with the first place
                self._check_single(self.engine.free(pictures, question, FREE_TOKENS), instruction)
        if isinstance(answer, Rejected):
            raise answer
        if answer.confidence < self.options.min_ground_confidence:
            raise Rejected(Code.LOW_CONFIDENCE, f'{instruction!r} may be in several places of '
                           f'{view.camera}: {answer.confidence:.2f} at the likeliest '
                           f'(cropond.min_ground_confidence '
                           f'{self.options.min_ground_confidence:g})')
        return self._match(answer, shown)

    def warm(self, views: tuple[View, ...]) -> None:
        """Prefill as many pairs of the newest frames as are remembered."""
        pairs = list(permutations(map(self._picture, views), 2))[:self.options.max_pairs]
        for pair in pairs:
            with self._lock:
                self.engine.prepare(pair)

    def describe(self) -> Mapping[str, str]:
        """Say what it runs on, and how it reads and writes coordinates."""
        return {**self._about, 'coordinates': self.convention.value,
                'template': "the model's own" if self.convention in self._learnt else 'json',
                'self_test': 'off' if self._score is None else str(self._score)}

    def match_all(self, queries: Sequence[Query]) -> list[Match | Rejected]:
        """Answer many clicks on the same two frames in one pass."""
        views = {(id(q.clicked.image), id(q.other.image)) for q in queries}
        if len(views) != 1:
            raise ValueError(f'queries on {len(views)} pairs of frames, one is needed')
        first = queries[0]
        with self._lock:
            answers = self._asked((first.clicked, first.other), [q.pixel for q in queries],
                                  self.convention)
        shown = self._shown(first.other)
        return [a if isinstance(a, Rejected) else self._match(a, shown) for a in answers]

    # --- what the self-test asks for

    def ask(self, first: self_test.Image, second: self_test.Image, pixels: Sequence[Array],
            convention: Convention) -> list[Array | None]:
        """Return where the second image shows pixels of the first; None where nothing is said."""
        from crosspoint_ros.matchers.cropond.engine.engine import Picture
        pictures = (Picture('self-test', first),
                    Picture('self-test' if second is first else 'self-test, changed', second))
        shown = [self._shown_size(p.rgb.shape[1], p.rgb.shape[0]) for p in pictures]
        clicks = [prompt.written(convention, pixel, shown[0]) for pixel in pixels]
        answers = self._places(pictures, [self._question(click) for click in clicks], clicks,
                               shown[1], convention)
        return [None if isinstance(a, Rejected)
                else a.xy * prompt.px_per_unit(convention, shown[1]) for a in answers]

    # --- the way of a click

    def _asked(self, views: tuple[View, View], pixels: Sequence[Array], convention: Convention
               ) -> list[Place | Rejected]:
        clicks = [prompt.written(convention, p, self._shown(views[0])) for p in pixels]
        return self._places((self._picture(views[0]), self._picture(views[1])),
                            [self._question(click) for click in clicks], clicks,
                            self._shown(views[1]), convention)

    def _places(self, pictures: tuple[Picture, ...], questions: Sequence[str],
                clicks: Sequence[tuple[str, str] | None], shown: Shown, convention: Convention
                ) -> list[Place | Rejected]:
        """Ask with the reply's form forced; where the model would not have it, let it reply."""
        form = self._form(convention, shown)
        asked = self.engine.spreads(pictures, questions, form)
        answers: list[Place | Rejected] = []
        for question, click, (spread, *heard) in zip(questions, clicks, asked, strict=True):
            instead = next((said.instead for said in heard if said.instead), '')
            if self.options.template == AUTO and not all(said.goes_on for said in heard):
                answers.append(self._in_own_words(pictures, question, click, shown, convention))
            elif instead:  # words may be insisted upon, a number may not
                answers.append(Rejected(Code.NOT_VISIBLE, 'where a number was due, the model '
                                        f'would have said {instead!r}: it names no point'))
            else:
                answers.append(place(spread, self._window(convention, shown)))
        return answers

    def _in_own_words(self, pictures: tuple[Picture, ...], question: str,
                      click: tuple[str, str] | None, shown: Shown, convention: Convention
                      ) -> Place | Rejected:
        """Let the model reply freely; if that holds a point, learn the form and weigh it."""
        reply = self.engine.free(pictures, question, FREE_TOKENS)
        try:
            said = point(reply.text, click)
        except NoPoint as error:
            return Rejected(Code.NOT_VISIBLE, str(error))
        if min(said) < 0:
            return Rejected(Code.NOT_VISIBLE, f'the model replied {reply.text[:80]!r}: a point '
                            'with a sign is on no image')
        digits = prompt.digits(convention, shown)
        form = self.engine.alphabet.learnt(reply.tokens, convention, digits)
        if form is None:
            return self._unclear(reply.text)
        ((spread, *_),) = self.engine.spreads(pictures, [question], form)
        found = place(spread, self._window(convention, shown))
        scale = prompt.RELATIVE_UNITS if convention is Convention.RELATIVE_1 else 1
        if np.abs(np.array(said) * scale - spread.mode).max() > max(
                self._window(convention, shown)):
            return self._unclear(reply.text)  # other numbers than those of the point
        self._learnt[convention] = form
        log.info('the model replies in a form of its own: %r', reply.text)
        return found

    @staticmethod
    def _check_single(reply: FreeReply, instruction: str) -> None:
        """Raise `Rejected` unless a free reply names one place, and ends."""
        found = len(set(points(reply.text)))
        if found != 1 or len(reply.tokens) >= FREE_TOKENS:
            raise Rejected(Code.LOW_CONFIDENCE if found else Code.NOT_VISIBLE,
                           f'{instruction!r} names {found} places, or more than {FREE_TOKENS} '
                           f'tokens hold; one is needed: the model replied {reply.text[:160]!r}')

    @staticmethod
    def _unclear(text: str) -> Rejected:
        return Rejected(Code.LOW_CONFIDENCE, f'the model replied {text[:80]!r}: how certain it is '
                        'of the point cannot be read from that')

    def _match(self, found: Place, shown: Shown) -> Match:
        scale = np.diag(prompt.px_per_unit(self.convention, shown))
        return Match(scale @ found.xy, scale @ found.covariance @ scale, found.confidence,
                     f'{self._about["model"]}, {found.confidence:.2f} of its digits agree')

    def _form(self, convention: Convention, shown: Shown) -> Form:
        digits = prompt.digits(convention, shown)
        learnt = self._learnt.get(convention)
        if learnt is not None and learnt.digits == digits:
            return learnt
        return self.engine.alphabet.form(Template(), convention, digits)

    def _question(self, click: tuple[str, str]) -> str:
        return prompt.pointing(*click, self.options.question)

    def _window(self, convention: Convention, shown: Shown) -> tuple[float, float]:
        """The window in units along x and y: as many pixels both ways."""
        reach_px = self.options.window * max(shown.width_px, shown.height_px)
        x, y = reach_px / prompt.px_per_unit(convention, shown)
        return float(x), float(y)

    def _picture(self, view: View) -> Picture:
        from crosspoint_ros.matchers.cropond.engine.engine import Picture
        return Picture((view.camera, view.stamp_ns), view.image)

    def _shown(self, view: View) -> Shown:
        return self._shown_size(view.intrinsics.width_px, view.intrinsics.height_px)

    def _shown_size(self, width_px: int, height_px: int) -> Shown:
        return Shown(width_px, height_px,
                     *seen_size_px(width_px, height_px, self.options.max_pixels))
