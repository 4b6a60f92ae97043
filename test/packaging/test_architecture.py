"""The layout: which room imports which, how large it may be, and the words it uses."""
from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / 'crosspoint_ros'
FILES = sorted(p.relative_to(PACKAGE) for p in PACKAGE.rglob('*.py'))
MODULES = [f for f in FILES if f.name != '__init__.py']

# room -> the rooms it may import besides itself. The modules beside the rooms are the room `cli`.
ROOMS = {
    'core': (),
    'scenes': (),
    'matchers': ('core',),
    'data': ('core', 'matchers'),
    'ros': ('core', 'matchers', 'data', 'scenes'),
    'web': ('core', 'matchers', 'data', 'ros'),
    'bench': ('core', 'matchers', 'data', 'ros', 'web', 'scenes'),
    'demo': ('core', 'matchers', 'data', 'ros', 'web', 'scenes'),
    'cli': ('core', 'matchers', 'data', 'ros', 'web', 'bench', 'demo', 'scenes'),
}
INTERFACES = ('msg', 'srv', 'action')  # generated at build time
ROS_PACKAGES = ('rclpy', 'tf2_ros', 'tf2_msgs', 'sensor_msgs', 'geometry_msgs', 'std_msgs',
                'std_srvs', 'visualization_msgs', 'diagnostic_msgs', 'lifecycle_msgs',
                'action_msgs', 'rcl_interfaces', 'rosgraph_msgs', 'builtin_interfaces',
                'ament_index_python', 'cv_bridge')
ROS_FOLDERS = ('ros', 'web', 'bench/node', 'bench/web', 'bench/stress', 'bench/pick', 'demo',
               'cli.py')
TORCH_FOLDERS = ('matchers/cropond/engine', 'bench/latency')

MAX_MODULES_PER_FOLDER = 15
MAX_MODULES = 242
MAX_LINES = 49_280

def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


BANNED_FILE_NAMES = words(
    # They say nothing.
    'util helper common manager handler base misc '
    # The field has a term for each of these.
    'ears arena ward fate sight vantage anchors hands wishes witness visit onlooker words whole '
    'asked asking answering listening watching looking loading warming ending working building '
    'planning pairing saying wording marking matching recording told shown seen placed gauge '
    'own_body picture steps answers reply recorded compared authors_way ways items asks')
ALLOWED_FILE_NAMES = {'matchers/xfeat/matching.py'}  # feature matching is the field's term

# Irregular participles; the regular ones end in -ed, the gerunds in -ing.
IRREGULAR = words(
    'told said shown drawn written known seen found made chosen taken given built held kept lost '
    'sent meant spelt learnt unwritten laid led met heard thought')
# They end like a participle and are none.
NOUNS_AND_VERBS = words(
    'need feed seed speed embed exceed proceed succeed shed bed '
    'string ring ping bring thing nothing spring encoding embedding padding warning setting timing '
    'squared')
# What may stand before a participle: a predicate, a callback, or a verb (`draw_found`).
PREDICATES = words('is has was are can should on to')
VERBS = words(
    'accept add allow apply assert await build call check choose clear close collect compare '
    'convert copy count create decode delete draw drop emit encode enforce ensure expire explain '
    'export fail find format forward get handle ignore keep leave list load log make mark match '
    'merge move note open parse pick plot post print prune publish put raise read record reject '
    'release remove rename replace report require reset restore return run save scale score '
    'select send set show skip sort split start stop store stream submit subscribe take test '
    'track update use validate wait warn wrap write')

# Phrases that are translated, not written; each beside what the field says.
GAP = r'''(?:[\s#'"]|\bf(?=['"]))+'''  # a phrase may be wrapped, and its string continued
FORBIDDEN = {
    r'(?:is|are|was|were) no (?!longer\b|more\b|less\b)\w+': 'is not a, has no; not "there is no"',
    r'tells?|told': 'reports, gives, prints',
    r'(?:stands?|stood)(?! for\b|-in\b|-alone\b)': 'is, holds, applies',
    r'nobody|somebody|anybody': 'no one, a user, a caller',
    r'whoever|whom': 'the caller, the client',
    r'so many': 'that many, the number of',
    r'of (?:its|their) own': 'own, separate',
    r'in words': 'with a message',
    r'anew': 'again',
    r'besides?': 'next to, and',
    r'held against|holds? \S+(?: \S+)? against': 'compare, validate',
    r'witness(?:es)?': 'cue, evidence',
    r'mood|ears?|fate|wishe[sd]': 'state, probe, visibility, request',
    r'heed(?:s|ed)?': 'respect, apply',
    r'speaks? (?:of|against)': 'describes, contradicts',
    r'as it were': '(leave it out)',
    r'said': 'reported, given',
    r'laid over': 'overlaid',
    r'gone astray': 'wrong',
    r'the way back': 'the reverse match',
    r"people's words": 'instructions',
}
FORBIDDEN_RE = re.compile('|'.join(rf'\b(?:{phrase})\b'.replace(' ', GAP) for phrase in FORBIDDEN),
                          re.IGNORECASE)
