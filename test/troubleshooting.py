"""What docs/troubleshooting.md says of each finding."""
from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).resolve().parents[1] / 'docs' / 'troubleshooting.md').read_text()
SECTIONS = dict(re.findall(r'^### (\S+)\n(.*?)(?=^##|\Z)', PAGE, re.M | re.S))


def message(code: str) -> str:
    """The sentence that stands there, `…` for what varies."""
    quoted = re.search(r'^> (.+)$', SECTIONS[code], re.M)
    assert quoted, code
    return quoted.group(1)


def says(code: str, sentence: str) -> bool:
    """Tell whether the page has that sentence."""
    pattern = '.*'.join(map(re.escape, message(code).split('…')))
    return bool(re.fullmatch(pattern, sentence, re.S))
