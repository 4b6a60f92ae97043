"""OpenAI chat protocol: builds requests with images and constraints, and parses replies."""
from __future__ import annotations

import base64
import json
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
from crosspoint_ros.matchers.cropond.coordinate_distribution import TokenLogprobs
from crosspoint_ros.matchers.cropond.image_processor import ImageSizes, resize_bicubic
from crosspoint_ros.matchers.cropond.prompt import SYSTEM_PROMPT, CoordinateFormat, ReplyTemplate

MAX_CACHED_IMAGES = 16
FORCED_REPLY_TOKENS = 16  # two numbers of at most five digits, and the text between and after them
MAX_CLOSING_CHARS = 6  # of a token after the bracket that closes a reply
MAX_PNG_BYTES = 300_000  # two photographs as PNG exceed the 1 MB that nginx allows
MAX_TEXT_CHARS = 10_000  # of a reply, which has at most 96 tokens
CUT_OFF, FILTERED = 'length', 'content_filter'  # reasons why a reply ends
MIN_LOGPROB = -1e6  # instead of -infinity
LOGPROB_TOLERANCE = 1e-3  # servers may return slightly more than log(1)
SCHEMA_FIELD = 'response_format'
Image = npt.NDArray[np.uint8]


# --- requests

@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An image as the part of a message, in the size that the model receives."""

    message_part: Mapping[str, Any]
    sizes: ImageSizes


class ImageEncoder:
    """Encodes each frame once."""

    def __init__(self, max_pixels: int, jpeg_quality: int = 95) -> None:
        self._max_pixels, self._jpeg_quality = max_pixels, jpeg_quality
        self._encoded: OrderedDict[int, tuple[Image, EncodedImage]] = OrderedDict()
        self._lock = threading.Lock()

    def encode(self, image: Image) -> EncodedImage:
        """Return an encoded RGB image (h, w, 3); cached for the same array."""
        with self._lock:
            entry = self._encoded.get(id(image))
            if entry is None or entry[0] is not image:
                entry = self._encoded[id(image)] = (
                    image, encode_image(image, self._max_pixels, self._jpeg_quality))
            self._encoded.move_to_end(id(image))
            while len(self._encoded) > MAX_CACHED_IMAGES:
                self._encoded.popitem(last=False)
        return entry[1]


def encode_image(image: Image, max_pixels: int, jpeg_quality: int = 95) -> EncodedImage:
    """Resize as the model would, so that the server does not resize again, and encode.

    As PNG, or beyond `MAX_PNG_BYTES` as JPEG of that quality, unless it is 0.
    """
    sizes = ImageSizes.from_image_size(image.shape[1], image.shape[0], max_pixels)
    width, height = sizes.model_width_px, sizes.model_height_px
    resized = cv2.cvtColor(resize_bicubic(image, width, height), cv2.COLOR_RGB2BGR)
    is_encoded, content = cv2.imencode('.png', resized, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    kind = 'png'
    if is_encoded and len(content) > MAX_PNG_BYTES and jpeg_quality:
        kind = 'jpeg'
        is_encoded, content = cv2.imencode('.jpg', resized,
                                           [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])
    if not is_encoded:
        raise Rejected(Code.MATCHER_FAILED, f'encoding an image of {width}x{height} px failed')
    url = f'data:image/{kind};base64,{base64.b64encode(content.tobytes()).decode()}'
    return EncodedImage({'type': 'image_url', 'image_url': {'url': url}}, sizes)


def build_reply_regex(template: ReplyTemplate, coord_format: CoordinateFormat, digits: int,
                      is_prefilled: bool) -> str:
    """Return the regular expression of a reply, or of its rest after a prefilled beginning.

    Numbers include -1, which models write for a point that is not visible.
    """
    number = {CoordinateFormat.RELATIVE_1: r'-?0\.[0-9]{3}',
              CoordinateFormat.RELATIVE_100: r'-?[0-9]{1,3}(\.[0-9]{1,2})?'}.get(
                  coord_format, rf'-?(0|[1-9][0-9]{{0,{digits - 1}}})')
    # Some tokens hold more than the closing bracket ("]}"): a grammar that ends with the bracket
    # would forbid them, and shift their probability to the digits.
    rest = f'[^0-9]{{0,{MAX_CLOSING_CHARS}}}'
    before, between, after = map(escape_literal, (template.before, template.between,
                                                  template.after))
    return f'{"" if is_prefilled else before}{number}{between}{number}{after}{rest}'


def build_grammar(template: ReplyTemplate, coord_format: CoordinateFormat, digits: int,
                  is_prefilled: bool) -> str:
    """Return the same as a grammar of llama.cpp (GBNF)."""
    number = {CoordinateFormat.RELATIVE_1: '"0." [0-9] [0-9] [0-9]',
              CoordinateFormat.RELATIVE_100: '[0-9] [0-9]? [0-9]? ("." [0-9] [0-9]?)?'}.get(
                  coord_format, f'("0" | [1-9]{" [0-9]?" * (digits - 1)})')
    before, between, after = map(json.dumps, (template.before, template.between, template.after))
    return (f'root ::= {"" if is_prefilled else before} number {between} number {after}'
            f'{" [^0-9]?" * MAX_CLOSING_CHARS}\nnumber ::= "-"? {number}')


def escape_literal(text: str) -> str:
    """Escape a text for the regular expressions of all inference engines."""
    escaped = re.sub(r'([\\^$.|?*+()\[\]{}])', r'\\\1', text)
    return escaped.replace('\n', r'\n').replace('\t', r'\t').replace('\r', r'\r')


def build_messages(images: Sequence[Mapping[str, Any]], question: str,
                   reply_prefix: str = '') -> list[dict[str, Any]]:
    """Return a conversation: images, question, and the given beginning of the reply."""
    # Images first: the server's prefix cache serves the next question on them.
    content = [*images, {'type': 'text', 'text': question}]
    conversation: list[dict[str, Any]] = [{'role': 'system', 'content': SYSTEM_PROMPT},
                                          {'role': 'user', 'content': content}]
    if reply_prefix:
        conversation.append({'role': 'assistant', 'content': reply_prefix})
    return conversation


def build_ollama_request(body: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a chat request into one of Ollama's own, whose messages hold several images.

    Its OpenAI-compatible one makes a message of each image.
    """
    messages = []
    for message in body['messages']:
        parts = message['content'] if isinstance(message['content'], list) else [
            {'type': 'text', 'text': message['content']}]
        messages.append({
            'role': message['role'],
            'content': ''.join(part['text'] for part in parts if part['type'] == 'text'),
            'images': [part['image_url']['url'].partition(',')[2] for part in parts
                       if part['type'] == 'image_url']})
    constraint = body.get(SCHEMA_FIELD)
    return {'model': body['model'], 'messages': messages, 'stream': False,
            'options': {'temperature': 0.0, 'repeat_penalty': 1.0,
                        'num_predict': body['max_tokens']},
            **({'format': constraint['json_schema']['schema']} if constraint else {}),
            **{name: body[name] for name in ('logprobs', 'top_logprobs') if name in body}}


