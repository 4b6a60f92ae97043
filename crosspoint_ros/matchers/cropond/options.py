"""Options of `cropond` and `cropond_remote`, validated before anything is loaded."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crosspoint_ros.core.datatypes import Code, Match, Rejected
from crosspoint_ros.matchers.cropond.image_processor import MIN_PIXELS, TRAINED_MAX_PIXELS
from crosspoint_ros.matchers.cropond.prompt import POINTING_PROMPT, CoordinateFormat, check_question

AUTO = 'auto'
SERVERS = (AUTO, 'vllm', 'sglang', 'llama_cpp', 'ollama', 'openai')
COORDINATE_OPTIONS = (AUTO, *(coord_format.value for coord_format in CoordinateFormat))


@dataclass(frozen=True)
class CropondOptions:
    """Options of both matchers.

    coordinates: 'auto', or the value of a CoordinateFormat. question: with {x} and {y} for the
    click. max_pixels: larger images are shrunk; CroPond was trained with 602112. window: radius
    around the mode whose probability is the confidence, as a share of the image's longer side.
    min_ground_confidence: an instruction whose point is less certain is refused. self_test: test
    the model before the first query. allow_repeating: accept a model that fails the half of the
    self-test in which the points have moved, as one does that repeats the click.
    """

    coordinates: str = AUTO
    question: str = POINTING_PROMPT
    max_pixels: int = TRAINED_MAX_PIXELS
    window: float = 0.025
    min_ground_confidence: float = 0.5
    self_test: bool = True
    allow_repeating: bool = False

    def __post_init__(self) -> None:
        check_choice('coordinates', self.coordinates, COORDINATE_OPTIONS)
        for name in ('self_test', 'allow_repeating'):
            if not isinstance(getattr(self, name), bool):  # the string 'false' is truthy
                raise ValueError(f'{name} must be true or false, got {getattr(self, name)!r}')
        check_question(self.question)
        if self.max_pixels < MIN_PIXELS:
            raise ValueError(f'max_pixels must be {MIN_PIXELS} or more, got {self.max_pixels}')
        for name in ('window', 'min_ground_confidence'):
            check_share(name, getattr(self, name))

    @property
    def coord_formats(self) -> tuple[CoordinateFormat, ...]:
        """The formats to choose from: one, or all, CroPond's own first."""
        if self.coordinates == AUTO:  # the self-test finds out which number is first
            return (CoordinateFormat.RELATIVE_1000, CoordinateFormat.ABSOLUTE,
                    CoordinateFormat.RELATIVE_1)
        return (CoordinateFormat(self.coordinates),)

    def check_grounded(self, match: Match, instruction: str, camera: str) -> None:
        """Raise `Rejected` (LOW_CONFIDENCE) if an instruction's point is too uncertain."""
        if match.confidence < self.min_ground_confidence:
            raise Rejected(Code.LOW_CONFIDENCE, f'{instruction!r} is ambiguous in {camera}: '
                           f'confidence {match.confidence:.2f} of the most probable point, from '
                           f'{match.basis} (min_ground_confidence {self.min_ground_confidence:g})')


@dataclass(frozen=True)
class LocalOptions(CropondOptions):
    """Options of `cropond`.

    model: a folder, or the id of a repository on the hub with its revision (a commit). device:
    'auto', 'cuda' or 'cpu'. weights: 'auto' (bfloat16 on a GPU, float32 on a CPU), 'bfloat16',
    'float32', or '4bit'. template: 'auto' accepts the model's own reply format, 'json' enforces
    `{"point_2d": [x, y]}`. max_pairs: number of cached frame pairs.
    """

    model: str = ''
    revision: str = ''
    device: str = AUTO
    weights: str = AUTO
    template: str = AUTO
    max_pairs: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise ValueError('cropond.model is not set: give the folder of a CroPond, Qwen2.5-VL '
                             'or Qwen3-VL checkpoint (config.json, tokenizer.json, *.safetensors)')
        check_choice('device', self.device, (AUTO, 'cuda', 'cpu'))
        check_choice('weights', self.weights, (AUTO, 'bfloat16', 'float32', '4bit'))
        check_choice('template', self.template, (AUTO, 'json'))
        if self.coordinates == CoordinateFormat.RELATIVE_100.value:
            raise ValueError('coordinates: relative_100 has a decimal point among its digits, '
                             'which this engine cannot decode: use cropond_remote')
        if self.max_pairs < 1:
            raise ValueError(f'max_pairs must be 1 or more, got {self.max_pairs}')


@dataclass(frozen=True)
class RemoteOptions(CropondOptions):
    """Options of `cropond_remote`.

    url: of an OpenAI-compatible server, including /v1. model: its name there, '' if there is only
    one. key_env: environment variable with the API key. deadline_s: maximum duration of a query.
    ca_file: certificate authority of a server with a private one. proxy: for a server outside of
    the robot's network; proxies of the environment are not used. confidence_unknown: confidence
    of an answer from a server that returns no log-probabilities. server: what it is, 'auto' to
    probe it. wait_s: how long to wait at the start for one that is absent, or loads its model.
    jpeg_quality: of images whose PNG exceeds 300 kB; 0: always PNG.
    """

    url: str = 'http://127.0.0.1:8000/v1'
    model: str = ''
    key_env: str = 'CROSSPOINT_API_KEY'
    deadline_s: float = 4.0
    ca_file: str = ''
    proxy: str = ''
    # Below limits.min_confidence: refused, unless a refiner confirms it. docs/matchers/fusion.md
    # evaluates a model with a constant confidence of 0.5.
    confidence_unknown: float = 0.49
    server: str = AUTO
    wait_s: float = 0.0
    jpeg_quality: int = 95

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share('confidence_unknown', self.confidence_unknown)
        check_choice('server', self.server, SERVERS)
        if not self.wait_s >= 0:
            raise ValueError(f'wait_s must be 0 or more, got {self.wait_s}')
        if not 0 <= self.jpeg_quality <= 100:
            raise ValueError(f'jpeg_quality must be 0 (never) to 100, got {self.jpeg_quality}')
        if not self.deadline_s > 0:
            raise ValueError(f'deadline_s must be more than 0, got {self.deadline_s}')

    @property
    def coord_formats(self) -> tuple[CoordinateFormat, ...]:
        """Those of `cropond`, and per cent."""
        formats = super().coord_formats
        return (*formats, CoordinateFormat.RELATIVE_100) if self.coordinates == AUTO else formats


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError unless an option has one of its allowed values."""
    if value not in choices:
        raise ValueError(f'{name}: {value!r} is none of {", ".join(choices)}')


def check_share(name: str, value: float) -> None:
    """Raise ValueError unless an option is more than 0 and at most 1."""
    if not 0 < value <= 1:
        raise ValueError(f'{name} must lie in 0..1, got {value}')
