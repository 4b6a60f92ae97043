"""Decodes compressed images, and refuses those that lost data on their way.

The libraries behind OpenCV repair in silence: a JPEG that lost bytes becomes a shifted picture with
an invented rest. Whether a scan is whole is asked of the decoder itself: see `ScanProbe`.
"""
from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Data = bytes | npt.NDArray[np.uint8]
Pixels = npt.NDArray[Any]

MAX_PIXELS = 100_000_000
PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
READABLE = re.compile(rb'\xff\xd8|\x89PNG|RIFF....WEBP|II\*\0|MM\0\*|BM|P[56]\s', re.DOTALL)
NETPBM = re.compile(rb'P([56])(?:\s|#[^\n]*\n)+(\d+)\s+(\d+)\s+(\d+)\s')
# In the entropy-coded data of a JPEG: a marker, neither a stuffed byte nor a restart; a restart.
JPEG_MARKER = re.compile(rb'\xff[^\x00\xd0-\xd7\xff]')
JPEG_RESTART = re.compile(rb'\xff([\xd0-\xd7])')  # fill bytes (FF) may be before it
SOI, EOI, SOS, DRI, DHT, DQT = 0xD8, 0xD9, 0xDA, 0xDD, 0xC4, 0xDB
# Appended to a scan in place of what follows: different blocks, and no marker.
ENDINGS = [bytes(16), *(bytes([byte] * 16) for byte in (0x55, 0xAA, 0x33, 0x66, 0x92))]
MAX_ROW_PX = 8192  # of a restart interval that is decoded as one row
ZERO_BLOCK_BYTES, MAX_BLOCK_BYTES = 32, 128  # more than a block of zero bits takes, and any block


def decode_image(data: Data, *, is_streamed: bool = False) -> Pixels:
    """Decode a JPEG, PNG, WebP, TIFF, BMP, PGM or PPM as it is stored: BGR(A) or one channel.

    EXIF orientation is not applied. is_streamed: see `check_image`. Raises ValueError with the
    fault for anything else, for an image that is cut off or lost data, for CMYK, and for more than
    100 megapixels.
    """
    data = bytes(data)
    check_image(data, is_streamed=is_streamed)
    pixels = _decode(data, cv2.IMREAD_UNCHANGED) if READABLE.match(data) else None
    if pixels is None:
        raise ValueError(f'{len(data)} bytes that OpenCV cannot read as an image (must be '
                         'a JPEG, PNG, WebP, TIFF, BMP, PGM or PPM)')
    return pixels


def check_image(data: Data, *, is_streamed: bool = False) -> None:
    """Raise ValueError for an image that is cut off or lost data, or that is not decoded here.

    is_streamed: it came from a camera, where data may be lost. A JPEG of several scans is then
    refused: of 180 damaged ones 38 were not found.
    """
    if fault := _find_fault(bytes(data), is_streamed):
        raise ValueError(f'the image {fault}')


def _decode(data: bytes, flags: int) -> Pixels | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # larger than OpenCV reads
        return None


def _find_fault(data: bytes, is_streamed: bool) -> str:
    if data.startswith(PNG_SIGNATURE):
        return _find_png_fault(data)
    if data.startswith(b'\xff\xd8'):
        return _find_jpeg_fault(data, is_streamed)
    if data.startswith(b'BM'):
        length = int.from_bytes(data[2:6], 'little')
    elif data.startswith(b'RIFF') and data[8:12] == b'WEBP':
        length = 8 + int.from_bytes(data[4:8], 'little')
    elif match := NETPBM.match(data):
        kind, width, height, maximum = map(int, match.groups())
        if fault := _find_size_fault(width, height):
            return fault
        length = match.end() + width * height * (1, 3)[kind - 5] * (1 + (maximum > 255))
    else:
        return ''  # libtiff refuses a TIFF that is cut off
    return f'is cut off: {len(data)} of its {length} bytes' if len(data) < length else ''


def _find_size_fault(width_px: int, height_px: int) -> str:
    if width_px * height_px <= MAX_PIXELS:
        return ''
    return (f'is {width_px}x{height_px} px (limit {MAX_PIXELS / 1e6:g} megapixels): shrink it, and '
            'scale its intrinsics with it')


