"""The chat client against a scripted double: an answer or a refusal in words, within its time."""
from __future__ import annotations

import logging
import re
import socket
import subprocess
import sys
import threading
import time
import traceback

import pytest
from openai_server import MODEL, FakeOpenAIServer, ServerBehaviour, make_openai

try:
    from crosspoint_ros.matchers.cropond.server.http_client import (
        ChatClient,
        Deadline,
        normalize_url,
    )
except ImportError as missing:
    pytest.skip(str(missing), allow_module_level=True)
from crosspoint_ros.core.datatypes import Code
from crosspoint_ros.matchers.cropond.server.errors import ServerError
from crosspoint_ros.matchers.cropond.server.protocol import ModelInfo

HELLO = {'messages': [{'role': 'user', 'content': 'hello'}]}
KEY = 'sk-very-secret-0123456789'


@pytest.fixture
def server():
    server = FakeOpenAIServer()
    yield server
    server.stop()


@pytest.fixture
def chat(server):
    return ChatClient(server.url, MODEL)


def trouble_of(chat: ChatClient, allowed_s: float = 5.0) -> ServerError:
    with pytest.raises(ServerError) as caught:
        chat.complete([HELLO], Deadline.after(allowed_s))
    return caught.value


def test_a_reply_is_read_past_fields_that_nobody_knows(chat):
    (reply,) = chat.complete([HELLO], Deadline.after(5))
    assert '42, 7' in reply.text
    assert reply.prompt_tokens == 20
    assert chat.list_models(Deadline.after(5)) == (ModelInfo(MODEL, '/models/one', 'vllm'),)


def test_a_second_reply_is_not_the_answer_to_the_next_question(server, chat):
    server.behaviour.faults = ['twice']
    chat.complete([HELLO], Deadline.after(5))
    (reply,) = chat.complete([HELLO], Deadline.after(5))
    assert reply.text.startswith('42-Q') or '42, 7' in reply.text


def test_requests_sent_at_once_come_back_in_order(server, chat):
    bodies = [{'messages': [{'role': 'user', 'content': f'[{n}, 5]'}]} for n in range(8)]
    replies = chat.complete(bodies, Deadline.after(5))
    assert [f'{n}, 5' in reply.text for n, reply in enumerate(replies)] == 8 * [True]
    assert server.connections > 1


def test_first_requests_sent_at_once_all_learn_the_newer_limit(server, chat):
    server.behaviour = make_openai(together=4)  # none is refused before all are sent
    parts = [{'type': 'text', 'text': text} for text in ('about images', '[42, 7]')]
    body = {'messages': [{'role': 'user', 'content': parts}], 'max_tokens': 20}
    replies = chat.complete(4 * [body], Deadline.after(5))
    assert ['42, 7' in reply.text for reply in replies] == 4 * [True]
    limits = sorted('max_tokens' in request for request in server.requests)
    assert limits == 4 * [False] + 4 * [True]


@pytest.mark.parametrize('fault', ['silent', 'trickled_header', 'trickled_body', 'put_off'])
def test_no_server_stretches_the_deadline(server, chat, fault):
    server.behaviour.always = fault
    begun_s = time.monotonic()
    trouble = trouble_of(chat, 0.4)
    assert 0.35 < time.monotonic() - begun_s < 3
    assert trouble.code == Code.TIMEOUT
    assert 'within 0.4 s' in trouble.message
    server.behaviour.always = ''
    assert chat.complete([HELLO], Deadline.after(5))


@pytest.mark.parametrize(('fault', 'words', 'passing'), [
    ('500', r'\(500\): scripted 500', True), ('429', 'overloaded .*429', True),
    ('503', 'overloaded .*503', True), ('413', 'client_max_body_size', False),
    ('nginx_413', 'client_max_body_size', False), ('nginx_429', 'overloaded .*Too Many', True),
    ('403', 'the key was refused', False), ('400', 'scripted 400', False),
    ('page', 'HTML page .*"Please log in".*proxy', False),
    ('bad_gateway', 'HTML page .*502 Bad Gateway', True),
    ('redirect', 'redirects to https://elsewhere.example/login .*url', False),
    ('cut', 'before its reply', True), ('endless', 'longer than', False),
    ('no_http', 'not reachable', True), ('no_json', 'not JSON', False),
    ('no_choices', "no 'choices'", False), ('a_list', 'not a JSON object', False),
    ('no_text', 'no text', False), ('not_a_number', 'NaN', False),
    ('above_one', 'above 0: 800.0', False), ('far_above_one', 'above 0: 1000', False),
    ('true', 'came as True', False), ('no_token', 'a token came as 1', False),
    ('nested', 'not JSON', False), ('nested_error', r'\(400\): \[\[', False),
    ('no_utf8', 'not JSON', False), ('nothing', 'not JSON', False),
    ('wordy', '1200000 characters long', False),
    ('half_chunked', 'before its reply', True), ('bad_chunks', 'before its reply', True),
    ('bomb', r'compressed \(gzip\)', False), ('header_flood', 'not reachable', True),
    ('busy', r'overloaded .*429.*Retry-After: 7', True)])
