"""Reference decoding: every token from a full forward pass of plain transformers.

It uses nothing of the engine: no KV cache, no packing, none of its positions or masks.
"""
from __future__ import annotations

import math
from typing import Any

import needs_torch  # noqa: F401
import numpy as np
import torch
import transformers

from crosspoint_ros.matchers.cropond.engine.reply_grammar import ReplyFormat
from crosspoint_ros.matchers.cropond.image_processor import (
    QWEN2_5_VL,
    PreprocessorConfig,
    patchify,
)

OPENING = '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n'
ASKED = '<|im_end|>\n<|im_start|>assistant\n'


class ReferenceDecoder:
    """Decodes under the grammar of a reply format, one full pass a token."""

    def __init__(self, model: Any, tokenizer: Any, max_pixels: int,
                 preprocessor: PreprocessorConfig = QWEN2_5_VL, opening: str = OPENING,
                 asked: str = ASKED) -> None:
        self.model, self.tokenizer, self.max_pixels = model, tokenizer, max_pixels
        self.preprocessor, self.opening, self.asked = preprocessor, opening, asked
        self.digits = [self._encode(str(digit))[0] for digit in range(10)]
        self.image = tokenizer.convert_tokens_to_ids('<|image_pad|>')

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def build_inputs(self, images: list[np.ndarray], question: str, reply: list[int]
                     ) -> dict[str, Any]:
        """Return the inputs of `forward` and `generate`."""
        ids, pixels, grids = self._encode(self.opening), [], []
        for image in images:
            cut, grid = patchify(image, self.max_pixels, self.preprocessor)
            pixels.append(torch.from_numpy(cut))
            grids.append(grid)
            ids += [*self._encode('<|vision_start|>'), *[self.image] * (len(cut) // 4),
                    *self._encode('<|vision_end|>')]
        ids = torch.tensor([[*ids, *self._encode(question + self.asked), *reply]])
        inputs = {'input_ids': ids, 'attention_mask': torch.ones_like(ids),
                  'pixel_values': torch.cat(pixels), 'image_grid_thw': torch.tensor(grids)}
        if int(transformers.__version__.split('.')[0]) >= 5:
            inputs['mm_token_type_ids'] = (ids == self.image).int()
        return inputs

    @torch.inference_mode()
    def compute_logits(self, images: list[np.ndarray], question: str, reply: list[int]
                       ) -> torch.Tensor:
        """Return the logits of the next token."""
        self.model.model.rope_deltas = None
        inputs = self.build_inputs(images, question, reply)
        return self.model(**inputs, use_cache=False).logits[0, -1]

    def decode_greedy(self, images: list[np.ndarray], question: str, form: ReplyFormat
                      ) -> tuple[tuple[int, int], tuple[int, ...]]:
        """Return the two numbers, and their tokens."""
        written: list[int] = []
        numbers = []
        for ends in form.end_tokens:
            text = ''
            while len(text) < form.max_digits:
                scores = self.compute_logits(images, question, [*form.before, *written])
                allowed = (self.digits if text != '0' else []) + (list(ends) if text else [])
                best = max(allowed, key=lambda token: scores[token].item())
                if best in ends:
                    break
                text += str(self.digits.index(best))
                written.append(best)
            numbers.append(int(text))
            if len(numbers) == 1:
                written += form.between
        return (numbers[0], numbers[1]), tuple(written)

    def compute_probability(self, images: list[np.ndarray], question: str, form: ReplyFormat,
                            value: int) -> float:
        """Return p(first number = value), each distribution limited to the grammar's tokens."""
        written: list[int] = []
        logprob, text = 0.0, ''
        for symbol in [*str(value), *(['end'] if len(str(value)) < form.max_digits else [])]:
            scores = self.compute_logits(images, question, [*form.before, *written]).double()
            allowed = (self.digits if text != '0' else []) + (
                [form.between[0]] if text else [])
            chosen = form.between[0] if symbol == 'end' else self.digits[int(symbol)]
            logprob += float(scores[chosen] - torch.logsumexp(scores[allowed], 0))
            written.append(chosen)
            text += symbol
        return math.exp(logprob)

    @torch.inference_mode()
    def generate(self, images: list[np.ndarray], question: str, tokens: int) -> list[int]:
        """Return the reply of transformers' own greedy `generate`."""
        self.model.model.rope_deltas = None
        inputs = self.build_inputs(images, question, [])
        out = self.model.generate(**inputs, do_sample=False, repetition_penalty=1.0,
                                  max_new_tokens=tokens)
        return out[0, inputs['input_ids'].shape[1]:].tolist()
