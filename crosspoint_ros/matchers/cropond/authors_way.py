"""The authors' own way to ask, to compare with: both images each time, and a reply in free text."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

from crosspoint_ros.matchers.cropond.engine import ASKED
from crosspoint_ros.matchers.cropond.pixels import patches
from crosspoint_ros.matchers.cropond.prefix import IMAGE, OPENING

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