def test_what_goes_wrong_is_told_with_what_to_do(server, chat, fault, words, passing):
    server.behaviour.always = fault
    trouble = trouble_of(chat)
    assert trouble.code == Code.MATCHER_FAILED
    assert server.url in trouble.message
    assert re.search(words, trouble.message), trouble.message
    assert trouble.retryable is passing


def test_log_probabilities_in_another_form_are_none(server, chat):
    server.behaviour.always = 'tokens_of_old'
    (reply,) = chat.complete([HELLO], Deadline.after(5))
    assert (reply.text, reply.tokens) == ('1', ())


def test_a_redirect_takes_neither_key_nor_images_to_another_server(server, monkeypatch):
    monkeypatch.setenv('A_KEY', KEY)
    other = FakeOpenAIServer()
    chat = ChatClient(server.url, MODEL, 'A_KEY')
    for location in (f'{other.url}/chat/completions', f'//127.0.0.1:{other.port}/v1'):
        server.behaviour.location, server.behaviour.always = location, 'redirect'
        assert 'redirects to' in trouble_of(chat).message
    assert other.connections == 0
    other.stop()


@pytest.mark.parametrize('location', ['http://[', 'http://host:port/', '\x7f', 'javascript:1'])
def test_a_redirect_to_nowhere_is_a_refusal(server, chat, location):
    server.behaviour.location, server.behaviour.always = location, 'redirect'
    assert trouble_of(chat).code == Code.MATCHER_FAILED
    server.behaviour.always = ''
    assert chat.complete([HELLO], Deadline.after(5))


def test_a_server_that_takes_no_more_bytes_costs_the_deadline_only():
    deaf = socket.create_server(('127.0.0.1', 0))
    chat = ChatClient(f'http://127.0.0.1:{deaf.getsockname()[1]}', MODEL)
    begun_s = time.monotonic()
    with pytest.raises(ServerError) as caught:
        chat.complete([{'messages': 32 * (1 << 20) * 'i'}], Deadline.after(1.0))
    assert caught.value.code == Code.TIMEOUT
    assert time.monotonic() - begun_s < 4
    deaf.close()


@pytest.mark.parametrize('scheme', ['http', 'https'])
def test_an_address_of_ip_version_6_is_reached(scheme, certificate):
    both, crt = certificate
    try:
        server = FakeOpenAIServer(ServerBehaviour(), host='::1',
                                  certificate=str(both) if scheme == 'https' else '')
    except OSError as error:
        pytest.skip(f'this machine has no ::1 ({error})')
    chat = ChatClient(f'{scheme}://[::1]:{server.port}/', MODEL, ca_file=str(crt))
    assert chat.url == f'{scheme}://[::1]:{server.port}/v1'
    assert chat.complete([HELLO], Deadline.after(5))
    server.stop()


def test_a_connection_that_breaks_before_the_answer_is_tried_once_more(server, chat):
    server.behaviour.faults = ['reset']
    assert chat.complete([HELLO], Deadline.after(5))
    assert len(server.requests) == 2


def test_it_is_not_tried_a_third_time(server, chat):
    server.behaviour.always = 'reset'
    assert 'not reachable' in trouble_of(chat).message
    assert len(server.requests) == 2


def test_an_answer_that_began_is_not_asked_for_again(server, chat):
    server.behaviour.faults = ['cut']
    assert trouble_of(chat).retryable
    assert len(server.requests) == 1


def test_nobody_listens(chat, server):
    server.stop()
    trouble = trouble_of(chat)
    assert 'is the server running' in trouble.message
    assert 'Errno' in trouble.message
    assert trouble.retryable


def test_a_server_killed_amid_a_request_is_noticed_at_once(server, chat):
    server.behaviour.always = 'silent'
    killer = threading.Thread(target=lambda: (_until(lambda: server.requests), server.stop()))
    killer.start()
    trouble = trouble_of(chat, 20)
    killer.join()
    assert trouble.code == Code.MATCHER_FAILED


