"""Finds, validates and loads a checkpoint; never runs code that comes with it."""
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
from transformers import AutoTokenizer

from crosspoint_ros.matchers.cropond.engine.memory import (
    GB,
    check_memory,
    explain_memory_errors,
    get_free_bytes,
)
from crosspoint_ros.matchers.cropond.image_processor import QWEN2_5_VL, QWEN3_VL, PreprocessorConfig

INDEX_FILE = 'model.safetensors.index.json'
SINGLE_FILE = 'model.safetensors'
REQUIRED_FILES = ('config.json', 'tokenizer_config.json')
DOWNLOAD_PATTERNS = ('*.json', '*.safetensors', 'merges.txt', '*.jinja')
MAX_HEADER_BYTES = 100_000_000
LFS_POINTER = b'version https://git-lfs'
# Each with the preprocessor of its family, for a checkpoint that comes without.
ARCHITECTURES = {'Qwen2_5_VLForConditionalGeneration': QWEN2_5_VL,
                 'Qwen3VLForConditionalGeneration': QWEN3_VL,
                 'Qwen3VLMoeForConditionalGeneration': QWEN3_VL}
RECURRENT = 'has layers with a recurrent state, which cannot return to the end of the images'
# Beginnings of the names of others, and why this engine cannot run them.
UNSUPPORTED = {'Qwen3_5': RECURRENT, 'Qwen3Next': RECURRENT,
               'Molmo': 'points with grounding tokens, not with numbers'}
COMMIT_HASH = re.compile('[0-9a-f]{40}')
PROGRESS_PERIOD_S = 5.0
# 4 bits: with a float32 scale for each 64 parameters.
BYTES_PER_PARAM = {'float32': 4.0, 'bfloat16': 2.0, '4bit': 0.5 + 4 / 64}
# Vision tower and head are small, and coordinates depend on them. Full module names: transformers
# 5 matches from the beginning, and would silently quantise the vision tower.
UNQUANTIZED_MODULES = ['model.visual', 'lm_head']
UNQUANTIZED_PARTS = ('visual', 'lm_head', 'embed_tokens')
PACKAGES_FOR_4BIT = ('bitsandbytes', 'accelerate')
# For images, the KV cache, and the libraries.
WORKSPACE_BYTES = 500_000_000
WORKSPACE_SHARE = 0.1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightFiles:
    """Weight files of a checkpoint. unquantized_count: parameters that 4 bits leave in bfloat16."""

    files: tuple[Path, ...]
    file_bytes: int
    param_count: int
    unquantized_count: int


def read_weights(folder: Path) -> WeightFiles:
    """Read the headers of all safetensors files of a checkpoint.

    Raises FileNotFoundError for a missing file, ValueError for a broken or incomplete one.
    """
    files = find_weight_files(folder)
    total = unquantized = 0
    for file in files:
        for name, shape in read_tensor_shapes(file).items():
            total += prod(shape)
            unquantized += prod(shape) if any(part in name for part in UNQUANTIZED_PARTS) else 0
    return WeightFiles(files, sum(file.stat().st_size for file in files), total, unquantized)


