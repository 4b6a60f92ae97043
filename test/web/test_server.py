"""The web server without a node: access control, invalid requests, start and shutdown."""
from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import aiohttp
import chromium
import pytest
import rclpy
from chromium import wait_for_event
from lifecycle_msgs.srv import GetState

from crosspoint_ros.ros.client.session import RosSession

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    """The page without a node."""
    with chromium.run_web_server(tmp_path_factory.mktemp('web') / 'web.log') as server:
        yield server


@pytest.fixture(scope='module')
def guarded(tmp_path_factory):
    """The page on all addresses of this machine, hence with a token."""
    log = tmp_path_factory.mktemp('guarded') / 'web.log'
    with chromium.run_web_server(log, '--port', '0', '--host', '0.0.0.0') as server:
        yield server


def token_of(server):
    return server.address.partition('#token=')[2]


def fetch(server, path, method='GET', **options):
    """Return status, headers and text of one request."""
    async def go():
        async with aiohttp.ClientSession() as session, session.request(
                method, f'http://127.0.0.1:{server.port}{path}', **options) as response:
            return response.status, response.headers, await response.text()
    return asyncio.run(go())


def own_origin(server):
    return {'Origin': f'http://127.0.0.1:{server.port}'}


def send_raw(server, request: bytes) -> bytes:
    """Send raw bytes, and return the whole response."""
    with socket.create_connection(('127.0.0.1', server.port), timeout=10) as connection:
        connection.sendall(request)
        return b''.join(iter(lambda: connection.recv(65536), b''))


# Access control

@pytest.mark.parametrize('origin', [
    'http://evil.example', 'null', 'http://127.0.0.1', 'https://localhost:1', 'file://', '',
    'http://[', 'http://127.0.0.1:80@evil.example'])
def test_the_events_are_refused_to_pages_of_other_origins(server, origin):
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        server.run_session(None, headers={'Origin': origin})
    assert refused.value.status == 403
    server.wait_for_log(f'refused 127.0.0.1: Origin is {origin!r}')


def test_a_program_without_an_origin_is_refused(server):
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        server.run_session(None, headers={})
    assert refused.value.status == 403


def test_a_foreign_host_name_is_refused_against_dns_rebinding(server):
    for path in ('/', '/events', '/main.js'):
        status, _, text = fetch(server, path, headers={'Host': 'evil.example'})
        assert status == 403
        assert 'only localhost is served' in text
    status, _, _ = fetch(server, '/', headers={'Host': 'localhost:9000'})  # through an SSH tunnel
    assert status == 200


def test_a_right_token_from_another_page_is_refused(guarded):
    status, _, _ = fetch(guarded, '/enter', 'POST', json={'token': token_of(guarded)},
                       headers={'Origin': 'http://evil.example'})
    assert status == 403


def test_other_addresses_need_a_token_which_becomes_a_cookie(guarded):
    token = token_of(guarded)
    assert len(token) >= 32
    status, headers, _ = fetch(guarded, '/enter', 'POST', json={'token': token},
                             headers=own_origin(guarded))
    assert status == 204
    cookie = headers['Set-Cookie']
    assert 'HttpOnly' in cookie
    assert 'SameSite=Strict' in cookie
    assert token not in cookie
    headers = {**own_origin(guarded), 'Cookie': cookie.partition(';')[0]}
    event = guarded.run_session(lambda s: wait_for_event(s, 'state'), headers=headers)
    assert event['node'] == '/crosspoint'


@pytest.mark.parametrize('cookie', ['', 'crosspoint_{port}=0123', 'crosspoint_{port}={token}',
                                    'crosspoint_1=x'])
def test_without_the_right_cookie_there_are_no_events(guarded, cookie):
    cookie = cookie.format(port=guarded.port, token=token_of(guarded))
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        guarded.run_session(None, headers={**own_origin(guarded), 'Cookie': cookie})
    assert refused.value.status == 403


@pytest.mark.parametrize('content', [
    b'{"token": "wrong"}', b'{"token": 5}', b'[]', b'{', b'', b'\xff', b'{"token": "\\ud800"}',
    b'[' * 4000,
    b'{"token": "' + b'x' * 9000])
def test_a_wrong_token_is_refused(guarded, content):
    status, headers, _ = fetch(guarded, '/enter', 'POST', data=content, headers=own_origin(guarded))
    assert status in (400, 403, 413)
    assert 'Set-Cookie' not in headers


def test_a_repeated_refusal_is_one_log_line_without_the_token(guarded):
    for _ in range(5):
        fetch(guarded, '/enter', 'POST', json={'token': 'a guess'}, headers=own_origin(guarded))
    guarded.wait_for_log('wrong token')
    log = guarded.log.read_text()
    assert log.count('refused 127.0.0.1: wrong token') == 1
    assert token_of(guarded) not in log
    assert 'a guess' not in log
    assert 'Traceback' not in log


