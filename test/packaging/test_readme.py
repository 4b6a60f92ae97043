"""README.md and docs/ are true: generated tables, codes, links, and the topics of a real node."""
from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from two_camera_rig import EYES, run_rig

from crosspoint_ros.cli import COMMANDS
from crosspoint_ros.core.datatypes import Code

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
NODE_PAGE = (ROOT / 'docs' / 'node.md').read_text()
# What every lifecycle node has.
STANDARD = re.compile(r'/rosout|/parameter_events|/clock|.*/transition_event'
                      r'|.*/(describe|get|list|set)_parameter\w*|.*/set_parameters_atomically'
                      r'|.*/get_type_description'
                      r'|.*/(change_state|get_\w*states?|get_available_transitions'
                      r'|get_transition_graph)|.*/_action/.*')


@pytest.fixture(scope='module')
def generator():
    spec = importlib.util.spec_from_file_location('generate_docs',
                                                  ROOT / 'scripts' / 'generate_docs.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_match_the_code(generator):
    stale = [str(path.relative_to(ROOT)) for path, text in generator.build_pages().items()
             if path.read_text() != text]
    assert stale == [], 'run scripts/generate_docs.py'


def test_the_generator_needs_its_markers(generator):
    with pytest.raises(ValueError, match='0 times'):
        generator.fill_tables('no markers', parameters='| a |')


def test_every_command_is_documented():
    page = (ROOT / 'docs' / 'command_line.md').read_text()
    assert [name for name in COMMANDS if f'### crosspoint {name}\n' not in page] == []


def test_no_page_names_a_command_that_does_not_exist():
    known = {word for name in COMMANDS for word in (name, name.split()[0])} | {'COMMAND'}
    unknown = []
    for page in PAGES:
        for words in re.findall(r'`crosspoint ([a-z]+(?: [a-z][a-z-]+)?)', page.read_text()):
            if words not in known and words.split()[0] not in known - {'bench', 'data', 'dev'}:
                unknown.append(f'{page.relative_to(ROOT)}: crosspoint {words}')
    assert unknown == []


@pytest.mark.parametrize('code', list(Code), ids=lambda code: code.name)
def test_every_code_is_explained(code):
    assert re.search(rf'^\| `{code.name}` \| \S', NODE_PAGE, re.M)


def test_the_codes_are_those_of_the_message():
    lines = (ROOT / 'msg' / 'Status.msg').read_text()
    assert dict(re.findall(r'^uint8 (\w+)=(\d+)', lines, re.M)) == {
        code.name: str(code.value) for code in Code}


def read_interface(section: str) -> set[str]:
    """Names in a section's table, as those of the rig's node."""
    table = NODE_PAGE.split(f'## {section}')[1].split('\n## ')[0]
    names = set()
    for cell in re.findall(r'^\| (`[^|]+) \|', table, re.M):
        for name in re.findall(r'`([^`]+)`', cell):
            for camera in EYES if '<camera>' in name or '<image_topic>' in name else ['']:
                names.add(name.replace('<camera>.image_topic', f'/{camera}/color/image_raw')
                          .replace('<camera>.info_topic', f'/{camera}/color/camera_info')
                          .replace('<camera>.depth_topic', f'/{camera}/depth')
                          .replace('<image_topic>', f'/{camera}/color/image_raw')
                          .replace('<camera>', camera).replace('~', '/crosspoint'))
    return names


def test_the_topics_and_services_of_the_page_are_those_of_the_node():
    with run_rig() as rig:
        rig.discover()  # it is active
        node = rig.node
        found = {
            'Subscriptions': node.get_subscriber_names_and_types_by_node('crosspoint', '/'),
            'Publications': node.get_publisher_names_and_types_by_node('crosspoint', '/'),
            'Services and the action': node.get_service_names_and_types_by_node('crosspoint', '/')}
    for section, names_and_types in found.items():
        names = {name for name, _ in names_and_types if not STANDARD.fullmatch(name)}
        expected = read_interface(section) - {'/crosspoint/correspond', *(
            f'{camera}.depth_info_topic' for camera in EYES)}  # the rig's depth is registered
        assert expected == names, section


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_picture_exists(page):
    targets = re.findall(r'\]\((?!https?:)([^)#\s]+)', page.read_text())
    assert [t for t in targets if not (page.parent / t).exists()] == []