def find_weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the weight files. Raises FileNotFoundError if one is missing."""
    index = folder / INDEX_FILE
    if not index.is_file():
        if (folder / SINGLE_FILE).is_file():
            return (folder / SINGLE_FILE,)
        others = [p.name for p in sorted(folder.glob('*.bin')) + sorted(folder.glob('*.gguf'))]
        hint = f' ({others[0]} is not read: it may run code or is quantised)' if others else ''
        raise FileNotFoundError(f'{folder} has no weights: neither {SINGLE_FILE} nor '
                                f'{INDEX_FILE}{hint}')
    try:
        names = sorted(set(json.loads(index.read_text())['weight_map'].values()))
    except (json.JSONDecodeError, KeyError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f'{index} cannot be read: {error}') from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f'{folder} is incomplete: {len(missing)} of {len(names)} weight '
                                f'files are missing, {missing[0]} first; download it again')
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
            raise ValueError(f'{file} is not a safetensors file, or cut off: {size} bytes')
        stream.seek(8)
        try:
            header = json.loads(stream.read(length))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f'{file} is not a safetensors file, or damaged: {error}') from error
    entries = {name: entry for name, entry in header.items() if name != '__metadata__'}
    expected = 8 + length + max((entry['data_offsets'][1] for entry in entries.values()), default=0)
    if size != expected:
        raise ValueError(f'{file} is incomplete: it has {size} of {expected} bytes; download it '
                         'again')
    return {name: entry['shape'] for name, entry in entries.items()}


def estimate_required_bytes(weights: WeightFiles, weight_format: str) -> int:
    """Estimate the memory of a model in a number format, including workspace."""
    unquantized_format = 'bfloat16' if weight_format == '4bit' else weight_format
    weight_bytes = (
        weights.unquantized_count * BYTES_PER_PARAM[unquantized_format]
        + (weights.param_count - weights.unquantized_count) * BYTES_PER_PARAM[weight_format])
    return int(weight_bytes * (1 + WORKSPACE_SHARE)) + WORKSPACE_BYTES


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded model with its tokenizer, and its estimated memory.

    device: 'cuda' or 'cpu'; device_name: including the GPU's name. weights: the number format.
    preprocessor: of its images.
    """

    model: Any
    tokenizer: Any
    folder: Path
    device: str
    device_name: str
    weights: str
    required_bytes: int
    preprocessor: PreprocessorConfig = QWEN2_5_VL


def load_checkpoint(model: str, revision: str, device: str, weights: str) -> Checkpoint:
    """Load a local folder, or a hub id at a revision. Never runs code that comes with it.

    Raises FileNotFoundError, ValueError or MemoryError; the message says what to do.
    """
    folder, files = find_checkpoint(model, revision)
    device = select_device(device)
    weights, device_name = select_weight_format(weights, device), describe_device(device)
    architecture, preprocessor = read_architecture(folder), read_preprocessor(folder)
    if weights == '4bit' and 'Moe' in architecture:
        raise ValueError(f'cropond.weights: 4bit leaves the experts of a {architecture} as they '
                         'are: use other weights, or cropond_remote')
    quantization = build_nf4_config() if weights == '4bit' else None
    required_bytes = estimate_required_bytes(files, weights)
    check_memory(folder.name, required_bytes, device)
    log.info('%s: loading %.1f GB in %d files onto %s as %s', folder.name,
             files.file_bytes / GB, len(files.files), device, weights)
    start_s = time.monotonic()
    with explain_load_errors(folder), report_progress(files, device), \
            explain_memory_errors(folder.name, required_bytes, device):
        tokenizer = load_tokenizer(folder)
        loaded = _load_model(folder, architecture, device, weights, quantization)
    log.info('%s: loaded onto %s in %.1f s', folder.name, device_name, time.monotonic() - start_s)
    return Checkpoint(loaded, tokenizer, folder, device, device_name, weights, required_bytes,
                      preprocessor)


