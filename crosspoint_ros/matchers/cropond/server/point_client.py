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
from crosspoint_ros.matchers.cropond.coordinate_distribution import place, spread_in, written_in
from crosspoint_ros.matchers.cropond.options import RemoteOptions
from crosspoint_ros.matchers.cropond.prompt import Convention, Shown, Template
from crosspoint_ros.matchers.cropond.reply_parser import NoPoint, point
from crosspoint_ros.matchers.cropond.server.capabilities import CONTINUE, Capabilities, constrained
from crosspoint_ros.matchers.cropond.server.errors import NOT_UNDERSTOOD, ServerTrouble
from crosspoint_ros.matchers.cropond.server.http_client import Chat, Deadline
from crosspoint_ros.matchers.cropond.server.payload import (
    FORCED_TOKENS,
    FREE_TOKENS,
    Form,
    Image,
    Picture,
    Pictures,
    messages,
)
from crosspoint_ros.matchers.cropond.server.responses import Completion

REMEMBERED_NAMES = 64  # of images; what the server forgot meanwhile is sent again
CLICK = tuple[str, str]


@dataclass(frozen=True, eq=False)
class Place:
    """A point in pixels of the published image. covariance_px2: NaN where nothing measured it."""

    pixel: Array
    covariance_px2: Array
    confidence: float


class WayLost(Exception):  # noqa: N818  (not the caller's: it is asked again in another way)
    """The server does not have an image that was named."""


