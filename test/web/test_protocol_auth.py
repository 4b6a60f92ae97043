"""Requests are validated field by field; access depends on Host, Origin and token."""
from __future__ import annotations

import json
from dataclasses import fields
from typing import get_args

import pytest

from crosspoint_ros.web import auth, protocol
from crosspoint_ros.web.auth import AccessControl, is_loopback, read_token, resolve_token
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


def test_a_valid_request_is_parsed_to_the_nanosecond():
    assert parse_request(json.dumps(CLICK)) == ClickRequest(
        1, 'front', '1760000000000000001', 1.5, 2.0)
    assert parse_request('{"type":"next","camera":"side","after":"0"}') == NextImageRequest(
        'side', '0')
    assert parse_request('{"type":"step","id":3,"step":"redo"}') == StepRequest(3, 'redo')
    assert parse_request('{"type":"correct","id":4,"query_id":"q","camera":"side","x":-1,'
                         '"y":0}') == CorrectRequest(4, 'q', 'side', -1.0, 0.0)


@pytest.mark.parametrize(('field', 'value', 'allowed'), [
    ('x', 'NaN', 'a number'), ('x', None, 'a number'),
    ('x', True, 'a number'), ('x', [1], 'a number'),
    ('x', 1e30, 'a number'), ('x', float('nan'), 'a number'),
    ('y', float('-inf'), 'a number'), ('x', 10**400, 'a number'),
    ('camera', '', '1 to 64 printable'), ('camera', 5, '1 to 64 printable'),
    ('camera', 'x' * 65, '1 to 64 printable'), ('camera', 'a\nb', '1 to 64 printable'),
    ('camera', 'a\x1b[31m', '1 to 64 printable'),
    ('stamp', 1760000000000000000, 'nanoseconds as a string'),
    ('stamp', '-1', 'nanoseconds as a string'),
    ('stamp', '1e3', 'nanoseconds as a string'),
    ('stamp', '2147483648000000000', 'nanoseconds as a string'),
    ('stamp', '٣', 'nanoseconds as a string'), ('id', -1, 'an integer of 0 or more'),
    ('id', 1.0, 'an integer of 0 or more'),
    ('id', 2**53, 'an integer of 0 or more'), ('id', True, 'an integer of 0 or more'),
    ('extra', 1, 'has the fields id, camera, stamp, x, y')])
def test_an_invalid_field_is_refused_by_its_name(field, value, allowed):
    with pytest.raises(RequestError, match=allowed) as refused:
        parse_request(json.dumps({**CLICK, field: value}))
    assert field in str(refused.value)
    assert len(str(refused.value)) < 200


def test_a_missing_field_and_an_unknown_step_are_refused():
    with pytest.raises(RequestError, match='has the fields'):
        parse_request(json.dumps({k: v for k, v in CLICK.items() if k != 'y'}))
    with pytest.raises(RequestError, match='one of undo, redo, clear'):
        parse_request('{"type":"step","id":3,"step":"shutdown"}')


def test_the_length_of_instructions_and_messages_is_limited():
    longest = json.dumps({'type': 'instruct', 'id': 1, 'camera': 'front', 'instruction': 'x' * 500})
    assert parse_request(longest).instruction == 'x' * 500
    with pytest.raises(RequestError, match='1 to 500'):
        parse_request(longest.replace('"x', '"xx'))
    with pytest.raises(RequestError, match='too long'):
        parse_request(' ' * (MAX_MESSAGE_BYTES + 1))


@pytest.mark.parametrize(('host', 'loopback'), [
    ('127.0.0.1', True), ('localhost', True), ('::1', True), ('[::1]', True), ('127.8.9.1', True),
    ('0.0.0.0', False), ('::', False), ('192.168.0.7', False), ('robot', False), ('', False),
    ('localhost.evil.example', False), ('127.0.0.1.evil.example', False)])
def test_only_loopback_addresses_need_no_token(host, loopback):
    assert is_loopback(host) == loopback
    assert bool(resolve_token(host, '')) != loopback


def test_a_given_token_is_kept_and_a_made_one_is_random():
    assert resolve_token('0.0.0.0', '') != resolve_token('0.0.0.0', '')
    assert resolve_token('127.0.0.1', 'sixteen-letters!') == 'sixteen-letters!'


