"""Picking in MuJoCo: cameras and gripper of the simulation are true, and a click gets lifted."""
from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

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


@pytest.mark.parametrize(('words', 'missing', 'title'), [
    (['bench', 'pick'], 'mujoco', 'MuJoCo'), (['demo', '--pick'], 'mujoco', 'MuJoCo'),
    pytest.param(['bench', 'pick', '--arm'], 'mink', 'mink, inverse kinematics',
                 marks=needs_mujoco)])
def test_without_mujoco_or_mink_one_line_says_what_to_install(monkeypatch, capsys, tmp_path, words,
                                                              missing, title):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, 'crosspoint_ros.bench.pick.arm', raising=False)
    assert main(words) == 1
    name = 'demo' if 'demo' in words else 'bench pick'
    assert capsys.readouterr().err == (
        f"crosspoint {name} needs {title}: pip install 'crosspoint_ros[sim]'\n")


@needs_mujoco
def test_without_egl_one_line_says_what_to_do(tmp_path):
    """In a process of its own: a process loads its EGL once."""
    ended = subprocess.run(
        [sys.executable, '-m', 'crosspoint_ros.cli', 'bench', 'pick', '--trials', '1'],
        capture_output=True, text=True, timeout=60, cwd=tmp_path, env={
            **os.environ, 'MUJOCO_GL': 'egl', '__EGL_VENDOR_LIBRARY_DIRS': str(tmp_path)})
    assert ended.returncode == 1
    assert ended.stderr.startswith('crosspoint bench pick: MuJoCo cannot render with MUJOCO_GL=egl')
    assert ended.stderr.endswith('install libegl1 and libgl1-mesa-dri, or with a display set '
                                 'MUJOCO_GL=glfw\n')
    assert ended.stderr.count('\n') == 1, ended.stderr


def test_a_hand_eye_error_needs_an_arm(capsys):
    assert main(['bench', 'pick', '--hand-eye-off', '2', '3']) == 1
    assert capsys.readouterr().err == 'crosspoint bench pick: --hand-eye-off needs --arm\n'


@needs_mujoco
def test_the_report_counts_each_failure_by_its_cause_and_draws_it(tmp_path):
    from crosspoint_ros.msg import QueryResult

    from crosspoint_ros.bench.pick.grasp import PickEnd
    from crosspoint_ros.bench.pick.report import summarize
    from crosspoint_ros.bench.pick.trial import Click, PickOutcome
    from crosspoint_ros.bench.pick.world import UNKNOWN, Shot
    shot = Shot(np.zeros((480, 640, 3), np.uint8), np.ones((480, 640)), UNKNOWN)
    click = Click('front', 0, (20.0, 30.0), np.zeros(3))
    can = PickOutcome(click, QueryResult(), {'front': shot, 'wrist': shot}, 0.5, off_m=0.002,
                      turned_rad=np.radians(4.0), grasp_s=9.0)
    outcomes = [replace(can, end=PickEnd(('can',), '', 8.0)),
                replace(can, end=PickEnd((), 'slipped', 8.0)),
                replace(can, end=PickEnd(('can', 'mug'), 'another thing', 8.0)),
                replace(can, refusal='NOT_VISIBLE: behind the mug')]
    lines = summarize(outcomes)
    assert lines[0].startswith('answered 3 of 4 (75 %')
    assert lines[1].startswith('picked 1 of 3 (33 %')
    assert lines[2] == 'another object picked: 1 of 4'
    assert 'jaws to the direction across the object: median 4.0 deg, p90 4.0, at most 4.0' in lines
    assert 'click to closed fingers: median 9.0 s, p90 9.0, at most 9.0' in lines
    assert sorted(lines[-3:]) == ['not picked, another thing: 1',
                                  'not picked, refused as NOT_VISIBLE: 1', 'not picked, slipped: 1']
    outcomes[1].draw(tmp_path / 'slipped.png')
    assert cv2.imread(str(tmp_path / 'slipped.png')).std() > 5


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
def test_the_true_width_of_an_object_is_that_between_two_faces():
    from crosspoint_ros.bench.pick.trial import draw_world
    with closing(draw_world(0)) as world:
        for name, way, width_mm in (('box', 0, 60), ('box', 1, 40), ('tin', 1, 56), ('can', 0, 50),
                                    ('roll', 0, 124), ('roll', 1, 44), ('bottle', 2, 160),
                                    ('mug', 0, 86)):
            turn = world.get_turn(name)
            assert world.measure_width(name, turn[:, way]) == pytest.approx(
                width_mm / 1000, abs=1e-6), (name, way)


