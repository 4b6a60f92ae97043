"""Asks a chat server for points, in the best way that it can be asked."""
from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from crosspoint_ros.core.datatypes import Array, Code, Rejected
from crosspoint_ros.matchers.cropond import prompt
from crosspoint_ros.matchers.cropond.coordinate_distribution import estimate_point, distribution_from_logprobs, find_number_spans
from crosspoint_ros.matchers.cropond.options import RemoteOptions
from crosspoint_ros.matchers.cropond.prompt import CoordinateFormat, ImageSizes, ReplyTemplate
from crosspoint_ros.matchers.cropond.reply_parser import ParseError, parse_point
from crosspoint_ros.matchers.cropond.server.capabilities import CONTINUE_FIELDS, Capabilities, build_regex_field
from crosspoint_ros.matchers.cropond.server.errors import UNSUPPORTED_STATUSES, ServerError
from crosspoint_ros.matchers.cropond.server.http_client import ChatClient, Deadline
from crosspoint_ros.matchers.cropond.server.payload import (
    FORCED_REPLY_TOKENS,
    FREE_REPLY_TOKENS,
    ReplyRegex,
    Image,
    EncodedImage,
    ImageEncoder,
    build_messages,
)
from crosspoint_ros.matchers.cropond.server.responses import Completion

MAX_CACHED_UUIDS = 64  # of images; what the server forgot meanwhile is sent again
PointText = tuple[str, str]


@dataclass(frozen=True, eq=False)
class PixelEstimate:
    """A point in pixels of the published image. covariance_px2: NaN where nothing measured it."""

    pixel: Array
    covariance_px2: Array
    confidence: float


class ImageNotCached(Exception):  # noqa: N818  (not the caller's: it is asked again in another way)
    """The server does not have an image that was named."""


