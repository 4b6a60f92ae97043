"""A folder of weights, checked before it is loaded, and loaded without a word of foreign code."""
from __future__ import annotations

import importlib.util
import json
import logging
import re
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from crosspoint_ros.matchers.cropond.engine.memory import (
    GB,
    check_memory,
    free_bytes,
    memory_errors,
)

INDEX = 'model.safetensors.index.json'
SINGLE = 'model.safetensors'
MAX_HEADER_BYTES = 100_000_000
POINTER = b'version https://git-lfs'
# Bytes a number takes in memory; 4 bits with a scale, float32, for each 64.
BYTES = {'float32': 4.0, 'bfloat16': 2.0, '4bit': 0.5 + 4 / 64}
WHOLE_BYTES = BYTES['bfloat16']  # of what is not quantised
NOT_QUANTISED = ('visual', 'lm_head', 'embed_tokens')
# For images, keys and values, and what the libraries take for themselves.
WORKING_BYTES = 500_000_000
WORKING_SHARE = 0.1


@dataclass(frozen=True)
class Weights:
    """What a checkpoint's files hold: how many numbers, and those that 4 bits would not touch."""

    files: tuple[Path, ...]
    file_bytes: int
    numbers: int
    numbers_kept_whole: int


def read_weights(folder: Path) -> Weights:
    """Read the headers of all safetensors files of a checkpoint.

    Raises FileNotFoundError for a missing one and ValueError for a broken or unfinished one.
    """
    files = weight_files(folder)
    numbers = whole = 0
    for file in files:
        for name, shape in tensors(file).items():
            numbers += prod(shape)
            whole += prod(shape) if any(part in name for part in NOT_QUANTISED) else 0
    return Weights(files, sum(file.stat().st_size for file in files), numbers, whole)


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the files of weights, of which none may be missing."""
    index = folder / INDEX
    if not index.is_file():
        if (folder / SINGLE).is_file():
            return (folder / SINGLE,)
        others = [p.name for p in sorted(folder.glob('*.bin')) + sorted(folder.glob('*.gguf'))]
        hint = f' ({others[0]} is not read: it may run code or is quantised)' if others else ''
        raise FileNotFoundError(f'{folder} has no weights: neither {SINGLE} nor {INDEX}{hint}')
    try:
        names = sorted(set(json.loads(index.read_text())['weight_map'].values()))
    except (json.JSONDecodeError, KeyError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f'{index} cannot be read: {error}') from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f'{folder} is not complete: {len(missing)} of {len(names)} files '
                                f'of weights are missing, {missing[0]} first; download it again')
    return tuple(folder / name for name in names)


def tensors(file: Path) -> dict[str, list[int]]:
    """Return name and shape of each tensor of a file. Raises ValueError if it is cut off."""
    size = file.stat().st_size
    with file.open('rb') as stream:
        first = stream.read(8)
        if (first + stream.read(len(POINTER))).startswith(POINTER):
            raise ValueError(f'{file} is a pointer of Git LFS, not the weights: git lfs pull')
        length = struct.unpack('<Q', first)[0] if len(first) == 8 else 0
        if not 0 < length <= min(size, MAX_HEADER_BYTES):
            raise ValueError(f'{file} is no safetensors file, or cut off: {size} bytes')
        stream.seek(8)
        try:
            header = json.loads(stream.read(length))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f'{file} is no safetensors file, or damaged: {error}') from error
    found = {name: entry for name, entry in header.items() if name != '__metadata__'}
    expected = 8 + length + max((entry['data_offsets'][1] for entry in found.values()), default=0)
    if size != expected:
        raise ValueError(f'{file} is half a download: it has {size} of {expected} bytes; download '
                         'it again')
    return {name: entry['shape'] for name, entry in found.items()}


def need_bytes(weights: Weights, number_format: str) -> int:
    """Estimate the memory that a model takes in a number format, with room to work."""
    per_number = BYTES[number_format]
    kept = weights.numbers_kept_whole
    whole = WHOLE_BYTES if number_format == '4bit' else per_number
    needs = kept * whole + (weights.numbers - kept) * per_number
    return int(needs * (1 + WORKING_SHARE)) + WORKING_BYTES


ARCHITECTURE = 'Qwen2_5_VLForConditionalGeneration'
NEEDED = ('config.json', 'tokenizer_config.json')
FILES = ('*.json', '*.safetensors', 'merges.txt', 'vocab.json')
COMMIT = re.compile('[0-9a-f]{40}')
REPORT_S = 5.0
# Coordinates hang on both, and they are small. The whole name: transformers 5 compares from its
# beginning, and would quantise the vision tower without a word.
NO_QUANTISING = ['model.visual', 'lm_head']
FOR_4BIT = ('bitsandbytes', 'accelerate')

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded model with its tokenizer, and the memory it was thought to need.

    device: 'cuda' or 'cpu'; device_name: which one, for people.
    """

    model: Any
    tokenizer: Any
    folder: Path
    device: str
    device_name: str
    weights: str
    needs_bytes: int


