"""The client and `crosspoint click`: answers, refusals, and what happens without a node."""
from __future__ import annotations

import errno
import json

import cv2
import fake_matchers
import numpy as np
import pytest
from crosspoint_ros.action import Correspond
from crosspoint_ros.msg import QueryResult, Status, TargetState
from rclpy.action import ActionClient, ActionServer
from rclpy.lifecycle import LifecycleNode
from two_camera_rig import run_rig

from crosspoint_ros.cli import main
from crosspoint_ros.core.grasp.approach import Approach, ApproachMode
from crosspoint_ros.ros.client import cli
from crosspoint_ros.ros.client import client as client_module
from crosspoint_ros.ros.client.client import Client, find_view, is_accepted
from crosspoint_ros.ros.client.results import format_result, result_to_json
from crosspoint_ros.ros.client.session import RosSession
from crosspoint_ros.ros.node import goals


@pytest.fixture
def rig(monkeypatch):
    with run_rig(limits__max_image_age_s=60.0) as rig:
        monkeypatch.setenv('ROS_DOMAIN_ID', str(rig.domain))
        rig.discover()
        rig.send_frames()
        yield rig


@pytest.fixture
def short_timeouts(monkeypatch):
    monkeypatch.setattr(client_module, 'DISCOVERY_TIMEOUT_S', 5.0)


def test_a_click_returns_what_the_node_answers(rig):
    with Client() as client:
        result = client.click('front', np.array([159.5, 119.5]))
    assert result.status.code == Status.OK
    assert is_accepted(result)
    assert find_view(result, 'side').confidence > 0.5
    with pytest.raises(KeyError, match="no answer in 'rear'; searched: side"):
        find_view(result, 'rear')


def test_why_a_matcher_was_not_loaded_reaches_the_client(monkeypatch, short_timeouts):
    fake_matchers.LoadingMatcher.fails = True
    fake_matchers.LoadingMatcher.loaded.set()
    with run_rig(matcher='fake_matchers:LoadingMatcher') as rig:
        monkeypatch.setenv('ROS_DOMAIN_ID', str(rig.domain))
        with Client() as client:
            client.wait_until_reachable()
            result = client.click('front', (159.5, 119.5))
    assert result.status.code == Status.BUSY
    assert 'needs 7.1 GB, 1.2 GB are free' in result.status.message


def test_an_instruction_goes_to_the_matcher(rig):
    with Client() as client:
        result = client.instruct('front', 'the drawer handle')
    assert result.status.code == Status.OK
    assert np.isfinite([result.clicked.x, result.clicked.y]).all()


def test_an_approach_goes_with_the_click(rig):
    along = Approach(ApproachMode.ALONG, np.array([1.0, 0.0, -1.0]), 0.2)
    with Client() as client:
        target = client.click('front', (159.5, 119.5), approach=along).target
    at, before = target.pose.pose.position, target.pregrasp.position
    assert (at.x - before.x, at.y - before.y, before.z - at.z) == pytest.approx(
        (0.2 / np.sqrt(2), 0.0, 0.2 / np.sqrt(2)))


CLICK = ['click', 'front', '159.5', '119.5']


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_the_command_prints_the_answer_and_draws_it(rig, tmp_path, capsys, suffix):
    picture = tmp_path / f'click{suffix}'
    assert main([*CLICK, '--picture', str(picture)]) == 0
    assert '3D in base_link' in capsys.readouterr().out
    assert cv2.imread(str(picture)).shape[1] >= 2 * 320


def test_json_is_one_object_with_each_view_and_the_target(rig, capsys):
    assert main([*CLICK, '--json']) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed['code'], printed['message']) == ('OK', '')
    (side,) = printed['found']
    assert (side['camera'], side['verdict']) == ('side', 'sure')
    assert all(np.isfinite([side['x'], side['y'], side['confidence']]))
    assert printed['target']['frame'] == 'base_link'
    assert len(printed['target']['position_m']) == 3


