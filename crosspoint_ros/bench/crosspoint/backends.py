"""Whoever is asked the benchmark: a matcher, a checkpoint on this machine, or a chat server."""
from __future__ import annotations

import base64
import json
import math
import queue
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.bench.crosspoint.dataset import GROUNDING, POINTING, BenchItem
from crosspoint_ros.core.datatypes import Code, Grounder, Intrinsics, Matcher, Query, Rejected, View
from crosspoint_ros.matchers.cropond.reply_parser import parse_points

Image = npt.NDArray[np.uint8]
# What the authors add to a question that asks for a point, and how long a reply may be.
SUFFIX = ' Output the point coordinates in JSON format.'
MOST_TOKENS = 768
# Codes with which a matcher says that it did not find it; the others are failures of its own.
ANSWERS = (Code.NOT_VISIBLE, Code.LOW_CONFIDENCE, Code.INCONSISTENT, Code.NO_DEPTH)


class NotAsked(Exception):  # noqa: N818  (nothing went wrong)
    """An item that this one cannot be asked, and why."""


@dataclass(frozen=True)
class Said:
    """What came back: the raw reply, or a refusal in words. prompt: what was asked."""

    text: str
    refused: str = ''
    prompt: str = ''


class Answerer(Protocol):
    """Answers items in words, as a model would."""

    def check(self, item: BenchItem) -> None:
        """Raise `NotAsked` for an item that it cannot be asked."""
        ...

    def answer(self, item: BenchItem, images: Sequence[Image]) -> Said:
        """Return the reply; raise `Rejected` if it failed, and the item may be asked again."""
        ...


def format_prompt(item: BenchItem) -> str:
    """Return the question as the authors ask it."""
    return item.question + (SUFFIX if item.is_pointing else '')


class ByMatcher:
    """Asks a matcher, and writes what it finds as a reply. It is told the images alone."""

    def __init__(self, matcher: Matcher, coordinates: str) -> None:
        self._matcher, self._coordinates = matcher, coordinates

    def check(self, item: BenchItem) -> None:
        """Raise `NotAsked` for what is no pointing, or does not name the point."""
        if item.type == GROUNDING and not isinstance(self._matcher, Grounder):
            raise NotAsked('the matcher finds no place by words')
        if item.type not in (GROUNDING, POINTING):
            raise NotAsked('a matcher does not choose between options')
        if item.type == POINTING and len(item.images) != 2:
            raise NotAsked(f'{len(item.images)} images, a matcher takes two')
        if item.type == POINTING and not parse_points(item.question):
            raise NotAsked('its question names no point in numbers')

    def answer(self, item: BenchItem, images: Sequence[Image]) -> Said:
        """Ask for the pixel. A refusal that says the point is not there is a reply."""
        views = [view(name, image) for name, image in zip(item.images, images, strict=True)]
        try:
            if item.type == GROUNDING:
                if not isinstance(self._matcher, Grounder):
                    raise NotAsked('the matcher finds no place by words')
                shown, match = views[0], self._matcher.ground(views[0], item.question)
            else:
                shown = views[1]
                match = self._matcher.match(Query(views[0], views[1], self._get_clicked_pixel(item, views)))
        except Rejected as rejected:
            if rejected.code not in ANSWERS:
                raise
            return Said('', f'{rejected.code.name}: {rejected.message}', item.question)
        return Said(self._format_reply(match.pixel, shown), '', item.question)

    def _get_clicked_pixel(self, item: BenchItem, views: Sequence[View]) -> npt.NDArray[np.float64]:
        return np.array(parse_points(item.question)[0]) / self._get_scale(views[0]) - self._half

    def _format_reply(self, pixel: npt.NDArray[np.float64], shown: View) -> str:
        x, y = ((pixel + self._half) * self._get_scale(shown)).tolist()
        return json.dumps({'point_2d': [round(x, 4), round(y, 4)]})

    @property
    def _half(self) -> float:
        """A pixel's number here is its centre's; a share of the width counts from the edge."""
        return 0.5

    def _get_scale(self, shown: View) -> npt.NDArray[np.float64]:
        lens = shown.intrinsics
        size = np.array([lens.width_px, lens.height_px], dtype=np.float64)
        if self._coordinates == 'absolute':
            return np.ones(2)
        return (1000.0 if self._coordinates == 'relative_1000' else 1.0) / size


