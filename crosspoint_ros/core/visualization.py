"""Draws results: the clicked point, the matched point, and why a view was refused.

Readable on any background (strokes with a black and a white edge, text on a strip) and by the
colour-blind (the colours of Okabe and Ito, a shape for each kind of point). All images are
(h, w, 3) RGB uint8; input images are not modified.
"""
from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, View
from crosspoint_ros.core.encodings import Rgb
from crosspoint_ros.core.geometry import epipolar_segment
from crosspoint_ros.core.pipeline import LocateResult
from crosspoint_ros.core.verify import Limits

ORANGE, BLUE, WHITE, GREY = (230, 159, 0), (0, 114, 178), (255, 255, 255), (110, 110, 110)
Colour = tuple[int, int, int]

FONT = cv2.FONT_HERSHEY_SIMPLEX
TEXT_AT_PX = 720.0  # an image of this height has text of OpenCV's scale 1, about 22 px tall
MIN_TEXT = 0.45
# What OpenCV's fonts lack.
ASCII = str.maketrans({'°': ' deg', '≤': '<=', '≥': '>=', '±': '+-', '×': 'x', '–': '-',
                       '—': '-', '…': '...', '→': '->', '’': "'", 'µ': 'u', '²': '2'})
SIGMAS = 2.0  # an ellipse holds 86 % of a normal error


def draw_clicked(image: Rgb, pixel: npt.ArrayLike, text: str) -> Rgb:
    """Draw the clicked pixel (2,) as an orange crosshair, with a caption."""
    canvas = _copy(image)
    _draw_crosshair(canvas, pixel, ORANGE)
    _draw_caption(canvas, text, ORANGE, pixel)
    return canvas


def draw_match(image: Rgb, pixel: npt.ArrayLike, text: str, is_sure: bool = True,
               covariance_px2: Array | None = None, ray_px: Array | None = None,
               ground_truth: npt.ArrayLike | None = None) -> Rgb:
    """Draw the matched pixel (2,) as a blue ring, with a caption.

    The ring is closed when the match is sure, broken when it is to be checked. covariance_px2:
    (2, 2), drawn as an ellipse of two sigma. ray_px: (n, 2), the projected clicked ray.
    ground_truth: (2,), a small white cross.
    """
    canvas = _copy(image)
    if ray_px is not None:
        _draw_polyline(canvas, ray_px)
    if covariance_px2 is not None and np.isfinite(covariance_px2).all():
        _draw_ellipse(canvas, pixel, covariance_px2)
    _draw_ring(canvas, pixel, BLUE, broken=not is_sure)
    if ground_truth is not None:
        _draw_plus(canvas, ground_truth)
    _draw_caption(canvas, text, BLUE, pixel)
    return canvas


