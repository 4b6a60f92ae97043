"""A client without a node of its own: it gets the node's words, or says who is not there."""
from __future__ import annotations

import fake_matchers
import numpy as np
import pytest
from crosspoint_ros.msg import Status
from two_camera_rig import running

from crosspoint_ros.cli import main
from crosspoint_ros.ros.client import client as client_module
from crosspoint_ros.ros.client.client import OverlayTimeout, click


@pytest.fixture
def rig(monkeypatch):
    with running(limits__max_image_age_s=60.0) as rig:
        monkeypatch.setenv('ROS_DOMAIN_ID', str(rig.domain))
        rig.discover()
        rig.show()
        yield rig


def test_a_click_returns_what_the_node_answers(rig):
    assert click('front', 159.5, 119.5).status.code == Status.OK


def test_why_a_matcher_was_not_loaded_is_told_to_whoever_clicks(monkeypatch):
    fake_matchers.LoadingMatcher.fails = True
    fake_matchers.LoadingMatcher.loaded.set()
    monkeypatch.setattr(client_module, 'DISCOVERY_TIMEOUT_S', 5.0)
    with running(matcher='fake_matchers:LoadingMatcher') as rig:
        monkeypatch.setenv('ROS_DOMAIN_ID', str(rig.domain))
        result = click('front', 159.5, 119.5)
    assert result.status.code == Status.BUSY
    assert 'needs 7.1 GB, 1.2 GB are free' in result.status.message


def test_an_instruction_goes_to_the_matcher(rig):
    result = click('front', float('nan'), float('nan'), instruction='the drawer handle')
    assert result.status.code == Status.OK
    assert np.isfinite([result.clicked.x, result.clicked.y]).all()


def test_an_answer_is_told_though_its_picture_does_not_come(rig, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(client_module.Client, 'subscribe_overlays', lambda self: {})
    monkeypatch.setattr(client_module, 'DISCOVERY_TIMEOUT_S', 5.0)
    with pytest.raises(OverlayTimeout, match='was not written') as late:
        click('front', 159.5, 119.5, image_path=tmp_path / 'click.png')
    assert late.value.result.has_target
    assert main(['click', 'front', '159.5', '119.5', '--picture', str(tmp_path / 'a.png')]) == 1
    said = capsys.readouterr().out
    assert '3D in base_link' in said
    assert 'was not written' in said


@pytest.mark.parametrize('words', [['front'], ['front', '3'],
                                   ['front', '3', '4', '--instruction', 'the handle']])
def test_a_click_is_a_pixel_or_an_instruction(words, capsys):
    assert main(['click', *words]) == 1
    assert 'one of the two' in capsys.readouterr().err
