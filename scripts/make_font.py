#!/usr/bin/env python3
"""Draw the glyphs of core/font.npz from a TrueType font, with Pillow.

    python scripts/make_font.py /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf
"""
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

OUT = Path(__file__).resolve().parents[1] / 'crosspoint_ros' / 'core' / 'font.npz'
SIZE_PX = 48
CHARACTERS = ''.join(map(chr, (*range(32, 127), *range(161, 256)))) + '–—…’→≤≥σ○△✕'


def main(font_file: str) -> None:
    """Write the glyphs side by side, with where each begins and how far it advances."""
    font = ImageFont.truetype(font_file, SIZE_PX)
    ascent, descent = font.getmetrics()
    strips = []
    for character in CHARACTERS:
        width = max(1, round(font.getlength(character)))
        glyph = Image.new('L', (width, ascent + descent))
        ImageDraw.Draw(glyph).text((0, 0), character, font=font, fill=255)
        strips.append(np.asarray(glyph))
    ends = np.cumsum([strip.shape[1] for strip in strips])
    np.savez_compressed(OUT, alpha=np.hstack(strips), ends=ends,
                        characters=np.array(list(CHARACTERS)))


if __name__ == '__main__':
    main(sys.argv[1])
