"""A folder of weights, checked before it is loaded, and loaded without a word of foreign code."""
from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from crosspoint_ros.matchers.cropond.weights import Weights, need_bytes, read_weights

ARCHITECTURE = 'Qwen2_5_VLForConditionalGeneration'
NEEDED = ('config.json', 'tokenizer_config.json')
FILES = ('*.json', '*.safetensors', 'merges.txt', 'vocab.json')
REPORT_S = 5.0
GB = 1e9
NO_QUANTISING = ['visual', 'lm_head']  # coordinates hang on both; they are small

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded model with its tokenizer, and on what it runs."""

    model: Any
    tokenizer: Any
    folder: Path
    device: str
    weights: str


def load(model: str, revision: str, device: str, weights: str) -> Checkpoint:
    """Load a local folder, or a hub id at a revision. Never runs code that comes with it.

    Raises FileNotFoundError, ValueError or MemoryError, each with what to do about it.
    """
    folder = find(model, revision)
    check_architecture(folder)
    found = read_weights(folder)
    chosen = chosen_device(device)
    number_format = {'auto': 'bfloat16' if chosen == 'cuda' else 'float32'}.get(weights, weights)
    needs = need_bytes(found, number_format)
    check_memory(folder, needs, chosen)
    log.info('%s: loading %.1f GB in %d files onto %s as %s', folder.name,
             found.file_bytes / GB, len(found.files), chosen, number_format)
    begun_s = time.monotonic()
    with memory_errors(folder, needs, chosen), progress(found, chosen):
        loaded = _loaded(folder, chosen, number_format)
    log.info('%s: loaded onto %s in %.1f s', folder.name, named(chosen),
             time.monotonic() - begun_s)
    return Checkpoint(loaded, AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
                      folder, named(chosen), number_format)


def find(model: str, revision: str) -> Path:
    """Return the folder of a checkpoint; a hub id is fetched unless it was before."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if model.count('/') != 1 or model.startswith(('/', '.', '~')):
        raise FileNotFoundError(f'cropond.model: there is no folder {model}')
    if not revision:
        raise ValueError(f'cropond.model: {model} is the id of a repository; set cropond.revision '
                         'to the commit you have tested, so that nobody changes your robot')
    import huggingface_hub
    for local in (True, False):
        try:
            return Path(huggingface_hub.snapshot_download(
                model, revision=revision, allow_patterns=list(FILES), local_files_only=local))
        except Exception as error:  # each version of the hub's client has errors of its own
            last = error
    raise FileNotFoundError(
        f'cropond.model: {model} at {revision} is not on this machine, and the hub did not give it '
        f'({type(last).__name__}). Without a network, bring its files ({", ".join(FILES)}) in a '
        'folder and give that as cropond.model')


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


def free_bytes(device: str) -> int:
    """How much memory is free there."""
    if device == 'cuda':
        return int(torch.cuda.mem_get_info()[0])
    for line in Path('/proc/meminfo').read_text().splitlines():
        if line.startswith('MemAvailable:'):
            return int(line.split()[1]) * 1024
    raise OSError('/proc/meminfo does not say how much memory is available')


def check_memory(folder: Path, needs: int, device: str) -> None:
    """Raise MemoryError if there is less than a model needs."""
    free = free_bytes(device)
    if needs > free:
        raise MemoryError(f'{folder.name} needs about {needs / GB:.1f} GB on {device}, '
                          f'{free / GB:.1f} GB are free; end other programs, choose a smaller '
                          'model, or cropond.weights: 4bit')


@contextmanager
def memory_errors(folder: Path, needs: int, device: str) -> Iterator[None]:
    """Turn every way of running out of memory into a MemoryError with the figures."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) \
                and 'memory' not in str(error):
            raise
        raise MemoryError(f'{folder.name} needs about {needs / GB:.1f} GB on {device}, '
                          f'{free_bytes(device) / GB:.1f} GB are free: {error}') from error


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


def _loaded(folder: Path, device: str, number_format: str) -> Any:
    transformers.utils.logging.disable_progress_bar()
    quantised = number_format == '4bit'
    given = {'quantization_config': four_bits()} if quantised else {}
    model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, trust_remote_code=False, use_safetensors=True, local_files_only=True,
        attn_implementation='sdpa', output_loading_info=True, low_cpu_mem_usage=True,
        dtype=torch.bfloat16 if quantised else getattr(torch, number_format), **given)
    # What is missing would be random numbers, and nobody would notice.
    wrong = sorted(report['missing_keys']) + sorted(map(str, report.get('mismatched_keys', ())))
    if wrong:
        raise ValueError(f'{folder}: {len(wrong)} tensors of the model are missing or of another '
                         f'size, {wrong[0]} first: the weights are not those of its config.json')
    return (model if quantised else model.to(device)).eval()


def four_bits() -> Any:
    """How weights are kept in 4 bits, by bitsandbytes. Raises ValueError where it is missing."""
    try:
        import bitsandbytes  # noqa: F401  (transformers would say it less plainly)
    except ImportError as error:
        raise ValueError('cropond.weights: 4bit needs bitsandbytes: pip install bitsandbytes'
                         ) from error
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=NO_QUANTISING)
