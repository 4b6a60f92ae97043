"""Operation: a reverse proxy, tokens from files, probes, viewers, several operators."""
from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import chromium
import pytest
from chromium import Page, wait_for_event
from reverse_proxy import run_reverse_proxy

TOKEN, VIEWER = 'an operator of the robot', 'one who only looks on'


@pytest.fixture(scope='module')
def server(folder):
    (folder / 'token').write_text(f'{TOKEN}\n')
    (folder / 'viewer').write_text(f'{VIEWER}\n')
    with chromium.run_web_server(
            folder / 'web.log', '--port', '0', '--token-file', str(folder / 'token'),
            '--viewer-token-file', str(folder / 'viewer')) as server:
        yield server


def converse(server, conversation, *tokens):
    """Open a WebSocket with each token, and return what the conversation on them returns."""
    origin = f'http://127.0.0.1:{server.port}'

    async def run():
        async with aiohttp.ClientSession(headers={'Origin': origin}) as first, \
                aiohttp.ClientSession(headers={'Origin': origin}) as second:
            sockets = []
            for session, token in zip((first, second), tokens, strict=False):
                jar = await session.post(f'{origin}/enter', json={'token': token})
                cookies = '; '.join(f'{c.key}={c.value}' for c in jar.cookies.values())
                sockets.append(await session.ws_connect(f'{origin}/events', max_msg_size=0,
                                                        headers={'Cookie': cookies}))
            return await asyncio.wait_for(conversation(*sockets), 30)
    with ThreadPoolExecutor(1) as pool:  # Playwright's loop runs in this thread
        return pool.submit(asyncio.run, run()).result()


def test_behind_a_reverse_proxy_the_page_works_under_a_path(browser, server):
    with run_reverse_proxy(server.port) as proxy:
        page = Page(browser, f'{proxy.address}#token={TOKEN}'.replace(' ', '%20'))
        page.tab.context.add_cookies([{  # of another robot, at the root of the host
            'name': f'crosspoint_{server.port}', 'value': 'another', 'path': '/',
            'domain': '127.0.0.1'}])
        page.wait_for_text('#status', '/crosspoint not found')
        assert page.tab.url == proxy.address
        page.tab.reload()  # with the cookie
        page.wait_for_text('#status', '/crosspoint not found')
        cookies = {cookie['value']: cookie['path'] for cookie in page.tab.context.cookies()}
        assert cookies.pop('another') == '/'
        assert list(cookies.values()) == [urlsplit(proxy.address).path.rstrip('/')]
        page.close()


def test_a_probe_needs_no_token_and_gets_no_secret(server):
    with urllib.request.urlopen(f'http://127.0.0.1:{server.port}/healthz') as reply:
        health = json.loads(reply.read())
    assert reply.status == 200
    assert health['server'] == 'ok'
    assert health['node'] == '/crosspoint'
    assert TOKEN not in str(health)


def test_the_export_needs_the_token(server):
    with pytest.raises(urllib.error.HTTPError, match='403'):
        urllib.request.urlopen(f'http://127.0.0.1:{server.port}/session.zip')


def test_a_token_in_a_file_is_in_no_list_of_processes(server):
    command = Path(f'/proc/{server.process.pid}/cmdline').read_text()
    assert TOKEN not in command
    assert VIEWER not in command


@pytest.mark.parametrize('request_', [
    {'type': 'click', 'id': 1, 'camera': 'front', 'stamp': '0', 'x': 1, 'y': 2},
    {'type': 'step', 'id': 1, 'step': 'clear'}, {'type': 'accept', 'id': 1, 'query_id': 'x'},
    {'type': 'instruct', 'id': 1, 'camera': 'front', 'instruction': 'the mug'},
    {'type': 'correct', 'id': 1, 'query_id': 'x', 'camera': 'side', 'x': 1, 'y': 2},
    {'type': 'set_limit', 'id': 1, 'limit': 'min_confidence', 'value': 0.1},
    {'type': 'cancel', 'id': 1}], ids=lambda request: request['type'])
def test_a_viewer_sees_and_cannot_act(server, request_):
    async def conversation(socket_):
        role = await wait_for_event(socket_, 'role')
        state = await wait_for_event(socket_, 'state')
        await socket_.send_str(json.dumps(request_))
        return role, state, await wait_for_event(socket_, 'reply')
    role, state, reply = converse(server, conversation, VIEWER)
    assert role['can_act'] is False
    assert state['node'] == '/crosspoint'
    assert not reply['ok']
    assert 'look and not act' in reply['message']


def test_a_viewers_requests_for_evidence_take_no_place_of_an_operator(server):
    async def conversation(viewer, operator):
        for request in ({'type': 'limits'}, {'type': 'doctor'}, {'type': 'cloud'}):
            for _ in range(30):
                await viewer.send_str(json.dumps(request))
        report = await wait_for_event(viewer, 'doctor')
        await operator.send_str(json.dumps({'type': 'step', 'id': 1, 'step': 'clear'}))
        return report, await wait_for_event(operator, 'reply')
    report, reply = converse(server, conversation, VIEWER, TOKEN)
    assert 'look and not act' in report['problem']
    assert 'clear service' in reply['message'], 'and not that requests are open'


def test_a_viewers_page_has_no_buttons_to_press(browser, server):
    page = Page(browser, f'{server.address}'.partition('#')[0]
                + f'#token={VIEWER}'.replace(' ', '%20'))
    page.wait_for_text('#status', '/crosspoint not found')
    for part in ('tools', 'instruct', 'limits', 'examine'):
        assert page.tab.evaluate(f"document.getElementById('{part}').inert"), part
    page.close()


def test_an_operator_sees_who_else_acts_and_not_what_he_does_himself(server):
    async def conversation(mine, other):
        names = [(await wait_for_event(socket_, 'role'))['name'] for socket_ in (mine, other)]
        await other.send_str(json.dumps({'type': 'step', 'id': 1, 'step': 'clear'}))
        acted = await wait_for_event(mine, 'acted')
        await mine.send_str(json.dumps({'type': 'step', 'id': 1, 'step': 'undo'}))
        events = []
        while not events or events[-1]['type'] != 'reply':
            events.append(await wait_for_any(mine))
        return names, acted, events, await wait_for_event(other, 'acted')
    names, acted, events, other = converse(server, conversation, TOKEN, TOKEN)
    assert names[0] != names[1]
    assert acted['message'] == (
        f'{names[1]} clears all targets: refused, /crosspoint has no clear service now')
    assert 'acted' not in [event['type'] for event in events]
    assert other['message'].startswith(f'{names[0]} undoes: refused')


async def wait_for_any(socket_):
    message = await socket_.receive()
    return json.loads(message.data)


@pytest.mark.parametrize(('options', 'message'), [
    (['--token-file', '/nothing'], 'No such file'),
    (['--viewer-token', 'short'], 'invalid token of 5 characters'),
    (['--token', TOKEN, '--viewer-token', TOKEN], 'must differ')])
def test_a_bad_token_is_reported_in_one_line(options, message, capsys):
    from crosspoint_ros import cli
    assert cli.main(['web', '--port', '0', *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count('\n') == 1
