"""What is sent to a chat server: images first, then the question, and how the reply is to look."""
from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Code, Rejected
from crosspoint_ros.matchers.cropond.image_processor import MERGED_PX, resized, seen_size_px
from crosspoint_ros.matchers.cropond.prompt import SYSTEM, Convention, Shown, Template

REMEMBERED_IMAGES = 16
FREE_TOKENS = 96
FORCED_TOKENS = 16  # two numbers of at most five digits, and what stands between and after them
CLOSING_CHARACTERS = 6  # what one token may hold besides the bracket that closes a reply
FAST = [cv2.IMWRITE_PNG_COMPRESSION, 1]
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """An image as it is sent: PNG, in the size that the model takes.

    name: known by its content. tokens: what it counts in the prompt at least.
    """

    name: str
    data_url: str
    tokens: int
    shown: Shown

    def part(self, by_name: bool, named: bool) -> dict[str, Any]:
        """Return its part of a message; by name alone if the server still has it."""
        part: dict[str, Any] = {'type': 'image_url',
                                'image_url': None if by_name else {'url': self.data_url}}
        return {**part, 'uuid': self.name} if named or by_name else part


class Pictures:
    """Encodes each frame once."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._known: OrderedDict[int, tuple[Image, Picture]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, image: Image) -> Picture:
        """Return an image (h, w, 3) RGB as it is sent; remembered for the very same array."""
        with self._lock:
            known = self._known.get(id(image))
            if known is None or known[0] is not image:
                known = self._known[id(image)] = (image, encoded(image, self._max_pixels))
            self._known.move_to_end(id(image))
            while len(self._known) > REMEMBERED_IMAGES:
                self._known.popitem(last=False)
        return known[1]


def encoded(image: Image, max_pixels: int) -> Picture:
    """Resize as the model would, so that the server finds nothing to do, and encode."""
    height_px, width_px = image.shape[:2]
    width, height = seen_size_px(width_px, height_px, max_pixels)
    small = cv2.cvtColor(resized(image, width, height), cv2.COLOR_RGB2BGR)
    done, png = cv2.imencode('.png', small, FAST)
    if not done:
        raise Rejected(Code.MATCHER_FAILED, f'an image of {width}x{height} px was not encoded')
    content = png.tobytes()
    return Picture(hashlib.sha256(content).hexdigest()[:32],
                   'data:image/png;base64,' + base64.b64encode(content).decode(),
                   (width // MERGED_PX) * (height // MERGED_PX),
                   Shown(width_px, height_px, width, height))


@dataclass(frozen=True)
class Form:
    """How a reply is to look: numbers of a convention within a template."""

    template: Template
    convention: Convention
    digits: int

    @property
    def number(self) -> str:
        """Regular expression of one number; -1 too, which models say of what is not visible."""
        if self.convention is Convention.RELATIVE_1:
            return r'-?0\.[0-9]{3}'
        return rf'-?(0|[1-9][0-9]{{0,{self.digits - 1}}})'

    @property
    def numbers(self) -> str:
        """Regular expression of what follows the template's beginning."""
        # Some tokens hold the closing bracket and more ("]}"): a grammar that ends with the bracket
        # would forbid them, and the digits take their share.
        rest = f'[^0-9]{{0,{CLOSING_CHARACTERS}}}'
        between, after = literal(self.template.between), literal(self.template.after)
        return f'{self.number}{between}{self.number}{after}{rest}'

    @property
    def whole(self) -> str:
        """Regular expression of the whole reply."""
        return literal(self.template.before) + self.numbers


def literal(text: str) -> str:
    """Write a text as the regular expression for itself, in a way that every engine takes."""
    escaped = re.sub(r'([\\^$.|?*+()\[\]{}])', r'\\\1', text)
    return escaped.replace('\n', r'\n').replace('\t', r'\t').replace('\r', r'\r')


def messages(images: Sequence[Mapping[str, Any]], question: str,
             begun: str = '') -> list[dict[str, Any]]:
    """Return a conversation: the images, the question, and the reply as far as it is given."""
    # Images first: the server keeps what it computed of them for the next question.
    content = [*images, {'type': 'text', 'text': question}]
    asked: list[dict[str, Any]] = [{'role': 'system', 'content': SYSTEM},
                                   {'role': 'user', 'content': content}]
    return [*asked, {'role': 'assistant', 'content': begun}] if begun else asked