def find_checkpoint(model: str, revision: str) -> tuple[Path, WeightFiles]:
    """Return the folder of a checkpoint and its complete weights, downloading missing files."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder, check_checkpoint(folder)
    if model.count('/') != 1 or model.startswith(('/', '.', '~')):
        raise FileNotFoundError(f'cropond.model: there is no folder {model}')
    if not COMMIT_HASH.fullmatch(revision):
        raise ValueError(f'cropond.model: {model} is the id of a repository; set cropond.revision '
                         'to the commit you have tested, all 40 characters of it, so that a later '
                         f'push does not change your robot (it is {revision!r})')
    try:  # an interrupted download leaves a folder too
        folder = download(model, revision, local_only=True)
        return folder, check_checkpoint(folder)
    except OSError:
        log.info('%s: downloading the missing files of %s from the hub', model, revision)
        folder = download(model, revision, local_only=False)
        return folder, check_checkpoint(folder)


def download(model: str, revision: str, local_only: bool) -> Path:
    """Return the hub client's folder of a revision. Raises FileNotFoundError."""
    import huggingface_hub
    patterns = list(DOWNLOAD_PATTERNS)
    try:
        return Path(huggingface_hub.snapshot_download(
            model, revision=revision, allow_patterns=patterns, local_files_only=local_only))
    except Exception as error:  # the hub client's exceptions differ between its versions
        first = str(error).strip().split('\n')[0]
        raise FileNotFoundError(
            f'cropond.model: {model} at {revision} is not on this machine, and the download '
            f'failed ({type(error).__name__}: {first}). Without a network, copy its files '
            f'({", ".join(patterns)}) into a folder and set that as cropond.model') from error


def check_checkpoint(folder: Path) -> WeightFiles:
    """Return the weights of a checkpoint; raise if it is incomplete or another architecture."""
    missing = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in ('tokenizer.json', 'vocab.json')):
        missing.append('tokenizer.json')
    if missing:
        raise FileNotFoundError(f'{folder} is not a checkpoint: it has no {", ".join(missing)}')
    read_preprocessor(folder)
    return read_weights(folder)


def read_architecture(folder: Path) -> str:
    """Return one of `ARCHITECTURES`. Raises ValueError for any other, with what to do."""
    config = _read_config(folder)
    architecture = str((config.get('architectures') or [config.get('model_type', 'nothing')])[0])
    if architecture in ARCHITECTURES:
        if not hasattr(transformers, architecture):
            raise ValueError(f'{folder} is a {architecture}, which transformers '
                             f'{transformers.__version__} does not have: update it')
        return architecture
    reason = next((why for name, why in UNSUPPORTED.items() if architecture.startswith(name)), '')
    if 'linear_attention' in (config.get('text_config', {}).get('layer_types') or ()):
        reason = RECURRENT
    what = f', which {reason}' if reason else '' if 'vision_config' in config else \
        ', a model without image input'
    raise ValueError(f'{folder} is a {architecture}{what}; cropond runs CroPond, Qwen2.5-VL and '
                     f'Qwen3-VL ({", ".join(ARCHITECTURES)}): for another pointing model start a '
                     'server and use cropond_remote')


def read_preprocessor(folder: Path) -> PreprocessorConfig:
    """Return how the images of a checkpoint are prepared, by its own file, else by its family.

    Raises ValueError if that does not fit the vision tower.
    """
    family = ARCHITECTURES[read_architecture(folder)]
    given = _read_config(folder, 'preprocessor_config.json') or _read_config(
        folder, 'processor_config.json').get('image_processor', {})
    size = given.get('size') or {}
    vision = _read_config(folder).get('vision_config', {})
    for name, expected in (('patch_size', vision.get('patch_size', family.patch_px)),
                           ('merge_size', 2), ('temporal_patch_size', 2)):
        if given.get(name, expected) != expected:
            raise ValueError(f'{folder}: the preprocessor has {name} {given[name]}, the model '
                             f'{expected}: they are of different checkpoints')
    return PreprocessorConfig(
        vision.get('patch_size', family.patch_px), tuple(given.get('image_mean', family.mean)),
        tuple(given.get('image_std', family.std)),
        given.get('min_pixels') or size.get('shortest_edge', family.min_pixels),
        given.get('max_pixels') or size.get('longest_edge', family.max_pixels))


def _read_config(folder: Path, name: str = 'config.json') -> dict[str, Any]:
    """Return a file of a checkpoint, empty without it. Raises ValueError unless it is an object."""
    path = folder / name
    try:
        config = json.loads(path.read_text()) if path.is_file() else {}
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} cannot be read: {error}') from error
    if not isinstance(config, dict):
        raise ValueError(f'{path} cannot be read: it is not a JSON object')
    return config