@dataclass(eq=False)
class PointClient:
    """How one server is asked, once it is known."""

    chat: ChatClient
    options: RemoteOptions
    encoder: ImageEncoder
    capabilities: Capabilities
    template: ReplyTemplate = field(default_factory=ReplyTemplate)
    # Names of images that the server was sent, the latest last.
    _cached_uuids: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def match_points(self, images: Sequence[Image], clicks: Sequence[PointText], coord_format: CoordinateFormat,
               deadline: Deadline) -> list[PixelEstimate | Rejected]:
        """Ask where the second image shows clicks of the first, all at once.

        Returns a refusal for a reply without a point; raises `ServerTrouble` for what is wrong
        with the server.
        """
        encoded = [self.encoder.of(image) for image in images]
        sizes = encoded[1].sizes
        regex = self._build_regex(coord_format, sizes)
        questions = [prompt.build_pointing_prompt(*click, self.options.question) for click in clicks]
        replies = self._request_replies(encoded, questions, regex, deadline)
        return [self._read_reply(reply, click, coord_format, sizes)
                for reply, click in zip(replies, clicks, strict=True)]

    def ground(self, image: Image, instruction: str, coord_format: CoordinateFormat,
              deadline: Deadline) -> PixelEstimate | Rejected:
        """Ask where an image shows what an instruction names; the model may say that nowhere."""
        encoded = self.encoder.of(image)
        (reply,) = self._request_replies([encoded], [prompt.build_grounding_prompt(instruction)], None, deadline)
        return self._read_reply(reply, None, coord_format, encoded.sizes)

    def prefetch(self, images: Sequence[Image], deadline: Deadline) -> None:
        """Let the server compute what it keeps of images, each where it will stand as first."""
        for image in images:
            encoded = self.encoder.of(image)
            if encoded.name not in self._cached_uuids:
                body = {**self._request_fields(), 'max_tokens': 1,
                        'messages': build_messages([self._build_part(encoded, False)], 'Image.')}
                self.chat.complete([body], deadline)
                self._mark_cached([encoded])

    def learn_template(self, image: Image, pixel: Array, coord_format: CoordinateFormat,
              deadline: Deadline) -> None:
        """Take over the form in which the model itself replies; if it names no point, ours."""
        encoded = self.encoder.of(image)
        click = prompt.format_point(coord_format, pixel, encoded.sizes)
        question = prompt.build_pointing_prompt(*click, self.options.question)
        (reply,) = self._request_replies([encoded, encoded], [question], None, deadline)
        self.template = infer_template(reply.text, click, coord_format) or ReplyTemplate()

    # --- one round of requests

    def _request_replies(self, images: Sequence[EncodedImage], questions: Sequence[str], regex: ReplyRegex | None,
                 deadline: Deadline) -> list[Completion]:
        """Send the questions, with images by name once the server has them."""
        replies = []
        if not (self.capabilities.names and all(p.name in self._cached_uuids for p in images)):
            first = questions[:1] if self.capabilities.names else questions
            replies = self._send_batch(images, first, regex, False, deadline)
            self._mark_cached(images)
        remaining = questions[len(replies):]
        try:
            return replies + (self._send_batch(images, remaining, regex, True, deadline) if remaining else [])
        except (ImageNotCached, ServerError) as error:
            if isinstance(error, ServerError) and error.status not in UNSUPPORTED_STATUSES:
                raise
            with self._lock:  # it was restarted, or its memory for images is full
                self._cached_uuids.clear()
        return replies + self._send_batch(images, remaining, regex, False, deadline)

    def _send_batch(self, images: Sequence[EncodedImage], questions: Sequence[str], regex: ReplyRegex | None,
               by_uuid: bool, deadline: Deadline) -> list[Completion]:
        reply_prefix = regex.template.before if regex and self.capabilities.prefill else ''
        parts = [self._build_part(picture, by_uuid) for picture in images]
        bodies = [{**self._request_fields(), **self._format_fields(regex),
                   'messages': build_messages(parts, question, reply_prefix)} for question in questions]
        replies = self.chat.complete(bodies, deadline)
        if by_uuid and any(r.prompt_tokens < sum(p.tokens for p in images) for r in replies):
            raise ImageNotCached
        for reply in replies:
            self._check_model(reply)
        return [self._check_format(reply, regex) for reply in replies]

    def _request_fields(self) -> dict[str, Any]:
        return self.capabilities.fields

    def _format_fields(self, pattern: ReplyRegex | None) -> Mapping[str, Any]:
        """The fields that give a reply its form."""
        if pattern is None:
            return {'max_tokens': FREE_REPLY_TOKENS}
        pattern = pattern.numbers if self.capabilities.prefill else pattern.full
        return {'max_tokens': FORCED_REPLY_TOKENS if self.capabilities.prefill else FREE_REPLY_TOKENS,
                **(CONTINUE_FIELDS if self.capabilities.prefill else {}),
                **(build_regex_field(self.capabilities.regex, pattern) if self.capabilities.regex else {})}

    def _check_format(self, reply: Completion, pattern: ReplyRegex | None) -> Completion:
        """Refuse a reply that does not keep to its form: the server is not what it was."""
        if pattern is None or not self.capabilities.regex:
            return reply
        pattern = pattern.numbers if self.capabilities.prefill else pattern.full
        if not re.fullmatch(pattern, reply.text):
            raise self._make_changed_error(f'a reply not in the form that was asked for: {reply.text!r}')
        return reply

    def _check_model(self, reply: Completion) -> None:
        """Refuse the reply of another model than was examined."""
        if self.capabilities.model and reply.model != self.capabilities.model:
            raise self._make_changed_error(f'the model {reply.model!r} replied, {self.capabilities.model!r} was '
                                'examined')

    def _make_changed_error(self, what: str) -> ServerError:
        return ServerError(Code.MATCHER_FAILED, f'{self.chat.url}: {self.chat.sanitize(what)}; the '
                             'server will be examined anew at the next click', True)

    def _build_part(self, image: EncodedImage, by_uuid: bool) -> dict[str, Any]:
        return image.to_message_part(by_uuid, self.capabilities.names)

    def _mark_cached(self, images: Sequence[EncodedImage]) -> None:
        with self._lock:
            for picture in images:
                self._cached_uuids[picture.name] = None
                self._cached_uuids.move_to_end(picture.name)
            while len(self._cached_uuids) > MAX_CACHED_UUIDS:
                self._cached_uuids.popitem(last=False)

    # --- reading a reply

    def _build_regex(self, coord_format: CoordinateFormat, sizes: ImageSizes) -> ReplyRegex | None:
        if not (self.capabilities.regex or self.capabilities.prefill):
            return None
        return ReplyRegex(self.template, coord_format, prompt.count_digits(coord_format, sizes))

    def _read_reply(self, reply: Completion, click: PointText | None, coord_format: CoordinateFormat,
               sizes: ImageSizes) -> PixelEstimate | Rejected:
        """Read the point, and how certain it is where the reply tells."""
        try:
            numbers = self._parse_numbers(reply.text, click)
        except ParseError as error:
            return Rejected(Code.NOT_VISIBLE, self.chat.sanitize(str(error)))
        if min(numbers) < 0:
            return Rejected(Code.NOT_VISIBLE, f'the model replied ({numbers[0]:g}, {numbers[1]:g}): a '
                            'point with a sign is on no image')
        if coord_format is not CoordinateFormat.RELATIVE_1 and not all(map(float.is_integer, numbers)):
            return Rejected(Code.MATCHER_FAILED, f'the model replied ({numbers[0]:g}, {numbers[1]:g}): '
                            f'{coord_format.value} has whole numbers. Does another model run there? '
                            'cleanup and configure find out')
        return (self._estimate_from_logprobs(reply, numbers, coord_format, sizes)
                or PixelEstimate(prompt.to_pixel(coord_format, *numbers, sizes), np.full((2, 2), np.nan),
                         self.options.confidence_unknown))

    def _parse_numbers(self, text: str, click: PointText | None) -> tuple[float, float]:
        """The point of a reply; one that was begun by us starts with the numbers."""
        match = re.match(r'\s*(-?[0-9.]+)\s*,\s*(-?[0-9.]+)\s*[^0-9.\s]', text)
        if match and self.capabilities.prefill:
            return parse_point(f'{match[1]}, {match[2]}')
        return parse_point(text, click)

    def _estimate_from_logprobs(self, reply: Completion, point: tuple[float, float], coord_format: CoordinateFormat,
                 sizes: ImageSizes) -> PixelEstimate | None:
        """Mean, covariance and confidence; None if the tokens do not tell."""
        units = prompt.count_units(coord_format, sizes)
        spans = find_number_spans(reply.text, point, coord_format)
        if spans is None or ''.join(t.text for t in reply.tokens)[:len(reply.text)] != reply.text:
            return None
        scale = prompt.compute_unit_size_px(coord_format, sizes)
        radius = self.options.window * max(sizes.width_px, sizes.height_px) / scale
        window = (float(radius[0]), float(radius[1]))
        distribution = distribution_from_logprobs(reply.tokens, spans, (int(units[0]), int(units[1])), window)
        if distribution is None:
            return None
        estimate = estimate_point(distribution, window)
        return PixelEstimate(estimate.xy * scale, np.diag(scale) @ estimate.covariance @ np.diag(scale),
                     estimate.confidence)


def infer_template(text: str, click: PointText, coord_format: CoordinateFormat) -> ReplyTemplate | None:
    """Return what stands around the numbers of a free reply; None where none are found."""
    try:
        point = parse_point(text, click)
    except ParseError:
        return None
    spans = find_number_spans(text, point, coord_format)
    if spans is None or not spans[1].terminator:
        return None
    (x, y), prefix_length = spans, len('0.') if coord_format is CoordinateFormat.RELATIVE_1 else 0
    return ReplyTemplate(text[:x.start - prefix_length], text[x.start + len(x.digits):y.start - prefix_length], y.terminator)
