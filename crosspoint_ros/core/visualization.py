"""Draws results: the clicked point, the matched point, and why a view was refused.

One language with the page and the markers of RViz: a click is a blue cross, sure a green ring, to
be checked an amber triangle, refused a grey image with a hollow orange cross. Readable on any
background (strokes with a black edge, text on a strip) and by the colour-blind (a shape for each
kind of point). All images are (h, w, 3) RGB uint8; input images are not modified.
"""
from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, View
from crosspoint_ros.core.encodings import Rgb
from crosspoint_ros.core.geometry import epipolar_segment
from crosspoint_ros.core.pipeline import LocateResult
from crosspoint_ros.core.verify import Limits

Colour = tuple[int, int, int]
BLUE: Colour = (86, 180, 233)  # clicked
GREEN: Colour = (47, 209, 160)  # sure
AMBER: Colour = (240, 180, 41)  # to be checked
ORANGE: Colour = (240, 138, 75)  # refused
WHITE: Colour = (255, 255, 255)

TEXT_SHARE = 0.04  # height of a line of text, of the image's height
MIN_TEXT_PX = 15.0
INSET_ZOOM, INSET_SHARE = 3, 0.26  # of a magnified inset: its side, of the image's height
# DejaVu Sans as glyphs, by scripts/make_font.py: OpenCV's own fonts are drawn with strokes.
FONT_FILE, UNKNOWN = Path(__file__).with_name('font.npz'), '?'
SIGMAS = 2.0  # an ellipse holds 86 % of a normal error


def draw_clicked(image: Rgb, pixel: npt.ArrayLike, text: str) -> Rgb:
    """Draw the clicked pixel (2,) as a blue cross, with a caption."""
    canvas = _copy(image)
    _draw_crosshair(canvas, pixel, BLUE)
    _draw_caption(canvas, text, BLUE, pixel)
    return canvas


def draw_match(image: Rgb, pixel: npt.ArrayLike, text: str, is_sure: bool = True,
               covariance_px2: Array | None = None, ray_px: Array | None = None,
               ground_truth: npt.ArrayLike | None = None, inset: bool = False) -> Rgb:
    """Draw the matched pixel (2,) with a caption: a green ring, or an amber triangle.

    is_sure: the ring; the triangle is to be checked. covariance_px2: (2, 2), drawn as an ellipse of
    two sigma. ray_px: (n, 2), the projected clicked ray. ground_truth: (2,), a small white cross.
    inset: the surroundings of the pixel, magnified in a corner.
    """
    canvas = _copy(image)
    if ray_px is not None:
        _draw_polyline(canvas, ray_px)
    if covariance_px2 is not None and np.isfinite(covariance_px2).all():
        _draw_ellipse(canvas, pixel, covariance_px2)
    colour = GREEN if is_sure else AMBER
    (_draw_ring if is_sure else _draw_triangle)(canvas, pixel, colour)
    if ground_truth is not None:
        _draw_plus(canvas, ground_truth)
    caption = _draw_caption(canvas, text, colour, pixel)
    if inset:
        _draw_inset(canvas, image, pixel, colour, caption)
    return canvas


