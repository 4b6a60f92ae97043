"""Wrong answers drawn for people: the images, the mask where there is one, the answer."""
from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image

from crosspoint_ros.bench.crosspoint.dataset import BenchItem
from crosspoint_ros.bench.crosspoint.grading import WrongReply
from crosspoint_ros.bench.crosspoint.rules_corrected import to_mask_pixel, parse_answer_mask
from crosspoint_ros.core.visualization import concatenate_images, write_image
from crosspoint_ros.matchers.cropond.reply_parser import parse_points

Image = npt.NDArray[np.uint8]
GREEN, RED, YELLOW, WHITE = (40, 220, 40), (255, 40, 40), (255, 220, 0), (255, 255, 255)
HEIGHT_PX, MAX_WIDTH_PX, TEXT_PX, CAPTION_LINES, CHARACTER_PX = 480, 1280, 22, 5, 8


class UnreadableImage(ValueError):  # noqa: N818  (the fault of what was given)
    """An image that is not there, or cannot be read."""


def read_image(folder: Path, name: str) -> Image:
    """Read an image (h, w, 3) RGB, not turned as its EXIF says: the authors do not turn it either.

    Raises `NoImage`.
    """
    path = folder / name
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        if not path.is_file():
            raise UnreadableImage(f'its image {name} is not in {folder.name}/')
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UnreadableImage(f'its image {name} cannot be read ({error.strerror})') from None
    found = cv2.imdecode(content, flags) if content.size and not _is_cut_off(path) else None
    if found is None:
        raise UnreadableImage(f'its image {name} is damaged, or no image')
    return np.ascontiguousarray(found[..., ::-1])


def _is_cut_off(path: Path) -> bool:
    """Tell whether an image ends too soon: OpenCV takes the rest of a JPEG for grey."""
    try:
        with PIL.Image.open(path) as image:
            image.load()
    except PIL.UnidentifiedImageError:
        return False  # a format that OpenCV may know
    except (OSError, SyntaxError, ValueError):
        return True
    return False


def draw_failures(failures: Sequence[WrongReply], images: Path, coordinates: str,
                  folder: Path) -> int:
    """Write a picture for each failure; return how many could be drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = 0
    for failure in failures:
        try:
            picture = draw_failure(failure, images, coordinates)
        except UnreadableImage:
            continue
        write_image(folder / _file_name(failure.item), picture)
        drawn += 1
    return drawn


def _file_name(item: BenchItem) -> str:
    """Name a picture; of equal items each has its own."""
    content, _, copy = item.key.partition('#')
    told = f'{item.type}_{str(item.idx)[:40]}_{content[:6]}' + (f'_{copy}' if copy else '')
    return re.sub(r'\W+', '_', told) + '.png'


def draw_failure(failure: WrongReply, images: Path, coordinates: str) -> Image:
    """Draw one: the question's points yellow, the mask green, the answer red; words below."""
    item = failure.item
    shown = [read_image(images, name) for name in item.images]
    for place, point in enumerate(parse_points(item.question)[:len(shown) - item.is_pointing]):
        shown[place] = _draw_question_point(shown[place], point, coordinates)
    if item.is_pointing:
        shown[-1] = _draw_answer(shown[-1], failure)
    pictures = [_scale_image(each) for each in shown]
    whole = concatenate_images(pictures, [Path(name).name for name in item.images])
    return np.vstack([whole, _draw_caption(failure, whole.shape[1])])


def _draw_answer(image: Image, failure: WrongReply) -> Image:
    mask = parse_answer_mask(failure.item.record)
    width, height = mask.size
    if image.shape[:2] != (height, width):
        image = np.asarray(cv2.resize(image, (width, height)), dtype=np.uint8)
    tinted, white = image.copy(), mask.white
    tinted[white] = (image[white] * 0.5 + np.array(GREEN) * 0.5).astype(np.uint8)
    edges, _ = cv2.findContours(white.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for thickness, paint in ((_line_width(image) + 2, (0, 0, 0)), (_line_width(image), GREEN)):
        cv2.drawContours(tinted, edges, -1, paint, thickness, cv2.LINE_AA)
    pixel = failure.verdict.pixel
    if pixel is not None:
        inside = (min(max(pixel[0], 0), width - 1), min(max(pixel[1], 0), height - 1))
        _draw_cross(tinted, inside, RED)
    return tinted


def _draw_question_point(image: Image, point: tuple[float, float], coordinates: str) -> Image:
    marked, (height, width) = image.copy(), image.shape[:2]
    pixel = to_mask_pixel(point, coordinates, (width, height), (width, height))
    if pixel is not None and 0 <= pixel[0] < width and 0 <= pixel[1] < height:
        _draw_cross(marked, pixel, YELLOW)
    return marked


def _line_width(image: Image) -> int:
    """Thickness of a line that is still seen when a large photo is scaled to the picture."""
    return max(image.shape[0] // HEIGHT_PX, 1)


def _draw_cross(image: Image, pixel: tuple[int, int], colour: tuple[int, int, int]) -> None:
    size = max(image.shape[:2]) // 30
    line = _line_width(image)
    for thickness, paint in ((5 * line, (0, 0, 0)), (2 * line, colour)):
        cv2.drawMarker(image, pixel, paint, cv2.MARKER_TILTED_CROSS, size, thickness, cv2.LINE_AA)


def _scale_image(image: Image) -> Image:
    height, width = image.shape[:2]
    scale = min(HEIGHT_PX / height, MAX_WIDTH_PX / width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    below = HEIGHT_PX - size[1]  # of a strip, which would come out millions of pixels wide
    return np.pad(np.asarray(cv2.resize(image, size), dtype=np.uint8),
                  ((0, below), (0, 0), (0, 0)))


def _draw_caption(failure: WrongReply, width: int) -> Image:
    """What was asked, said and found, in the characters that OpenCV's letters have."""
    item = failure.item
    said = (f'item {item.idx}, {item.type}, {item.level}', f'asked: {item.question}',
            f'said: {failure.reply or "nothing"}',
            f'wrong: it {failure.verdict.reason}' if item.is_pointing
            else f'read as {failure.verdict.answer}; right: {item.answer}',
            'yellow: asked about' + ('; green: right; red: answered' if item.is_pointing else ''))
    band = np.zeros((TEXT_PX * CAPTION_LINES + 10, width, 3), np.uint8)
    for row, text in enumerate(said):
        plain = ' '.join(text.split()).encode('ascii', 'replace').decode()
        most = max(width // CHARACTER_PX, 4)
        plain = plain if len(plain) <= most else f'{plain[:most - 4]} ...'
        cv2.putText(band, plain, (6, TEXT_PX * (row + 1) - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.45,
                    WHITE, 1, cv2.LINE_AA)
    return band