@dataclass(eq=False)
class Asking:
    """How one server is asked, once it is known."""

    chat: Chat
    options: RemoteOptions
    pictures: Pictures
    can: Capabilities
    template: Template = field(default_factory=Template)
    # Names of images that the server was sent, the latest last.
    _held: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def places(self, images: Sequence[Image], clicks: Sequence[CLICK], convention: Convention,
               deadline: Deadline) -> list[Place | Rejected]:
        """Ask where the second image shows clicks of the first, all at once.

        Returns a refusal for a reply without a point; raises `ServerTrouble` for what is wrong
        with the server.
        """
        pictures = [self.pictures.of(image) for image in images]
        shown = pictures[1].shown
        form = self._form(convention, shown)
        questions = [prompt.pointing(*click, self.options.question) for click in clicks]
        replies = self._replies(pictures, questions, form, deadline)
        return [self._place(reply, click, convention, shown)
                for reply, click in zip(replies, clicks, strict=True)]

    def named(self, image: Image, instruction: str, convention: Convention,
              deadline: Deadline) -> Place | Rejected:
        """Ask where an image shows what an instruction names; the model may say that nowhere."""
        picture = self.pictures.of(image)
        (reply,) = self._replies([picture], [prompt.grounding(instruction)], None, deadline)
        return self._place(reply, None, convention, picture.shown)

    def send(self, images: Sequence[Image], deadline: Deadline) -> None:
        """Let the server compute what it keeps of images, each where it will stand as first."""
        for image in images:
            picture = self.pictures.of(image)
            if picture.name not in self._held:
                body = {**self._common(), 'max_tokens': 1,
                        'messages': messages([self._part(picture, False)], 'Image.')}
                self.chat.complete([body], deadline)
                self._remember([picture])

    def learn(self, image: Image, pixel: Array, convention: Convention,
              deadline: Deadline) -> None:
        """Take over the form in which the model itself replies; if it names no point, ours."""
        picture = self.pictures.of(image)
        click = prompt.written(convention, pixel, picture.shown)
        question = prompt.pointing(*click, self.options.question)
        (reply,) = self._replies([picture, picture], [question], None, deadline)
        self.template = template_of(reply.text, click, convention) or Template()

    # --- one round of requests

    def _replies(self, pictures: Sequence[Picture], questions: Sequence[str], form: Form | None,
                 deadline: Deadline) -> list[Completion]:
        """Send the questions, with images by name once the server has them."""
        replies = []
        if not (self.can.names and all(p.name in self._held for p in pictures)):
            alone = questions[:1] if self.can.names else questions
            replies = self._round(pictures, alone, form, False, deadline)
            self._remember(pictures)
        left = questions[len(replies):]
        try:
            return replies + (self._round(pictures, left, form, True, deadline) if left else [])
        except (WayLost, ServerTrouble) as lost:
            if isinstance(lost, ServerTrouble) and lost.status not in NOT_UNDERSTOOD:
                raise
            with self._lock:  # it was restarted, or its memory for images is full
                self._held.clear()
        return replies + self._round(pictures, left, form, False, deadline)

    def _round(self, pictures: Sequence[Picture], questions: Sequence[str], form: Form | None,
               by_name: bool, deadline: Deadline) -> list[Completion]:
        begun = form.template.before if form and self.can.prefill else ''
        parts = [self._part(picture, by_name) for picture in pictures]
        bodies = [{**self._common(), **self._shape(form),
                   'messages': messages(parts, question, begun)} for question in questions]
        replies = self.chat.complete(bodies, deadline)
        if by_name and any(r.prompt_tokens < sum(p.tokens for p in pictures) for r in replies):
            raise WayLost
        for reply in replies:
            self._check_model(reply)
        return [self._checked(reply, form) for reply in replies]

    def _common(self) -> dict[str, Any]:
        return self.can.fields

    def _shape(self, form: Form | None) -> Mapping[str, Any]:
        """The fields that give a reply its form."""
        if form is None:
            return {'max_tokens': FREE_TOKENS}
        regex = form.numbers if self.can.prefill else form.whole
        return {'max_tokens': FORCED_TOKENS if self.can.prefill else FREE_TOKENS,
                **(CONTINUE if self.can.prefill else {}),
                **(constrained(self.can.regex, regex) if self.can.regex else {})}

    def _checked(self, reply: Completion, form: Form | None) -> Completion:
        """Refuse a reply that does not keep to its form: the server is not what it was."""
        if form is None or not self.can.regex:
            return reply
        regex = form.numbers if self.can.prefill else form.whole
        if not re.fullmatch(regex, reply.text):
            raise self._changed(f'a reply not in the form that was asked for: {reply.text!r}')
        return reply

    def _check_model(self, reply: Completion) -> None:
        """Refuse the reply of another model than was examined."""
        if self.can.model and reply.model != self.can.model:
            raise self._changed(f'the model {reply.model!r} replied, {self.can.model!r} was '
                                'examined')

    def _changed(self, what: str) -> ServerTrouble:
        return ServerTrouble(Code.MATCHER_FAILED, f'{self.chat.url}: {self.chat.clean(what)}; the '
                             'server will be examined anew at the next click', True)

    def _part(self, picture: Picture, by_name: bool) -> dict[str, Any]:
        return picture.part(by_name, self.can.names)

    def _remember(self, pictures: Sequence[Picture]) -> None:
        with self._lock:
            for picture in pictures:
                self._held[picture.name] = None
                self._held.move_to_end(picture.name)
            while len(self._held) > REMEMBERED_NAMES:
                self._held.popitem(last=False)

    # --- reading a reply

    def _form(self, convention: Convention, shown: Shown) -> Form | None:
        if not (self.can.regex or self.can.prefill):
            return None
        return Form(self.template, convention, prompt.digits(convention, shown))

    def _place(self, reply: Completion, click: CLICK | None, convention: Convention,
               shown: Shown) -> Place | Rejected:
        """Read the point, and how certain it is where the reply tells."""
        try:
            said = self._said(reply.text, click)
        except NoPoint as error:
            return Rejected(Code.NOT_VISIBLE, self.chat.clean(str(error)))
        if min(said) < 0:
            return Rejected(Code.NOT_VISIBLE, f'the model replied ({said[0]:g}, {said[1]:g}): a '
                            'point with a sign is on no image')
        if convention is not Convention.RELATIVE_1 and not all(map(float.is_integer, said)):
            return Rejected(Code.MATCHER_FAILED, f'the model replied ({said[0]:g}, {said[1]:g}): '
                            f'{convention.value} has whole numbers. Does another model run there? '
                            'cleanup and configure find out')
        return (self._weighed(reply, said, convention, shown)
                or Place(prompt.pixel_of(convention, *said, shown), np.full((2, 2), np.nan),
                         self.options.confidence_unknown))

    def _said(self, text: str, click: CLICK | None) -> tuple[float, float]:
        """The point of a reply; one that was begun by us starts with the numbers."""
        bare = re.match(r'\s*(-?[0-9.]+)\s*,\s*(-?[0-9.]+)\s*[^0-9.\s]', text)
        if bare and self.can.prefill:
            return point(f'{bare[1]}, {bare[2]}')
        return point(text, click)

    def _weighed(self, reply: Completion, said: tuple[float, float], convention: Convention,
                 shown: Shown) -> Place | None:
        """Mean, covariance and confidence; None if the tokens do not tell."""
        whole = prompt.units(convention, shown)
        numbers = written_in(reply.text, said, convention)
        if numbers is None or ''.join(t.text for t in reply.tokens)[:len(reply.text)] != reply.text:
            return None
        scale = prompt.px_per_unit(convention, shown)
        reach = self.options.window * max(shown.width_px, shown.height_px) / scale
        window = (float(reach[0]), float(reach[1]))
        spread = spread_in(reply.tokens, numbers, (int(whole[0]), int(whole[1])), window)
        if spread is None:
            return None
        found = place(spread, window)
        return Place(found.xy * scale, np.diag(scale) @ found.covariance @ np.diag(scale),
                     found.confidence)


def template_of(text: str, click: CLICK, convention: Convention) -> Template | None:
    """Return what stands around the numbers of a free reply; None where none are found."""
    try:
        said = point(text, click)
    except NoPoint:
        return None
    numbers = written_in(text, said, convention)
    if numbers is None or not numbers[1].end:
        return None
    (x, y), lead = numbers, len('0.') if convention is Convention.RELATIVE_1 else 0
    return Template(text[:x.start - lead], text[x.start + len(x.digits):y.start - lead], y.end)