def draw_refusal(image: Rgb, text: str, ground_truth: npt.ArrayLike | None = None,
                 refused_px: npt.ArrayLike | None = None) -> Rgb:
    """Draw the image in grey with the reason, and where the point was refused (2,), if known."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    canvas = _copy(grey * 0.55 + 60)
    if ground_truth is not None:
        _draw_plus(canvas, ground_truth)
    if refused_px is not None:
        _draw_hollow_cross(canvas, refused_px, ORANGE)
    _draw_caption(canvas, text, ORANGE, ground_truth if refused_px is None else refused_px)
    return canvas


def concatenate_images(images: Sequence[Rgb], titles: Sequence[str], footer: str = '') -> Rgb:
    """Return the images in a row at the height of the tallest, with titles and a footer."""
    height = max(image.shape[0] for image in images)
    widths = [max(1, round(image.shape[1] * height / image.shape[0])) for image in images]
    strips = [_draw_text_strip(title, width, _text_height(height))
              for title, width in zip(titles, widths, strict=True)]
    top = max(map(len, strips))  # a long title is wrapped
    columns: list[Rgb] = []
    for image, width, strip in zip(images, widths, strips, strict=True):
        scaled = _copy(cv2.resize(image, (width, height)))
        columns.append(np.vstack([np.pad(strip, ((0, top - len(strip)), (0, 0), (0, 0))), scaled]))
        columns.append(np.full((len(columns[-1]), max(2, height // 120), 3), 255, np.uint8))
    row: Rgb = np.hstack(columns[:-1])
    return row if not footer else np.vstack(
        [row, _draw_text_strip(footer, row.shape[1], _text_height(height))])


def draw_result(result: LocateResult, cameras: Collection[str],
                limits: Limits) -> Iterator[tuple[View, Rgb]]:
    """Draw the views of these cameras; yield each with its image."""
    clicked = result.clicked
    if clicked.camera in cameras:
        _, message = result.status
        text = f'clicked; {message}' if message else 'clicked'
        yield clicked, draw_clicked(clicked.image, result.pixel, text)
    for found in result.correspondences:
        view, match, rejected = found.view, found.match, found.rejected
        if view is None or found.camera not in cameras:
            continue
        if rejected is not None or match is None:
            reason = 'no match' if rejected is None else rejected.message
            yield view, draw_refusal(view.image, f'refused: {reason}',
                                     refused_px=None if match is None else match.pixel)
            continue
        is_sure = match.confidence >= limits.sure_confidence
        text = f'found, {"sure" if is_sure else "to be checked"}, confidence {match.confidence:.2f}'
        text += f'; {found.consistency.doubt}' if found.consistency.doubt else ''
        yield view, draw_match(view.image, match.pixel, text, is_sure, match.covariance_px2,
                               project_ray(clicked, result.pixel, view), inset=True)


def project_ray(clicked: View, pixel: Array, other: View) -> Array | None:
    """Project the clicked ray to pixels (n, 2) of the other view; None without poses."""
    if clicked.ray_pose is None or other.ray_pose is None:
        return None
    return epipolar_segment(clicked.intrinsics, other.intrinsics,
                            other.ray_pose.inverse @ clicked.ray_pose, pixel)


# --- strokes --------------------------------------------------------------------------------------

def _copy(image: npt.ArrayLike) -> Rgb:
    return np.array(image, dtype=np.uint8, order='C')


def _stroke_scale(canvas: Rgb) -> float:
    """The scale of all strokes: 1 for an image 480 px tall."""
    return max(0.5, float(canvas.shape[0]) / 480.0)


def _layers(canvas: Rgb, colour: Colour) -> list[tuple[Colour, int]]:
    """Stroke colours and widths, widest first: a black edge, a white one, the colour."""
    unit = _stroke_scale(canvas)
    width = max(1, round(2 * unit))
    edge = max(1, round(unit))
    return [((0, 0, 0), width + 4 * edge), (WHITE, width + 2 * edge), (colour, width)]


SHIFT = 4  # OpenCV's fixed point: strokes are placed to 1/16 px


def _fixed_point(pixel: npt.ArrayLike) -> tuple[int, int]:
    # Far outside is as good as just outside, and OpenCV's coordinates overflow.
    x, y = np.clip(np.asarray(pixel, dtype=np.float64), -1e5, 1e5) * (1 << SHIFT)
    return round(float(x)), round(float(y))


def _draw_line(canvas: Rgb, start: Array, end: Array, colour: Colour, width: int) -> None:
    cv2.line(canvas, _fixed_point(start), _fixed_point(end), colour, width, cv2.LINE_AA, SHIFT)


def _draw_crosshair(canvas: Rgb, pixel: npt.ArrayLike, colour: Colour) -> None:
    """Draw four arms that leave the point itself free, and a dot of one pixel on it."""
    centre, unit = np.asarray(pixel, dtype=np.float64), _stroke_scale(canvas)
    arms = np.array([(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)])
    for layer, width in _layers(canvas, colour):
        for arm in arms:
            _draw_line(canvas, centre + arm * 6 * unit, centre + arm * 20 * unit, layer, width)
    _draw_dot(canvas, centre, colour)


def _draw_ring(canvas: Rgb, pixel: npt.ArrayLike, colour: Colour) -> None:
    radius = round(13 * _stroke_scale(canvas) * (1 << SHIFT))
    for layer, width in _layers(canvas, colour):
        cv2.circle(canvas, _fixed_point(pixel), radius, layer, width, cv2.LINE_AA, SHIFT)
    _draw_dot(canvas, np.asarray(pixel, dtype=np.float64), colour)


def _draw_triangle(canvas: Rgb, pixel: npt.ArrayLike, colour: Colour) -> None:
    _draw_outline(canvas, pixel, [np.array([(0.0, -19.0), (17.0, 11.0), (-17.0, 11.0)])], colour)
    _draw_dot(canvas, np.asarray(pixel, dtype=np.float64), colour)


def _draw_hollow_cross(canvas: Rgb, pixel: npt.ArrayLike, colour: Colour) -> None:
    """Draw the outlines of four diagonal arms; the place itself stays free."""
    arm = np.array([(10.5, -3.0), (23.0, -3.0), (23.0, 3.0), (10.5, 3.0)])
    half = 0.5 ** 0.5
    turns = [half * np.array([[x, -y], [y, x]]) for x, y in ((1, 1), (-1, 1), (-1, -1), (1, -1))]
    _draw_outline(canvas, pixel, [arm @ turn.T for turn in turns], colour)


def _draw_outline(canvas: Rgb, pixel: npt.ArrayLike, polygons: list[Array], colour: Colour) -> None:
    """Draw closed polygons (n, 2) around a pixel, in px of an image 480 px tall."""
    centre, unit = np.asarray(pixel, dtype=np.float64), _stroke_scale(canvas)
    points = [np.array([_fixed_point(centre + unit * corner) for corner in polygon], np.int32)
              for polygon in polygons]
    for layer, width in _layers(canvas, colour):
        cv2.polylines(canvas, points, True, layer, width, cv2.LINE_AA, SHIFT)


def _draw_dot(canvas: Rgb, centre: Array, colour: Colour) -> None:
    for layer, radius in ((WHITE, 2.5), (colour, 1.5)):
        radius_fixed = round(radius * _stroke_scale(canvas) * (1 << SHIFT))
        cv2.circle(canvas, _fixed_point(centre), radius_fixed, layer, -1, cv2.LINE_AA, SHIFT)


def _draw_inset(canvas: Rgb, image: Rgb, pixel: npt.ArrayLike, colour: Colour,
                caption: slice) -> None:
    """Draw the image around the pixel magnified, with a ring that leaves the pixel free.

    caption: the rows of the text, which stay free; no inset where there is no room next to them.
    """
    height, width = canvas.shape[:2]
    side = round(INSET_SHARE * height)
    x, y = np.asarray(pixel, dtype=np.float64)
    if side < 30 or side > width // 2:
        return
    middle = (side - 1) / 2
    matrix = np.array([[INSET_ZOOM, 0.0, middle - INSET_ZOOM * x],
                       [0.0, INSET_ZOOM, middle - INSET_ZOOM * y]])
    inset = _copy(cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_NEAREST))
    radius = round(side / 9 * (1 << SHIFT))
    for layer, thick in (((0, 0, 0), 4), (colour, 2)):
        cv2.circle(inset, _fixed_point((middle, middle)), radius, layer, thick, cv2.LINE_AA, SHIFT)
    cv2.rectangle(inset, (0, 0), (side - 1, side - 1), WHITE, max(1, round(_stroke_scale(canvas))))
    gap = round(8 * _stroke_scale(canvas))
    left = width - side - gap if x < width / 2 else gap
    first, end = (caption.stop, height) if caption.start == 0 else (0, caption.start)
    top = first + gap if y > height / 2 else end - side - gap
    if top < first or top + side > end:
        return
    canvas[top:top + side, left:left + side] = inset


def _draw_plus(canvas: Rgb, pixel: npt.ArrayLike) -> None:
    centre, unit = np.asarray(pixel, dtype=np.float64), _stroke_scale(canvas)
    for layer, width in (((0, 0, 0), round(4 * unit)), (WHITE, max(1, round(1.5 * unit)))):
        for arm in np.array([(1.0, 0.0), (0.0, 1.0)]):
            _draw_line(canvas, centre - arm * 7 * unit, centre + arm * 7 * unit, layer, width)


def _draw_polyline(canvas: Rgb, pixels: Array) -> None:
    shown = pixels[np.isfinite(pixels).all(axis=1)]
    if len(shown) < 2:
        return
    points = np.array([_fixed_point(pixel) for pixel in shown], np.int32)
    for colour, width in (((0, 0, 0), 3), (WHITE, 1)):
        cv2.polylines(canvas, [points], False, colour, max(1, round(width * _stroke_scale(canvas))),
                      cv2.LINE_AA, SHIFT)


def _draw_ellipse(canvas: Rgb, pixel: npt.ArrayLike, covariance_px2: Array) -> None:
    variances, axes = np.linalg.eigh(covariance_px2)
    radii = SIGMAS * np.sqrt(np.maximum(variances, 0.0))
    angle_deg = float(np.degrees(np.arctan2(axes[1, 1], axes[0, 1])))
    size = tuple(round(float(min(r, 1e4)) * (1 << SHIFT)) for r in radii[::-1])
    for colour, width in (((0, 0, 0), 3), (WHITE, 1)):
        cv2.ellipse(canvas, _fixed_point(pixel), size, angle_deg, 0, 360, colour,
                    max(1, round(width * _stroke_scale(canvas))), cv2.LINE_AA, SHIFT)


# --- text -----------------------------------------------------------------------------------------

@dataclass(frozen=True, eq=False)
class Font:
    """alpha: (h, w) uint8, the glyphs side by side; columns: those of each character."""

    alpha: npt.NDArray[np.uint8]
    columns: dict[str, slice]

    def measure_width(self, text: str, height_px: float) -> float:
        """Return the width of a line, px, at a line height in px."""
        places = [self._find(character) for character in text]
        width = sum(place.stop - place.start for place in places)
        return float(width * height_px / self.alpha.shape[0])

    def draw_line(self, text: str, height_px: float) -> npt.NDArray[np.uint8]:
        """Return a line as opacity (h, w), 0 to 255, with room for ascenders and descenders."""
        size = (max(1, round(self.measure_width(text, height_px))), max(1, round(height_px)))
        if not text:
            return np.zeros(size[::-1], np.uint8)
        line = np.hstack([self.alpha[:, self._find(character)] for character in text])
        way = cv2.INTER_AREA if height_px < self.alpha.shape[0] else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(line, size, interpolation=way), np.uint8)

    def _find(self, character: str) -> slice:
        return self.columns.get(character) or self.columns[UNKNOWN]


@cache
def load_font() -> Font:
    """Return the font of all pictures."""
    with np.load(FONT_FILE) as content:
        ends = content['ends'].tolist()
        columns = {str(character): slice(start, end) for character, start, end in zip(
            content['characters'], [0, *ends], ends, strict=False)}
        return Font(content['alpha'], columns)


def _text_height(height_px: int) -> float:
    return max(MIN_TEXT_PX, height_px * TEXT_SHARE)


def _wrap(text: str, width_px: int, line_px: float) -> list[str]:
    """Break the text into lines that fit; a word that is too long is cut."""
    font, lines = load_font(), ['']
    for word in text.split():
        longer = f'{lines[-1]} {word}'.strip()
        if lines[-1] and font.measure_width(longer, line_px) > width_px:
            lines.append(word)
        else:
            lines[-1] = longer
        while font.measure_width(lines[-1], line_px) > width_px and len(lines[-1]) > 1:
            fits = next(n for n in range(len(lines[-1]) - 1, 0, -1)
                        if n == 1 or font.measure_width(lines[-1][:n], line_px) <= width_px)
            lines[-1:] = [lines[-1][:fits], lines[-1][fits:]]
    return lines


def _draw_text_strip(text: str, width_px: int, line_px: float) -> Rgb:
    """A black strip with the text in white, as tall as the text needs."""
    margin = round(0.35 * line_px)
    rows = [load_font().draw_line(line, line_px)
            for line in _wrap(text, width_px - 2 * margin, line_px)]
    strip = np.zeros((sum(map(len, rows)) + margin, width_px, 3), np.uint8)
    top = margin // 2
    for row in rows:
        width = min(row.shape[1], width_px - margin)
        strip[top:top + len(row), margin:margin + width] = row[:, :width, None]
        top += len(row)
    return strip


def _draw_caption(canvas: Rgb, text: str, colour: Colour, avoid: npt.ArrayLike | None) -> slice:
    """Write the text on a strip along the bottom, or the top where `avoid` (2,) is low.

    Returns its rows.
    """
    height, width = canvas.shape[:2]
    strip = _draw_text_strip(text, width, _text_height(height))[:height]
    bar = max(2, round(4 * _stroke_scale(canvas)))
    strip[:, :bar] = colour
    free_px = height - len(strip) - 30 * _stroke_scale(canvas)
    low = avoid is not None and np.asarray(avoid)[1] > free_px
    rows = slice(0, len(strip)) if low else slice(height - len(strip), height)
    canvas[rows] = np.where(strip > 0, strip, (canvas[rows] * 0.25).astype(np.uint8))
    return rows