class ByCheckpoint:
    """Asks a checkpoint on this machine, in the authors' words, and lets it reply freely."""

    def __init__(self, model: str, device: str = 'auto', weights: str = 'auto',
                 max_pixels: int = 0) -> None:
        """Load the model. Raises ValueError, OSError or MemoryError with words for people."""
        try:
            from crosspoint_ros.matchers.cropond.engine import checkpoint
            from crosspoint_ros.matchers.cropond.engine.engine import Engine, EngineOptions
        except ModuleNotFoundError as error:
            raise ValueError(f'a checkpoint needs {error.name}: pip install torch '
                             '"transformers>=4.57,<6" pillow') from error
        loaded = checkpoint.load_checkpoint(model, '', device, weights)
        options = EngineOptions(max_pixels=max_pixels) if max_pixels else EngineOptions()
        self._engine = Engine(loaded.model, loaded.tokenizer, options)

    def check(self, item: BenchItem) -> None:
        """Every type can be asked."""

    def answer(self, item: BenchItem, images: Sequence[Image]) -> Said:
        """Reply in the model's own words."""
        from crosspoint_ros.matchers.cropond.engine.engine import Picture
        asked = format_prompt(item)
        pictures = tuple(Picture(name, image)
                         for name, image in zip(item.images, images, strict=True))
        return Said(self._engine.free(pictures, asked, MOST_TOKENS).text, '', asked)


class ByServer:
    """Asks a model on an OpenAI-compatible server: images first, as the authors' vLLM script."""

    def __init__(self, url: str, model: str, key_env: str, deadline_s: float,
                 at_once: int) -> None:
        """Raises ValueError for an address or key that can never work, or no model to name."""
        from crosspoint_ros.matchers.cropond.server.http_client import ChatClient, Deadline
        if not 0 < deadline_s < math.inf:
            raise ValueError(f'--deadline-s must be above 0, got {deadline_s:g}')
        self._after, self._deadline_s = Deadline.after, deadline_s
        self._chats: queue.Queue[ChatClient] = queue.Queue()
        for _ in range(at_once):
            self._chats.put(ChatClient(url, model, key_env))
        if not model:
            model = self._find_only_model()
            for _ in range(at_once):
                chat = self._chats.get()
                chat.model = model
                self._chats.put(chat)
        self.model = model

    def _find_only_model(self) -> str:
        chat = self._chats.get()
        try:
            offered = [offer.name for offer in chat.models(self._after(self._deadline_s))]
        except Rejected as rejected:
            raise ValueError(f'{rejected.message}; or name the model with --model-name') \
                from rejected
        finally:
            self._chats.put(chat)
        if len(offered) != 1:
            raise ValueError(f'{chat.url} offers {len(offered)} models: name one with '
                             f'--model-name ({", ".join(offered) or "it lists none"})')
        return offered[0]

    def check(self, item: BenchItem) -> None:
        """Every type can be asked."""

    def answer(self, item: BenchItem, images: Sequence[Image]) -> Said:
        """Send the question; `Rejected` if no reply comes in time."""
        asked = format_prompt(item)
        body = {'messages': [{'role': 'user', 'content': [
            *(encode_image_part(image) for image in images), {'type': 'text', 'text': asked}]}],
            'temperature': 0, 'max_tokens': MOST_TOKENS}
        chat = self._chats.get()
        try:
            (reply,) = chat.complete([body], self._after(self._deadline_s))
        finally:
            self._chats.put(chat)
        return Said(reply.text, '', asked)


def encode_image_part(image: Image) -> dict[str, Any]:
    """Return an image as a part of a message."""
    done, png = cv2.imencode('.png', image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise Rejected(Code.MATCHER_FAILED, f'an image of {image.shape[1]}x{image.shape[0]} px '
                       'was not encoded')
    url = 'data:image/png;base64,' + base64.b64encode(png.tobytes()).decode()
    return {'type': 'image_url', 'image_url': {'url': url}}


def view(name: str, image: Image) -> View:
    """Take an image of an unknown camera for a view: without pose, its lens a usual one."""
    height, width = image.shape[:2]
    focal_px = float(max(width, height))
    return View(name, image, Intrinsics(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2,
                                        width, height))