def draw_refusal(image: Rgb, text: str, ground_truth: npt.ArrayLike | None = None) -> Rgb:
    """Draw the image in grey with the reason, and no point."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    canvas = _copy(grey * 0.55 + 60)
    if ground_truth is not None:
        _draw_plus(canvas, ground_truth)
    _draw_caption(canvas, text, GREY, ground_truth)
    return canvas


def concatenate_images(images: Sequence[Rgb], titles: Sequence[str], footer: str = '') -> Rgb:
    """Return the images in a row at the height of the tallest, with titles and a footer."""
    height = max(image.shape[0] for image in images)
    widths = [max(1, round(image.shape[1] * height / image.shape[0])) for image in images]
    strips = [_draw_text_strip(title, width, _text_scale(height))
              for title, width in zip(titles, widths, strict=True)]
    top = max(map(len, strips))  # a long title is wrapped
    columns: list[Rgb] = []
    for image, width, strip in zip(images, widths, strips, strict=True):
        scaled = _copy(cv2.resize(image, (width, height)))
        columns.append(np.vstack([np.pad(strip, ((0, top - len(strip)), (0, 0), (0, 0))), scaled]))
        columns.append(np.full((len(columns[-1]), max(2, height // 120), 3), 255, np.uint8))
    row: Rgb = np.hstack(columns[:-1])
    return row if not footer else np.vstack(
        [row, _draw_text_strip(footer, row.shape[1], _text_scale(height))])


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
            yield view, draw_refusal(view.image, f'refused: {reason}')
            continue
        is_sure = match.confidence >= limits.sure_confidence
        text = f'found, {"sure" if is_sure else "to be checked"}, confidence {match.confidence:.2f}'
        text += f'; {found.consistency.doubt}' if found.consistency.doubt else ''
        yield view, draw_match(view.image, match.pixel, text, is_sure, match.covariance_px2,
                               project_ray(clicked, result.pixel, view))


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


def _draw_ring(canvas: Rgb, pixel: npt.ArrayLike, colour: Colour, broken: bool) -> None:
    centre, radius = _fixed_point(pixel), round(13 * _stroke_scale(canvas) * (1 << SHIFT))
    arcs = [(start + 10, start + 80) for start in range(0, 360, 90)] if broken else [(0, 360)]
    for layer, width in _layers(canvas, colour):
        for start, end in arcs:
            cv2.ellipse(canvas, centre, (radius, radius), 0, start, end, layer, width,
                        cv2.LINE_AA, SHIFT)
    _draw_dot(canvas, np.asarray(pixel, dtype=np.float64), colour)


def _draw_dot(canvas: Rgb, centre: Array, colour: Colour) -> None:
    for layer, radius in ((WHITE, 2.5), (colour, 1.5)):
        radius_fixed = round(radius * _stroke_scale(canvas) * (1 << SHIFT))
        cv2.circle(canvas, _fixed_point(centre), radius_fixed, layer, -1, cv2.LINE_AA, SHIFT)


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

def _text_scale(height_px: int) -> float:
    return max(MIN_TEXT, height_px / TEXT_AT_PX)


def _wrap(text: str, width_px: int, scale: float) -> list[str]:
    """Break the text into lines that fit; a word that is too long is cut."""
    lines = ['']
    for word in text.translate(ASCII).encode('ascii', 'replace').decode('ascii').split():
        longer = f'{lines[-1]} {word}'.strip()
        if lines[-1] and _text_size(longer, scale)[0] > width_px:
            lines.append(word)
        else:
            lines[-1] = longer
        while _text_size(lines[-1], scale)[0] > width_px and len(lines[-1]) > 1:
            fits = next(n for n in range(len(lines[-1]) - 1, 0, -1)
                        if n == 1 or _text_size(lines[-1][:n], scale)[0] <= width_px)
            lines[-1:] = [lines[-1][:fits], lines[-1][fits:]]
    return lines


def _text_size(text: str, scale: float) -> tuple[int, int]:
    """Width and height of a line, descenders included."""
    (width, height), below = cv2.getTextSize(text, FONT, scale, _text_thickness(scale))
    return width, height + below


def _text_thickness(scale: float) -> int:
    return max(1, round(2 * scale))


def _draw_text_strip(text: str, width_px: int, scale: float) -> Rgb:
    """A black strip with the text in white, as tall as the text needs."""
    margin = round(10 * scale)
    lines = _wrap(text, width_px - 2 * margin, scale)
    pitch = _text_size('Ag', scale)[1] + round(6 * scale)
    strip = np.zeros((pitch * len(lines) + margin, width_px, 3), np.uint8)
    for row, line in enumerate(lines):
        base = (margin + pitch * (row + 1)) - round(8 * scale)
        cv2.putText(strip, line, (margin, base), FONT, scale, WHITE, _text_thickness(scale),
                    cv2.LINE_AA)
    return strip


def _draw_caption(canvas: Rgb, text: str, colour: Colour, avoid: npt.ArrayLike | None) -> None:
    """Write the text on a strip along the bottom, or the top where `avoid` (2,) is low."""
    height, width = canvas.shape[:2]
    strip = _draw_text_strip(text, width, _text_scale(height))[:height]
    bar = max(2, round(4 * _stroke_scale(canvas)))
    strip[:, :bar] = colour
    free_px = height - len(strip) - 30 * _stroke_scale(canvas)
    low = avoid is not None and np.asarray(avoid)[1] > free_px
    rows = slice(0, len(strip)) if low else slice(height - len(strip), height)
    canvas[rows] = np.where(strip > 0, strip, (canvas[rows] * 0.25).astype(np.uint8))
