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
    get_free_bytes,
    explain_memory_errors,
)

INDEX_FILE = 'model.safetensors.index.json'
SINGLE_FILE = 'model.safetensors'
MAX_HEADER_BYTES = 100_000_000
LFS_POINTER = b'version https://git-lfs'
# Bytes a number takes in memory; 4 bits with a scale, float32, for each 64.
BYTES_PER_PARAM = {'float32': 4.0, 'bfloat16': 2.0, '4bit': 0.5 + 4 / 64}
UNQUANTIZED_BYTES = BYTES_PER_PARAM['bfloat16']  # of what is not quantised
UNQUANTIZED_PARTS = ('visual', 'lm_head', 'embed_tokens')
# For images, keys and values, and what the libraries take for themselves.
WORKSPACE_BYTES = 500_000_000
WORKSPACE_SHARE = 0.1


@dataclass(frozen=True)
class WeightFiles:
    """What a checkpoint's files hold: how many numbers, and those that 4 bits would not touch."""

    files: tuple[Path, ...]
    file_bytes: int
    param_count: int
    unquantized_count: int


def read_weights(folder: Path) -> WeightFiles:
    """Read the headers of all safetensors files of a checkpoint.

    Raises FileNotFoundError for a missing one and ValueError for a broken or unfinished one.
    """
    files = find_weight_files(folder)
    total = unquantized = 0
    for file in files:
        for name, shape in read_tensor_shapes(file).items():
            total += prod(shape)
            unquantized += prod(shape) if any(part in name for part in UNQUANTIZED_PARTS) else 0
    return WeightFiles(files, sum(file.stat().st_size for file in files), total, unquantized)


