"""What the benchmark compares: the authors' way to ask, and the parts that this one is made of."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

from crosspoint_ros.bench.latency.roofline import Gauge
from crosspoint_ros.core.datatypes import Query, View
from crosspoint_ros.matchers.cropond import prompt
from crosspoint_ros.matchers.cropond.engine.engine import ASKED, Picture
from crosspoint_ros.matchers.cropond.engine.prefix_cache import IMAGE, OPENING
from crosspoint_ros.matchers.cropond.image_processor import patches, seen_size_px
from crosspoint_ros.matchers.cropond.local import CropondMatcher
from crosspoint_ros.matchers.cropond.prompt import Shown, Template

Image = npt.NDArray[np.uint8]


class AuthorsWay:
    """Asks by transformers' `generate`, as CroPond's published evaluation does, one click a call.

    Images come first and the question last, as there; they are shrunk to `max_pixels` for both
    ways, so that the same tokens are compared.
    """

    def __init__(self, model: Any, tokenizer: Any, max_pixels: int) -> None:
        self._model, self._tokenizer, self._max_pixels = model, tokenizer, max_pixels
        self._image = tokenizer.convert_tokens_to_ids(IMAGE)
        self.passes = 0

    @torch.inference_mode()
    def reply(self, images: Sequence[Image], question: str, tokens: int) -> list[int]:
        """Return the most probable reply, of so many tokens exactly."""
        inputs = self._inputs(images, question)
        written = self._model.generate(
            **inputs, do_sample=False, repetition_penalty=1.0, temperature=None, top_p=None,
            top_k=None, min_new_tokens=tokens, max_new_tokens=tokens,
            pad_token_id=self._tokenizer.pad_token_id)
        reply = [int(token) for token in written[0, inputs['input_ids'].shape[1]:]]
        self.passes += len(reply)
        return reply

    def _inputs(self, images: Sequence[Image], question: str) -> dict[str, torch.Tensor]:
        ids = self._encode(OPENING)
        cut_images = [patches(image, self._max_pixels) for image in images]
        for _, (_, rows, columns) in cut_images:
            ids += [*self._encode('<|vision_start|>'), *[self._image] * (rows * columns // 4),
                    *self._encode('<|vision_end|>')]
        weight = self._model.get_input_embeddings().weight
        asked = torch.tensor([[*ids, *self._encode(question + ASKED)]], device=weight.device)
        inputs = {
            'input_ids': asked, 'attention_mask': torch.ones_like(asked),
            'pixel_values': torch.cat([torch.from_numpy(cut) for cut, _ in cut_images]).to(
                weight.device, weight.dtype),
            'image_grid_thw': torch.tensor([grid for _, grid in cut_images],
                                           device=weight.device)}
        if int(transformers.__version__.split('.')[0]) >= 5:
            inputs['mm_token_type_ids'] = (asked == self._image).int()
        return inputs

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))


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
