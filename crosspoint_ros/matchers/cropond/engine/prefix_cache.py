"""What comes before every question, the images above all: computed once a frame pair."""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from crosspoint_ros.matchers.cropond.engine.decoder import Decoder
from crosspoint_ros.matchers.cropond.engine.kv_cache import KVSnapshot
from crosspoint_ros.matchers.cropond.engine.reply_grammar import ReplyTokenizer
from crosspoint_ros.matchers.cropond.image_processor import patchify
from crosspoint_ros.matchers.cropond.prompt import SYSTEM_PROMPT

PROMPT_HEADER = f'<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n'
IMAGE_PAD = '<|image_pad|>'


@dataclass(frozen=True, eq=False)
class ImageInput:
    """One frame of one camera. key: says which, to know it again; rgb: (h, w, 3) uint8."""

    key: Hashable
    rgb: npt.NDArray[np.uint8]

    def is_same(self, other: ImageInput) -> bool:
        """Tell whether it is the very same image."""
        return self.key == other.key and self.rgb is other.rgb


@dataclass(frozen=True, eq=False)
class Prefix:
    """A prefilled prefix. ends: its length after the opening and after each picture, tokens.

    next_positions: the position that follows the opening, and each picture (an image of h x w
    tokens takes max(h, w) positions, so they lag behind the tokens).
    """

    images: tuple[ImageInput, ...]
    snapshot: KVSnapshot
    ends: tuple[int, ...]
    next_positions: tuple[int, ...]

    def count_shared(self, images: tuple[ImageInput, ...]) -> int:
        """How many pictures, from the first on, it has in common with others."""
        count = 0
        for mine, other in zip(self.images, images, strict=False):
            if not mine.is_same(other):
                break
            count += 1
        return count


class PrefixCache:
    """The prefixes and image features of the last frame pairs; the oldest are forgotten."""

    def __init__(self, model: Any, decoder: Decoder, tokenizer: ReplyTokenizer, max_pixels: int,
                 max_pairs: int) -> None:
        self._model, self._decoder, self._tokenizer = model, decoder, tokenizer
        self._max_pixels, self._max_pairs = max_pixels, max_pairs
        self._prefixes: OrderedDict[tuple[Hashable, ...], Prefix] = OrderedDict()
        self._features: OrderedDict[Hashable, tuple[ImageInput, torch.Tensor, tuple[int, int]]] = \
            OrderedDict()
        self._active: Prefix | None = None
        self.vision_encodes = 0

    def load(self, images: tuple[ImageInput, ...]) -> Prefix:
        """Put the prefix of these pictures into the arena, computing what is not known of it."""
        key = tuple(picture.key for picture in images)
        prefix = self._prefixes.get(key)
        if prefix is None or prefix.count_shared(images) < len(images):
            prefix = self._prefixes[key] = self._prefill_images(images)
            self._active = prefix
        self._prefixes.move_to_end(key)
        while len(self._prefixes) > self._max_pairs:
            self._prefixes.popitem(last=False)
        if self._active is prefix:
            self._decoder.kv_cache.set_length(prefix.ends[-1])
        else:
            self._decoder.kv_cache.load(prefix.snapshot)
            self._active = prefix
        return prefix

    def _prefill_images(self, images: tuple[ImageInput, ...]) -> Prefix:
        """Prefill on from the longest part that another prefix has in common."""
        features = [self._get_features(picture) for picture in images]  # may fail: arena untouched
        best = max(self._prefixes.values(), key=lambda p: p.count_shared(images), default=None)
        self._active = None
        if best is None:
            self._decoder.kv_cache.set_length(0)
            opening = self._tokenizer.encode(PROMPT_HEADER)
            self._decoder.prefill(self._decoder.embed(opening),
                                  torch.arange(len(opening), device=self._decoder.device)
                                  .expand(3, -1))
            ends, nexts = [len(opening)], [len(opening)]
        else:
            count = best.count_shared(images) + 1
            ends, nexts = list(best.ends[:count]), list(best.next_positions[:count])
            self._decoder.kv_cache.load(best.snapshot, ends[-1])
        for feature, grid in features[len(ends) - 1:]:
            nexts.append(self._append_image(feature, grid, nexts[-1]))
            ends.append(self._decoder.kv_cache.length)
        return Prefix(images, self._decoder.kv_cache.snapshot(), tuple(ends), tuple(nexts))

    def _append_image(self, feature: torch.Tensor, grid: tuple[int, int], position: int) -> int:
        """Prefill one image and its two marks; return the position that follows."""
        rows, columns = grid
        begin, end = self._decoder.embed(self._tokenizer.encode('<|vision_start|><|vision_end|>')
                                         )[0].split(1)
        row, column = np.mgrid[:rows, :columns].reshape(2, -1) + position + 1
        image_positions = np.stack([np.full(rows * columns, position + 1), row, column])
        next_position = position + 1 + max(rows, columns)
        positions = np.hstack([np.full((3, 1), position), image_positions, np.full((3, 1), next_position)])
        self._decoder.prefill(torch.cat([begin, feature, end])[None],
                              torch.from_numpy(positions).to(self._decoder.device))
        return next_position + 1

    def _get_features(self, image: ImageInput) -> tuple[torch.Tensor, tuple[int, int]]:
        """The tokens (n, hidden) of an image and their grid, remembered per picture."""
        known = self._features.get(image.key)
        if known is None or not known[0].is_same(image):
            known = self._features[image.key] = (image, *self._encode_image(image))
        self._features.move_to_end(image.key)
        while len(self._features) > 2 * self._max_pairs:
            self._features.popitem(last=False)
        return known[1], known[2]

    def _encode_image(self, image: ImageInput) -> tuple[torch.Tensor, tuple[int, int]]:
        self.vision_encodes += 1
        patches, grid = patchify(image.rgb, self._max_pixels)
        device, dtype = self._decoder.device, self._model.get_input_embeddings().weight.dtype
        output = self._model.get_image_features(
            torch.from_numpy(patches).to(device, dtype), torch.tensor([grid], device=device))
        output = getattr(output, 'pooler_output', output)  # transformers 5
        feature = torch.cat(list(output)) if isinstance(output, (tuple, list)) else output
        return feature.to(dtype), (grid[1] // 2, grid[2] // 2)
