"""The baseline of the latency benchmark: transformers' `generate`, and variants of our decoding."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers

from crosspoint_ros.bench.latency.roofline import DeviceMeter
from crosspoint_ros.core.datatypes import Query, View
from crosspoint_ros.matchers.cropond import prompt
from crosspoint_ros.matchers.cropond.engine import prefix_cache
from crosspoint_ros.matchers.cropond.engine.reply_grammar import render_headers
from crosspoint_ros.matchers.cropond.image_processor import (
    ImageInput,
    ImageSizes,
    PreprocessorConfig,
    patchify,
)
from crosspoint_ros.matchers.cropond.local import CropondMatcher
from crosspoint_ros.matchers.cropond.prompt import PointCodec, ReplyTemplate
from crosspoint_ros.matchers.cropond.self_test import Image


class BaselineGenerate:
    """Replies with transformers' `generate`, as CroPond's published evaluation, one click a call.

    Images come first and the question last, as there. Images are shrunk to `max_pixels` as in our
    engine, so that both process the same tokens.
    """

    def __init__(self, model: Any, tokenizer: Any, max_pixels: int,
                 preprocessor: PreprocessorConfig) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._max_pixels, self._preprocessor = max_pixels, preprocessor
        self._headers = render_headers(tokenizer)
        self._image_pad = tokenizer.convert_tokens_to_ids(prefix_cache.IMAGE_PAD)
        self.passes = 0

    @torch.inference_mode()
    def generate(self, images: Sequence[Image], question: str, tokens: int) -> list[int]:
        """Return the most probable reply, of exactly that many tokens."""
        inputs = self._build_inputs(images, question)
        output = self._model.generate(
            **inputs, do_sample=False, repetition_penalty=1.0, temperature=None, top_p=None,
            top_k=None, min_new_tokens=tokens, max_new_tokens=tokens,
            pad_token_id=self._tokenizer.pad_token_id)
        reply = [int(token) for token in output[0, inputs['input_ids'].shape[1]:]]
        self.passes += len(reply)
        return reply

    def _build_inputs(self, images: Sequence[Image], question: str) -> dict[str, torch.Tensor]:
        ids = self._encode(self._headers[0])
        patched = [patchify(image, self._max_pixels, self._preprocessor) for image in images]
        for _, (_, rows, columns) in patched:
            ids += [*self._encode(prefix_cache.VISION_START),
                    *[self._image_pad] * (rows * columns // 4),
                    *self._encode(prefix_cache.VISION_END)]
        weight = self._model.get_input_embeddings().weight
        input_ids = torch.tensor([[*ids, *self._encode(question + self._headers[1])]],
                                 device=weight.device)
        inputs = {
            'input_ids': input_ids, 'attention_mask': torch.ones_like(input_ids),
            'pixel_values': torch.cat([torch.from_numpy(patches) for patches, _ in patched]).to(
                weight.device, weight.dtype),
            'image_grid_thw': torch.tensor([grid for _, grid in patched], device=weight.device)}
        if int(transformers.__version__.split('.')[0]) >= 5:
            inputs['mm_token_type_ids'] = (input_ids == self._image_pad).int()
        return inputs

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))


class ModelVariants:
    """Asks a matcher's model in ways that the matcher itself does not use, for measurements."""

    def __init__(self, matcher: CropondMatcher) -> None:
        self._matcher, self._engine = matcher, matcher.engine
        loaded = matcher.checkpoint
        self.device_meter = DeviceMeter(loaded.model)
        self._config = loaded.model.config
        self._baseline = BaselineGenerate(loaded.model, loaded.tokenizer,
                                          matcher.options.max_pixels, loaded.preprocessor)

    @property
    def passes(self) -> int:
        """Number of forward passes of the text model so far, of all variants."""
        return self._engine.passes + self._baseline.passes

    def wait(self) -> None:
        """Synchronise with the device."""
        self.device_meter.wait()

    def generate_baseline(self, query: Query, tokens: int) -> list[int]:
        """Decode that many tokens with the baseline."""
        images = (query.clicked.image, query.other.image)
        return self._baseline.generate(images, self._build_question(query), tokens)

    def decode_greedy(self, queries: Sequence[Query]) -> list[tuple[int, int]]:
        """Decode only the most probable digits, for all clicks in the same passes."""
        codec = self._make_codec(queries[0].other)
        replies = self._engine.decode_greedy(
            self._make_inputs(queries[0]), [self._build_question(query) for query in queries],
            self._engine.tokenizer.build_format(ReplyTemplate(), codec.coord_format, codec.digits))
        return [reply.numbers for reply, _ in replies]

    def generate(self, query: Query, tokens: int) -> list[int]:
        """Return the tokens of an unconstrained reply on cached images."""
        return list(self._engine.generate(self._make_inputs(query), self._build_question(query),
                                          tokens).tokens)

    def describe(self, query: Query) -> str:
        """Return the size of the model, and the number of tokens of a click."""
        text, vision = self._config.get_text_config(), self._config.vision_config
        encode, header = self._engine.tokenizer.encode, self._engine.tokenizer.reply_header
        question = encode(self._build_question(query) + header)
        return (f'text model {text.num_hidden_layers} layers of {text.hidden_size}, '
                f'vocabulary {text.vocab_size}; vision {vision.depth} layers of '
                f'{vision.hidden_size}; prefix {self._engine.prefill(self._make_inputs(query))} '
                f'tokens, question {len(question)}, forced {len(encode(ReplyTemplate().before))}')

    @staticmethod
    def _make_inputs(query: Query) -> tuple[ImageInput, ImageInput]:
        clicked, other = query.clicked, query.other  # with the matcher's keys: they are cached
        return (ImageInput((clicked.camera, clicked.stamp_ns), clicked.image),
                ImageInput((other.camera, other.stamp_ns), other.image))

    def _build_question(self, query: Query) -> str:
        click = self._make_codec(query.clicked).encode(query.pixel)
        return prompt.build_pointing_prompt(*click, self._matcher.options.question)

    def _make_codec(self, view: View) -> PointCodec:
        return PointCodec(self._matcher.coord_format, ImageSizes.from_image_size(
            view.intrinsics.width_px, view.intrinsics.height_px, self._matcher.options.max_pixels,
            self._matcher.checkpoint.preprocessor))
