"""The tools of `crosspoint mcp`: an agent looks and clicks, and a person accepts."""
from __future__ import annotations

import array
import asyncio
import importlib.util
import os
import sys
import threading
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
from two_camera_rig import run_rig

from crosspoint_ros.cli import main
from crosspoint_ros.ros.client.client import Client
from crosspoint_ros.ros.client.mcp_server import AgentTools, build_server

needs_mcp = pytest.mark.skipif(
    importlib.util.find_spec('mcp') is None and not os.environ.get('CROSSPOINT_NEEDS_EXTRAS'),
    reason='the MCP package: make test-extras')
CENTRE = (159.5, 119.5)


@contextmanager
def run_tools(monkeypatch, publish_at_once=False, **parameters):
    """Yield the tools, and a rig whose cameras send five times a second."""
    with run_rig(**parameters) as rig:
        monkeypatch.setenv('ROS_DOMAIN_ID', str(rig.domain))
        rig.discover()
        rig.send_frames()
        stopped = threading.Event()

        def send():
            while not stopped.wait(0.2):
                rig.cameras.send_all()
        thread = threading.Thread(target=send)
        thread.start()
        try:
            with Client() as client:
                client.wait_until_active(30.0)
                yield AgentTools(client, publish_at_once), rig
        finally:
            stopped.set()
            thread.join()


@pytest.fixture(scope='module')
def agent():
    with pytest.MonkeyPatch.context() as monkeypatch, run_tools(
            monkeypatch, publish_target='on_accept') as agent:
        yield agent


def test_the_cameras_are_listed(agent):
    tools, _ = agent
    assert tools.cameras() == [{'name': 'front', 'has_depth': True},
                               {'name': 'side', 'has_depth': True}]
    with pytest.raises(ValueError, match="no camera 'rear': front, side"):
        tools.look('rear')


def test_a_click_before_a_look_is_refused(agent):
    tools, _ = agent
    with pytest.raises(ValueError, match='look at side first'):
        tools.click('side', *CENTRE)


def test_a_click_on_the_picture_is_answered_and_waits_for_a_person(agent):
    tools, _ = agent
    jpeg, width, height = tools.look('front')
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1).shape == (height, width, 3)
    answer = tools.click('front', *CENTRE)
    assert 'in side: (' in answer
    assert answer.endswith('a person has to accept it before the robot gets it')
    assert tools.explain() in answer
    assert 'PENDING' in tools.targets()
    assert 'stop' in tools.targets()
    tools.clear()
    assert 'CLEARED' in tools.targets()


def test_an_agent_gives_names_to_several_targets(agent):
    tools, _ = agent
    tools.look('front')
    for name in ('cup', 'box'):
        assert f'target {name}, 3D in' in tools.click('front', *CENTRE, name)
    lines = tools.targets().splitlines()
    assert {'cup: PENDING', 'box: PENDING'} <= {line.split(' at ')[0] for line in lines}
    tools.clear()
    assert 'PENDING' not in tools.targets()


@pytest.mark.parametrize('pixel', [(-1.0, 5.0), (320.0, 5.0), (5.0, 240.0), (float('nan'), 5.0)])
def test_a_pixel_outside_of_the_picture_is_refused(agent, pixel):
    tools, _ = agent
    tools.look('front')
    with pytest.raises(ValueError, match='outside of the 320x240 px picture'):
        tools.click('front', *pixel)


def test_an_instruction_is_clicked_on(agent):
    tools, _ = agent
    assert 'in side: (' in tools.point_at('front', 'the drawer handle')


def test_what_has_changed_since_the_agent_looked_is_not_clicked_on(agent):
    tools, rig = agent
    tools.look('front')
    picture = rig.cameras.pictures['front'].data
    try:
        rig.cameras.pictures['front'].data = array.array('B', bytes(len(picture)))
        with pytest.raises(ValueError, match='shows something else than when you looked'):
            tools.click('front', *CENTRE)
    finally:
        rig.cameras.pictures['front'].data = picture


def test_a_small_thing_that_was_exchanged_is_not_clicked_on(agent):
    """It changes the whole picture by less than a grey level."""
    tools, rig = agent
    tools.look('front')
    before = rig.cameras.pictures['front'].data
    try:
        pixels = np.frombuffer(before, np.uint8).reshape(240, 320, 3).copy()
        pixels[110:130, 150:170] ^= 0xFF
        rig.cameras.pictures['front'].data = array.array('B', pixels.tobytes())
        with pytest.raises(ValueError, match=r'something else around \(159.5, 119.5\)'):
            tools.click('front', *CENTRE)
        assert 'in side: (' in tools.click('front', 60.0, 60.0)
    finally:
        rig.cameras.pictures['front'].data = before


def test_what_a_person_clicks_is_not_the_agents_last_click(agent):
    tools, _ = agent
    tools.look('front')
    tools.click('front', *CENTRE)
    with Client() as person:
        person.click('front', (20.0, 30.0))
    assert '(159.5, 119.5)' in tools.explain()


def test_the_target_is_cleared_while_a_click_runs(agent):
    tools, _ = agent
    tools.look('front')
    tools.click('front', *CENTRE)
    with tools._lock:
        tools.clear()
    assert 'CLEARED' in tools.targets()


def test_a_node_without_the_gate_takes_no_click_of_an_agent(monkeypatch):
    with run_tools(monkeypatch) as (tools, _):
        tools.look('front')
        for act in (lambda: tools.click('front', *CENTRE), lambda: tools.point_at('front', 'it')):
            with pytest.raises(ValueError, match=r'without a person \(publish_target: always\)'):
                act()
        allowed = AgentTools(tools._client, publish_at_once=True)
        allowed.look('front')
        assert 'in side: (' in allowed.click('front', *CENTRE)


def test_without_the_package_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'mcp', None)
    assert main(['mcp']) == 1
    assert 'pip install "crosspoint_ros[mcp]"' in capsys.readouterr().err


@needs_mcp
@pytest.mark.parametrize('transport', ['in memory', 'standard input and output'])
def test_a_client_of_the_protocol_sees_tools_pictures_and_errors(agent, transport):
    from mcp import Client as McpClient
    from mcp.client.stdio import StdioServerParameters
    tools, rig = agent
    code = 'import sys; from crosspoint_ros.cli import main; sys.exit(main())'
    server = build_server(tools) if transport == 'in memory' else StdioServerParameters(
        command=sys.executable, args=['-c', code, 'mcp'],
        env={**os.environ, 'ROS_DOMAIN_ID': str(rig.domain)})

    async def talk():
        async with McpClient(server) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            seen = await client.call_tool('look', {'camera': 'front'})
            answer = await client.call_tool('click', {'camera': 'front', 'x': 159.5, 'y': 119.5})
            refused = await client.call_tool('click', {'camera': 'front', 'x': -1, 'y': 0})
            return names, seen, answer, refused
    names, seen, answer, refused = asyncio.run(talk())
    assert names == {'cameras', 'look', 'click', 'point_at', 'why_refused', 'targets', 'clear'}
    assert seen.content[0].mime_type == 'image/jpeg'
    assert '320x240 px' in seen.content[1].text
    assert 'in side: (' in answer.content[0].text
    assert refused.is_error
    assert 'outside of the 320x240 px picture' in refused.content[0].text
