"""What the benchmark compares: the authors' way to ask, and the parts that this one is made of."""
from __future__ import annotations

from collections.abc import Sequence

from crosspoint_ros.core.datatypes import Query, View
from crosspoint_ros.matchers.cropond import prompt
from crosspoint_ros.matchers.cropond.authors_way import AuthorsWay
from crosspoint_ros.matchers.cropond.engine import ASKED, Picture
from crosspoint_ros.matchers.cropond.gauge import Gauge
from crosspoint_ros.matchers.cropond.local import CropondMatcher
from crosspoint_ros.matchers.cropond.pixels import seen_size_px
from crosspoint_ros.matchers.cropond.prompt import Shown, Template


class Compared:
    """Asks one matcher's model in ways that the matcher itself does not, for measurements."""

    def __init__(self, matcher: CropondMatcher) -> None:
        self._matcher, self._engine = matcher, matcher.engine
        loaded = matcher.checkpoint
        self.gauge = Gauge(loaded.model)
        self._config = loaded.model.config
        self._authors = AuthorsWay(loaded.model, loaded.tokenizer, matcher.options.max_pixels)

    @property
    def passes(self) -> int:
        """How many forward passes of the text model there have been, in either way."""
        return self._engine.passes + self._authors.passes

    def wait(self) -> None:
        """Return when the device has done what it was given."""
        self.gauge.wait()

    def authors(self, query: Query, tokens: int) -> list[int]:
        """Ask the authors' way for so many tokens."""
        images = (query.clicked.image, query.other.image)
        return self._authors.reply(images, self._question(query), tokens)

    def greedy(self, queries: Sequence[Query]) -> list[tuple[int, int]]:
        """Ask for the likeliest digits alone, all clicks in the same passes."""
        shown = self._shown(queries[0].other)
        convention = self._matcher.convention
        form = self._engine.alphabet.form(Template(), convention,
                                          prompt.digits(convention, shown))
        answers = self._engine.greedy(self._pictures(queries[0]),
                                      [self._question(query) for query in queries], form)
        return [answer.numbers for answer, _ in answers]

    def free(self, query: Query, tokens: int) -> list[int]:
        """Let the model reply as it likes behind the images that it knows; return its tokens."""
        return list(self._engine.free(self._pictures(query), self._question(query), tokens).tokens)

    def described(self, query: Query) -> str:
        """Say how large the model is, and how many tokens a click has."""
        text, vision = self._config.get_text_config(), self._config.vision_config
        asked = self._engine.alphabet.encode(self._question(query) + ASKED)
        forced = self._engine.alphabet.encode(Template().before)
        return (f'text model {text.num_hidden_layers} layers of {text.hidden_size}, '
                f'vocabulary {text.vocab_size}; vision {vision.depth} layers of '
                f'{vision.hidden_size}; prefix {self._engine.prepare(self._pictures(query))} '
                f'tokens, question {len(asked)}, forced {len(forced)}')

    def _pictures(self, query: Query) -> tuple[Picture, Picture]:
        clicked, other = query.clicked, query.other  # named as the matcher does: it knows them
        return (Picture((clicked.camera, clicked.stamp_ns), clicked.image),
                Picture((other.camera, other.stamp_ns), other.image))

    def _question(self, query: Query) -> str:
        click = prompt.written(self._matcher.convention, query.pixel, self._shown(query.clicked))
        return prompt.pointing(*click, self._matcher.options.question)

    def _shown(self, view: View) -> Shown:
        width, height = view.intrinsics.width_px, view.intrinsics.height_px
        return Shown(width, height,
                     *seen_size_px(width, height, self._matcher.options.max_pixels))
