"""Files of weights: whether they are all there and whole, and the memory they will take."""
from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

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
