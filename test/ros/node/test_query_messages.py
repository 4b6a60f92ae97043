"""What a query came to, as messages: the core's numbers are those of the interface."""
from __future__ import annotations

from enum import IntEnum

import pytest
from crosspoint_ros.action import Correspond as CorrespondAction
from crosspoint_ros.msg import (
    Correspondence,
    GraspTarget,
    ImagePoint,
    QueryResult,
    Status,
    TargetShape,
)
from crosspoint_ros.srv import Correspond as CorrespondService

from crosspoint_ros.core.datatypes import Code, Method
from crosspoint_ros.core.grasp.approach import ApproachMode
from crosspoint_ros.core.grasp.segment import Unclear
from crosspoint_ros.core.verify import Check


@pytest.mark.parametrize(('enum', 'message', 'others'), [
    (Code, Status, set()), (Method, GraspTarget, set()), (Unclear, TargetShape, set()),
    (ApproachMode, CorrespondAction.Goal, set()), (ApproachMode, CorrespondService.Request, set()),
    (Check, Correspondence, {'REFUSED', 'TO_BE_CHECKED', 'SURE'})])
def test_the_codes_of_the_core_are_those_of_the_messages(enum: type[IntEnum], message, others):
    constants = {name for name in dir(type(message)) if name.isupper() and name[0] != '_'
                 and not name.endswith('__DEFAULT')}
    assert constants == {one.name for one in enum} | others
    assert {one.name: getattr(message, one.name) for one in enum} == {
        one.name: one.value for one in enum}


@pytest.mark.parametrize(('kind', 'fields'), [
    (ImagePoint, 'header camera x y'),
    (Correspondence, 'header query_id status clicked found refused_at covariance_px2 confidence '
                     'verdict check epipolar_error_px depth_gap_m'),
    (GraspTarget, 'header query_id pose confidence method normal_measured sigma_normal_rad '
                  'sigma_yaw_rad width_m pregrasp'),
    (TargetShape, 'header query_id code message box size_m support width_m grasp sigma_yaw_rad'),
    (QueryResult, 'header query_id status clicked correspondences has_target target stages '
                  'stage_s'),
    (Status, 'code message'),
    (CorrespondAction.Goal, 'camera stamp x y instruction other_cameras approach approach_vector '
                            'approach_m'),
    (CorrespondAction.Result, 'result'), (CorrespondAction.Feedback, 'stage elapsed_s'),
    (CorrespondService.Request, 'camera stamp x y instruction other_cameras approach '
                                'approach_vector approach_m'),
    (CorrespondService.Response, 'result')])
def test_fields_that_other_packages_read_keep_their_names(kind, fields):
    assert set(fields.split()) <= set(kind.get_fields_and_field_types())
