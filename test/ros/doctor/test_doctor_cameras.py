"""The doctor's findings on cameras: each is provoked by a fault on a real graph, and alone."""
from __future__ import annotations

import os

import cv2
import numpy as np
import pytest
from doc_messages import is_documented
from faulty_cameras import DEPTH_MM, CameraFault, run_faulty_cameras
from sensor_msgs.msg import CompressedImage
from two_camera_rig import DOMAINS, LENS, run_rig

from crosspoint_ros.ros.doctor.cli import diagnose, format_report
from crosspoint_ros.ros.doctor.finding import Finding
from crosspoint_ros.ros.doctor.probe import collect_snapshot

HOUR_S = 3600.0
SMALL = (LENS.height_px // 2, LENS.width_px // 2)
CAMERA_FAULTS = {
    'well': CameraFault(depth=DEPTH_MM),
    'misnamed': CameraFault(image='misnamed/colour/image_raw'),
    'zipped': CameraFault(image='{name}/color/image_raw/compressed', image_type=CompressedImage),
    'typed': CameraFault(image='{name}/color/image_raw/compressed', image_type=CompressedImage),
    'silent': CameraFault(sends=False),
    'late': CameraFault(shift_s=-3.0),
    'seldom': CameraFault(whole_every=11),
    'lossy': CameraFault(every=4),
    'future': CameraFault(shift_s=HOUR_S),
    'past': CameraFault(shift_s=-HOUR_S),
    'simulated': CameraFault(sim_time=True),
    'unstamped': CameraFault(unstamped=True),
    'coded': CameraFault(encoding='rgb24'),
    'blank': CameraFault(info='blank'),
    'warped': CameraFault(info='warped'),
    'small': CameraFault(info='small'),
    'no_depth': CameraFault(),
    'coded_depth': CameraFault(depth=DEPTH_MM.astype(np.uint8), depth_encoding='8UC1'),
    'empty_depth': CameraFault(depth=np.zeros_like(DEPTH_MM)),
    'small_depth': CameraFault(depth=np.full(SMALL, 700, np.uint16)),
    'other_depth': CameraFault(depth=DEPTH_MM, depth_frame='depth_optical'),
    'slow_depth': CameraFault(depth=DEPTH_MM, depth_shift_s=0.1),
    'masked': CameraFault(),
    'nameless': CameraFault(frame=''),
    'adrift': CameraFault(tf='none'),
    'old_tf': CameraFault(tf='old'),
    'double': CameraFault(image_publishers=2),
    'twin': CameraFault(frame='well_optical'),
    'neighbour': CameraFault(place=1000),
    'roommate': CameraFault(place=1000),
    'alias': CameraFault(frame='original_optical', image=None),
    'original': CameraFault(frame='original_optical'),
}
DEPTHS = [name for name in CAMERA_FAULTS if name.endswith('_depth') or name == 'well']
# camera -> its findings: code, a word of the sentence, a word of the cure
EXPECTED = {
    'well': [],
    'misnamed': [('no-publisher', 'no publisher on /misnamed/color/image_raw',
                  'set misnamed.image_topic: /misnamed/colour/image_raw')],
    'zipped': [('no-publisher', 'no publisher on /zipped/color/image_raw (sensor_msgs/msg/Image)',
                'set zipped.transport: compressed')],
    'typed': [('wrong-type', 'is sensor_msgs/msg/CompressedImage (from /faulty_cameras)',
               'typed.image_topic: /typed/color/image_raw (')],
    'silent': [('nothing-arrives', '/faulty_cameras publishes /silent/color/image_raw, but', 'log'),
               ('nothing-arrives', '/faulty_cameras publishes /silent/color/camera_info', 'log')],
    'late': [('images-late', '(limits.max_image_age_s 1)', 'transport: compressed')],
    'seldom': [('images-seldom', ' s (limits.max_image_age_s 1)', 'rate')],
    'lossy': [('images-lost', 'were lost, but not their camera infos', '/faulty_cameras')],
    'future': [('clocks-differ', 's ahead of the clock of this machine', 'chrony')],
    'past': [('clocks-differ', 's behind the clock of this machine', 'chrony')],
    'simulated': [('sim-time-off', 'use_sim_time is false', 'use_sim_time: true')],
    'unstamped': [('no-stamp', 'no stamp (0)', 'stamp')],
    'coded': [('image-refused', "encoding 'rgb24'", 'rgb8')],
    'blank': [('uncalibrated', 'all zeros', 'camera_calibration')],
    'warped': [('info-refused', 'barrel_of_my_own', 'plumb_bob')],
    'small': [('info-size', 'is for 160x120 images, /small/color/image_raw is 320x240',
               'one resolution')],
    'no_depth': [('no-publisher', 'no publisher on /no_depth/depth', "or '' for none")],
    'coded_depth': [('depth-refused', "encoding '8UC1'", "coded_depth.depth_topic: ''")],
    'empty_depth': [('depth-empty', 'none of the 76800 pixels', 'emitter')],
    'small_depth': [('depth-size', 'is 160x120, /small_depth/color/image_raw is 320x240', 'align')],
    'other_depth': [('depth-frame', "'depth_optical', its image has 'other_depth_optical'",
                     'align')],
    'slow_depth': [('depth-apart', 'limits.max_depth_lag_s 0.02)', 'enable_sync')],
    'masked': [('mask-size', 'is 7x5, the images are 320x240', 'crosspoint mask')],
    'nameless': [('no-frame-id', 'an empty frame_id', 'optical')],
    'adrift': [('no-tf', "from 'adrift_optical' to 'base_link': frame 'adrift_optical' is unknown",
                'static_transform_publisher')],
    'old_tf': [('tf-time', "'base_link' -> 'old_tf_optical' is known only from", '/tf_static')],
    'double': [('two-publishers', '2 publishers on /double/color/image_raw: /faulty_cameras',
                'stop')],
    'twin': [],
    'neighbour': [],
    'roommate': [],
    'alias': [],
    'original': [],
}
OF_ALL = [
    ('qos-mismatch', '/tf_static from /faulty_cameras: it offers volatile', 'transient local'),
    ('qos-mismatch', '/tf from /faulty_cameras: it offers best effort', 'reliable'),
    ('same-frame', "well and twin have the same frame_id, 'well_optical'", 'optical frame'),
    ('same-frame', "alias and original have the same frame_id, 'original_optical'", 'each camera'),
    ('tf-conflict', "'well_optical' is sent with two placements, 0.540 m and ", 'stop one of'),
    ('tf-conflict', "'original_optical' is sent with two placements, 0.020 m and ", 'topic info'),
    ('same-place', 'neighbour and roommate are 0.0 mm apart', 'calibration'),
    ('same-topic', 'alias and original use the same images, /original/color/image_raw',
     'original.image_topic'),
    ('two-nodes', '2 nodes are named /faulty_cameras', '__node'),
]


@pytest.fixture(scope='module')
def snapshot(tmp_path_factory):
    """What the doctor sees of a real node whose cameras have all these faults."""
    mask = tmp_path_factory.mktemp('faulty_cameras') / 'mask.png'
    cv2.imwrite(str(mask), np.zeros((5, 7), np.uint8))
    parameters = {f'{name}__depth_topic': f'/{name}/depth' for name in DEPTHS}
    domain = next(DOMAINS)
    before = os.environ['ROS_DOMAIN_ID']
    os.environ['ROS_DOMAIN_ID'] = str(domain)
    try:
        # history_s 0: the node need not listen to all of them, this is about the doctor.
        with run_faulty_cameras(domain, CAMERA_FAULTS) as robot, run_rig(
                cameras=list(CAMERA_FAULTS), domain=domain, front__depth_topic=None,
                side__depth_topic=None, history_s=0.0, masked__mask_path=str(mask),
                typed__image_topic='/typed/color/image_raw/compressed',
                alias__image_topic='/original/color/image_raw', **parameters) as rig:
            robot.publish_incompatible_tf()
            rig.until(lambda: rig.node._state_machine.current_state[1] == 'active')
            yield collect_snapshot('/crosspoint', 3.0)
    finally:
        os.environ['ROS_DOMAIN_ID'] = before


@pytest.fixture(scope='module')
def found(snapshot) -> tuple[Finding, ...]:
    return diagnose(snapshot)


def agree(found: list[Finding], expected: list[tuple[str, str, str]]) -> None:
    """Exactly these, in any order."""
    assert sorted(f.code.value for f in found) == sorted(code for code, _, _ in expected), found
    for code, sentence, cure in expected:
        assert any(f.code.value == code and sentence in f.message and cure in f.cure
                   for f in found), (code, sentence, cure, found)


@pytest.mark.parametrize('camera', CAMERA_FAULTS)
def test_a_camera_has_the_findings_of_its_fault_and_no_others(found, camera):
    agree([f for f in found if f.camera == camera], EXPECTED[camera])


def test_what_concerns_several_cameras_is_told_once(found):
    agree([f for f in found if not f.camera], OF_ALL)


def test_a_healthy_camera_takes_one_line(snapshot, found):
    lines = list(format_report(snapshot, found))
    well = [line for line in lines if line.startswith('well: ')]
    assert len(well) == 1
    assert '320x240 rgb8' in well[0]
    assert 'base_link -> well_optical' in well[0]
    assert not [line for line in lines if line.startswith('adrift: ')]


def test_cures_are_short(found):
    assert [f.cure for f in found if len(f.cure) > 200] == []


def test_the_page_has_every_sentence_that_was_reported(found):
    assert len({f.code for f in found}) > 25
    assert [str(f) for f in found if not is_documented(f.code.value, f.message)] == []


def test_the_node_itself_is_seen_to_be_well(snapshot):
    node = snapshot.node
    assert (node.count, node.is_responding, node.state) == (1, True, 'active')


def test_in_simulated_time_the_cameras_that_follow_it_are_well_and_the_others_are_told(monkeypatch):
    domain = next(DOMAINS)
    monkeypatch.setenv('ROS_DOMAIN_ID', str(domain))
    cameras = {'simulated': CameraFault(sim_time=True), 'walled': CameraFault()}
    with run_faulty_cameras(domain, cameras), run_rig(
            cameras=list(cameras), domain=domain, front__depth_topic=None, side__depth_topic=None,
            history_s=0.0, use_sim_time=True) as rig:
        rig.until(lambda: rig.node._state_machine.current_state[1] == 'active')
        found = [f for f in diagnose(collect_snapshot('/crosspoint', 2.0)) if f.camera]
    agree(found, [('clocks-differ', 'ahead of /clock (limits', 'use_sim_time: true')])
    assert found[0].camera == 'walled'
    assert is_documented('clocks-differ', found[0].message)


def test_stamps_ahead_of_the_clock_are_told(monkeypatch):
    domain = next(DOMAINS)  # few cameras: what arrives half a second late is not ahead any more
    monkeypatch.setenv('ROS_DOMAIN_ID', str(domain))
    cameras = {'well': CameraFault(), 'ahead': CameraFault(shift_s=0.7)}
    with run_faulty_cameras(domain, cameras), run_rig(
            cameras=list(cameras), domain=domain, front__depth_topic=None, side__depth_topic=None,
            history_s=0.0) as rig:
        rig.until(lambda: rig.node._state_machine.current_state[1] == 'active')
        found = [f for f in diagnose(collect_snapshot('/crosspoint', 2.0)) if f.camera]
    agree(found, [('stamps-ahead', 's in the future on arrival', 'chrony')])
    assert found[0].camera == 'ahead'
    assert is_documented('stamps-ahead', found[0].message)


def test_where_tf_is_not_used_a_camera_needs_neither_a_frame_nor_a_pose(monkeypatch):
    domain = next(DOMAINS)
    monkeypatch.setenv('ROS_DOMAIN_ID', str(domain))
    cameras = {'adrift': CameraFault(tf='none'), 'nameless': CameraFault(frame=''),
               'alias': CameraFault(frame='adrift_optical')}
    with run_faulty_cameras(domain, cameras), run_rig(
            cameras=list(cameras), domain=domain, front__depth_topic=None, side__depth_topic=None,
            history_s=0.0, use_tf=False) as rig:
        rig.until(lambda: rig.node._state_machine.current_state[1] == 'active')
        snapshot = collect_snapshot('/crosspoint', 2.0)
    found = diagnose(snapshot)
    assert [f for f in found if f.is_error and f.camera] == []
    assert 'same-frame' not in {f.code.value for f in found}
    assert 'images alone (use_tf: false)' in '\n'.join(format_report(snapshot, ()))
