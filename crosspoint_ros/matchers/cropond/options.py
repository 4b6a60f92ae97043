"""The options of `cropond` and `cropond_remote`, checked before anything is loaded."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crosspoint_ros.matchers.cropond.image_processor import MIN_PIXELS, TRAINED_MAX_PIXELS
from crosspoint_ros.matchers.cropond.prompt import POINTING, Convention, check_question

AUTO = 'auto'
CONVENTIONS = (AUTO, *(convention.value for convention in Convention))


@dataclass(frozen=True)
class AskingOptions:
    """How a model is asked, wherever it runs.

    coordinates: 'auto', or a Convention by name. question: with {x} and {y} for the click.
    max_pixels: images are shrunk to so many; CroPond was trained with 602112. window: share of the
    image's longer side; the probability within it about the answer is the confidence.
    min_ground_confidence: an instruction whose point is less certain is refused. self_test: ask
    about known places before the first query. allow_repeating: take a model that fails the half of
    it in which they have moved, as one does that merely repeats the click.
    """

    coordinates: str = AUTO
    question: str = POINTING
    max_pixels: int = TRAINED_MAX_PIXELS
    window: float = 0.025
    min_ground_confidence: float = 0.5
    self_test: bool = True
    allow_repeating: bool = False

    def __post_init__(self) -> None:
        one_of('coordinates', self.coordinates, CONVENTIONS)
        for name in ('self_test', 'allow_repeating'):
            if not isinstance(getattr(self, name), bool):  # the word 'false' would count as true
                raise ValueError(f'{name} must be true or false, got {getattr(self, name)!r}')
        check_question(self.question)
        if self.max_pixels < MIN_PIXELS:
            raise ValueError(f'max_pixels must be {MIN_PIXELS} or more, got {self.max_pixels}')
        for name in ('window', 'min_ground_confidence'):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f'{name} must lie in 0..1, got {getattr(self, name)}')

    @property
    def conventions(self) -> tuple[Convention, ...]:
        """The conventions to choose from: one, or all, the authors' own first."""
        return tuple(Convention) if self.coordinates == AUTO else (Convention(self.coordinates),)


@dataclass(frozen=True)
class LocalOptions(AskingOptions):
    """The options of `cropond`.

    model: a folder, or the id of a repository on the hub with its revision (a commit). device:
    'auto', 'cuda' or 'cpu'. weights: 'auto' (bfloat16 on a GPU, float32 on a CPU), 'bfloat16',
    'float32', or '4bit'. template: 'auto' takes the model's own, 'json' insists on
    `{"point_2d": [x, y]}`. max_pairs: frame pairs that are remembered.
    """

    model: str = ''
    revision: str = ''
    device: str = AUTO
    weights: str = AUTO
    template: str = AUTO
    max_pairs: int = 4
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise ValueError('cropond.model is not set: give the folder of a CroPond or Qwen2.5-VL '
                             'checkpoint (config.json, tokenizer.json, *.safetensors)')
        one_of('device', self.device, (AUTO, 'cuda', 'cpu'))
        one_of('weights', self.weights, (AUTO, 'bfloat16', 'float32', '4bit'))
        one_of('template', self.template, (AUTO, 'json'))
        if self.max_pairs < 1:
            raise ValueError(f'max_pairs must be 1 or more, got {self.max_pairs}')


@dataclass(frozen=True)
class RemoteOptions(AskingOptions):
    """The options of `cropond_remote`.

    url: of an OpenAI-compatible server, up to and with /v1. model: its name there, '' for the only
    one. key_env: the environment variable that holds the key. deadline_s: longest time a query may
    take. ca_file: the certificate authority of a server with one of its own. proxy: of one outside
    of the robot's network; those of the environment are not used. confidence_unknown: what an
    answer is worth of a server that tells no probabilities.
    """

    url: str = 'http://127.0.0.1:8000/v1'
    model: str = ''
    key_env: str = 'CROSSPOINT_API_KEY'
    deadline_s: float = 4.0
    ca_file: str = ''
    proxy: str = ''
    # Below limits.min_confidence: refused, unless a refiner confirms it. docs/fusion.md has what a
    # model is worth there that is 0.5 confident of everything.
    confidence_unknown: float = 0.49

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.url.startswith(('http://', 'https://')):
            raise ValueError(f'url must begin with http:// or https://, got {self.url!r}')
        if '@' in self.url:
            raise ValueError('url must not hold a key or password (it would stand in logs): put it '
                             f'in the environment variable {self.key_env}')
        if not 0 < self.confidence_unknown <= 1:
            raise ValueError('confidence_unknown must lie in 0..1, got '
                             f'{self.confidence_unknown}')
        if not self.deadline_s > 0:
            raise ValueError(f'deadline_s must be more than 0, got {self.deadline_s}')


def one_of(name: str, value: str, known: Sequence[str]) -> None:
    """Raise ValueError unless an option has one of its known values."""
    if value not in known:
        raise ValueError(f'{name}: {value!r} is none of {", ".join(known)}')