PROSE = [*sorted((ROOT / 'docs').rglob('*.md')), ROOT / 'README.md',
         *sorted(p for kind in INTERFACES for p in (ROOT / kind).iterdir()),
         *sorted((ROOT / 'config').iterdir()),
         *sorted(p for p in (PACKAGE / 'web' / 'page').iterdir() if p.suffix in ('.js', '.html'))]


@cache
def source(file: Path) -> str:
    return (PACKAGE / file).read_text()


@cache
def syntax(file: Path) -> ast.Module:
    return ast.parse(source(file))


@cache
def imports(file: Path) -> tuple[tuple[int, str], ...]:
    """Line and dotted name of everything that a file imports, inside functions too."""
    found = []
    for node in ast.walk(syntax(file)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = '.' * node.level + (node.module or '')
            found += [(node.lineno, f'{module}.{alias.name}') for alias in node.names]
    return tuple(found)


def under(name: str, *packages: str) -> bool:
    return any(name == p or name.startswith((f'{p}.', f'{p}/')) for p in packages)


def room(file: Path) -> str:
    return file.parts[0] if len(file.parts) > 1 else 'cli'


def room_of_import(name: str) -> str:
    """The room that `crosspoint_ros.x.y` is in; '' for another package or an interface."""
    top, _, rest = name.partition('.')
    first = rest.partition('.')[0]
    if top != PACKAGE.name or first in INTERFACES:
        return ''
    return first if (PACKAGE / first / '__init__.py').is_file() else 'cli'


def report(offenders: list[str]) -> None:
    """Fail with a line for each offender."""
    assert not offenders, f'{len(offenders)}:\n' + '\n'.join(offenders)


# --- imports --------------------------------------------------------------------------------------

def test_every_folder_of_the_package_is_in_the_table():
    assert {room(f) for f in FILES} == ROOMS.keys()


def test_a_room_imports_only_the_rooms_below_it():
    report([f'{file}:{line}: {room(file)} imports {room_of_import(name)} ({name})'
            for file in FILES for line, name in imports(file)
            if room_of_import(name) not in ('', room(file), *ROOMS[room(file)])])


def test_the_table_has_no_cycle_and_nothing_imports_bench_demo_or_cli():
    assert all(below not in ROOMS[other] or other not in ROOMS[below]
               for below in ROOMS for other in ROOMS)
    assert {below for name, rooms in ROOMS.items() if name != 'cli' for below in rooms
            } == {'core', 'matchers', 'data', 'ros', 'web', 'scenes'}


def test_a_matcher_imports_the_core_and_itself_only():
    def backend(parts: tuple[str, ...]) -> str:
        return parts[1] if len(parts) > 1 and (PACKAGE / 'matchers' / parts[1]).is_dir() else ''
    report([f'{file}:{line}: {name}' for file in FILES if room(file) == 'matchers'
            for line, name in imports(file) if room_of_import(name) == 'matchers'
            and backend(tuple(name.split('.')[1:])) not in ('', backend(file.parts[:-1]))])


def test_the_core_imports_only_the_standard_library_numpy_and_opencv():
    allowed = ('crosspoint_ros.core', 'numpy', 'cv2', *sys.stdlib_module_names)
    report([f'{file}:{line}: {name}' for file in FILES if room(file) == 'core'
            for line, name in imports(file) if not under(name, *allowed)])


def test_ros_packages_and_interfaces_are_imported_only_on_the_ros_side():
    ros = (*ROS_PACKAGES, *(f'crosspoint_ros.{kind}' for kind in INTERFACES))
    report([f'{file}:{line}: {name}' for file in FILES if not under(str(file), *ROS_FOLDERS)
            for line, name in imports(file) if under(name, *ros)])


def test_torch_is_imported_only_by_the_engine_and_its_benchmark():
    report([f'{file}:{line}: {name}' for file in FILES if not under(str(file), *TORCH_FOLDERS)
            for line, name in imports(file) if under(name, 'torch', 'transformers')])


def test_imports_are_absolute():
    report([f'{file}:{line}: {name}' for file in FILES for line, name in imports(file)
            if name.startswith('.')])


def test_the_package_itself_imports_lazily():
    heavy = [(line, name) for line, name in imports(Path('__init__.py'))
             if name.partition('.')[0] not in sys.stdlib_module_names]
    typing_only = {node.lineno for guard in syntax(Path('__init__.py')).body
                   if isinstance(guard, ast.If) and ast.unparse(guard.test) == 'TYPE_CHECKING'
                   for node in guard.body}
    report([f'__init__.py:{line}: {name}' for line, name in heavy if line not in typing_only])


# --- size -----------------------------------------------------------------------------------------

def test_a_folder_holds_few_modules():
    report([f'{folder}: {count} modules (limit {MAX_MODULES_PER_FOLDER})' for folder, count
            in Counter(f.parent for f in MODULES).items() if count > MAX_MODULES_PER_FOLDER])


def test_the_package_stays_small():
    lines = sum(source(f).count('\n') for f in FILES)
    report([f'{count} {what} (limit {limit})' for count, limit, what in
            ((len(MODULES), MAX_MODULES, 'modules'), (lines, MAX_LINES, 'lines'))
            if count > limit])


# --- words ----------------------------------------------------------------------------------------

def test_a_file_has_the_name_that_the_field_uses():
    files = [*FILES, *(p.relative_to(PACKAGE) for p in (PACKAGE / 'web' / 'page').iterdir())]
    report([str(f) for f in files if str(f) not in ALLOWED_FILE_NAMES
            and {f.stem, f.stem.rstrip('s')} & BANNED_FILE_NAMES])


def is_participle(word: str) -> bool:
    return word in IRREGULAR or (word not in NOUNS_AND_VERBS and len(word) > 4
                                 and word.endswith(('ed', 'ing')))


def public_functions(body: list[ast.stmt], prefix: str = '') -> Iterator[tuple[int, str, str]]:
    """Line, name and full name of the public functions and methods, but for properties."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            nouns = {'property', 'cached_property'} & {
                ast.unparse(d).rpartition('.')[2] for d in node.decorator_list}
            if not node.name.startswith('_') and not nouns:
                yield node.lineno, node.name, f'{prefix}{node.name}'
        elif isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
            yield from public_functions(node.body, f'{node.name}.')


def fault_of_name(name: str) -> str:
    """What is wrong with a function's name; '' for nothing."""
    first, *_, last = ['', *name.split('_')] if '_' not in name else name.split('_')
    first = first or last
    if last == 'of':
        return 'x_of(y): a constructor from_y, or verb and noun'
    if is_participle(first):
        return f'begins with the participle {first!r}'
    if (is_participle(last) and first not in PREDICATES | VERBS
            and not re.search('_(from|if)_', name)):
        return f'ends with the participle {last!r}, without a verb before it'
    return ''


def test_public_functions_are_named_by_imperative_verbs():
    report([f'{file}:{line}: {full}: {fault_of_name(name)}' for file in FILES
            for line, name, full in public_functions(syntax(file).body) if fault_of_name(name)])


def test_the_rule_for_names_knows_participles_from_verbs():
    bad = ('checked', 'told', 'lifted', 'lens_of', 'found_by', 'working', 'written_points',
           'shown', 'images_seen', 'pixels_of')
    good = ('check', 'draw_found', 'is_closed', 'has_drawn', 'feed', 'encoding', 'on_connected',
            'from_camera_info', 'spread', 'verify_match', 'mark_seen', 'embed', 'read')
    assert [n for n in bad if not fault_of_name(n)] == []
    assert [n for n in good if fault_of_name(n)] == []


def test_no_two_public_classes_share_a_name():
    places = defaultdict(list)
    for file in FILES:
        for node in syntax(file).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
                places[node.name].append(f'{file}:{node.lineno}')
    report([f'{name}: {", ".join(where)}' for name, where in places.items() if len(where) > 1])


def text_spans(file: Path) -> list[tuple[int, int]]:
    """Where a Python file's strings and comments begin and end, in characters."""
    starts = [0]
    for line in source(file).splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    kinds = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, 'FSTRING_MIDDLE', -1)}
    return [(starts[token.start[0] - 1] + token.start[1], starts[token.end[0] - 1] + token.end[1])
            for token in tokenize.generate_tokens(io.StringIO(source(file)).readline)
            if token.type in kinds]


def forbidden(text: str) -> list[tuple[int, str]]:
    """Position and phrase of every forbidden one."""
    return [(m.start(), ' '.join(m.group().split())) for m in FORBIDDEN_RE.finditer(text)
            if not re.search(r'\bthere\W*$', text[max(0, m.start() - 30):m.start()], re.IGNORECASE)]


def test_code_and_docs_use_the_words_of_the_field():
    offenders = []
    for file in FILES:
        hits = forbidden(source(file))
        spans = text_spans(file) if hits else []
        offenders += [(PACKAGE / file, at, phrase, source(file)) for at, phrase in hits
                      if any(begin <= at < end for begin, end in spans)]
    for path in PROSE:
        text = path.read_text()
        offenders += [(path, at, phrase, text) for at, phrase in forbidden(text)]
    report([f'{path.relative_to(ROOT)}:{text.count(chr(10), 0, at) + 1}: {phrase!r}'
            for path, at, phrase, text in offenders])


def test_the_forbidden_phrases_are_found_across_line_breaks():
    assert [p for _, p in forbidden("x is no picture; so\n    # many 'is no '\n   f'port'")] != []
    assert forbidden('is no longer there; there is no image; understand; a stand-in; appears') == []