def test_a_refusal_is_an_answer_with_exit_code_3(rig, capsys):
    assert main(['click', 'front', '9000', '1', '--json']) == 3
    assert json.loads(capsys.readouterr().out)['code'] == 'BAD_REQUEST'


def test_an_answer_is_printed_though_its_picture_does_not_come(
        rig, monkeypatch, tmp_path, capsys, short_timeouts):
    monkeypatch.setattr(client_module.Client, 'subscribe_overlays', lambda self: {})
    assert main([*CLICK, '--picture', str(tmp_path / 'a.png')]) == 1
    printed = capsys.readouterr()
    assert '3D in base_link' in printed.out
    assert 'a.png was not written: /crosspoint has not drawn its overlays' in printed.err


def test_an_answer_is_printed_though_its_picture_cannot_be_written(
        rig, monkeypatch, tmp_path, capsys):
    def fill_disk(path, image):
        raise OSError(errno.ENOSPC, 'No space left on device', str(path))
    monkeypatch.setattr(cli, 'write_image', fill_disk)
    assert main([*CLICK, '--picture', str(tmp_path / 'a.png')]) == 1
    printed = capsys.readouterr()
    assert '3D in base_link' in printed.out
    assert 'a.png was not written: [Errno 28] No space left' in printed.err


def test_without_a_node_the_exit_code_is_4(monkeypatch, capsys, short_timeouts):
    monkeypatch.setattr(client_module.Client.wait_until_active, '__defaults__', (
        0.3, *client_module.Client.wait_until_active.__defaults__[1:]))
    monkeypatch.setattr(client_module.Client.wait_until_reachable, '__defaults__', (0.3,))
    assert main([*CLICK, '--node', '/nowhere']) == 4
    printed = capsys.readouterr()
    assert printed.out == ''
    assert '/nowhere is not found after 0.3 s: is crosspoint_node running here' in printed.err


@pytest.mark.parametrize(('words', 'message'), [
    (['front'], 'one of the two'), (['front', '3'], 'one of the two'),
    (['front', '3', '4', '--instruction', 'the handle'], 'one of the two'),
    (['front', '3', '4', '--picture', '/nowhere/a.png'], 'there is no folder /nowhere'),
    (['front', '3', '4', '--picture', 'a.xyz'], "unknown image format '.xyz'"),
    (['front', '3', '4', '--picture', 'a'], "unknown image format ''"),
    (['front', '3', '4', '--picture', '/'], '/ cannot be written')])
