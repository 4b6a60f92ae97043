"""Asks a chat server for points, with the extensions that it supports."""
from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from crosspoint_ros.core.datatypes import Array, Code, Match, Rejected
from crosspoint_ros.matchers.cropond import coordinate_distribution, prompt
from crosspoint_ros.matchers.cropond.options import RemoteOptions
from crosspoint_ros.matchers.cropond.prompt import (
    FREE_REPLY_TOKENS,
    CoordinateFormat,
    PointCodec,
    ReplyTemplate,
)
from crosspoint_ros.matchers.cropond.reply_parser import (
    ParseError,
    cut_thoughts,
    parse_point,
    parse_visible_point,
)
from crosspoint_ros.matchers.cropond.server.capabilities import (
    POINT_SCHEMA,
    Capabilities,
    build_constraint,
)
from crosspoint_ros.matchers.cropond.server.errors import ServerError
from crosspoint_ros.matchers.cropond.server.http_client import ChatClient, Deadline
from crosspoint_ros.matchers.cropond.server.protocol import (
    CUT_OFF,
    FILTERED,
    FORCED_REPLY_TOKENS,
    SCHEMA_FIELD,
    Completion,
    EncodedImage,
    Image,
    ImageEncoder,
    build_grammar,
    build_messages,
    build_reply_regex,
)

# What may precede the numbers of every reply: a fence, brackets, a key, a tag. No words.
TEMPLATE_BEFORE = re.compile(r'(```\w*)?[\s\[{(]*("\w+"\s*:\s*|<\w+>|\w+\s*[=:]\s*)?[\s\[({]*')
# Batches, and requests of each; what is left out makes the confidence a lower bound.
MAX_BRANCH_ROUNDS, MAX_BRANCHES = 2, 24
MIN_BRANCH_SHARE = 0.2  # of the deadline: with less left they are not asked
DIGITS = ('-', *'0123456789')  # that a number begins with
log = logging.getLogger(__name__)
PointText = tuple[str, str]
CompleteReplies = Callable[[Sequence[str]], Sequence[Completion]]
ReplyForm = tuple[ReplyTemplate, CoordinateFormat, int, bool]  # as of build_reply_regex


@dataclass(frozen=True)
class Question:
    """A question as it is sent.

    is_forced: the reply is begun, or held to the template, where the server supports that. begun:
    how the reply begins, where the server supports that.
    """

    text: str
    max_tokens: int = FREE_REPLY_TOKENS
    is_forced: bool = False
    begun: str = ''


