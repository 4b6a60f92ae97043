"""Every example and every Python block of the documentation runs and prints an answer."""
from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from chromium import run_cameras, start_node

import crosspoint_ros as cp

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / 'examples'
BLOCKS = [(page.name, number, block, 'Client' in block or 'rclpy' in block)
          for page in (ROOT / 'docs' / 'python_api.md', ROOT / 'docs' / 'pipelines.md',
                       ROOT / 'README.md')
          for number, block in enumerate(
              re.findall(r'^```python.*?\n(.*?)^```', page.read_text(), re.M | re.S), 1)]
HAS_TF2 = importlib.util.find_spec('tf2_ros') is not None
TF2 = [] if HAS_TF2 else [str(ROOT / 'test' / 'fakes' / 'tf2')]


def run(*words: str) -> str:
    """Run Python in the repository's root, without a warning; return what it prints."""
    paths = [*TF2, *os.environ.get('PYTHONPATH', '').split(os.pathsep)]
    done = subprocess.run([sys.executable, '-W', 'error::DeprecationWarning:__main__', *words],
                          text=True, capture_output=True, cwd=ROOT, timeout=60,
                          env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, paths))})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def node(tmp_path_factory):
    """The node on the built-in kitchen, on real DDS, with images of every camera."""
    with run_cameras('--still'), start_node(tmp_path_factory.mktemp('node')) as process:
        with cp.Client() as client:
            client.wait_until_active(20.0)
            client.wait_for(lambda: client.click('front', (500, 280)).has_target, 'images', 20.0)
        yield process


def test_two_images():
    assert re.fullmatch(r'\(500, 280\) is at \[4[78]\d\.\d? +39\d\.\d?\], confidence 0\.\d\d\n',
                        run('examples/two_images.py'))


def test_two_images_takes_files_of_its_user():
    printed = run('examples/two_images.py', 'examples/side.jpg', 'examples/front.jpg', '482', '396')
    assert re.match(r'\(482, 396\) is at \[(49|50)\d\.\d? +2[78]\d', printed)


def test_two_images_with_depth():
    printed = run('examples/two_images_with_depth.py')
    assert printed.startswith('status OK\nfound at [')
    assert re.search(r'target at \[ ?-?0\.\d+ +-?0\.\d+ +0\.\d+ *\] m, from (FUSED|DEPTH)', printed)


def test_custom_matcher():
    assert run('examples/custom_matcher.py') == 'found at [512. 280.], confidence 1.00\n'


def test_the_custom_matcher_serves_the_command(monkeypatch):
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([os.environ.get('PYTHONPATH', ''),
                                                      str(EXAMPLES)]))
    printed = run('-m', 'crosspoint_ros.cli', 'match', 'examples/front.jpg', 'examples/front.jpg',
                  '--at', '500', '280', '--matcher', 'custom_matcher:TemplateMatcher')
    assert printed.startswith('(500.0, 280.0)  (500.0, 280.0)  sure')


@pytest.mark.parametrize(('page', 'number', 'block'), [b[:3] for b in BLOCKS if not b[3]])
def test_a_block_of_the_documentation_runs(page, number, block):
    run('-c', block)


# --- with a node and cameras, which run from here on to the end

def test_ros_client(node):
    printed = run('examples/ros_client.py')
    assert re.search(r'^side: \(48\d\.\d, 39\d\.\d\), confidence 0\.\d\d$', printed, re.M)
    assert 'target: ' in printed


def test_consume_target(node):
    printed = run('examples/consume_target.py')
    number = r'-?\d\.\d+'
    assert re.match(rf'approach crosspoint_target_\d+ along its \+z: \({number}, {number}, '
                    rf'{number}\) m in base_link\n', printed)


def test_the_forty_lines_of_the_documentation_pick(node):
    text = (EXAMPLES / 'pick.py').read_text()
    assert f'```python\n{text}```' in (ROOT / 'docs' / 'pipelines.md').read_text()
    printed = run('examples/pick.py').splitlines()
    assert re.match(r'grip 0\.\d{3} m', printed[0])
    before, at = (re.match(r'move to \((-?[\d.]+), (-?[\d.]+), (-?[\d.]+)\) m in base_link', line)
                  for line in printed[1:3])
    assert [float(a) - float(b) for a, b in zip(before.groups(), at.groups(), strict=True)] == \
        pytest.approx([0.0, 0.0, 0.1], abs=2e-3), 'from above'
    assert printed[3:] == ['grip 0.000 m', 'picked']


def test_the_forty_lines_print_a_refusal(node):
    assert run('examples/pick.py', 'front', '-5', '0').startswith('refused: ')


def test_the_ports_of_the_behaviour_tree_are_fields_of_the_goal():
    goal = {line.split()[1] for line in (ROOT / 'action' / 'Correspond.action').read_text().split(
        '---')[0].splitlines() if re.match(r'[\w/\[\]]+ \w+( |$)', line)}
    tree = ElementTree.parse(EXAMPLES / 'pick_bt.xml')
    (node,) = tree.iter('Correspond')
    assert set(node.attrib) - {'action_name'} - {'pregrasp', 'pose', 'query_id'} <= goal
    assert node.attrib['approach'] == str(int(cp.ApproachMode.FROM_ABOVE))


def test_every_example_has_a_test():
    tested = Path(__file__).read_text() + Path(__file__).with_name('test_frameworks.py').read_text()
    assert [p.name for p in EXAMPLES.glob('*.py')
            if p.name != 'kitchen.py' and f'examples/{p.name}' not in tested] == []


@pytest.mark.parametrize(('page', 'number', 'block'), [b[:3] for b in BLOCKS if b[3]])
def test_a_block_that_needs_a_node_runs(page, number, block, node):
    run('-c', block)