def find_weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the files of weights, of which none may be missing."""
    index = folder / INDEX_FILE
    if not index.is_file():
        if (folder / SINGLE_FILE).is_file():
            return (folder / SINGLE_FILE,)
        others = [p.name for p in sorted(folder.glob('*.bin')) + sorted(folder.glob('*.gguf'))]
        hint = f' ({others[0]} is not read: it may run code or is quantised)' if others else ''
        raise FileNotFoundError(f'{folder} has no weights: neither {SINGLE_FILE} nor {INDEX_FILE}{hint}')
    try:
        names = sorted(set(json.loads(index.read_text())['weight_map'].values()))
    except (json.JSONDecodeError, KeyError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f'{index} cannot be read: {error}') from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f'{folder} is not complete: {len(missing)} of {len(names)} files '
                                f'of weights are missing, {missing[0]} first; download it again')
    return tuple(folder / name for name in names)


def read_tensor_shapes(file: Path) -> dict[str, list[int]]:
    """Return name and shape of each tensor of a file. Raises ValueError if it is cut off."""
    size = file.stat().st_size
    with file.open('rb') as stream:
        first = stream.read(8)
        if (first + stream.read(len(LFS_POINTER))).startswith(LFS_POINTER):
            raise ValueError(f'{file} is a pointer of Git LFS, not the weights: git lfs pull')
        length = struct.unpack('<Q', first)[0] if len(first) == 8 else 0
        if not 0 < length <= min(size, MAX_HEADER_BYTES):
            raise ValueError(f'{file} is no safetensors file, or cut off: {size} bytes')
        stream.seek(8)
        try:
            header = json.loads(stream.read(length))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f'{file} is no safetensors file, or damaged: {error}') from error
    entries = {name: entry for name, entry in header.items() if name != '__metadata__'}
    expected = 8 + length + max((entry['data_offsets'][1] for entry in entries.values()), default=0)
    if size != expected:
        raise ValueError(f'{file} is half a download: it has {size} of {expected} bytes; download '
                         'it again')
    return {name: entry['shape'] for name, entry in entries.items()}


def estimate_required_bytes(weights: WeightFiles, weight_format: str) -> int:
    """Estimate the memory that a model takes in a number format, with room to work."""
    per_param = BYTES_PER_PARAM[weight_format]
    kept = weights.unquantized_count
    per_unquantized = UNQUANTIZED_BYTES if weight_format == '4bit' else per_param
    needs = kept * per_unquantized + (weights.param_count - kept) * per_param
    return int(needs * (1 + WORKSPACE_SHARE)) + WORKSPACE_BYTES


ARCHITECTURE = 'Qwen2_5_VLForConditionalGeneration'
REQUIRED_FILES = ('config.json', 'tokenizer_config.json')
DOWNLOAD_PATTERNS = ('*.json', '*.safetensors', 'merges.txt', 'vocab.json')
COMMIT_HASH = re.compile('[0-9a-f]{40}')
PROGRESS_PERIOD_S = 5.0
# Coordinates hang on both, and they are small. The whole name: transformers 5 compares from its
# beginning, and would quantise the vision tower without a word.
UNQUANTIZED_MODULES = ['model.visual', 'lm_head']
PACKAGES_FOR_4BIT = ('bitsandbytes', 'accelerate')

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
    required_bytes: int


def load_checkpoint(model: str, revision: str, device: str, weights: str) -> Checkpoint:
    """Load a local folder, or a hub id at a revision. Never runs code that comes with it.

    Raises FileNotFoundError, ValueError or MemoryError, each with what to do about it.
    """
    folder, files = find_checkpoint(model, revision)
    select_device = select_device(device)
    weight_format = {'auto': 'bfloat16' if select_device == 'cuda' else 'float32'}.get(weights, weights)
    quantization = build_nf4_config() if weight_format == '4bit' else None
    required_bytes = estimate_required_bytes(files, weight_format)
    check_memory(folder.name, required_bytes, select_device)
    log.info('%s: loading %.1f GB in %d files onto %s as %s', folder.name,
             files.file_bytes / GB, len(files.files), select_device, weight_format)
    start_s = time.monotonic()
    with explain_load_errors(folder), explain_memory_errors(folder.name, required_bytes, select_device), report_progress(files, select_device):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        loaded_model = _load_model(folder, select_device, weight_format, quantization)
    log.info('%s: loaded onto %s in %.1f s', folder.name, describe_device(select_device),
             time.monotonic() - start_s)
    return Checkpoint(loaded_model, tokenizer, folder, select_device, describe_device(select_device), weight_format, required_bytes)


def find_checkpoint(model: str, revision: str) -> tuple[Path, WeightFiles]:
    """Return the folder of a checkpoint, and its weights, all there. Fetches what is not."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder, check_checkpoint(folder)
    if model.count('/') != 1 or model.startswith(('/', '.', '~')):
        raise FileNotFoundError(f'cropond.model: there is no folder {model}')
    if not COMMIT_HASH.fullmatch(revision):
        raise ValueError(f'cropond.model: {model} is the id of a repository; set cropond.revision '
                         'to the commit you have tested, all 40 characters of it, so that nobody '
                         f'changes your robot (it is {revision!r})')
    try:  # a download that was cut off leaves a folder, too
        folder = download(model, revision, local_only=True)
        return folder, check_checkpoint(folder)
    except OSError:
        log.info('%s: fetching what is missing of %s from the hub', model, revision)
        folder = download(model, revision, local_only=False)
        return folder, check_checkpoint(folder)


def download(model: str, revision: str, local_only: bool) -> Path:
    """Return the folder that the hub's client has, or fetches. Raises FileNotFoundError."""
    import huggingface_hub
    try:
        return Path(huggingface_hub.snapshot_download(
            model, revision=revision, allow_patterns=list(DOWNLOAD_PATTERNS), local_files_only=local_only))
    except Exception as error:  # each version of the hub's client has errors of its own
        first = str(error).strip().split('\n')[0]
        raise FileNotFoundError(
            f'cropond.model: {model} at {revision} is not on this machine, and the hub did not '
            f'give it ({type(error).__name__}: {first}). Without a network, bring its files '
            f'({", ".join(DOWNLOAD_PATTERNS)}) in a folder and give that as cropond.model') from error