@needs_mujoco
def test_the_gripper_lifts_what_is_between_its_fingers_and_nothing_else():
    from crosspoint_ros.bench.pick.grasp import pick
    from crosspoint_ros.bench.pick.trial import draw_world
    with closing(draw_world(0)) as world:
        x_m, y_m, _ = world.get_place('can')
        end = pick(world, Transform(FROM_ABOVE, np.array([x_m, y_m, 0.05])), 'can')
        assert (end.lifted, end.cause) == (('can',), '')
    with closing(draw_world(0)) as world:
        end = pick(world, Transform(FROM_ABOVE, np.array([0.2, -0.35, 0.05])), 'can')
        assert (end.lifted, end.cause) == ((), 'closed on nothing')


@needs_mujoco
def test_an_arm_of_six_joints_goes_where_it_is_told_or_says_that_it_cannot():
    from crosspoint_ros.bench.pick.arm import Arm
    from crosspoint_ros.bench.pick.scene import UnreachableError
    from crosspoint_ros.bench.pick.trial import draw_world
    with closing(draw_world(0, Arm())) as world:
        at_m = np.array([0.6, 0.1, 0.3])
        world.move(Transform(FROM_ABOVE, at_m), 400)
        assert np.linalg.norm(world.get_hand().t_m - at_m) < 0.002
        assert np.abs(world.get_hand().R - FROM_ABOVE).max() < 0.005
        with pytest.raises(UnreachableError, match=r'the arm stays \d+ mm and \d+ deg from'):
            world.move(Transform(FROM_ABOVE, np.array([1.8, 0.0, 0.3])), 400)


@needs_mujoco
def test_the_frames_of_the_joints_put_the_camera_where_it_is():
    """As tf2 composes them: link after link by the measured angles, and the mount at the end."""
    from crosspoint_ros.bench.pick.arm import Arm
    from crosspoint_ros.bench.pick.trial import draw_world
    with closing(draw_world(1, Arm())) as world:
        world.move(Transform(FROM_ABOVE, np.array([0.4, -0.1, 0.35])), 200)
        frames = {child: (parent, pose) for parent, child, pose in world.list_frames()}
        frame, from_camera, links = 'wrist_optical', Transform(np.eye(3), np.zeros(3)), []
        while frame != 'base_link':
            frame, pose = frames[frame]
            from_camera, links = pose @ from_camera, [*links, frame]
        assert links == ['tool0', *(f'link_{number}' for number in range(6, 0, -1)), 'base_link']
        assert np.abs(from_camera.R - world.get_pose('wrist').R).max() < 1e-9
        assert np.abs(from_camera.t_m - world.get_pose('wrist').t_m).max() < 1e-9


@needs_mujoco
def test_the_arm_reaches_all_poses_of_the_calibration():
    from crosspoint_ros.bench.pick.arm import START_RAD, Arm
    from crosspoint_ros.bench.pick.hand_eye import list_poses
    arm, joints_rad = Arm(), START_RAD
    for pose in list_poses():
        joints_rad = arm.solve(pose, joints_rad)
    turns = [pose.R for pose in list_poses()]
    spread = np.linalg.svd(np.array([cv2.Rodrigues(turns[0].T @ R)[0].ravel() for R in turns]))[1]
    assert spread[1] > np.radians(15)  # about two axes, as `crosspoint calibrate` wants


def click(rig, world, shots, camera, pixels):
    """Click in the middle of some pixels, (n, 2) row and column, as a pipeline does."""
    from crosspoint_ros.bench.pick.rig import IDENTITY
    row, column = pixels[np.linalg.norm(pixels - np.median(pixels, axis=0), axis=1).argmin()]
    stamp_ns = rig.show(world, shots, dict.fromkeys(shots, IDENTITY), np.random.default_rng(0))
    return rig.click(camera, (float(column), float(row)), stamp_ns)


@pytest.fixture(scope='class')
def rig():
    from crosspoint_ros.bench.pick.rig import PickRig
    from crosspoint_ros.bench.pick.trial import draw_world
    with closing(draw_world(0)) as world, PickRig(world) as rig:
        yield rig