# --- replies

@dataclass(frozen=True)
class Completion:
    """A reply. tokens: empty without log-probabilities.

    prompt_tokens, completion_tokens: size of prompt and reply, 0 if not reported. model: '' if not
    reported. finish: why the reply ends: 'stop', 'length', 'content_filter', '' if not reported.
    """

    text: str
    tokens: tuple[TokenLogprobs, ...] = ()
    prompt_tokens: int = 0
    model: str = ''
    completion_tokens: int = 0
    finish: str = ''


@dataclass(frozen=True)
class ModelInfo:
    """A model that a server lists. root: its origin, owner: what serves it; '' if not reported."""

    name: str
    root: str = ''
    owner: str = ''


def parse_models(body: bytes) -> tuple[ModelInfo, ...]:
    """Parse a list of models. Raises ValueError for anything else."""
    entries = _require_object(_parse_json(body), 'the list of models').get('data')
    if not isinstance(entries, list):
        raise ValueError("the list of models holds no 'data'")
    models = [_require_object(entry, 'a model') for entry in entries]
    return tuple(ModelInfo(str(m.get('id', '')), str(m.get('root') or ''),
                           str(m.get('owned_by') or '')) for m in models)


def parse_completion(body: bytes) -> Completion:
    """Parse the first choice of a reply. Raises ValueError for anything else."""
    reply = _require_object(_parse_json(body), 'the reply')
    choices = reply.get('choices')
    if not isinstance(choices, list) or not choices:
        reason = f': {reply["error"]}' if reply.get('error') else ''
        raise ValueError(f"the reply holds no 'choices' but {sorted(reply)}{reason}")
    choice = _require_object(choices[0], 'the choice')
    message = _require_object(choice.get('message'), 'the message')
    text, finish = message.get('content'), str(choice.get('finish_reason') or '')
    if isinstance(text, list):  # in parts
        text = ''.join(str(part.get('text', '')) for part in text if isinstance(part, dict))
    if text is None and message.get('refusal'):
        finish = FILTERED
    if text is None and finish in (CUT_OFF, FILTERED):
        text = ''  # thoughts up to the limit, or a refusal
    if not isinstance(text, str):
        raise ValueError(f'the message holds no text but {text!r}')
    if len(text) > MAX_TEXT_CHARS:
        raise ValueError(f'the reply is {len(text)} characters long (limit {MAX_TEXT_CHARS}): the '
                         'server ignores max_tokens')
    logprobs, usage, model = choice.get('logprobs'), reply.get('usage'), reply.get('model')
    tokens = logprobs.get('content') if isinstance(logprobs, dict) else ()
    usage = usage if isinstance(usage, dict) else {}
    prompt_tokens, written = usage.get('prompt_tokens'), usage.get('completion_tokens')
    return Completion(text, tuple(map(_parse_token, tokens if isinstance(tokens, list) else ())),
                      prompt_tokens if isinstance(prompt_tokens, int) else 0,
                      model if isinstance(model, str) else '',
                      written if isinstance(written, int) else 0, finish)