def _until(condition) -> None:
    end_s = time.monotonic() + 10
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.01)


def test_a_wrong_model_name_is_answered_with_the_right_ones(server):
    chat = ChatClient(server.url, 'gpt-4')
    trouble = trouble_of(chat)
    assert f'option model can be: {MODEL}' in trouble.message
    assert not trouble.retryable


def test_the_key_is_sent_and_shown_nowhere(server, monkeypatch, caplog):
    monkeypatch.setenv('A_KEY', KEY)
    caplog.set_level(logging.DEBUG)
    server.behaviour.key = KEY
    chat = ChatClient(server.url, MODEL, 'A_KEY')
    assert chat.complete([HELLO], Deadline.after(5))
    assert server.authorizations == [f'Bearer {KEY}']
    server.behaviour.key = 'another'  # the double's 401 repeats the key it was given
    trouble = trouble_of(chat)
    assert 'A_KEY (option key_env) does not hold the right one' in trouble.message
    shown = ''.join(traceback.format_exception(trouble)) + caplog.text + repr(vars(chat))
    assert KEY not in shown


def test_a_server_that_repeats_the_key_in_an_error_is_not_quoted_with_it(server, monkeypatch):
    monkeypatch.setenv('A_KEY', 'scripted')
    server.behaviour.always = '400'
    chat = ChatClient(server.url, MODEL, 'A_KEY')
    assert '*** 400' in trouble_of(chat).message


@pytest.mark.parametrize('body', [
    b'', 60 * b'x', b'{"choices": "', b'{"choices": [{"message": ', b'{"choices": [{"message": "'])
def test_no_reply_gets_the_key_into_a_message_or_a_traceback(server, monkeypatch, caplog, body):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv('A_KEY', KEY)
    chat = ChatClient(server.url, MODEL, 'A_KEY')
    for end in (b'', b'"}', b'"}]}', b'}]}'):
        server.behaviour.echo, server.behaviour.always = body + KEY.encode() + end, 'echoed'
        shown = ''.join(traceback.format_exception(trouble_of(chat)))
        assert KEY[:8] not in shown + caplog.text


@pytest.mark.parametrize('host', ['xn--a', 'a..b', 'no-host.invalid', 60 * 'a.b', 70 * 'a'])
def test_a_name_that_leads_nowhere_is_a_refusal(host):
    chat = ChatClient(f'http://{host}:8000', MODEL)
    assert trouble_of(chat).code in (Code.MATCHER_FAILED, Code.TIMEOUT)


def test_a_name_server_that_hangs_does_not_hold_the_exit():
    code = """
import socket, threading
from crosspoint_ros.matchers.cropond.server.http_client import ChatClient, Deadline
socket.getaddrinfo = lambda *args, **kwargs: threading.Event().wait()
try:
    ChatClient('http://robot.example:8000').list_models(Deadline.after(0.5))
except Exception as error:
    print(error)
"""
    ended = subprocess.run([sys.executable, '-c', code], timeout=60, text=True, check=True,
                           stdout=subprocess.PIPE)
    assert 'did not answer within 0.5 s' in ended.stdout


def test_a_status_line_with_the_key_in_it_is_not_shown(server, monkeypatch, caplog):
    monkeypatch.setenv('A_KEY', KEY)
    chat = ChatClient(server.url, MODEL, 'A_KEY')
    server.behaviour.echo, server.behaviour.always = f'HTTP/9 {KEY}\r\n\r\n'.encode(), 'raw'
    shown = ''.join(traceback.format_exception(trouble_of(chat)))
    assert KEY[:8] not in shown + caplog.text


def test_a_missing_key_names_the_variable_to_set(server, monkeypatch):
    monkeypatch.delenv('A_KEY', raising=False)
    server.behaviour.key = KEY
    chat = ChatClient(server.url, MODEL, 'A_KEY')
    assert 'A_KEY (option key_env) is not set' in trouble_of(chat).message


@pytest.mark.parametrize('key', ['two words', 'sécret', 'a\nb', 'a\rb', 'a\tb', 'quo"te',
                                 'b\\s'])
def test_a_key_that_cannot_be_one_is_refused_unseen(key, monkeypatch):
    monkeypatch.setenv('A_KEY', key)
    with pytest.raises(ValueError, match='A_KEY') as caught:
        ChatClient('http://127.0.0.1:1', MODEL, 'A_KEY')
    assert key not in str(caught.value)


