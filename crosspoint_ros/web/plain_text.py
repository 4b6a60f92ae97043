"""Texts of the node as people read them on the page: without identifiers and epoch seconds."""
from __future__ import annotations

import re
import time
from collections.abc import Mapping

UUID = r'[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}'
# `HistoryStep.label`, and the other places where the node names a query or a target by its id.
NAMED_STEP = re.compile(rf"step (\d+) \((?:target '(\w+)', )?query {UUID}, \w+\)")
QUERY = re.compile(rf"(?:\b(?:query|answer|target) )?'?({UUID})'?")
EPOCH = re.compile(r'\b(1\d{9})(?:\.(\d{3})\d{0,6})?\b(?: s\b)?')  # of the years 2001 to 2033


def make_plain(text: str, numbers: Mapping[str, int]) -> str:
    """Return a text with the clicks' numbers for ids, and times of day for epoch seconds.

    numbers: of the clicks in the history, by query_id.
    """
    text = NAMED_STEP.sub(lambda m: f'click {m[1]}' + (f' ({m[2]})' if m[2] else ''), text)
    text = text.replace('waits for ~/accept', 'waits for a person').replace(', ~/clear_target', '')
    text = QUERY.sub(lambda m: f'click {numbers[m[1]]}' if m[1] in numbers else 'the click', text)
    return EPOCH.sub(lambda m: format_time(int(m[1])) + (f'.{m[2]}' if m[2] else ''), text)


def format_time(epoch_s: float) -> str:
    """Return the robot's local time of day."""
    return time.strftime('%H:%M:%S', time.localtime(epoch_s))
