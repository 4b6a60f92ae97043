"""Backends that answer benchmark items: a matcher, a local checkpoint, or a chat server."""
from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.bench.crosspoint.dataset import GROUNDING, POINTING, BenchItem
from crosspoint_ros.bench.crosspoint.rules_corrected import find_full_scale, is_written_y_first
from crosspoint_ros.core.datatypes import Code, Grounder, Intrinsics, Match, Matcher, Rejected, View
from crosspoint_ros.core.pipeline import ground, match_views
from crosspoint_ros.data.qa.questions import POINT_SUFFIX
from crosspoint_ros.matchers.cropond.reply_parser import cut_thoughts, parse_points
from crosspoint_ros.matchers.cropond.server.errors import OVERLOADED, ServerError
from crosspoint_ros.matchers.cropond.server.protocol import FILTERED, Completion

if TYPE_CHECKING:
    from crosspoint_ros.matchers.cropond.server.http_client import ChatClient

Image = npt.NDArray[np.uint8]
MAX_WAIT_S, FIRST_PAUSE_S = 60.0, 1.0  # for an overloaded server, the latter doubled each time
MAX_TOKENS = 768  # of a reply, as the authors
HALF_PX = 0.5  # pixel (0, 0) is the centre of the corner pixel; replies count from its edge
# Codes of a matcher that did not find the point; any other is a failure.
NOT_FOUND_CODES = (Code.NOT_VISIBLE, Code.LOW_CONFIDENCE, Code.INCONSISTENT, Code.NO_DEPTH)


@dataclass(frozen=True)
class ModelReply:
    """A raw reply, or the message of a refusal; and the prompt.

    finish: why a server's reply ends. tokens: of it, 0 if not reported.
    """

    text: str
    refusal: str = ''
    prompt: str = ''
    finish: str = ''
    tokens: int = 0

    @property
    def is_usable(self) -> bool:
        """Whether it has words after its thoughts, or a matcher's own refusal."""
        return bool(cut_thoughts(self.text).strip()) or bool(self.refusal and not self.finish)


class AnswerBackend(Protocol):
    """Answers items with text, as a model does."""

    def can_answer(self, item: BenchItem) -> bool:
        """Return whether it can answer such an item; unless overridden, True."""
        return True

    def answer(self, item: BenchItem, images: Sequence[Image]) -> ModelReply:
        """Return the reply; raise `Rejected` on a failure, after which the item may be retried."""
        ...


def format_prompt(item: BenchItem) -> str:
    """Return the prompt that the authors use."""
    return item.question + (POINT_SUFFIX if item.is_pointing else '')


class MatcherBackend(AnswerBackend):
    """Runs a matcher on the images alone, and writes the found pixel as a reply."""

    def __init__(self, matcher: Matcher, coordinates: str) -> None:
        self._matcher, self._coordinates = matcher, coordinates

    def can_answer(self, item: BenchItem) -> bool:
        """Return whether the item has two images and a point in numbers, or an instruction."""
        if item.type == GROUNDING:
            return isinstance(self._matcher, Grounder)
        return item.type == POINTING and len(item.images) == 2 \
            and bool(parse_points(item.question))

    def answer(self, item: BenchItem, images: Sequence[Image]) -> ModelReply:
        """Return the found pixel; a point that was not found is a reply without one."""
        views = [make_view(name, image) for name, image in zip(item.images, images, strict=True)]
        shown = views[0] if item.type == GROUNDING else views[1]
        try:
            match = ground(shown, item.question, self._matcher) if item.type == GROUNDING \
                else self._match(item, views)
        except Rejected as rejected:
            if rejected.code not in NOT_FOUND_CODES:
                raise
            return ModelReply('', f'{rejected.code.name}: {rejected.message}', item.question)
        x, y = ((match.pixel + HALF_PX) * self._get_scale(shown)).round(4).tolist()
        point = [y, x] if is_written_y_first(self._coordinates) else [x, y]
        return ModelReply(json.dumps({'point_2d': point}), '', item.question)

    def _match(self, item: BenchItem, views: Sequence[View]) -> Match:
        pixel = np.array(parse_points(item.question)[0]) / self._get_scale(views[0]) - HALF_PX
        (found,) = match_views(views[0], views[1:2], pixel, self._matcher)
        if found.match is None or found.rejected is not None:
            raise found.rejected or Rejected(Code.MATCHER_FAILED, 'no match')
        return found.match

    def _get_scale(self, view: View) -> npt.NDArray[np.float64]:
        size = view.intrinsics.width_px, view.intrinsics.height_px
        return np.array(find_full_scale(self._coordinates, size)) / size


