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
from crosspoint_ros.matchers.cropond.engine.kv_cache import Kept
from crosspoint_ros.matchers.cropond.engine.reply_grammar import Alphabet
from crosspoint_ros.matchers.cropond.image_processor import patches
from crosspoint_ros.matchers.cropond.prompt import SYSTEM

OPENING = f'<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n'
IMAGE = '<|image_pad|>'


@dataclass(frozen=True, eq=False)
class Picture:
    """One frame of one camera. key: says which, to know it again; rgb: (h, w, 3) uint8."""

    key: Hashable
    rgb: npt.NDArray[np.uint8]

    def is_of(self, other: Picture) -> bool:
        """Tell whether it is the very same image."""
        return self.key == other.key and self.rgb is other.rgb


@dataclass(frozen=True, eq=False)
class Prefix:
    """A prefilled prefix. ends: its length after the opening and after each picture, tokens.

    next_positions: the position that follows the opening, and each picture (an image of h x w
    tokens takes max(h, w) positions, so they lag behind the tokens).
    """

    pictures: tuple[Picture, ...]
    kept: Kept
    ends: tuple[int, ...]
    next_positions: tuple[int, ...]

    def shared(self, pictures: tuple[Picture, ...]) -> int:
        """How many pictures, from the first on, it has in common with others."""
        count = 0
        for mine, other in zip(self.pictures, pictures, strict=False):
            if not mine.is_of(other):
                break
            count += 1
        return count


class Prefixes:
    """The prefixes and image features of the last frame pairs; the oldest are forgotten."""

    def __init__(self, model: Any, decoder: Decoder, alphabet: Alphabet, max_pixels: int,
                 max_pairs: int) -> None:
        self._model, self._decoder, self._alphabet = model, decoder, alphabet
        self._max_pixels, self._max_pairs = max_pixels, max_pairs
        self._known: OrderedDict[tuple[Hashable, ...], Prefix] = OrderedDict()
        self._features: OrderedDict[Hashable, tuple[Picture, torch.Tensor, tuple[int, int]]] = \
            OrderedDict()
        self._in_arena: Prefix | None = None
        self.encoded_pictures = 0

    def load(self, pictures: tuple[Picture, ...]) -> Prefix:
        """Put the prefix of these pictures into the arena, computing what is not known of it."""
        key = tuple(picture.key for picture in pictures)
        prefix = self._known.get(key)
        if prefix is None or prefix.shared(pictures) < len(pictures):
            prefix = self._known[key] = self._computed(pictures)
            self._in_arena = prefix
        self._known.move_to_end(key)
        while len(self._known) > self._max_pairs:
            self._known.popitem(last=False)
        if self._in_arena is prefix:
            self._decoder.arena.set_length(prefix.ends[-1])
        else:
            self._decoder.arena.load(prefix.kept)
            self._in_arena = prefix
        return prefix

    def _computed(self, pictures: tuple[Picture, ...]) -> Prefix:
        """Prefill on from the longest part that another prefix has in common."""
        features = [self._features_of(picture) for picture in pictures]  # may fail: arena untouched
        best = max(self._known.values(), key=lambda p: p.shared(pictures), default=None)
        self._in_arena = None
        if best is None:
            self._decoder.arena.set_length(0)
            opening = self._alphabet.encode(OPENING)
            self._decoder.prefill(self._decoder.embed(opening),
                                  torch.arange(len(opening), device=self._decoder.device)
                                  .expand(3, -1))
            ends, nexts = [len(opening)], [len(opening)]
        else:
            count = best.shared(pictures) + 1
            ends, nexts = list(best.ends[:count]), list(best.next_positions[:count])
            self._decoder.arena.load(best.kept, ends[-1])
        for feature, grid in features[len(ends) - 1:]:
            nexts.append(self._append(feature, grid, nexts[-1]))
            ends.append(self._decoder.arena.length)
        return Prefix(pictures, self._decoder.arena.keep(), tuple(ends), tuple(nexts))

    def _append(self, feature: torch.Tensor, grid: tuple[int, int], position: int) -> int:
        """Prefill one image and its two marks; return the position that follows."""
        rows, columns = grid
        begin, end = self._decoder.embed(self._alphabet.encode('<|vision_start|><|vision_end|>')
                                         )[0].split(1)
        row, column = np.mgrid[:rows, :columns].reshape(2, -1) + position + 1
        inside = np.stack([np.full(rows * columns, position + 1), row, column])
        following = position + 1 + max(rows, columns)
        positions = np.hstack([np.full((3, 1), position), inside, np.full((3, 1), following)])
        self._decoder.prefill(torch.cat([begin, feature, end])[None],
                              torch.from_numpy(positions).to(self._decoder.device))
        return following + 1

    def _features_of(self, picture: Picture) -> tuple[torch.Tensor, tuple[int, int]]:
        """The tokens (n, hidden) of an image and their grid, remembered per picture."""
        known = self._features.get(picture.key)
        if known is None or not known[0].is_of(picture):
            known = self._features[picture.key] = (picture, *self._encoded(picture))
        self._features.move_to_end(picture.key)
        while len(self._features) > 2 * self._max_pairs:
            self._features.popitem(last=False)
        return known[1], known[2]

    def _encoded(self, picture: Picture) -> tuple[torch.Tensor, tuple[int, int]]:
        self.encoded_pictures += 1
        cut, grid = patches(picture.rgb, self._max_pixels)
        device, dtype = self._decoder.device, self._model.get_input_embeddings().weight.dtype
        found = self._model.get_image_features(
            torch.from_numpy(cut).to(device, dtype), torch.tensor([grid], device=device))
        found = getattr(found, 'pooler_output', found)  # transformers 5
        feature = torch.cat(list(found)) if isinstance(found, (tuple, list)) else found
        return feature.to(dtype), (grid[1] // 2, grid[2] // 2)
