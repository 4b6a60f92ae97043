"""Matchers by name, imported only when chosen."""
from __future__ import annotations

from importlib import import_module
from typing import Any

from crosspoint_ros.core.datatypes import Matcher

MATCHERS = {
    'xfeat': 'crosspoint_ros.matchers.xfeat:XFeatMatcher',
}


def load_matcher(name: str, **options: Any) -> Matcher:
    """Build the matcher called `name`, or any `module:Class`, with its options.

    Raises ValueError, naming the known ones, if there is none of that name, and TypeError if the
    class has no `match`.
    """
    path = MATCHERS.get(name, name)
    if ':' not in path:
        raise ValueError(f'no matcher {name!r}; known: {", ".join(MATCHERS)}, or module:Class')
    module, _, attribute = path.partition(':')
    matcher = getattr(import_module(module), attribute)(**options)
    if not isinstance(matcher, Matcher):
        raise TypeError(f'{path} is no matcher: it has no match(query)')
    return matcher