def load(model: str, revision: str, device: str, weights: str) -> Checkpoint:
    """Load a local folder, or a hub id at a revision. Never runs code that comes with it.

    Raises FileNotFoundError, ValueError or MemoryError, each with what to do about it.
    """
    folder, found = find(model, revision)
    chosen = chosen_device(device)
    number_format = {'auto': 'bfloat16' if chosen == 'cuda' else 'float32'}.get(weights, weights)
    quantising = four_bits() if number_format == '4bit' else None
    needs = need_bytes(found, number_format)
    check_memory(folder.name, needs, chosen)
    log.info('%s: loading %.1f GB in %d files onto %s as %s', folder.name,
             found.file_bytes / GB, len(found.files), chosen, number_format)
    begun_s = time.monotonic()
    with refusals(folder), memory_errors(folder.name, needs, chosen), progress(found, chosen):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        loaded = _loaded(folder, chosen, number_format, quantising)
    log.info('%s: loaded onto %s in %.1f s', folder.name, named(chosen),
             time.monotonic() - begun_s)
    return Checkpoint(loaded, tokenizer, folder, chosen, named(chosen), number_format, needs)


def find(model: str, revision: str) -> tuple[Path, Weights]:
    """Return the folder of a checkpoint, and its weights, all there. Fetches what is not."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder, checked(folder)
    if model.count('/') != 1 or model.startswith(('/', '.', '~')):
        raise FileNotFoundError(f'cropond.model: there is no folder {model}')
    if not COMMIT.fullmatch(revision):
        raise ValueError(f'cropond.model: {model} is the id of a repository; set cropond.revision '
                         'to the commit you have tested, all 40 characters of it, so that nobody '
                         f'changes your robot (it is {revision!r})')
    try:  # a download that was cut off leaves a folder, too
        folder = fetched(model, revision, local=True)
        return folder, checked(folder)
    except OSError:
        log.info('%s: fetching what is missing of %s from the hub', model, revision)
        folder = fetched(model, revision, local=False)
        return folder, checked(folder)


def fetched(model: str, revision: str, local: bool) -> Path:
    """Return the folder that the hub's client has, or fetches. Raises FileNotFoundError."""
    import huggingface_hub
    try:
        return Path(huggingface_hub.snapshot_download(
            model, revision=revision, allow_patterns=list(FILES), local_files_only=local))
    except Exception as error:  # each version of the hub's client has errors of its own
        first = str(error).strip().split('\n')[0]
        raise FileNotFoundError(
            f'cropond.model: {model} at {revision} is not on this machine, and the hub did not '
            f'give it ({type(error).__name__}: {first}). Without a network, bring its files '
            f'({", ".join(FILES)}) in a folder and give that as cropond.model') from error


def checked(folder: Path) -> Weights:
    """Return the weights of a checkpoint that this can run and that is all there, or raise."""
    check_architecture(folder)
    return read_weights(folder)


