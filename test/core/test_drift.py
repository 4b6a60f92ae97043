"""A bump of a camera is noticed from clicks, and nothing else is."""
from __future__ import annotations

import numpy as np
import pytest

from crosspoint_ros.core.datatypes import CorrectedPose
from crosspoint_ros.core.extrinsics.drift import DriftMonitor, MountDrift, PairEvidence
from crosspoint_ros.core.extrinsics.residuals import adjoint, exp_pose

PRIOR = np.diag(np.repeat([np.radians(1) / 1.7, 0.01 / 1.7], 3) ** -2.0)
DATA = np.diag(np.repeat([np.radians(0.3), 0.004], 3) ** -2.0)  # what one click measures
RIGHT = np.zeros(6)
FRONT = exp_pose(np.array([0.1, 0.2, 0.0, 0.0, 0.0, 0.0]))
SIDE = exp_pose(np.array([0.0, -0.4, 0.1, 0.4, 0.0, 0.1]))



def click(rng, bump, cameras=('front', 'wrist'), bias=RIGHT) -> PairEvidence:
    """What a matcher's corrected pose is when wrist is off by `bump`, in its frame."""
    places = {'front': FRONT, 'side': SIDE,
              'wrist': exp_pose(rng.uniform(-0.3, 0.3, 6))}
    a, b = cameras
    given = places[b].inverse @ places[a]
    step = -bump if b == 'wrist' else adjoint(given) @ bump if a == 'wrist' else RIGHT
    measured = step + bias + rng.multivariate_normal(RIGHT, np.linalg.inv(DATA))
    posterior = np.linalg.inv(DATA + PRIOR)
    return PairEvidence(cameras, given, CorrectedPose(
        exp_pose(posterior @ DATA @ measured) @ given, posterior))


def watch(rng, monitor, bump, clicks, bias=RIGHT, start_s=0.0) -> int | None:
    """Return after how many clicks an alarm was raised."""
    for number in range(clicks):
        clicked, *others = np.roll(['front', 'wrist', 'side'], number).tolist()
        monitor.add([click(rng, bump, (clicked, other), bias) for other in others],
                    start_s + number)
        if any(drift.is_alarm for drift in monitor.drifts.values()):
            return number + 1
    return None


def make_monitor() -> DriftMonitor:
    return DriftMonitor(0.01 / 1.7, np.radians(1) / 1.7)


@pytest.mark.parametrize('bump', [
    *(0.01 * np.eye(6)[3:]), *(np.radians(1) * np.eye(6)[:3])])
def test_a_bump_of_a_centimetre_or_a_degree_is_noticed_within_ten_clicks(bump):
    rng, monitor = np.random.default_rng(4), make_monitor()
    assert watch(rng, monitor, RIGHT, 30) is None
    assert watch(rng, monitor, bump, 12, start_s=100.0) <= 10
    alarm = next(drift for drift in monitor.drifts.values() if drift.is_alarm)
    assert alarm.camera == 'wrist'
    assert alarm.since_s >= 95


def test_two_hundred_clicks_without_a_bump_raise_nothing():
    for seed, bias in ((1, RIGHT), (2, np.repeat([np.radians(0.1), 0.001], 3))):
        assert watch(np.random.default_rng(seed), make_monitor(), RIGHT, 200, bias) is None


def test_the_alarm_ends_when_the_camera_is_set_right():
    rng, monitor, bump = np.random.default_rng(0), make_monitor(), np.array([0, 0, 0, 0, 0, 0.015])
    assert watch(rng, monitor, bump, 20)
    for number in range(12):
        monitor.add([click(rng, RIGHT, ('front', 'wrist'))], 50.0 + number)
    assert not monitor.drifts['wrist'].is_alarm


def test_the_text_has_the_size_its_sigma_and_the_axis():
    rng, monitor = np.random.default_rng(0), make_monitor()
    for number in range(30):
        monitor.add([click(rng, np.array([0, 0, 0, 0, 0, 0.012]))], float(number))
    text = str(monitor.drifts['wrist'])
    assert 'mm' in text
    assert 'largest along the optical axis' in text
    assert float(text.split()[0]) == pytest.approx(12, abs=2.5)


def test_two_cameras_alone_name_each_other_as_rivals():
    rng, monitor = np.random.default_rng(0), make_monitor()
    still = PairEvidence(('front', 'side'), SIDE.inverse @ FRONT, click(
        rng, np.array([0, 0, 0, 0.02, 0, 0])).corrected)
    given = still.given
    off = exp_pose(np.array([0, 0, 0, 0.012, 0, 0])) @ given
    for number in range(8):
        monitor.add([PairEvidence(still.cameras, given, CorrectedPose(
            off, np.linalg.inv(DATA + PRIOR)))], float(number))
    alarm = next(drift for drift in monitor.drifts.values() if drift.is_alarm)
    assert len(alarm.rivals) == 1


@pytest.mark.parametrize('bump', [*(0.012 * np.eye(6)[3:]), *(np.radians(1) * np.eye(6)[:3])])
def test_of_two_cameras_the_wrong_one_is_never_named_alone(bump):
    for seed in range(6):
        rng, monitor = np.random.default_rng(seed), make_monitor()
        for number in range(25):
            monitor.add([click(rng, bump)], float(number))
            for alarm in (drift for drift in monitor.drifts.values() if drift.is_alarm):
                assert 'wrist' in (alarm.camera, *alarm.rivals)
        assert any(drift.is_alarm for drift in monitor.drifts.values())


@pytest.mark.parametrize('bump', [*(0.01 * np.eye(6)[3:]), *(np.radians(1) * np.eye(6)[:3])])
def test_among_three_cameras_an_innocent_one_is_no_rival_after_enough_clicks(bump):
    for seed in range(4):
        rng, monitor = np.random.default_rng(seed), make_monitor()
        for number in range(24):
            clicked, *others = np.roll(['front', 'wrist', 'side'], number).tolist()
            monitor.add([click(rng, bump, (clicked, other)) for other in others], float(number))
        alarm, = (drift for drift in monitor.drifts.values() if drift.is_alarm)
        assert (alarm.camera, alarm.rivals) == ('wrist', ())


def test_a_camera_that_explains_no_more_than_noise_is_no_rival_of_a_small_alarm(monkeypatch):
    explained = {'wrist': 23.0, 'front': 22.0, 'side': 3.0}
    monitor = make_monitor()
    monkeypatch.setattr(monitor, '_explain', lambda camera, since_s: explained[camera])
    drifts = {camera: MountDrift(camera, RIGHT[:3], RIGHT[:3], np.eye(6), 0.0, 5, score, True)
              for camera, score in explained.items()}
    assert monitor._assign(drifts)['wrist'].rivals == ('front',)
