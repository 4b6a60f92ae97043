"""The node notices from clicks that a camera was bumped, and leaves TF alone."""
from __future__ import annotations

import re

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Point, PointStamped
from two_camera_rig import project_point, run_rig

from crosspoint_ros.core.datatypes import Code, Rejected, View
from crosspoint_ros.core.extrinsics.drift import MountHealth
from crosspoint_ros.core.pipeline import LocateResult, ViewCorrespondence
from crosspoint_ros.core.verify import Consistency
from crosspoint_ros.ros.doctor.checks_system import check_mounts
from crosspoint_ros.ros.doctor.finding import FindingCode
from crosspoint_ros.ros.doctor.snapshot import NodeSnapshot


def test_a_bump_warns_in_diagnostics_and_tf_stays():
    with run_rig(matcher='fake_matchers:BumpedMatcher') as rig:
        rig.discover()
        arrays: list[DiagnosticArray] = []
        rig.cameras.create_subscription(DiagnosticArray, '/diagnostics', arrays.append, 10)
        clicks = rig.cameras.create_publisher(PointStamped, '/crosspoint/front/click', 10)
        rig.until(clicks.get_subscription_count, what='a listener')
        x, y = project_point('front', (0.02, 0.01, 0.0))
        for _ in range(6):
            rig.send_frames()
            rig.results.clear()
            clicks.publish(PointStamped(point=Point(x=x, y=y)))
            result = rig.wait_for_result()
        assert result.has_target, result.status.message

        def find_alarms() -> list[DiagnosticStatus]:
            return [s for s in (arrays[-1].status if arrays else ()) if s.name.startswith(
                'crosspoint: mount') and s.level == DiagnosticStatus.WARN]

        (alarm,) = rig.until(find_alarms, what='an alarm')
        assert re.match(r'not where TF says since \d\d:\d\d: \d+\.\d \+- \d+\.\d mm, .* largest '
                        r'along .*, by \d clicks', alarm.message)
        assert float({v.key: v.value for v in alarm.values}['cost_ms']) > 0


def test_a_bump_too_large_to_be_measured_is_reported_by_its_refusals():
    def find(camera: str, code: Code | None) -> ViewCorrespondence:
        view = View(camera, np.zeros((4, 4, 3), np.uint8))
        return ViewCorrespondence(camera, view, None, Consistency(), None if code is None else
                                  Rejected(code, 'the pose is off by 5.2 cm'))

    health = MountHealth()
    for number in range(5):
        assert not health.explain('wrist') or number >= 4
        others = [find('wrist', Code.INCONSISTENT), find('side', Code.NOT_VISIBLE)]
        health.add(LocateResult(View('front', np.zeros((4, 4, 3), np.uint8)), np.zeros(2),
                                tuple(others), None, None))
    assert 'by the last 5 clicks, which are refused: the pose is off' in health.explain('wrist')
    assert health.explain('front') == health.explain('side') == ''
    assert health.suspects == {'wrist'}


def test_the_doctor_reports_the_alarm_with_its_cure():
    class Seen:
        node = NodeSnapshot('/crosspoint', 1, True, 'active', True, None,
                            (('wrist', 'not where TF says since 14:02: 11.6 +- 1.6 mm'),))

    (finding,) = check_mounts(Seen())
    assert finding.code is FindingCode.MOUNT_MOVED
    assert not finding.is_error
    assert finding.camera == 'wrist'
    assert 'crosspoint calibrate' in finding.cure