def test_wrong_arguments_end_with_2_before_anything_is_asked(words, message, capsys, monkeypatch):
    monkeypatch.setattr(client_module.Client, '__init__', None)
    assert main(['click', *words]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ''


# --- a result that was never filled in

def test_a_result_that_is_asked_for_too_late_does_not_read_as_ok(monkeypatch):
    assert goals.RESULT_TIMEOUT_S >= 300  # rclpy's own default is 10 s
    monkeypatch.setattr(goals, 'RESULT_TIMEOUT_S', 1)
    with run_rig() as rig:
        rig.discover()
        rig.send_frames()
        action = ActionClient(rig.cameras, Correspond, '/crosspoint/correspond')
        rig.until(action.server_is_ready)
        sent = action.send_goal_async(Correspond.Goal(camera='front', x=159.5, y=119.5))
        rig.until(sent.done)
        rig.wait_for_result()
        ticks = rig.ticks
        rig.until(lambda: rig.ticks > ticks + 30)
        late = sent.result().get_result_async()
        rig.until(late.done)
        result = late.result().result.result
        action.destroy()
    assert result.query_id == ''
    assert result.status.code == Status.UNSET
    assert not is_accepted(result)
    assert 'no answer' in format_result(result)
    assert 'five minutes' in result_to_json(result)['message']


@pytest.mark.parametrize('result', [QueryResult(), QueryResult(status=Status(code=Status.OK))])
def test_an_empty_result_is_no_answer_in_any_form(result):
    assert format_result(result).startswith('no answer')
    assert result_to_json(result)['code'] == 'UNSET'


def test_the_client_raises_when_there_is_no_result():
    def answer_nothing(goal_handle):
        goal_handle.abort()
        return Correspond.Result()

    with Client('/empty') as client:
        node = client.add_node(LifecycleNode('empty', context=client.context))
        server = ActionServer(node, Correspond, '/empty/correspond', answer_nothing)
        with pytest.raises(RuntimeError, match='no answer'):
            client.click('front', (1.0, 1.0))
        server.destroy()


def test_the_client_hears_the_targets_state(rig):
    states: list[TargetState] = []
    with Client() as client:
        client.subscribe_target_state(states.append)
        client.spin_until(lambda: states, 10.0)
        assert not states[0].valid
        result = client.click('front', (159.5, 119.5))
        client.spin_until(lambda: states[-1].valid, 10.0)
    assert (states[-1].valid, states[-1].query_id) == (True, result.query_id)


def test_the_client_clicks_for_targets_of_several_names_and_clears_one(rig):
    states: dict[str, TargetState] = {}
    with Client() as client:
        client.subscribe_targets(states.update)
        cup = client.click('front', (159.5, 119.5), target_name='cup')
        client.instruct('front', 'the drawer handle', target_name='box')
        assert client.spin_until(lambda: 'box' in states and states['box'].valid, 10.0)
        assert states['cup'].query_id == cup.query_id
        assert states['cup'].frame == cup.target.frame
        assert 'cleared target' in client.clear('cup')
        assert client.spin_until(lambda: not states['cup'].valid, 10.0)
        assert states['box'].valid
        with pytest.raises(RuntimeError, match='there was no target'):
            client.clear('cup')
        client.clear()
        assert client.spin_until(lambda: not states['box'].valid, 10.0)


def test_the_client_holds_its_target(rig):
    with Client() as client:
        client.click('front', (159.5, 119.5), hold_s=60.0)
        assert client.click('front', (150.0, 119.5)).target.name == 'next'
        assert client.click('front', (159.5, 119.5), hold_s=1.0).status.code == Status.BUSY


def test_the_command_names_and_follows_its_target(rig, capsys, monkeypatch):
    spins, server = [], rig.node._server

    def spin_for(client, seconds):
        cup = server.targets.find('cup')
        if cup is not None and cup.is_valid:
            spins.append(seconds)
            if len(spins) == 15:
                rig.run_in_executor(lambda: server.review.clear('cup'))
        RosSession.spin_for(client, seconds)
    monkeypatch.setattr(Client, 'spin_for', spin_for)
    assert main([*CLICK, '--name', 'cup', '--follow']) == cli.ANSWERED
    printed = capsys.readouterr().out.splitlines()
    assert 'target cup, 3D in base_link' in printed[-3]
    assert printed[-2].startswith('cup: STANDING at (')
    assert printed[-1].startswith('cup: CLEARED, stop: cleared target ')


def test_a_name_that_cannot_be_is_refused_in_words(rig, capsys):
    assert main([*CLICK, '--name', 'a cup']) == cli.REFUSED
    assert "target_name 'a cup'" in capsys.readouterr().out


@pytest.mark.parametrize(('words', 'into'), [
    (['--approach', 'from_above'], (0.0, 0.0, -1.0)),
    (['--along', '0', '-3', '0'], (0.0, -1.0, 0.0))])
def test_the_command_says_from_where_the_target_is_approached(rig, capsys, words, into):
    assert main([*CLICK, '--json', *words]) == cli.ANSWERED
    target = json.loads(capsys.readouterr().out)['target']
    way_m = np.subtract(target['position_m'], target['pregrasp_m'])
    assert way_m / np.linalg.norm(way_m) == pytest.approx(into, abs=0.02)  # rounded to 1 mm


def test_an_approach_without_a_direction_is_refused_before_it_is_asked(capsys):
    assert main([*CLICK, '--along', '0', '0', '0']) == cli.USAGE
    assert 'approach_vector (0, 0, 0) has no direction' in capsys.readouterr().err
