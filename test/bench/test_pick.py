"""Picking in MuJoCo: cameras and gripper of the simulation are true, and a click gets lifted."""
from __future__ import annotations

import importlib.util
import json
import os
from contextlib import closing

import cv2
import numpy as np
import pytest

from crosspoint_ros.bench.pick.scene import LEAST_APART_M, THINGS, draw_scene
from crosspoint_ros.cli import main
from crosspoint_ros.core.datatypes import Transform

HAS_MUJOCO = importlib.util.find_spec('mujoco') is not None
os.environ.setdefault('MUJOCO_GL', 'egl')
needs_mujoco = pytest.mark.skipif(not HAS_MUJOCO and not os.environ.get(
    'CROSSPOINT_NEEDS_EXTRAS'), reason='MuJoCo: make test-extras')
FROM_ABOVE = np.diag([1.0, -1.0, -1.0])


def test_a_seed_draws_one_scene_and_another_seed_another():
    first, again, other = (draw_scene(np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert (first.xml, first.assets) == (again.xml, again.assets)
    assert first.xml != other.xml


@pytest.mark.parametrize('seed', range(5))
def test_the_open_fingers_fit_between_any_two_objects(seed):
    xml = draw_scene(np.random.default_rng(seed)).xml
    places_m = np.array([[float(word) for word in line.split('"')[3].split()[:2]] for line in
                         xml.split('<body name=')[1:] if line.split('"')[1] in
                         {thing.name for thing in THINGS}])
    apart_m = np.linalg.norm(places_m[:, None] - places_m, axis=2)
    assert apart_m[~np.eye(len(THINGS), dtype=bool)].min() > LEAST_APART_M


def test_without_mujoco_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    assert main(['bench', 'pick', '--trials', '1']) == 1
    assert 'MuJoCo is not installed: pip install "crosspoint_ros[sim]"' in capsys.readouterr().out


@needs_mujoco
def test_a_click_is_on_its_object_in_both_cameras():
    from crosspoint_ros.bench.pick.trial import draw_click, draw_world
    with closing(draw_world(3)) as world:
        shots = {camera: world.shoot(camera) for camera in ('front', 'wrist')}
        for seed in range(10):
            click = draw_click(world, shots, np.random.default_rng(seed))
            centre_m = world.get_place(THINGS[click.thing].name)
            assert np.linalg.norm(click.point_m - centre_m) < 0.1
            for camera, shot in shots.items():
                seen_m = world.get_pose(camera).inverse.transform_points(click.point_m)
                column, row = np.rint(world.get_lens(camera).project(seen_m)).astype(int)
                assert shot.things[row, column] == click.thing
                assert shot.depth_m[row, column] == pytest.approx(seen_m[2], abs=0.01)


@needs_mujoco
def test_the_gripper_lifts_what_is_between_its_fingers_and_nothing_else():
    from crosspoint_ros.bench.pick.trial import draw_world, pick
    with closing(draw_world(0)) as world:
        x_m, y_m, _ = world.get_place('can')
        assert pick(world, Transform(FROM_ABOVE, np.array([x_m, y_m, 0.05]))) == ('can',)
    with closing(draw_world(0)) as world:
        assert pick(world, Transform(FROM_ABOVE, np.array([0.2, -0.35, 0.05]))) == ()


@needs_mujoco
def test_a_click_gets_its_object_lifted_and_filmed(tmp_path, capsys):
    """Through the real node; both cameras' poses are exact."""
    film, outcomes = tmp_path / 'pick.webp', tmp_path / 'outcomes.json'
    assert main(['bench', 'pick', '--trials', '1', '--film', str(film), '--json',
                 str(outcomes)]) == 0
    (outcome,) = json.loads(outcomes.read_text())
    assert outcome['off_m'] < 0.01
    assert outcome['lifted'] == [outcome['object']], capsys.readouterr().out
    assert len(cv2.imreadanimation(str(film))[1].frames) > 30