def parse_ollama(body: bytes) -> Completion:
    """Parse a reply of Ollama's own chat. Raises ValueError for anything else."""
    reply = _require_object(_parse_json(body), 'the reply')
    return parse_completion(json.dumps({
        'model': reply.get('model'), 'error': reply.get('error'),
        'choices': [{'message': reply['message'], 'finish_reason': reply.get('done_reason'),
                     'logprobs': {'content': reply.get('logprobs')}}] if 'message' in reply else [],
        'usage': {'prompt_tokens': reply.get('prompt_eval_count'),
                  'completion_tokens': reply.get('eval_count')}}).encode())


def _parse_token(token: Any) -> TokenLogprobs:
    entry = _require_object(token, 'a token')
    others = entry.get('top_logprobs')
    alternatives = [_require_object(other, 'an alternative') for other in others] \
        if isinstance(others, list) else []
    choices: dict[str, float] = {}
    for choice in (*alternatives, entry):
        text, logprob = choice.get('token'), choice.get('logprob')
        if not isinstance(text, str):
            raise ValueError(f'a token came as {text!r}')
        choices[text] = _parse_logprob(logprob)
    return TokenLogprobs(str(entry['token']), choices)


def _parse_logprob(value: Any) -> float:
    """Return a log-probability. Raises ValueError unless it is 0 or less."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f'a log-probability came as {value!r}')
    if value != value:
        raise ValueError('a log-probability is NaN: the weights are broken, or overflow in this '
                         'number format')
    if value > LOGPROB_TOLERANCE:
        raise ValueError(f'a log-probability is above 0: {value!r}')
    return min(float(max(value, MIN_LOGPROB)), 0.0)


def _parse_json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        # Not shortened: the caller first removes the key.
        text = body.decode('utf-8', 'replace')
        raise ValueError(f'the reply is not JSON ({error}): {text!r}') from error


def _require_object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f'{what} is not a JSON object but {str(value)!r}')
    return value