@needs_mujoco
class TestWhatCannotBeGrasped:
    """One node for all; it ends with them, since another test starts one of the same name."""

    def test_a_click_on_the_gripper_is_refused_with_a_message(self, rig):
        from crosspoint_ros.bench.pick.trial import draw_world
        with closing(draw_world(0)) as world:
            x_m, y_m, _ = world.get_place('can')
            world.move(Transform(FROM_ABOVE, np.array([x_m, y_m, 0.15])), 400)
            shots = {camera: world.shoot(camera) for camera in ('front', 'wrist')}
            for camera, message in (('wrist', r"the robot's own body covers .* in wrist"),
                                    ('front', 'wrist: .* (covers|behind|outside)')):
                answer = click(rig, world, shots, camera, np.argwhere(shots[camera].things == -2))
                assert not answer.result.has_target
                assert re.search(message, answer.result.status.message)

    @pytest.mark.parametrize(('name', 'is_behind', 'message'), [
        ('can', True, r'a surface of [\d.]+ m in front that supports things'),
        ('bottle', False, r'0 of the 169 pixels around .* have a depth .*: a hole')])
    def test_a_click_on_glass_is_not_picked(self, rig, name, is_behind, message):
        """A camera that measures depth sees through glass, or nothing. What shows there is the
        table, and that is what the node answers; its shape says that there is no thing."""
        from crosspoint_ros.bench.pick.trial import draw_world
        with closing(draw_world(0)) as world:
            number = [thing.name for thing in THINGS].index(name)
            solid = {camera: world.shoot(camera) for camera in ('front', 'wrist')}
            opacity = world.model.mat(name).rgba[3:]
            opacity[:] = 0.25
            images = {camera: world.render(camera) for camera in solid}
            opacity[:] = 0.0
            behind_m = {camera: world.shoot_rgbd(camera).depth_m for camera in solid}
            shots = {camera: replace(shot, image=images[camera], depth_m=np.where(
                (shot.things == number) & (not is_behind), 0, behind_m[camera]))
                for camera, shot in solid.items()}
            surface = cv2.erode(np.uint8(solid['front'].things == number), np.ones((7, 7)))
            answer = click(rig, world, shots, 'front', np.argwhere(surface))
        assert answer.is_bare
        assert re.search(message, answer.unclear), answer.unclear


@needs_mujoco
def test_a_click_gets_its_object_lifted_and_filmed(tmp_path, capsys, monkeypatch):
    """Through the real node, with both looks; both cameras' poses are exact."""
    from crosspoint_ros.bench.pick import trial, world
    monkeypatch.setattr(world, 'FRAME_STEPS', 600)  # a film of few frames: it is most of the time
    monkeypatch.setattr(trial, 'ANSWER_FRAMES', 2)
    film, outcomes = tmp_path / 'pick.webp', tmp_path / 'outcomes.json'
    assert main(['bench', 'pick', '--trials', '1', '--film', str(film), '--json',
                 str(outcomes)]) == 0
    (outcome,) = json.loads(outcomes.read_text())
    printed = capsys.readouterr().out
    assert outcome['off_m'] < 0.01
    assert outcome['lifted'] == [outcome['object']], printed
    assert 'not used' not in printed
    assert outcome['grasp_s'] > outcome['answer_s'] > 0
    assert len(cv2.imreadanimation(str(film))[1].frames) > 5


@needs_mujoco
@pytest.mark.parametrize(('second_off_m', 'picks_m', 'note'), [
    (0.006, 0.006, ''), (0.07, 0.02, r'90 mm apart \(limit 50 mm\)'),
    (None, 0.02, 'wrist is not calibrated')])
def test_the_look_from_above_decides_unless_it_is_refused_or_of_another_thing(
        second_off_m, picks_m, note):
    """The first answer puts the can 2 cm off, along -x of the base; the second is off along +x."""
    from crosspoint_ros.msg import QueryResult

    from crosspoint_ros.bench.pick.grasp import Answer, Box, look_again
    from crosspoint_ros.bench.pick.trial import draw_world
    from crosspoint_ros.ros.conversions import transform_to_msg
    with closing(draw_world(0)) as world:
        can_m, clicked = world.get_place('can'), []

        def answer(off_m):
            result = QueryResult(has_target=off_m is not None)
            if off_m is None:
                result.status.message = 'wrist is not calibrated'
                return Answer(result, None)
            place = Transform(np.eye(3), can_m + off_m * np.eye(3)[0])
            target = transform_to_msg(Transform(FROM_ABOVE, place.t_m))
            pose = result.target.pose.pose
            pose.orientation = target.rotation
            pose.position.x, pose.position.y, pose.position.z = place.t_m
            return Answer(result, Box(place, np.array([0.05, 0.05, 0.1])))

        def ask(camera, pixel):
            clicked.append((camera, *np.rint(pixel).astype(int)))
            return answer(second_off_m)

        best, unused = look_again(world, ask, lambda: world.get_pose('wrist'), answer(-0.02))
        ((camera, column, row),) = clicked
        assert camera == 'wrist'
        assert THINGS[world.shoot('wrist').things[row, column]].name == 'can'
    assert abs(best.plan_grasp().t_m[0] - can_m[0]) == pytest.approx(picks_m, abs=1e-6)
    assert re.fullmatch(note, unused)


@needs_mujoco
def test_the_demo_picks_what_is_clicked(tmp_path):
    ended = subprocess.run([sys.executable, '-m', 'crosspoint_ros.cli', 'demo', '--pick', '--once'],
                           capture_output=True, text=True, timeout=200, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r'3D in base_link: .*\npicked the \w+ \(', ended.stdout)
