"""The ways to answer a click that `crosspoint bench latency` compares."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from crosspoint_ros.bench.frames import Frames, queries
from crosspoint_ros.bench.stopwatch import Way
from crosspoint_ros.core.datatypes import Match, Matcher, Query, Rejected, View

if TYPE_CHECKING:
    from crosspoint_ros.matchers.cropond.compared import Compared

PACKED = 16
LONG, SHORT = 30, 20  # tokens of a reply: with a label, and without
AUTHORS, AUTHORS_SHORT = (f"authors' generate, {tokens} tokens" for tokens in (LONG, SHORT))
FIRST = 'first click on a frame pair'
AGAIN = 'another click'
AGAIN_GREEDY = 'another click, likeliest digits only'
AT_ONCE = f'{PACKED} clicks at once, each'
AT_ONCE_GREEDY = f'{PACKED} at once, likeliest digits, each'
FREE = f'another click, free reply up to {LONG}'
OTHER_MOVED = 'click after the other camera moved'
CLICKED_MOVED = 'click after the clicked one moved'


@runtime_checkable
class MatchesAll(Protocol):
    """Answers many clicks on the same two frames together."""

    def match_all(self, queries: Sequence[Query]) -> list[Match | Rejected]:
        """Return an answer or a refusal for each."""
        ...


def ways(matcher: Matcher, compared: Compared | None = None) -> list[Way]:
    """Return the ways to ask a matcher, and its model, in the order of a robot's day.

    Each round begins on a frame pair that is new; the last two move one of its cameras.
    """
    before, after = ([], []) if compared is None else _of_model(compared)
    at_once = [_at_once(matcher)] if isinstance(matcher, MatchesAll) else []
    return [*before, _click(FIRST, matcher, lambda frames: frames.pair),
            _click(AGAIN, matcher, lambda frames: frames.pair), *at_once, *after,
            _click(OTHER_MOVED, matcher, lambda frames: frames.other_moved),
            _click(CLICKED_MOVED, matcher, lambda frames: frames.clicked_moved)]


def _click(name: str, matcher: Matcher, chosen: Callable[[Frames], tuple[View, View]]) -> Way:
    def answer(frames: Frames, seed: int) -> list[Match | Rejected]:
        (query,) = queries(chosen(frames), 1, seed)
        try:
            return [matcher.match(query)]
        except Rejected as rejected:
            return [rejected]

    return Way(name, answer)


def _at_once(matcher: MatchesAll) -> Way:
    return Way(AT_ONCE, lambda frames, seed: matcher.match_all(queries(frames.pair, PACKED, seed)),
               PACKED)


def _of_model(compared: Compared) -> tuple[list[Way], list[Way]]:
    """The authors' way, and what else its model can be asked about a pair that it knows."""
    def greedy(clicks: int) -> Callable[[Frames, int], Sequence[object]]:
        return lambda frames, seed: compared.greedy(queries(frames.pair, clicks, seed))

    def authors(tokens: int) -> Callable[[Frames, int], Sequence[object]]:
        return lambda frames, seed: compared.authors(queries(frames.pair, 1, seed)[0], tokens)

    def free(frames: Frames, seed: int) -> Sequence[object]:
        return compared.free(queries(frames.pair, 1, seed)[0], LONG)

    return ([Way(AUTHORS, authors(LONG)), Way(AUTHORS_SHORT, authors(SHORT))],
            [Way(AGAIN_GREEDY, greedy(1)), Way(AT_ONCE_GREEDY, greedy(PACKED), PACKED),
             Way(FREE, free)])