def check_architecture(folder: Path) -> None:
    """Raise unless the folder holds a checkpoint of the one architecture that this runs."""
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in ('tokenizer.json', 'vocab.json')):
        missing.append('tokenizer.json')
    if missing:
        raise FileNotFoundError(f'{folder} is no checkpoint: it has no {", ".join(missing)}')
    try:
        config = json.loads((folder / 'config.json').read_text())
        architectures = config.get('architectures') or [config.get('model_type', 'nothing')]
    except (json.JSONDecodeError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f'{folder}/config.json cannot be read: {error}') from error
    if ARCHITECTURE not in architectures:
        kind = '' if 'vision_config' in config else ', a model that takes no images'
        raise ValueError(f'{folder} is a {architectures[0]}{kind}; cropond runs CroPond and '
                         f'Qwen2.5-VL ({ARCHITECTURE})')


def chosen_device(device: str) -> str:
    """Return 'cuda' or 'cpu'. Raises ValueError if a GPU was asked for and there is none."""
    there = torch.cuda.is_available()
    if device == 'cuda' and not there:
        built = 'has no CUDA' if torch.version.cuda is None else f'is for CUDA {torch.version.cuda}'
        raise ValueError(f'cropond.device: cuda, but PyTorch {torch.__version__} sees no GPU (it '
                         f'{built}); on a Jetson install the PyTorch that NVIDIA builds for it')
    return 'cuda' if there and device != 'cpu' else 'cpu'


def named(device: str) -> str:
    """Say what a device is."""
    return f'cuda ({torch.cuda.get_device_name()})' if device == 'cuda' else device


@contextmanager
def progress(found: Weights, device: str) -> Iterator[None]:
    """Say every few seconds how much of the weights is in memory."""
    over = threading.Event()
    begun_s, before = time.monotonic(), free_bytes(device)

    def report() -> None:
        while not over.wait(REPORT_S):
            there = min(max(before - free_bytes(device), 0), found.file_bytes)
            log.info('weights: about %.1f of %.1f GB after %.0f s', there / GB,
                     found.file_bytes / GB, time.monotonic() - begun_s)

    thread = threading.Thread(target=report, name='cropond-progress', daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def refusals(folder: Path) -> Iterator[None]:
    """Say of which folder it is that transformers cannot read something, and with what it tried."""
    try:
        yield
    except (ValueError, OSError, MemoryError):
        raise
    except Exception as error:  # of a file's content: it raises whatever its parsers raise
        raise ValueError(f'{folder}: transformers {transformers.__version__} cannot load it '
                         f'({type(error).__name__}: {error})') from error


def _loaded(folder: Path, device: str, number_format: str, quantising: Any) -> Any:
    transformers.utils.logging.disable_progress_bar()
    given = {} if quantising is None else {
        'quantization_config': quantising, 'device_map': {'': 0 if device == 'cuda' else 'cpu'}}
    dtype = torch.bfloat16 if quantising else getattr(torch, number_format)
    model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, trust_remote_code=False, use_safetensors=True, local_files_only=True,
        attn_implementation='sdpa', output_loading_info=True, low_cpu_mem_usage=True,
        dtype=dtype, **given)
    # What is missing would be random numbers, and nobody would notice.
    wrong = sorted(report['missing_keys']) + sorted(map(str, report.get('mismatched_keys', ())))
    if wrong:
        raise ValueError(f'{folder}: {len(wrong)} tensors of the model are missing or of another '
                         f'size, {wrong[0]} first: the weights are not those of its config.json, '
                         f'{writer(folder)}')
    if any(weight.dtype is torch.uint8 for weight in model.model.visual.parameters()):
        raise ValueError(f'transformers {transformers.__version__} has put the vision tower in 4 '
                         'bits, too: use another version, or other cropond.weights')
    return (model.to(device) if quantising is None else model).eval()


def writer(folder: Path) -> str:
    """Say by which transformers a checkpoint was written: an older one may not understand it."""
    wrote = json.loads((folder / 'config.json').read_text()).get('transformers_version', 'another')
    return f'or transformers {transformers.__version__} cannot read what transformers {wrote} wrote'


def four_bits() -> Any:
    """How weights are kept in 4 bits, by bitsandbytes. Raises ValueError where it is missing."""
    missing = [name for name in FOR_4BIT if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f'cropond.weights: 4bit needs {" and ".join(missing)}: pip install '
                         f'{" ".join(missing)}')
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=NO_QUANTISING)