def check_checkpoint(folder: Path) -> WeightFiles:
    """Return the weights of a checkpoint that this can run and that is all there, or raise."""
    check_architecture(folder)
    return read_weights(folder)


def check_architecture(folder: Path) -> None:
    """Raise unless the folder holds a checkpoint of the one architecture that this runs."""
    missing = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
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


def select_device(device: str) -> str:
    """Return 'cuda' or 'cpu'. Raises ValueError if a GPU was asked for and there is none."""
    has_gpu = torch.cuda.is_available()
    if device == 'cuda' and not has_gpu:
        built = 'has no CUDA' if torch.version.cuda is None else f'is for CUDA {torch.version.cuda}'
        raise ValueError(f'cropond.device: cuda, but PyTorch {torch.__version__} sees no GPU (it '
                         f'{built}); on a Jetson install the PyTorch that NVIDIA builds for it')
    return 'cuda' if has_gpu and device != 'cpu' else 'cpu'


def describe_device(device: str) -> str:
    """Say what a device is."""
    return f'cuda ({torch.cuda.get_device_name()})' if device == 'cuda' else device


@contextmanager
def report_progress(files: WeightFiles, device: str) -> Iterator[None]:
    """Say every few seconds how much of the weights is in memory."""
    done = threading.Event()
    start_s, initial_free = time.monotonic(), get_free_bytes(device)

    def report() -> None:
        while not done.wait(PROGRESS_PERIOD_S):
            there = min(max(initial_free - get_free_bytes(device), 0), files.file_bytes)
            log.info('weights: about %.1f of %.1f GB after %.0f s', there / GB,
                     files.file_bytes / GB, time.monotonic() - start_s)

    thread = threading.Thread(target=report, name='cropond-progress', daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def explain_load_errors(folder: Path) -> Iterator[None]:
    """Say of which folder it is that transformers cannot read something, and with what it tried."""
    try:
        yield
    except (ValueError, OSError, MemoryError):
        raise
    except Exception as error:  # of a file's content: it raises whatever its parsers raise
        raise ValueError(f'{folder}: transformers {transformers.__version__} cannot load it '
                         f'({type(error).__name__}: {error})') from error


def _load_model(folder: Path, device: str, weight_format: str, quantization: Any) -> Any:
    transformers.utils.logging.disable_progress_bar()
    extra = {} if quantization is None else {
        'quantization_config': quantization, 'device_map': {'': 0 if device == 'cuda' else 'cpu'}}
    dtype = torch.bfloat16 if quantization else getattr(torch, weight_format)
    model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, trust_remote_code=False, use_safetensors=True, local_files_only=True,
        attn_implementation='sdpa', output_loading_info=True, low_cpu_mem_usage=True,
        dtype=dtype, **extra)
    # What is missing would be random numbers, and nobody would notice.
    broken = sorted(report['missing_keys']) + sorted(map(str, report.get('mismatched_keys', ())))
    if broken:
        raise ValueError(f'{folder}: {len(broken)} tensors of the model are missing or of another '
                         f'size, {broken[0]} first: the weights are not those of its config.json, '
                         f'{describe_writer_version(folder)}')
    if any(weight.dtype is torch.uint8 for weight in model.model.visual.parameters()):
        raise ValueError(f'transformers {transformers.__version__} has put the vision tower in 4 '
                         'bits, too: use another version, or other cropond.weights')
    return (model.to(device) if quantization is None else model).eval()


def describe_writer_version(folder: Path) -> str:
    """Say by which transformers a checkpoint was written: an older one may not understand it."""
    version = json.loads((folder / 'config.json').read_text()).get('transformers_version', 'another')
    return f'or transformers {transformers.__version__} cannot read what transformers {version} wrote'


def build_nf4_config() -> Any:
    """How weights are kept in 4 bits, by bitsandbytes. Raises ValueError where it is missing."""
    missing = [name for name in PACKAGES_FOR_4BIT if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f'cropond.weights: 4bit needs {" and ".join(missing)}: pip install '
                         f'{" ".join(missing)}')
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=UNQUANTIZED_MODULES)