def _find_png_fault(data: bytes) -> str:
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at:at + 4], 'big')
        kind, end = data[at + 4:at + 8], at + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(data[at + 4:end]) != int.from_bytes(data[end:end + 4], 'big'):
            return f'is damaged: the checksum of its {kind.decode("latin-1")} chunk is wrong'
        if kind == b'IHDR' and (fault := _find_size_fault(
                int.from_bytes(data[at + 8:at + 12], 'big'),
                int.from_bytes(data[at + 12:at + 16], 'big'))):
            return fault
        if kind == b'IEND':
            return ''
        at = end + 4
    return f'is cut off after {len(data)} bytes'


# --- RVL ------------------------------------------------------------------------------------------

def decode_rvl(data: Data) -> npt.NDArray[np.uint16]:
    """Decode depth (h, w) of compressed_depth_image_transport's RVL: int32 width and height first.

    A. D. Wilson, Fast Lossless Depth Image Compression, 2017. Numbers are sequences of 4 bits, the
    highest of which means that 3 more bits of higher order follow; they are the lengths of a run of
    zeros and of a run of depths, then the differences of these depths. Raises ValueError.
    """
    data = bytes(data)
    if len(data) < 8 or len(data) % 4:
        raise ValueError(f'the RVL image is cut off: {len(data)} bytes (must be words of 4)')
    width, height = np.frombuffer(data, '<i4', 2).tolist()
    if width <= 0 or height <= 0 or width * height > MAX_PIXELS:
        raise ValueError(f'the RVL image is {width}x{height} px (limit {MAX_PIXELS / 1e6:g} '
                         'megapixels)')
    if len(data) > 4 * width * height + 24:  # a difference of depths takes 3 bytes
        raise ValueError(f'the RVL image is damaged: {len(data)} bytes for {width}x{height} px')
    words = np.frombuffer(data, '<u4', (len(data) - 8) // 4, offset=8)
    octets = words.astype('>u4').view(np.uint8)
    nibbles = np.stack([octets >> 4, octets & 15], axis=1).ravel()
    last = np.flatnonzero(nibbles < 8)  # of each number
    first = np.concatenate([[0], last[:-1] + 1]) if len(last) else last
    if len(last) and (last - first).max() > 10:  # 11 of them hold an int32
        raise ValueError('the RVL image is damaged: a number of more than 32 bits')
    nibbles = nibbles[:last[-1] + 1] if len(last) else nibbles[:0]
    place = np.arange(len(nibbles)) - np.repeat(first, last - first + 1)
    numbers = np.add.reduceat((nibbles & 7).astype(np.int64) << 3 * place, first) \
        if len(first) else first
    return _place_runs(numbers, width * height).reshape(height, width)


def _place_runs(numbers: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.uint16]:
    values, starts, filled, at = numbers.tolist(), [], 0, 0
    while filled < size and at + 1 < len(values):
        zeros, depths = values[at:at + 2]
        starts.append(at)
        filled, at = filled + zeros + depths, at + 2 + depths
        # Only the first run of zeros, and the last one of depths, may be empty.
        if (not zeros and len(starts) > 1) or (not depths and filled < size):
            break
    if filled != size or at > len(values):
        raise ValueError(f'the RVL image is cut off or damaged: its {len(values)} numbers fill '
                         f'{min(filled, size)} of {size} pixels')
    if len(values) - at >= 8:  # the last word is filled up with zeros
        raise ValueError(f'the RVL image is damaged: {len(values) - at} numbers are left over')
    places = np.add.outer(starts, [0, 1]).ravel()
    signed = np.delete(numbers[:at], places)
    is_depth = np.repeat(np.arange(len(places)) % 2 == 1, numbers[places])
    depth = np.zeros(size, np.uint16)
    depth[is_depth] = np.cumsum((signed >> 1) ^ -(signed & 1)).astype(np.uint16)
    return depth


# --- JPEG (ITU-T T.81) ----------------------------------------------------------------------------

@dataclass
class JpegParts:
    """The parts of a JPEG, up to its first end-of-image marker.

    tables: its quantisers and Huffman tables. frame, scan_header: these segments, the components
    numbered from 1 so that the first is the brightness. scans: start and end of the entropy-coded
    data of each scan.
    """

    tables: list[bytes] = field(default_factory=list)
    frame: bytearray = field(default_factory=bytearray)
    scan_header: bytearray = field(default_factory=bytearray)
    restart_mcus: int = 0
    scans: list[tuple[int, int]] = field(default_factory=list)
    fault: str = ''

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return int.from_bytes(self.frame[7:9], 'big'), int.from_bytes(self.frame[5:7], 'big')

    @property
    def blocks(self) -> tuple[int, int]:
        """Blocks of brightness across and down a coding unit (MCU)."""
        factors = self.frame[11::3]
        if len(factors) == 1:
            return 1, 1
        return max(f >> 4 for f in factors), max(f & 15 for f in factors)


def read_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a JPEG, px, by its frame header; None if it is none."""
    if not data.startswith(b'\xff\xd8'):
        return None
    size = _split_jpeg(data).size
    return size if all(size) else None


def _split_jpeg(data: bytes) -> JpegParts:
    parts, at = JpegParts(), 2
    while at + 4 <= len(data) or data[at:at + 2] == b'\xff\xd9':
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2:at + 4], 'big')
        if data[at] != 0xFF:
            parts.fault = f'is damaged: a JPEG marker is missing at byte {at}'
            return parts
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == EOI:
            return parts
        segment = bytearray(data[at:end])
        if 0xC0 <= marker <= 0xCF and marker not in (DHT, 0xC8, 0xCC):
            parts.frame = segment
        elif marker == DRI:
            parts.restart_mcus = int.from_bytes(segment[4:6], 'big')
        elif marker in (DHT, DQT):
            parts.tables.append(bytes(segment))
        at = end
        if marker == SOS:  # its data have no length
            found = JPEG_MARKER.search(data, at)
            if found is None:
                break
            parts.scan_header = segment
            parts.scans.append((at, found.start()))
            at = found.start()
    parts.fault = f'is cut off: the end marker of a JPEG is missing after {len(data)} bytes'
    return parts


def _find_jpeg_fault(data: bytes, is_streamed: bool) -> str:
    parts = _split_jpeg(data)
    frame = parts.frame
    if len(frame) >= 13:
        if fault := _find_size_fault(*parts.size):
            return fault
        if frame[9] == 4:
            return 'is CMYK: convert it to RGB'
    if parts.fault:
        return parts.fault
    if not parts.scans or len(frame) < 13 or len(frame) != 10 + 3 * frame[9] or not all(
            (*parts.size, *parts.blocks)):
        return 'is damaged: a JPEG without a frame header or a scan'
    if frame[1] > 0xC2 or frame[4] != 8:
        return f'is a lossless, arithmetic or {frame[4]}-bit JPEG: convert it to PNG'
    if frame[1] == 0xC2 or len(parts.scans) > 1:
        if is_streamed:
            return ('is a progressive JPEG, or one of several scans, in which lost data cannot be '
                    'found: let the camera send baseline JPEG (image_transport: '
                    'jpeg_progressive false) or PNG')
        return _find_fault_of_scans(data, parts)
    return _find_fault_of_scan(data[slice(*parts.scans[0])], parts)


def _find_fault_of_scan(scan: bytes, parts: JpegParts) -> str:
    """Return the fault of the only, sequential scan."""
    across, down = (-(-parts.size[axis] // (8 * parts.blocks[axis])) for axis in (0, 1))
    total = across * down
    each = parts.restart_mcus or total
    pieces = JPEG_RESTART.split(scan)
    intervals, restarts = pieces[::2], [marker[0] & 7 for marker in pieces[1::2]]
    if restarts and not intervals[-1]:  # some drivers end with one
        del intervals[-1], restarts[-1]
    expected = -(-total // each) - 1
    if restarts != [i % 8 for i in range(expected)]:
        return f'lost data: {len(restarts)} of {expected} restart markers, or not in their order'
    probe = ScanProbe.from_parts(parts)
    for index, data in enumerate(intervals):
        wanted = min(each, total - index * each)
        if fault := probe.find_fault(data.rstrip(b'\xff'), wanted, across):
            return fault + (f' after restart {index}' if index else '')
    return ''


@dataclass(frozen=True)
class ScanProbe:
    """Asks the decoder how much of an image the data of a scan or restart interval hold.

    start, end: what comes before and after the frame header. frame, blocks: as in `JpegParts`.
    limit: how far from grey the mean of a block may be. OpenCV prints no warning of whole data.
    """

    start: bytes
    frame: bytes
    end: bytes
    blocks: tuple[int, int]
    mcu_blocks: int  # of all components
    limit: float
    min_mcu_bits: float

    @classmethod
    def from_parts(cls, parts: JpegParts) -> ScanProbe:
        """Halve the quantiser of brightness, so that what is brighter than white can be seen."""
        tables, limit = _halve_brightness(parts.tables, parts.frame[12])
        frame, header = bytearray(parts.frame), bytearray(parts.scan_header)
        numbers = {number: index for index, number in enumerate(frame[10::3], 1)}
        # So numbered, the first component is the brightness.
        frame[10::3] = bytes(numbers.values())
        header[5:-3:2] = bytes(numbers.get(number, 0) for number in header[5:-3:2])
        start = b''.join((b'\xff\xd8', *map(_extend_codes, tables)))
        per_mcu = 1 if len(frame) == 13 else sum((f >> 4) * (f & 15) for f in frame[11::3])
        return cls(start, bytes(frame), bytes(header), parts.blocks, per_mcu, limit,
                   per_mcu * _find_shortest_block(parts.tables))

    def find_fault(self, data: bytes, wanted: int, across: int) -> str:
        """Return the fault of data for `wanted` MCUs, in rows of `across`; '' if they are whole."""
        most = 4 * len(data) // self.mcu_blocks  # each block has two codes, of a bit or more
        if most < wanted:
            return f'lost data: it holds at most {most} of {wanted} blocks'
        counted, excess = self.count_mcus(data, wanted, across)
        if counted < wanted:
            return f'lost data: it holds {counted} of {wanted} blocks'
        if excess > 0:
            return (f'is damaged: a block is {excess:.0%} brighter than white, or darker than '
                    'black')
        if counted <= wanted:
            return ''
        # Some drivers append zeros, or a byte or two, if no MCU fits into them.
        shorter = [data.rstrip(b'\0'), *(data[:-n] for n in (1, 2) if 8 * n < self.min_mcu_bits)]
        if any(self.count_mcus(part, wanted, across)[0] == wanted for part in shorter):
            return ''
        if self.count_mcus(b'', 0, across)[0] > 0:  # no bit makes a difference
            return ''
        return f'is damaged: it holds {counted - wanted} or more blocks too many for {wanted}'

    def count_mcus(self, data: bytes, wanted: int, across: int) -> tuple[int, float]:
        """Return the number of MCUs in the data, and the share by which one is too bright.

        The data are decoded twice, in a frame that is taller than the image, with different
        endings in place of what follows: the first MCU that differs is the first that the data do
        not hold.
        """
        needed = wanted + 1
        width, height = (8 * blocks for blocks in self.blocks)
        across = needed if needed <= max(across, MAX_ROW_PX // width) else across
        down = -(-needed // across)
        frame = bytearray(self.frame)
        frame[5:9] = (down * height).to_bytes(2, 'big') + (across * width).to_bytes(2, 'big')
        start = b''.join((self.start, frame, self.end, data))
        rest = bytes(self.mcu_blocks * (ZERO_BLOCK_BYTES * down * across
                                        + MAX_BLOCK_BYTES * (down * across - wanted)))
        first = _decode(start + ENDINGS[0] + rest, cv2.IMREAD_GRAYSCALE)
        if first is None:
            return 0, 0.0
        counted = down * across
        for ending in ENDINGS[1:]:  # one of which differs visibly, also where it is black or white
            other = _decode(start + ending + rest, cv2.IMREAD_GRAYSCALE)
            if other is None:
                return 0, 0.0
            differs = first.view(np.uint64) != other.view(np.uint64)  # a block's row each
            differs = differs.reshape(down, height, across, width // 8).any(axis=(1, 3))
            counted = min(counted, int(differs.argmax()) if differs.any() else counted)
            if counted <= wanted:
                break
        means = cv2.resize(first, None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_AREA)
        means = means.reshape(down, height // 8, across, width // 8).swapaxes(1, 2).ravel()
        offset = means[:wanted * (width // 8) * (height // 8)].astype(np.float32) - 128
        return counted, float(np.abs(offset).max(initial=0) - 1) / self.limit - 1


def _halve_brightness(tables: list[bytes], table_id: int) -> tuple[list[bytes], float]:
    """Return the tables with half the first quantiser, and the largest legal offset from grey.

    The mean of a block of 8-bit pixels is at most 128 from grey, and rounded to the quantiser.
    """
    changed, limit = [bytearray(table) for table in tables], np.inf
    for table in changed:
        at = 4
        while table[1] == DQT and at + 65 <= len(table):
            wide = 1 + (table[at] >> 4)  # bytes of a quantiser
            if table[at] & 15 == table_id:
                whole = max(int.from_bytes(table[at + 1:at + 1 + wide], 'big'), 1)
                half = max(whole // 2, 1)
                table[at + 1:at + 1 + wide] = half.to_bytes(wide, 'big')
                limit = (1024 + whole) / whole * half / 8
            at += 1 + 64 * wide
    return [bytes(table) for table in changed], limit


def _find_shortest_block(tables: list[bytes]) -> float:
    """Return the bits of an empty block: the shortest code of DC, and the mean end of block."""
    dc, ends = [], []
    for table in tables:
        at = 4
        while table[1] == DHT and at + 17 < len(table):
            lengths = [length for length, count in enumerate(table[at + 1:at + 17], 1)
                       for _ in range(count)]
            symbols = table[at + 17:at + 17 + len(lengths)]
            if table[at] < 16:
                dc += lengths[:1]
            elif 0 in symbols and len(symbols) == len(lengths):
                ends.append(lengths[symbols.index(0)])
            at += 17 + len(lengths)
    # Without tables, the standard's apply.
    return min(dc, default=2) + (sum(ends) / len(ends) if ends else 3)


def _extend_codes(table: bytes) -> bytes:
    """Return a Huffman table (DHT) in which all ones, as a scan is padded, begin a code.

    Existing codes keep their bits; the new ones mean large numbers, which can be seen. Else OpenCV
    would print a warning of whole data.
    """
    extended, at = bytearray(), 4
    while table[1] == DHT and at + 17 <= len(table):
        counts, end = list(table[at + 1:at + 17]), at + 17 + sum(table[at + 1:at + 17])
        longest = max((i for i in range(16) if counts[i]), default=15)
        spare = (1 << longest + 1) - sum(c << longest - i for i, c in enumerate(counts) if c)
        added = spare - 1 + 15 - longest
        if spare > 0 and added + counts[longest] + end - at - 17 < 256:
            counts[longest:] = [counts[longest] + spare - 1] + [1] * (15 - longest)
        else:
            added = 0
        extended += bytes([table[at], *counts]) + table[at + 17:end] + b'\x08' * added
        at = end
    size = (len(extended) + 2).to_bytes(2, 'big')
    return table[:2] + size + extended if extended else table


def _find_fault_of_scans(data: bytes, parts: JpegParts) -> str:
    """Return the fault of a progressive JPEG, or one of several scans.

    Data between a whole scan and the marker behind it are skipped; one that is not whole takes them
    for its own. OpenCV prints a warning of them.
    """
    end = parts.scans[-1][1]
    for start, stop in parts.scans:
        restarts = [marker[0] & 7 for marker in JPEG_RESTART.findall(data, start, stop)]
        if restarts != [i % 8 for i in range(len(restarts))]:
            return 'lost data: its restart markers are not in order'
    first, second = (_decode(b''.join(_insert_before_markers(data, parts.scans, ending))
                             + data[end:], cv2.IMREAD_COLOR) for ending in ENDINGS[1:3])
    if first is None or second is None or not np.array_equal(first, second):
        return f'lost data in one of its {len(parts.scans)} scans'
    return ''


def _insert_before_markers(data: bytes, scans: list[tuple[int, int]], extra: bytes
                           ) -> Iterator[bytes]:
    at = 0
    for start, stop in scans:
        yield data[at:start]
        pieces = JPEG_RESTART.split(data[start:stop])
        for piece, marker in zip(pieces[::2], (*pieces[1::2], b''), strict=True):
            yield piece.rstrip(b'\xff') + extra + (marker and b'\xff' + marker)
        at = stop