def test_the_token_and_the_cookie_are_compared_in_constant_time(monkeypatch):
    compared = []

    def compare(a, b):
        compared.append((a, b))
        return a == b

    monkeypatch.setattr(auth.hmac, 'compare_digest', compare)
    access = AccessControl('sixteen-letters!', 80)
    assert access.find_cookie('sixteen-letters!') == access.cookie
    assert not access.find_cookie('')
    assert access.check_cookie('nonsense ü')
    assert not access.check_cookie(access.cookie)
    assert len(compared) == 4


@pytest.mark.parametrize('nonsense', ['\ud800', '\0', 'ü' * 4000])
def test_nonsense_is_refused_as_token_and_as_cookie(nonsense):
    access = AccessControl('sixteen-letters!', 80)
    assert not access.find_cookie(nonsense)
    assert access.check_cookie(nonsense) == 'wrong cookie'


def test_a_viewer_has_another_cookie_and_may_not_act():
    access = AccessControl('sixteen-letters!', 80, viewer_token='another sixteen!')
    viewer = access.find_cookie('another sixteen!')
    assert viewer
    assert viewer != access.cookie
    assert access.check_cookie(viewer) == ''
    assert not access.can_act(viewer)
    assert access.can_act(access.cookie)


def test_without_a_viewer_token_no_cookie_is_a_viewers():
    access = AccessControl('sixteen-letters!', 80)
    for nothing in ('', None):
        assert access.check_cookie(nothing) == 'no token given'
        assert not access.can_act(nothing)
    assert access.find_cookie('') == ''
    assert AccessControl('', 80).can_act(None), 'on this machine no token is required'


def test_a_token_is_read_from_a_file_or_the_environment(tmp_path, monkeypatch):
    file = tmp_path / 'token'
    file.write_text('sixteen-letters!\n')
    monkeypatch.setenv('TOKEN', 'of the environment')
    assert read_token('', file, 'TOKEN') == 'sixteen-letters!'
    assert read_token('given directly!!', file, 'TOKEN') == 'given directly!!'
    assert read_token('', None, 'TOKEN') == 'of the environment'
    monkeypatch.delenv('TOKEN')
    assert read_token('', None, 'TOKEN') == ''
    file.write_text('\n')
    with pytest.raises(ValueError, match='is empty'):
        read_token('', file, 'TOKEN')
    with pytest.raises(FileNotFoundError):
        read_token('', tmp_path / 'nothing', 'TOKEN')


@pytest.mark.parametrize(('origin', 'host', 'allowed'), [
    ('http://robot:8088', 'robot:8088', True), ('https://Robot', 'robot', True),
    ('http://[::1]:8088', '[::1]:8088', True), ('http://robot:8089', 'robot:8088', False),
    ('robot:8088', 'robot:8088', False), ('ftp://robot', 'robot', False), (None, 'robot', False),
    ('http://robot', None, False), ('http://', '', False), ('http://robot@evil', 'evil', False)])
def test_only_a_page_of_the_same_host_and_port_is_allowed(origin, host, allowed):
    assert (AccessControl('', 8088).check_origin(origin, host) == '') == allowed


def test_with_a_token_any_host_name_is_allowed():
    assert AccessControl('', 80).check_host('robot.local:80')
    assert not AccessControl('sixteen-letters!', 80).check_host('robot.local:80')
    assert AccessControl('', 80).check_host(None)
    assert AccessControl('', 80).check_host('[')


def test_repeated_refusals_are_logged_once_a_minute(caplog):
    now_s = [0.0]
    access = AccessControl('', 80, monotonic_s=lambda: now_s[0])
    for _ in range(100):
        access.log_refusal('10.0.0.1', 'wrong token')
    access.log_refusal('10.0.0.2', 'wrong token')
    assert len(caplog.records) == 2
    now_s[0] = 61.0
    access.log_refusal('10.0.0.1', 'wrong token')
    assert len(caplog.records) == 3


@pytest.mark.parametrize('kind', get_args(protocol.NodeRequest))
def test_every_act_has_words_for_the_other_operators(kind):
    values = {'id': 1, 'camera': 'front', 'stamp': '0', 'x': 1.0, 'y': 2.0, 'step': 'undo',
              'query_id': 'q', 'instruction': 'the mug', 'limit': 'min_confidence', 'value': 0.5,
              'target_name': 'cup'}
    request = kind(**{field.name: values[field.name] for field in fields(kind)})
    assert protocol.describe_act(request)