@dataclass(eq=False)
class PointClient:
    """Requests to a server whose capabilities are known."""

    chat: ChatClient
    options: RemoteOptions
    encoder: ImageEncoder
    capabilities: Capabilities
    template: ReplyTemplate = field(default_factory=ReplyTemplate)
    template_tokens: int = len(ReplyTemplate().before)  # at most: until the server shows them
    _prefetched: Sequence[EncodedImage] = ()

    def match_points(self, images: Sequence[Image], pixels: Sequence[Array],
                     coord_format: CoordinateFormat, deadline: Deadline
                     ) -> list[Match | Rejected]:
        """Ask where the second image shows pixels of the first, all at once.

        Returns a refusal for a reply without a point; raises `ServerError`.
        """
        clicked, other = encoded = [self.encoder.encode(image) for image in images]
        codec = PointCodec(coord_format, other.sizes)
        clicks = [PointCodec(coord_format, clicked.sizes).encode(pixel) for pixel in pixels]
        questions = [prompt.build_pointing_prompt(*click, self.options.question)
                     for click in clicks]
        if not self.can_force:
            free = self._request_replies(encoded, list(map(Question, questions)), deadline)
            return [self._read_reply(reply, click, codec)
                    for reply, click in zip(free, clicks, strict=True)]
        form = (self.template, coord_format, codec.digits, self.can_prefill)
        begun = self.template.before if self.can_prefill else ''
        replies = self._request_replies(encoded, [
            *(Question(text, FORCED_REPLY_TOKENS, True, begun) for text in questions),
            *(Question(text, self.template_tokens + 1) for text in questions)], deadline, form)
        p_template = [measure_template_probability(begun, self.template)
                      for begun in replies[len(questions):]]
        others = [Question(text) for text, p in zip(questions, p_template, strict=True) if not p]
        own = iter(self._request_replies(encoded, others, deadline) if others else ())
        complete = partial(self._complete_begun, encoded, deadline)
        return [self._read_reply(forced, click, codec, p, partial(complete, question)) if p
                else self._read_reply(next(own), click, codec)
                for forced, question, click, p in zip(replies[:len(clicks)], questions, clicks,
                                                      p_template, strict=True)]

    @property
    def can_prefill(self) -> bool:
        """Whether replies are begun: with an empty beginning the server would go on with the
        question."""
        return self.capabilities.prefill and bool(self.template.before.strip())

    @property
    def can_force(self) -> bool:
        """Whether replies are begun or constrained: by a schema only if that is their own form."""
        constraint, before = self.capabilities.constraint, ''.join(self.template.before.split())
        return self.can_prefill or (bool(constraint) and (
            constraint != SCHEMA_FIELD or before == '{"point_2d":['))

    def ground(self, image: Image, instruction: str, coord_format: CoordinateFormat,
               deadline: Deadline) -> Match | Rejected:
        """Ask where an image shows what an instruction names."""
        encoded = self.encoder.encode(image)
        (reply,) = self._request_replies(
            [encoded], [Question(prompt.build_grounding_prompt(instruction))], deadline)
        return self._read_reply(reply, None, PointCodec(coord_format, encoded.sizes))

    def prefetch(self, images: Sequence[Image], deadline: Deadline) -> None:
        """Let the server compute and cache images, each as the first one of a prompt."""
        encoded = [self.encoder.encode(image) for image in images]
        self.chat.complete([
            {**self.capabilities.request_fields, 'max_tokens': 1,
             'messages': build_messages([image.message_part], 'Image.')}
            for image in encoded if image not in self._prefetched], deadline)
        self._prefetched = encoded

    def learn_template(self, image: Image, pixel: Array, coord_format: CoordinateFormat,
                       deadline: Deadline) -> None:
        """Adopt the format of the model's own reply; the default if `infer_template` finds none."""
        encoded = self.encoder.encode(image)
        click = PointCodec(coord_format, encoded.sizes).encode(pixel)
        question = prompt.build_pointing_prompt(*click, self.options.question)
        (reply,) = self._request_replies([encoded, encoded], [Question(question)], deadline)
        self.template = infer_template(reply.text, click, coord_format) or ReplyTemplate()
        self.template_tokens = count_tokens(reply, self.template.before)

    # --- requests

    def _complete_begun(self, images: Sequence[EncodedImage], deadline: Deadline, question: str,
                        begun: Sequence[str]) -> list[Completion]:
        """Ask for replies that begin otherwise; none where that fails: a lower bound stays."""
        if not (begun and self.can_prefill) or (
                deadline.left_s < MIN_BRANCH_SHARE * deadline.allowed_s):
            return []
        try:
            return self._request_replies(images, [
                Question(question, FORCED_REPLY_TOKENS, begun=self.template.before + text)
                for text in begun], deadline)
        except ServerError as error:
            log.warning('the confidence is a lower bound: %s', error.message)
            return []

    def _request_replies(self, images: Sequence[EncodedImage], questions: Sequence[Question],
                         deadline: Deadline, form: ReplyForm | None = None) -> list[Completion]:
        """Send the questions concurrently. form: of the forced replies."""
        regex, constraint = '', {}
        if form and self.capabilities.constraint:
            regex = build_reply_regex(*form)
            constraint = build_constraint(self.capabilities.constraint, regex,
                                          build_grammar(*form), POINT_SCHEMA)
        parts = [image.message_part for image in images]
        replies = self.chat.complete([self._build_body(parts, question, constraint)
                                      for question in questions], deadline)
        # llama.cpp repeats the beginning that it was given, or not, by version.
        replies = [replace(reply, text=reply.text.removeprefix(question.begun))
                   for reply, question in zip(replies, questions, strict=True)]
        for reply, question in zip(replies, questions, strict=True):
            self._check_reply(reply, regex if question.is_forced else '')
        return replies

    def _build_body(self, parts: Sequence[Mapping[str, Any]], question: Question,
                    constraint: Mapping[str, Any]) -> dict[str, Any]:
        body: dict[str, Any] = {**self.capabilities.request_fields,
                                'max_tokens': question.max_tokens}
        if question.begun:
            body |= self.capabilities.prefill_fields
        elif question.is_forced:
            body['max_tokens'] = FREE_REPLY_TOKENS
        if question.is_forced:
            body |= constraint
        return {**body, 'messages': build_messages(parts, question.text, question.begun)}

    def _check_reply(self, reply: Completion, regex: str) -> None:
        """Raise `ServerError` for another model or format: the server has changed."""
        if self.capabilities.model and reply.model != self.capabilities.model:
            what = f'the model {reply.model!r} replied instead of {self.capabilities.model!r}'
        elif (regex and self.capabilities.constraint != SCHEMA_FIELD
              and not re.fullmatch(regex, reply.text)):
            what = f'a reply not in the requested format: {reply.text!r}'
        else:
            return
        raise self.chat.errors.error(f'{self.chat.sanitize(what)}; the next click tests the server '
                                     'again', retryable=True)

    # --- replies

    def _read_reply(self, reply: Completion, click: PointText | None, codec: PointCodec,
                    p_template: float | None = None, complete: CompleteReplies = lambda begun: []
                    ) -> Match | Rejected:
        """Parse the point; estimate its covariance and confidence from log-probabilities.

        p_template: of a forced reply, the probability that the model begins one so by itself.
        complete: asks again for replies that begin otherwise.
        """
        # After a prefill, the reply begins with the numbers.
        bare = re.match(r'\s*(-?[0-9.]+)\s*,\s*(-?[0-9.]+)\s*[^0-9.\s]', reply.text)
        is_bare = bare is not None and self.can_prefill and p_template is not None
        if reply.finish in (CUT_OFF, FILTERED) and not is_bare and (
                not cut_thoughts(reply.text).strip() or reply.text[-1] in '0123456789.'):
            return Rejected(Code.MATCHER_FAILED, self.chat.sanitize(
                f'the reply {reply.text[-40:]!r} was cut off (finish_reason {reply.finish!r}): '
                'let the model write more tokens, or think less'))
        try:
            numbers = parse_visible_point(
                f'{bare[1]}, {bare[2]}' if bare and is_bare else reply.text,
                None if is_bare else click, codec.coord_format.is_y_first)
        except Rejected as rejected:
            return Rejected(rejected.code, self.chat.sanitize(rejected.message))
        if not codec.coord_format.decimals and not all(map(float.is_integer, numbers)):
            return Rejected(Code.MATCHER_FAILED, f'the model replied ({numbers[0]:g}, '
                            f'{numbers[1]:g}): {codec.coord_format.value} has whole numbers. Does '
                            'the server run another model now? cleanup and configure test it again')
        basis = f'{self.chat.model} on {self.chat.url}'
        match = self._estimate_from_logprobs(reply, numbers, codec, basis, complete) or Match(
            codec.decode(*numbers), confidence=self.options.confidence_unknown,
            basis=f'{basis}, which returns no log-probabilities of the digits: refine can confirm '
                  'a match, and the option confidence_unknown sets the confidence')
        return match if p_template is None else replace(
            match, confidence=match.confidence * p_template)

    def _estimate_from_logprobs(self, reply: Completion, numbers: tuple[float, float],
                                codec: PointCodec, basis: str, complete: CompleteReplies
                                ) -> Match | None:
        """Return None if the tokens do not determine a distribution.

        What follows another digit, of which the window holds a part, is asked for in a batch.
        """
        is_y_first = codec.coord_format.is_y_first
        spans = coordinate_distribution.find_number_spans(
            reply.text, numbers[::-1] if is_y_first else numbers, codec.coord_format)
        if spans is None or ''.join(t.text for t in reply.tokens)[:len(reply.text)] != reply.text:
            return None
        units, window = codec.units, codec.window_units(self.options.window)
        radii = window[::-1] if is_y_first else window
        branches: list[coordinate_distribution.Branch] = []
        distribution = coordinate_distribution.distribution_from_logprobs(
            reply.tokens, spans, (int(units[0]), int(units[1])), radii, branches)
        if distribution is None:
            return None
        for _ in range(MAX_BRANCH_ROUNDS):
            asked = sorted(branches, key=lambda b: -b.probability)[:MAX_BRANCHES]
            branches = []
            for branch, rest in zip(asked, complete([b.begun for b in asked]), strict=False):
                distribution = coordinate_distribution.add_branch(
                    distribution, branch, spans[branch.axis], rest.tokens, radii[branch.axis],
                    branches)
        return coordinate_distribution.estimate_point(
            distribution.swap_axes() if is_y_first else distribution, window, codec.unit_px, basis)