class CheckpointBackend(AnswerBackend):
    """Runs a local checkpoint on the authors' prompts, with free-form replies."""

    def __init__(self, model: str, device: str = 'auto', weights: str = 'auto',
                 max_pixels: int = 0) -> None:
        """Load the model. Raises ValueError, OSError or MemoryError."""
        try:
            from crosspoint_ros.matchers.cropond.engine import checkpoint
            from crosspoint_ros.matchers.cropond.engine.engine import Engine, EngineOptions
            from crosspoint_ros.matchers.cropond.image_processor import TRAINED_MAX_PIXELS
        except ModuleNotFoundError as error:
            raise ValueError(f'a checkpoint needs {error.name}: pip install torch '
                             '"transformers>=4.57,<6" pillow') from error
        loaded = checkpoint.load_checkpoint(model, '', device, weights)
        self._engine = Engine(loaded.model, loaded.tokenizer, EngineOptions(
            max_pixels=max_pixels or TRAINED_MAX_PIXELS, preprocessor=loaded.preprocessor))

    def answer(self, item: BenchItem, images: Sequence[Image]) -> ModelReply:
        """Reply in the model's own words."""
        from crosspoint_ros.matchers.cropond.image_processor import ImageInput
        prompt, inputs = format_prompt(item), tuple(map(ImageInput, item.images, images))
        return ModelReply(self._engine.generate(inputs, prompt, MAX_TOKENS).text, '', prompt)


class ServerBackend(AnswerBackend):
    """Asks a model on an OpenAI-compatible server; the images come before the question."""

    def __init__(self, url: str, model: str, key_env: str, deadline_s: float,
                 max_wait_s: float = MAX_WAIT_S) -> None:
        """Raises ValueError for an unusable address or key, or if no model can be chosen."""
        from crosspoint_ros.matchers.cropond.server.http_client import ChatClient, Deadline
        if not 0 < deadline_s < math.inf:
            raise ValueError(f'--deadline-s must be above 0, got {deadline_s:g}')
        self._after, self._deadline_s, self._max_wait_s = Deadline.after, deadline_s, max_wait_s
        self.model = model or self._find_only_model(ChatClient(url, '', key_env))
        self._chat = ChatClient(url, self.model, key_env)

    def _find_only_model(self, chat: ChatClient) -> str:
        try:
            names = [offer.name for offer in chat.list_models(self._after(self._deadline_s))]
        except Rejected as error:
            raise ValueError(f'{error.message}; or name the model with --model-name') from error
        if len(names) != 1:
            raise ValueError(f'{chat.url} offers {len(names)} models: name one with '
                             f'--model-name ({", ".join(names) or "it lists none"})')
        return names[0]

    def answer(self, item: BenchItem, images: Sequence[Image]) -> ModelReply:
        """Send the question; raise `Rejected` if no reply comes in time."""
        prompt = format_prompt(item)
        body = {'messages': [{'role': 'user', 'content': [
            *(encode_image_part(image) for image in images), {'type': 'text', 'text': prompt}]}],
            'temperature': 0, 'max_tokens': MAX_TOKENS}
        reply = self._complete(body)
        refusal = 'the server filtered it' if reply.finish == FILTERED else ''
        return ModelReply(reply.text, refusal, prompt, reply.finish, reply.completion_tokens)

    def _complete(self, body: dict[str, Any]) -> Completion:
        """Return the reply; while the server is overloaded, pause as it requests, and ask again.

        All pauses of an item together last `max_wait_s` at most.
        """
        left_s, pause_s = self._max_wait_s, FIRST_PAUSE_S
        while True:
            try:
                return self._chat.complete([body], self._after(self._deadline_s))[0]
            except ServerError as error:
                if error.status not in OVERLOADED or left_s <= 0:
                    raise
                wait_s = min(error.retry_after_s or pause_s, left_s)
            time.sleep(wait_s)
            left_s, pause_s = left_s - wait_s, 2 * pause_s


def encode_image_part(image: Image) -> dict[str, Any]:
    """Return an image as a part of a chat message."""
    is_encoded, png = cv2.imencode('.png', image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not is_encoded:
        raise Rejected(Code.MATCHER_FAILED, f'an image of {image.shape[1]}x{image.shape[0]} px '
                       'cannot be encoded as PNG')
    url = 'data:image/png;base64,' + base64.b64encode(png.tobytes()).decode()
    return {'type': 'image_url', 'image_url': {'url': url}}


def make_view(name: str, image: Image) -> View:
    """Return a view without pose, its intrinsics a guess: the camera is unknown."""
    height, width = image.shape[:2]
    focal_px = float(max(width, height))
    return View(name, image, Intrinsics(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2,
                                        width, height))