def test_a_short_token_is_refused():
    run = subprocess.run([sys.executable, '-m', 'crosspoint_ros.cli', 'web', '--token', 'short'],
                         cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert 'invalid token of 5 characters: 16 or more' in run.stderr


# What is served

@pytest.mark.parametrize('path', [
    '/../../../../etc/passwd', '/..%2f..%2fetc/passwd', '/%2e%2e/command.py', '//etc/passwd',
    '/page/../command.py', '/index.html/../../server.py', '/main.js%00.css', '/\\..\\command.py',
    '/__init__.py', '/.git/config'])
def test_only_the_files_of_the_page_are_served(server, path):
    answer = send_raw(server, f'GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'
                 .encode())
    assert re.match(rb'HTTP/1\.[01] 40[034] ', answer), answer[:80]
    assert b'root:' not in answer
    assert b'import' not in answer


def test_an_unreadable_request_is_refused_and_leaves_no_traceback_in_the_log(server):
    for request in (b'\x00\x01\r\n\r\n', b'GET / HTTP/9\r\n\r\n',
                    b'GET / HTTP/1.1\r\n: \r\n\r\n',
                    b'GET /' + b'a' * 9000 + b' HTTP/1.1\r\n\r\n'):
        assert send_raw(server, request).startswith(b'HTTP/1.0 400 ')
    assert 'Traceback' not in server.log.read_text()


def test_every_file_is_served_with_its_security_headers(server):
    page = ROOT / 'crosspoint_ros' / 'web' / 'page'
    for path in page.iterdir():
        status, headers, text = fetch(server, '/' if path.name == 'index.html' else f'/{path.name}')
        assert status == 200
        assert path.name == 'index.html' or text == path.read_text()
        assert "default-src 'self'" in headers['Content-Security-Policy']
        assert headers['Referrer-Policy'] == 'no-referrer'
        assert headers['X-Content-Type-Options'] == 'nosniff'
        again, _, _ = fetch(server, '/' if path.name == 'index.html' else f'/{path.name}',
                          headers={'If-None-Match': headers['ETag']})
        assert again == 304
    status, headers, _ = fetch(server, '/nothing')
    assert status == 404
    assert headers['Referrer-Policy'] == 'no-referrer'


def test_the_page_names_all_its_modules_so_that_none_waits_for_another(server):
    page = ROOT / 'crosspoint_ros' / 'web' / 'page'
    _, _, text = fetch(server, '/')
    assert re.findall('<link rel="modulepreload" href="([a-z_0-9]+.js)">', text) == sorted(
        path.name for path in page.glob('*.js'))
    assert text.partition('<script')[2] == (page / 'index.html').read_text().partition('<script')[2]


# Requests

NONSENSE = ['', '{', 'null', '[]', '"click"', '5', '{"type": 5}', '{"type": "nothing"}',
            '{"type": "click"}', '{"type": ["click"]}', '[' * 2000, '{"type":"undo","id":-1}',
            '\u0000', '{"type":"next","camera":"front","after":"0","width":0}']
INVALID = [{'type': 'click', 'id': 5, 'camera': 'front', 'stamp': '0', 'x': float('inf'), 'y': 2},
           {'type': 'click', 'id': 5, 'camera': 'front', 'stamp': '0', 'x': float('nan'), 'y': 2},
           {'type': 'instruct', 'id': 5, 'camera': 'front', 'instruction': 'the\u200b mug'},
           {'type': 'click', 'id': 5, 'camera': 'front'}, {'type': 'undo', 'id': 5}]


@pytest.mark.parametrize('text', NONSENSE)
def test_an_invalid_request_is_explained_and_the_connection_stays(server, text):
    async def conversation(socket_):
        await socket_.send_str(text)
        refusal = await wait_for_event(socket_, 'bad_request')
        await socket_.send_str(json.dumps({'type': 'step', 'id': 7, 'step': 'undo'}))
        reply = await wait_for_event(socket_, 'reply')
        return refusal, reply
    refusal, reply = server.run_session(conversation)
    assert len(refusal['message']) > 10
    assert reply['id'] == 7
    assert 'Traceback' not in server.log.read_text()


@pytest.mark.parametrize('request_', INVALID)
def test_an_invalid_request_with_an_id_gets_its_reply(server, request_):
    """The page waits for it."""
    async def conversation(socket_):
        await socket_.send_str(json.dumps(request_))
        return await wait_for_event(socket_, 'reply')
    reply = server.run_session(conversation)
    assert (reply['id'], reply['ok']) == (5, False)
    assert re.search('must be|has the fields|unknown type', reply['message'])


@pytest.mark.parametrize('send', [
    lambda s: s.send_str('x' * 100_000), lambda s: s.send_bytes(b'12'),
    lambda s: s.send_str(json.dumps({'type': 'step', 'id': 1, 'step': 'undo' * 2000}))])
def test_a_too_long_or_binary_message_ends_that_connection_alone(server, send):
    async def conversation(socket_):
        await send(socket_)
        while (message := await socket_.receive()).type == aiohttp.WSMsgType.TEXT:
            pass
        return message
    ended = server.run_session(conversation)
    assert ended.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
    assert ended.data in (1003, 1009)
    assert server.run_session(lambda s: wait_for_event(s, 'state'))['type'] == 'state'
    assert 'Traceback' not in server.log.read_text()


def test_without_a_node_the_page_reports_it_and_every_request_gets_a_reply(server):
    async def conversation(socket_):
        state = await wait_for_event(socket_, 'state')
        while 'not found' not in state['words']:
            state = await wait_for_event(socket_, 'state')
        for number in range(100):
            await socket_.send_str(json.dumps({
                'type': 'click', 'id': number, 'camera': 'front', 'stamp': '0', 'x': 1, 'y': 2}))
        return [await wait_for_event(socket_, 'reply') for _ in range(100)]
    replies = server.run_session(conversation)
    assert {reply['id'] for reply in replies} == set(range(100))
    assert not any(reply['ok'] for reply in replies)
    assert any('has no action server now' in reply['message'] for reply in replies)


def test_a_node_whose_action_server_is_not_discovered_is_not_called_ready(server):
    def report_active(request, response):
        response.current_state.label = 'active'
        return response

    done = threading.Event()
    with RosSession() as ros:
        node = ros.add_node(rclpy.create_node('crosspoint', context=ros.context))
        node.create_service(GetState, '~/get_state', report_active)
        spinner = threading.Thread(target=ros.spin_until, args=(done.is_set, 60.0))
        spinner.start()
        event = server.run_session(lambda s: wait_for_event(
            s, 'state', lambda e: 'not found' not in e['words'] and 'looking' not in e['words']))
        done.set()
        spinner.join()
    assert event['words'] == (
        '/crosspoint is active; its action server is not discovered yet: wait')


def test_a_page_that_knows_the_cameras_before_the_server_is_no_error_but_has_a_limit(server):
    async def conversation(socket_):
        for number in range(65):
            await socket_.send_str(json.dumps(
                {'type': 'next', 'camera': f'camera_{number}', 'after': '0'}))
        refusal = await wait_for_event(socket_, 'bad_request')
        await socket_.send_str('{')
        return refusal, await wait_for_event(socket_, 'bad_request')
    refusal, next_one = server.run_session(conversation)
    assert 'images of 64 cameras are requested' in refusal['message']
    assert 'JSON' in next_one['message']


def test_a_browser_that_stops_reading_is_dropped_and_others_are_unaffected(server):
    key = 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n'
    with socket.create_connection(('127.0.0.1', server.port)) as silent:
        host = f'127.0.0.1:{server.port}'
        silent.sendall(f'GET /events HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n'
                       f'Connection: Upgrade\r\nOrigin: http://{host}\r\n{key}\r\n'.encode())
        assert b'101' in silent.recv(20)
        text = b'{"type":"nonsense"}'
        frame = bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text  # masked with zeros
        with contextlib.suppress(ConnectionError):
            for _ in range(20_000):
                silent.sendall(frame * 100)
            pytest.fail('it was never dropped')
    server.wait_for_log('256 events unread')
    assert server.run_session(lambda s: wait_for_event(s, 'state'))['type'] == 'state'


# Start and shutdown

def test_a_taken_port_is_reported(server):
    run = subprocess.run([sys.executable, '-m', 'crosspoint_ros.cli', 'web', '--port',
                          str(server.port)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert f'cannot listen on 127.0.0.1 port {server.port}: Address already in use' in run.stderr


@pytest.mark.parametrize(('options', 'message'), [
    (['--node', 'a b'], 'topic name must not contain'), (['--ros-args', '-r', 'x'], 'remap rule'),
    (['--host', 'nowhere.invalid'], 'cannot listen on nowhere.invalid')])
def test_an_invalid_option_is_reported_in_one_line(options, message):
    run = subprocess.run(
        [sys.executable, '-m', 'crosspoint_ros.cli', 'web', '--port', '0', *options], cwd=ROOT,
        capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert message in run.stderr
    assert 'Traceback' not in run.stderr


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_it_shuts_down_cleanly_while_browsers_are_connected(tmp_path, number):
    with chromium.run_web_server(tmp_path / 'web.log') as server:
        async def conversation(socket_):
            await wait_for_event(socket_, 'state')
            os.kill(server.process.pid, number)
            while (message := await socket_.receive()).type == aiohttp.WSMsgType.TEXT:
                pass
            return message.data
        begun_s = time.monotonic()
        assert server.run_session(conversation) == 1001
        assert server.process.wait(timeout=10) == 0
        assert time.monotonic() - begun_s < 5
        assert 'Traceback' not in server.log.read_text()