def load_tokenizer(folder: Path) -> Any:
    """Load a tokenizer, with the chat template that some checkpoints have in another file."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not tokenizer.chat_template:
        tokenizer.chat_template = _read_config(folder, 'chat_template.json').get('chat_template')
    return tokenizer


def select_device(device: str) -> str:
    """Return 'cuda' or 'cpu'. Raises ValueError if a GPU is requested and there is none."""
    has_gpu = torch.cuda.is_available()
    if device == 'cuda' and not has_gpu:
        built = 'has no CUDA' if torch.version.cuda is None else f'is for CUDA {torch.version.cuda}'
        raise ValueError(f'cropond.device: cuda, but PyTorch {torch.__version__} sees no GPU (it '
                         f'{built}); on a Jetson install the PyTorch that NVIDIA builds for it')
    return 'cuda' if has_gpu and device != 'cpu' else 'cpu'


def select_weight_format(weights: str, device: str) -> str:
    """Return the number format of the option `weights`: 'auto' depends on the device."""
    return ('bfloat16' if device == 'cuda' else 'float32') if weights == 'auto' else weights


def describe_device(device: str) -> str:
    return f'cuda ({torch.cuda.get_device_name()})' if device == 'cuda' else device


@contextmanager
def report_progress(files: WeightFiles, device: str) -> Iterator[None]:
    """Log every few seconds how much of the weights is in memory."""
    done = threading.Event()
    start_s, initial_free = time.monotonic(), get_free_bytes(device)

    def report() -> None:
        while not done.wait(PROGRESS_PERIOD_S):
            loaded = min(max(initial_free - get_free_bytes(device), 0), files.file_bytes)
            log.info('weights: about %.1f of %.1f GB after %.0f s', loaded / GB,
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
    """Add the folder and transformers' version to errors in loading."""
    try:
        yield
    except (ValueError, OSError, MemoryError):
        raise
    except Exception as error:  # parsers of file contents raise many types
        raise ValueError(f'{folder}: transformers {transformers.__version__} cannot load it '
                         f'({type(error).__name__}: {error})') from error


def _load_model(folder: Path, architecture: str, device: str, weights: str, quantization: Any
                ) -> Any:
    transformers.utils.logging.disable_progress_bar()
    extra = {} if quantization is None else {
        'quantization_config': quantization, 'device_map': {'': 0 if device == 'cuda' else 'cpu'}}
    dtype = torch.bfloat16 if quantization else getattr(torch, weights)
    model, report = getattr(transformers, architecture).from_pretrained(
        folder, trust_remote_code=False, use_safetensors=True, local_files_only=True,
        attn_implementation='sdpa', output_loading_info=True, low_cpu_mem_usage=True,
        dtype=dtype, **extra)
    # Missing tensors would silently be random.
    broken = sorted(report['missing_keys']) + sorted(map(str, report.get('mismatched_keys', ())))
    if broken:
        config = _read_config(folder)
        raise ValueError(f'{folder}: {len(broken)} tensors of the model are missing or of another '
                         f'size, {broken[0]} first: the weights do not match config.json, or '
                         f'transformers {transformers.__version__} cannot read what transformers '
                         f'{config.get("transformers_version", "(unknown)")} wrote')
    if any(weight.dtype is torch.uint8 for weight in model.model.visual.parameters()):
        raise ValueError(f'transformers {transformers.__version__} has also quantised the vision '
                         'tower: use another version, or other cropond.weights')
    return (model.to(device) if quantization is None else model).eval()


def build_nf4_config() -> Any:
    """Return the 4-bit configuration of bitsandbytes. Raises ValueError if it is missing."""
    missing = [name for name in PACKAGES_FOR_4BIT if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f'cropond.weights: 4bit needs {" and ".join(missing)}: pip install '
                         f'{" ".join(missing)}')
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=UNQUANTIZED_MODULES)
