"""Draws wrong answers: the images, the mask and the answer."""
from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.bench.crosspoint.dataset import find_white
from crosspoint_ros.bench.crosspoint.grading import WrongReply
from crosspoint_ros.bench.crosspoint.rules_corrected import parse_answer_mask, to_mask_pixel
from crosspoint_ros.core.image_io import read_image, write_image
from crosspoint_ros.core.visualization import concatenate_images
from crosspoint_ros.matchers.cropond.reply_parser import parse_points

Image = npt.NDArray[np.uint8]
GREEN, RED, YELLOW = (40, 220, 40), (255, 40, 40), (255, 220, 0)
HEIGHT_PX, MAX_WIDTH_PX, MAX_CHARACTERS = 480, 1280, 160


class UnreadableImage(ValueError):  # noqa: N818  (an error of the data, not of the program)
    """An image of an item is missing or cannot be read."""


def read_item_image(folder: Path, name: str) -> Image:
    """Read an image (h, w, 3) RGB of an item; raise `UnreadableImage`."""
    path = folder / name
    try:
        return read_image(path)
    except FileNotFoundError:
        raise UnreadableImage(f'its image {name} is not in {folder.name}/') from None
    except (OSError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or str(error).removeprefix(f'{path}: ')
        raise UnreadableImage(f'its image {name} cannot be read: {reason}') from None


def draw_failures(failures: Sequence[WrongReply], images: Path, coordinates: str,
                  folder: Path) -> int:
    """Write a drawing of each failure; return how many could be drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = 0
    for failure in failures:
        try:
            drawing = draw_failure(failure, images, coordinates)
        except UnreadableImage:
            continue
        content, _, copy = failure.item.key.partition('#')  # a number for copies of an item
        name = f'{failure.item.type}_{str(failure.item.idx)[:40]}_{content[:6]}' \
            + (f'_{copy}' if copy else '')
        write_image(folder / (re.sub(r'\W+', '_', name) + '.png'), drawing)
        drawn += 1
    return drawn


def draw_failure(failure: WrongReply, images: Path, coordinates: str) -> Image:
    """Draw a failure: the question's points yellow, the mask green, the answer red."""
    item, verdict = failure.item, failure.verdict
    panels = [read_item_image(images, name) for name in item.images]
    for index, point in enumerate(parse_points(item.question)[:len(panels) - item.is_pointing]):
        height, width = panels[index].shape[:2]
        pixel = to_mask_pixel(point, coordinates, (width, height), (width, height))
        if pixel is not None and 0 <= pixel[0] < width and 0 <= pixel[1] < height:
            _draw_cross(panels[index], pixel, YELLOW)
    if item.is_pointing:
        panels[-1] = _draw_answer(panels[-1], failure)
    grade = f'wrong: it {verdict.reason}; green: correct, red: answer' if item.is_pointing \
        else f'parsed: {verdict.answer}; correct: {item.answer}'
    lines = (f'item {item.idx}, {item.type}, {item.level}', f'question: {item.question}',
             f'reply: {failure.reply or "none"}', grade)
    return concatenate_images(
        [_scale_image(panel) for panel in panels], [Path(name).name for name in item.images],
        ' | '.join(shorten(line, MAX_CHARACTERS) for line in lines))


def _draw_answer(image: Image, failure: WrongReply) -> Image:
    mask = parse_answer_mask(failure.item.record)
    width, height = mask.size
    if image.shape[:2] != (height, width):
        image = np.asarray(cv2.resize(image, (width, height)), dtype=np.uint8)
    drawing, white = image.copy(), find_white(mask)
    drawing[white] = (image[white] * 0.5 + np.array(GREEN) * 0.5).astype(np.uint8)
    edges, _ = cv2.findContours(white.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawing, edges, -1, GREEN, _line_width(image), cv2.LINE_AA)
    if (pixel := failure.verdict.pixel) is not None:
        inside = (min(max(pixel[0], 0), width - 1), min(max(pixel[1], 0), height - 1))
        _draw_cross(drawing, inside, RED)
    return drawing


def _line_width(image: Image) -> int:
    """Return a thickness that stays visible when a large image is scaled down."""
    return max(image.shape[0] // HEIGHT_PX, 1)


def _draw_cross(image: Image, pixel: tuple[int, int], colour: tuple[int, int, int]) -> None:
    size, line = max(image.shape[:2]) // 30, _line_width(image)
    for thickness, paint in ((5 * line, (0, 0, 0)), (2 * line, colour)):
        cv2.drawMarker(image, pixel, paint, cv2.MARKER_TILTED_CROSS, size, thickness, cv2.LINE_AA)


def _scale_image(image: Image) -> Image:
    """Scale to the height of a panel, or the largest width, padded below."""
    height, width = image.shape[:2]
    scale = min(HEIGHT_PX / height, MAX_WIDTH_PX / width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return np.pad(np.asarray(cv2.resize(image, size), dtype=np.uint8),
                  ((0, HEIGHT_PX - size[1]), (0, 0), (0, 0)))
