"""Loads matchers by name; each is imported only when chosen."""
from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from crosspoint_ros.core.datatypes import Matcher, Refiner

MATCHERS = {
    'xfeat': 'crosspoint_ros.matchers.xfeat:XFeatMatcher',
    'cropond': 'crosspoint_ros.matchers.cropond.local:CropondMatcher',
    'cropond_remote': 'crosspoint_ros.matchers.cropond.remote:CropondRemoteMatcher',
}


def find_matcher_class(name: str) -> Callable[..., Matcher]:
    """Import the class of the matcher called `name`, or any `module:Class`.

    Raises ValueError, naming the known ones, if there is none of that name.
    """
    path = MATCHERS.get(name, name)
    if ':' not in path:
        raise ValueError(f'no matcher {name!r}; known: {", ".join(MATCHERS)}, or module:Class')
    module, _, attribute = path.partition(':')
    try:
        found: Callable[..., Matcher] = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f'matcher {name!r}: {error}') from error
    if not callable(found):
        raise ValueError(f'matcher {name!r} is not a class')
    return found


def get_matcher_options(name: str) -> dict[str, Any]:
    """Return the options of a matcher and their defaults, without building it.

    They are the keyword arguments of its class, or of its dataclass `Options`.
    """
    found = find_matcher_class(name)
    parameters = inspect.signature(getattr(found, 'Options', found)).parameters.values()
    return {option.name: option.default for option in parameters
            if option.default is not option.empty}


def load_matcher(name: str, **options: Any) -> Matcher:
    """Build the matcher called `name` with its options.

    Raises ValueError for an option it does not have, TypeError if it cannot match.
    """
    known = get_matcher_options(name)
    for option in options.keys() - known.keys():
        raise ValueError(f'the matcher {name} has no option {option!r}; it has: '
                         f'{", ".join(known) or "none"}')
    matcher = find_matcher_class(name)(**options)
    if not isinstance(matcher, Matcher):
        raise TypeError(f'{name} is not a matcher: it has no match(query)')
    return matcher


def select_refiner(matcher: str, refine: str) -> str:
    """Return the name of the matcher that refines the matches of `matcher`; '' for none.

    refine: a name, 'none', or 'auto' for `refined_by` of the matcher's class. Raises ValueError for
    a matcher that cannot refine.
    """
    name = getattr(find_matcher_class(matcher), 'refined_by', '') if refine == 'auto' else refine
    if name in ('', 'none', matcher):
        return ''
    if not hasattr(find_matcher_class(name), 'refine'):
        raise ValueError(f'{name} cannot refine what {matcher} finds: it has no '
                         'refine(query, near)')
    return str(name)


def load_refiner(name: str, **options: Any) -> Refiner:
    """Build the matcher called `name` to refine another's matches. Raises as `load_matcher`."""
    refiner = load_matcher(name, **options)
    if not isinstance(refiner, Refiner):
        raise TypeError(f'{name} cannot refine: it has no refine(query, near)')
    return refiner