def count_tokens(reply: Completion, before: str) -> int:
    """Return how many tokens of a reply reach into the text before; at most its characters."""
    starts = np.cumsum([0, *(len(token.text) for token in reply.tokens)])[:-1]
    is_known = reply.tokens and reply.text.startswith(before)
    return int((starts < len(before)).sum()) if is_known else len(before)


def measure_template_probability(reply: Completion, template: ReplyTemplate) -> float:
    """Return how probable it is that a model begins a reply with the template and a number.

    0 where its own reply begins otherwise: forced numbers would hide what it says, as that the
    point is not visible. 1 where it begins so, and the server gives no log-probabilities.
    """
    before, text = template.before, reply.text
    if not re.match(r'-?[0-9]', text[len(before):]) or not text.startswith(before):
        return 0.0
    written = ''.join(token.text for token in reply.tokens)
    if not written.lstrip().startswith(text.strip()):
        return 1.0
    probability, at = 1.0, text.find(text.strip()) - written.find(text.strip())
    for token in reply.tokens:
        if at >= len(before):
            return probability * min(1.0, sum(math.exp(logprob) for choice, logprob in
                                              token.choices.items() if choice[:1] in DIGITS))
        probability *= math.exp(token.choices[token.text])
        at += len(token.text)
    return probability


def infer_template(text: str, click: PointText, coord_format: CoordinateFormat
                   ) -> ReplyTemplate | None:
    """Return the text around the numbers of a free reply.

    None if they are not found, or follow words: those concern one click, and no other reply may
    be begun with them.
    """
    try:
        point = parse_point(text, click, coord_format.is_y_first)
    except ParseError:
        return None
    spans = coordinate_distribution.find_number_spans(
        text, point[::-1] if coord_format.is_y_first else point, coord_format)
    if spans is None or not spans[1].terminator:
        return None
    (x, y), lead = spans, len('0.') if coord_format is CoordinateFormat.RELATIVE_1 else 0
    before, between = text[:x.start - lead], text[x.start + len(x.digits):y.start - lead]
    return ReplyTemplate(before, between, y.terminator) if TEMPLATE_BEFORE.fullmatch(before) \
        else None