def test_proxies_of_the_environment_get_nothing(server, chat, monkeypatch):
    for name in ('HTTP_PROXY', 'http_proxy', 'ALL_PROXY', 'all_proxy'):
        monkeypatch.setenv(name, 'http://127.0.0.1:9')
    monkeypatch.delenv('NO_PROXY', raising=False)
    monkeypatch.delenv('no_proxy', raising=False)
    with_proxy = ChatClient(server.url, MODEL)
    assert with_proxy.complete([HELLO], Deadline.after(5))


def test_a_proxy_that_was_asked_for_is_used(server):
    chat = ChatClient('http://robot-server.invalid/v1', MODEL, proxy=server.url.removesuffix('/v1'))
    assert chat.complete([HELLO], Deadline.after(5))  # the double answers in the proxy's place
    assert server.connections == 1


@pytest.mark.parametrize(('given', 'url'), [
    ('http://host:8000', 'http://host:8000/v1'), ('http://host:8000/', 'http://host:8000/v1'),
    ('https://host/api/v1/', 'https://host/api/v1'),
    ('http://host/v1/chat/completions', 'http://host/v1'),
    ('http://host/v1/chat/completions/', 'http://host/v1'),
    ('http://host:8000/v1/', 'http://host:8000/v1'),
    ('http://[::1]:8000', 'http://[::1]:8000/v1')])
def test_a_url_is_taken_with_or_without_its_path(given, url):
    assert normalize_url(given) == url


@pytest.mark.parametrize('url', ['host:8000', 'ftp://host', 'http://', 'http://a:b@host/v1',
                                 'http://host:99999', 'http://host/v1?key=x', '',
                                 'http://[::1', 'http://ho st', 'http://host:8000:1',
                                 'http://a:b@[::1', 'http://host/v1\n'])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(ValueError, match='url') as caught:
        normalize_url(url)
    assert 'a:b' not in str(caught.value)


@pytest.fixture(scope='module')
def certificate(tmp_path_factory):
    """A key and its own certificate for 127.0.0.1, in one file."""
    folder = tmp_path_factory.mktemp('tls')
    key, crt, both = (folder / name for name in ('key.pem', 'crt.pem', 'both.pem'))
    try:
        subprocess.run(
            ['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj',
             '/CN=robot-server', '-addext', 'subjectAltName=IP:127.0.0.1,IP:::1', '-keyout', key,
             '-out', crt], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip('the program openssl is not installed')
    both.write_text(key.read_text() + crt.read_text())
    return both, crt


def test_a_certificate_of_an_unknown_authority_is_refused_and_ca_file_cures_it(certificate):
    both, crt = certificate
    server = FakeOpenAIServer(ServerBehaviour(), certificate=str(both))
    stranger = ChatClient(server.url, MODEL)
    friend = ChatClient(server.url, MODEL, ca_file=str(crt))
    trouble = trouble_of(stranger)
    assert 'not trusted' in trouble.message
    assert 'ca_file' in trouble.message
    assert not trouble.retryable
    assert friend.complete([HELLO], Deadline.after(5))
    server.stop()


def test_https_to_a_server_without_tls_says_so(server):
    chat = ChatClient(server.url.replace('http', 'https'), MODEL)
    trouble = trouble_of(chat)
    assert 'begins with http://' in trouble.message
    assert not trouble.retryable


def test_a_host_that_swallows_everything_costs_the_deadline_only():
    deaf = socket.create_server(('127.0.0.1', 0), backlog=0)  # accepts no one
    chat = ChatClient(f'http://127.0.0.1:{deaf.getsockname()[1]}', MODEL)
    begun_s = time.monotonic()
    assert trouble_of(chat, 0.3).code == Code.TIMEOUT
    assert time.monotonic() - begun_s < 3
    deaf.close()


def test_a_server_that_never_ends_the_tls_handshake_costs_the_deadline_only():
    deaf = socket.create_server(('127.0.0.1', 0))
    chat = ChatClient(f'https://127.0.0.1:{deaf.getsockname()[1]}', MODEL)
    assert trouble_of(chat, 0.5).code == Code.TIMEOUT
    deaf.close()


@pytest.mark.parametrize('ca_file', ['/no/such/file', __file__])
def test_a_file_without_certificates_is_refused_at_start(ca_file):
    with pytest.raises(ValueError, match='ca_file'):
        ChatClient('https://127.0.0.1:1', MODEL, ca_file=ca_file)
