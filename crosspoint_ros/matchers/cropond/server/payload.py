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
from crosspoint_ros.matchers.cropond.image_processor import TOKEN_PX, resize_bicubic, smart_resize
from crosspoint_ros.matchers.cropond.prompt import SYSTEM_PROMPT, CoordinateFormat, ImageSizes, ReplyTemplate

MAX_CACHED_IMAGES = 16
FREE_REPLY_TOKENS = 96
FORCED_REPLY_TOKENS = 16  # two numbers of at most five digits, and what stands between and after them
MAX_CLOSING_CHARS = 6  # what one token may hold besides the bracket that closes a reply
PNG_PARAMS = [cv2.IMWRITE_PNG_COMPRESSION, 1]
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class EncodedImage:
    """An image as it is sent: PNG, in the size that the model takes.

    name: known by its content. tokens: what it counts in the prompt at least.
    """

    name: str
    data_url: str
    tokens: int
    sizes: ImageSizes

    def to_message_part(self, by_uuid: bool, with_uuid: bool) -> dict[str, Any]:
        """Return its part of a message; by name alone if the server still has it."""
        part: dict[str, Any] = {'type': 'image_url',
                                'image_url': None if by_uuid else {'url': self.data_url}}
        return {**part, 'uuid': self.name} if with_uuid or by_uuid else part


class ImageEncoder:
    """Encodes each frame once."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._encoded: OrderedDict[int, tuple[Image, EncodedImage]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, image: Image) -> EncodedImage:
        """Return an image (h, w, 3) RGB as it is sent; remembered for the very same array."""
        with self._lock:
            entry = self._encoded.get(id(image))
            if entry is None or entry[0] is not image:
                entry = self._encoded[id(image)] = (image, encode_image(image, self._max_pixels))
            self._encoded.move_to_end(id(image))
            while len(self._encoded) > MAX_CACHED_IMAGES:
                self._encoded.popitem(last=False)
        return entry[1]


def encode_image(image: Image, max_pixels: int) -> EncodedImage:
    """Resize as the model would, so that the server finds nothing to do, and encode."""
    height_px, width_px = image.shape[:2]
    width, height = smart_resize(width_px, height_px, max_pixels)
    resized = cv2.cvtColor(resize_bicubic(image, width, height), cv2.COLOR_RGB2BGR)
    is_encoded, png = cv2.imencode('.png', resized, PNG_PARAMS)
    if not is_encoded:
        raise Rejected(Code.MATCHER_FAILED, f'an image of {width}x{height} px was not encoded')
    content = png.tobytes()
    return EncodedImage(hashlib.sha256(content).hexdigest()[:32],
                   'data:image/png;base64,' + base64.b64encode(content).decode(),
                   (width // TOKEN_PX) * (height // TOKEN_PX),
                   ImageSizes(width_px, height_px, width, height))


@dataclass(frozen=True)
class ReplyRegex:
    """How a reply is to look: numbers of a convention within a template."""

    template: ReplyTemplate
    coord_format: CoordinateFormat
    digits: int

    @property
    def number(self) -> str:
        """Regular expression of one number; -1 too, which models say of what is not visible."""
        if self.coord_format is CoordinateFormat.RELATIVE_1:
            return r'-?0\.[0-9]{3}'
        return rf'-?(0|[1-9][0-9]{{0,{self.digits - 1}}})'

    @property
    def numbers(self) -> str:
        """Regular expression of what follows the template's beginning."""
        # Some tokens hold the closing bracket and more ("]}"): a grammar that ends with the bracket
        # would forbid them, and the digits take their share.
        rest = f'[^0-9]{{0,{MAX_CLOSING_CHARS}}}'
        between, after = escape_literal(self.template.between), escape_literal(self.template.after)
        return f'{self.number}{between}{self.number}{after}{rest}'

    @property
    def full(self) -> str:
        """Regular expression of the whole reply."""
        return escape_literal(self.template.before) + self.numbers


def escape_literal(text: str) -> str:
    """Write a text as the regular expression for itself, in a way that every engine takes."""
    escaped = re.sub(r'([\\^$.|?*+()\[\]{}])', r'\\\1', text)
    return escaped.replace('\n', r'\n').replace('\t', r'\t').replace('\r', r'\r')


def build_messages(images: Sequence[Mapping[str, Any]], question: str,
             reply_prefix: str = '') -> list[dict[str, Any]]:
    """Return a conversation: the images, the question, and the reply as far as it is given."""
    # Images first: the server keeps what it computed of them for the next question.
    content = [*images, {'type': 'text', 'text': question}]
    conversation: list[dict[str, Any]] = [{'role': 'system', 'content': SYSTEM_PROMPT},
                                   {'role': 'user', 'content': content}]
    return [*conversation, {'role': 'assistant', 'content': reply_prefix}] if reply_prefix else conversation
