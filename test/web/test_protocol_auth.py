"""What a browser says is read strictly; who may say it is decided by host, origin and token."""
from __future__ import annotations

import json

import pytest

from crosspoint_ros.web import auth as entry_module
from crosspoint_ros.web.auth import AccessControl, is_loopback, resolve_token
from crosspoint_ros.web.protocol import (
    MAX_MESSAGE_BYTES,
    ClickRequest,
    CorrectRequest,
    NextImageRequest,
    RequestError,
    StepRequest,
    parse_request,
)

CLICK = {'type': 'click', 'id': 1, 'camera': 'front', 'stamp': '1760000000000000001', 'x': 1.5,
         'y': 2}


def test_a_request_comes_back_as_it_was_sent_to_the_nanosecond():
    assert parse_request(json.dumps(CLICK)) == ClickRequest(1, 'front', '1760000000000000001', 1.5, 2.0)
    assert parse_request('{"type":"next","camera":"side","after":"0"}') == NextImageRequest('side', '0')
    assert parse_request('{"type":"step","id":3,"step":"redo"}') == StepRequest(3, 'redo')
    assert parse_request('{"type":"correct","id":4,"query_id":"q","camera":"side","x":-1,"y":0}') == \
        CorrectRequest(4, 'q', 'side', -1.0, 0.0)


@pytest.mark.parametrize(('field', 'value', 'said'), [
    ('x', 'NaN', 'a number of pixels'), ('x', None, 'a number of pixels'),
    ('x', True, 'a number of pixels'), ('x', [1], 'a number of pixels'),
    ('x', 1e30, 'a number of pixels'), ('x', float('nan'), 'a number of pixels'),
    ('y', float('-inf'), 'a number of pixels'), ('x', 10**400, 'a number of pixels'),
    ('camera', '', '1 to 64 characters'), ('camera', 5, '1 to 64 characters'),
    ('camera', 'x' * 65, '1 to 64 characters'), ('camera', 'a\nb', '1 to 64 characters'),
    ('camera', 'a\x1b[31m', '1 to 64 characters'),
    ('stamp', 1760000000000000000, 'nanoseconds as text'), ('stamp', '-1', 'nanoseconds as text'),
    ('stamp', '1e3', 'nanoseconds as text'),
    ('stamp', '2147483648000000000', 'nanoseconds as text'),
    ('stamp', '٣', 'nanoseconds as text'), ('id', -1, 'whole number'), ('id', 1.0, 'whole number'),
    ('id', 2**53, 'whole number'), ('id', True, 'whole number'),
    ('extra', 1, 'has the fields id, camera, stamp, x, y')])
def test_a_field_that_is_not_as_it_must_be_is_refused_by_its_name(field, value, said):
    with pytest.raises(RequestError, match=said) as refused:
        parse_request(json.dumps({**CLICK, field: value}))
    assert field in str(refused.value)
    assert len(str(refused.value)) < 200


def test_a_missing_field_and_another_step_are_refused():
    with pytest.raises(RequestError, match='has the fields'):
        parse_request(json.dumps({k: v for k, v in CLICK.items() if k != 'y'}))
    with pytest.raises(RequestError, match='none of undo, redo, clear'):
        parse_request('{"type":"step","id":3,"step":"shutdown"}')


def test_a_message_is_as_long_as_allowed_and_no_longer():
    long = json.dumps({'type': 'instruct', 'id': 1, 'camera': 'front', 'instruction': 'x' * 500})
    assert parse_request(long).instruction == 'x' * 500
    with pytest.raises(RequestError, match='1 to 500'):
        parse_request(long.replace('"x', '"xx'))
    with pytest.raises(RequestError, match='too long'):
        parse_request(' ' * (MAX_MESSAGE_BYTES + 1))


@pytest.mark.parametrize(('host', 'loopback'), [
    ('127.0.0.1', True), ('localhost', True), ('::1', True), ('[::1]', True), ('127.8.9.1', True),
    ('0.0.0.0', False), ('::', False), ('192.168.0.7', False), ('robot', False), ('', False),
    ('localhost.evil.example', False), ('127.0.0.1.evil.example', False)])
def test_loopback_is_known_from_what_others_reach(host, loopback):
    assert is_loopback(host) == loopback
    assert bool(resolve_token(host, '')) != loopback


def test_each_start_makes_another_token_and_a_given_one_is_kept():
    assert resolve_token('0.0.0.0', '') != resolve_token('0.0.0.0', '')
    assert resolve_token('127.0.0.1', 'sixteen-letters!') == 'sixteen-letters!'


def test_the_token_and_the_cookie_are_compared_in_constant_time(monkeypatch):
    compared = []

    def compare(a, b):
        compared.append((a, b))
        return a == b

    monkeypatch.setattr(entry_module.hmac, 'compare_digest', compare)
    entry = AccessControl('sixteen-letters!', 80)
    assert entry.is_token('sixteen-letters!')
    assert not entry.is_token('')
    assert entry.check_cookie('nonsense ü')
    assert not entry.check_cookie(entry.cookie)
    assert len(compared) == 4


@pytest.mark.parametrize('nonsense', ['\ud800', '\0', 'ü' * 4000])
def test_nonsense_is_no_token_and_no_cookie(nonsense):
    entry = AccessControl('sixteen-letters!', 80)
    assert not entry.is_token(nonsense)
    assert entry.check_cookie(nonsense) == 'its cookie is wrong'


@pytest.mark.parametrize(('origin', 'host', 'ours'), [
    ('http://robot:8088', 'robot:8088', True), ('https://Robot', 'robot', True),
    ('http://[::1]:8088', '[::1]:8088', True), ('http://robot:8089', 'robot:8088', False),
    ('robot:8088', 'robot:8088', False), ('ftp://robot', 'robot', False), (None, 'robot', False),
    ('http://robot', None, False), ('http://', '', False), ('http://robot@evil', 'evil', False)])
def test_only_a_page_of_the_same_host_and_port_is_ours(origin, host, ours):
    assert (AccessControl('', 8088).check_origin(origin, host) == '') == ours


def test_with_a_token_any_name_of_the_robot_will_do():
    assert AccessControl('', 80).check_host('robot.local:80')
    assert not AccessControl('sixteen-letters!', 80).check_host('robot.local:80')
    assert AccessControl('', 80).check_host(None)
    assert AccessControl('', 80).check_host('[')


def test_a_client_that_asks_again_and_again_fills_no_log(caplog):
    now_s = [0.0]
    entry = AccessControl('', 80, monotonic_s=lambda: now_s[0])
    for _ in range(100):
        entry.log_refusal('10.0.0.1', 'its token is wrong')
    entry.log_refusal('10.0.0.2', 'its token is wrong')
    assert len(caplog.records) == 2
    now_s[0] = 61.0
    entry.log_refusal('10.0.0.1', 'its token is wrong')
    assert len(caplog.records) == 3
