"""What the benchmark compares: the authors' way to ask, and the parts that this one is made of."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

from crosspoint_ros.bench.latency.roofline import DeviceMeter
from crosspoint_ros.core.datatypes import Query, View
from crosspoint_ros.matchers.cropond import prompt
from crosspoint_ros.matchers.cropond.engine.engine import ASSISTANT_HEADER, Picture
from crosspoint_ros.matchers.cropond.engine.prefix_cache import IMAGE_PAD, PROMPT_HEADER
from crosspoint_ros.matchers.cropond.image_processor import patchify, smart_resize
from crosspoint_ros.matchers.cropond.local import CropondMatcher
from crosspoint_ros.matchers.cropond.prompt import ImageSizes, ReplyTemplate

Image = npt.NDArray[np.uint8]


class BaselineGenerate:
    """Asks by transformers' `generate`, as CroPond's published evaluation does, one click a call.

    Images come first and the question last, as there; they are shrunk to `max_pixels` for both
    ways, so that the same tokens are compared.
    """

    def __init__(self, model: Any, tokenizer: Any, max_pixels: int) -> None:
        self._model, self._tokenizer, self._max_pixels = model, tokenizer, max_pixels
        self._image_pad = tokenizer.convert_tokens_to_ids(IMAGE_PAD)
        self.passes = 0

    @torch.inference_mode()
    def generate(self, images: Sequence[Image], question: str, tokens: int) -> list[int]:
        """Return the most probable reply, of so many tokens exactly."""
        inputs = self._build_inputs(images, question)
        output = self._model.generate(
            **inputs, do_sample=False, repetition_penalty=1.0, temperature=None, top_p=None,
            top_k=None, min_new_tokens=tokens, max_new_tokens=tokens,
            pad_token_id=self._tokenizer.pad_token_id)
        reply = [int(token) for token in output[0, inputs['input_ids'].shape[1]:]]
        self.passes += len(reply)
        return reply

    def _build_inputs(self, images: Sequence[Image], question: str) -> dict[str, torch.Tensor]:
        ids = self._encode(PROMPT_HEADER)
        patched = [patchify(image, self._max_pixels) for image in images]
        for _, (_, rows, columns) in patched:
            ids += [*self._encode('<|vision_start|>'), *[self._image_pad] * (rows * columns // 4),
                    *self._encode('<|vision_end|>')]
        weight = self._model.get_input_embeddings().weight
        input_ids = torch.tensor([[*ids, *self._encode(question + ASSISTANT_HEADER)]], device=weight.device)
        inputs = {
            'input_ids': input_ids, 'attention_mask': torch.ones_like(input_ids),
            'pixel_values': torch.cat([torch.from_numpy(cut) for cut, _ in patched]).to(
                weight.device, weight.dtype),
            'image_grid_thw': torch.tensor([grid for _, grid in patched],
                                           device=weight.device)}
        if int(transformers.__version__.split('.')[0]) >= 5:
            inputs['mm_token_type_ids'] = (input_ids == self._image_pad).int()
        return inputs

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))


class ModelVariants:
    """Asks one matcher's model in ways that the matcher itself does not, for measurements."""

    def __init__(self, matcher: CropondMatcher) -> None:
        self._matcher, self._engine = matcher, matcher.engine
        loaded = matcher.checkpoint
        self.device_meter = DeviceMeter(loaded.model)
        self._config = loaded.model.config
        self._baseline = BaselineGenerate(loaded.model, loaded.tokenizer, matcher.options.max_pixels)

    @property
    def passes(self) -> int:
        """How many forward passes of the text model there have been, in either way."""
        return self._engine.passes + self._baseline.passes

    def wait(self) -> None:
        """Return when the device has done what it was given."""
        self.device_meter.wait()

    def generate_baseline(self, query: Query, tokens: int) -> list[int]:
        """Ask the authors' way for so many tokens."""
        images = (query.clicked.image, query.other.image)
        return self._baseline.generate(images, self._build_question(query), tokens)

    def decode_greedy(self, queries: Sequence[Query]) -> list[tuple[int, int]]:
        """Ask for the likeliest digits alone, all clicks in the same passes."""
        sizes = self._image_sizes(queries[0].other)
        coord_format = self._matcher.coord_format
        reply_format = self._engine.tokenizer.form(ReplyTemplate(), coord_format,
                                          prompt.count_digits(coord_format, sizes))
        replies = self._engine.decode_greedy(self._image_inputs(queries[0]),
                                      [self._build_question(query) for query in queries], reply_format)
        return [answer.numbers for answer, _ in replies]

    def free(self, query: Query, tokens: int) -> list[int]:
        """Let the model reply as it likes behind the images that it knows; return its tokens."""
        return list(self._engine.generate(self._image_inputs(query), self._build_question(query), tokens).tokens)

    def describe(self, query: Query) -> str:
        """Say how large the model is, and how many tokens a click has."""
        text, vision = self._config.get_text_config(), self._config.vision_config
        question_tokens = self._engine.tokenizer.encode(self._build_question(query) + ASSISTANT_HEADER)
        forced = self._engine.tokenizer.encode(ReplyTemplate().before)
        return (f'text model {text.num_hidden_layers} layers of {text.hidden_size}, '
                f'vocabulary {text.vocab_size}; vision {vision.depth} layers of '
                f'{vision.hidden_size}; prefix {self._engine.prefill(self._image_inputs(query))} '
                f'tokens, question {len(question_tokens)}, forced {len(forced)}')

    def _image_inputs(self, query: Query) -> tuple[Picture, Picture]:
        clicked, other = query.clicked, query.other  # named as the matcher does: it knows them
        return (Picture((clicked.camera, clicked.stamp_ns), clicked.image),
                Picture((other.camera, other.stamp_ns), other.image))

    def _build_question(self, query: Query) -> str:
        click = prompt.format_point(self._matcher.coord_format, query.pixel, self._image_sizes(query.clicked))
        return prompt.build_pointing_prompt(*click, self._matcher.options.question)

    def _image_sizes(self, view: View) -> ImageSizes:
        width, height = view.intrinsics.width_px, view.intrinsics.height_px
        return ImageSizes(width, height,
                     *smart_resize(width, height, self._matcher.options.max_pixels))
