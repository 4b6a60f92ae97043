"""The node's cameras, health and params file are read as the node itself reads them."""
from __future__ import annotations

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from crosspoint_ros.ros.client.node_info import NodeHealth, NodeInfo, read_params_file


def test_topics_are_resolved_as_the_node_resolves_them():
    info = NodeInfo.from_parameters({
        'cameras': ['front'], 'base_frame': 'base', 'target_frame': 'target',
        'front.image_topic': 'rgb', 'front.info_topic': '/front/info',
        'front.transport': 'compressed', 'front.rectified': False}, '/arm/crosspoint')
    assert info.cameras[0].image_topic == '/arm/rgb/compressed'
    assert info.cameras[0].info_topic == '/front/info'
    assert info.camera('side') is None


def test_diagnostics_give_faults_and_whether_the_matcher_takes_instructions():
    array = DiagnosticArray(status=[
        DiagnosticStatus(name='/crosspoint: camera front', hardware_id='camera front',
                         level=DiagnosticStatus.WARN, message='no depth',
                         values=[KeyValue(key='image_topic', value='/remapped')]),
        DiagnosticStatus(name='/crosspoint: matcher', hardware_id='matcher',
                         values=[KeyValue(key='can ground', value='true')])])
    health = NodeHealth.from_diagnostics(array, '/crosspoint')
    assert health.cameras == (('front', 'no depth'),)
    assert health.image_topics == (('front', '/remapped'),)
    assert health.can_ground
    assert NodeHealth.from_diagnostics(array, '/other/crosspoint') is None


@pytest.mark.parametrize('own', ['/arm/crosspoint: {GROUP}', 'arm/crosspoint: {GROUP}',
                                 'arm: {crosspoint: {GROUP}}'])
def test_a_node_s_own_values_override_those_of_all_nodes_one_by_one(tmp_path, own):
    file = tmp_path / 'robot.yaml'
    file.write_text('/**: {ros__parameters: {limits: {a: 1.0, b: 2.0}, cameras: [x]}}\n'
                    '/other: {ros__parameters: {limits: {a: 9.0}}}\n'
                    + own.replace('{GROUP}', '{ros__parameters: {limits: {b: 3.0}}}'))
    values = read_params_file(file, '/arm/crosspoint')
    assert {name: value.value for name, value in values.items()} == {
        'limits.a': 1.0, 'limits.b': 3.0, 'cameras': ['x']}


@pytest.mark.parametrize('text', ['', 'just words', '[1, 2]', 'a: {b', '/**: {}',
                                  '/**: {ros__parameters: 3}', '/other: {ros__parameters: {a: 1}}',
                                  '/**: {ros__parameters: {use_sim_time: 3}}',
                                  '/**: {ros__parameters: {a: [1, x]}}'])
def test_a_file_without_usable_parameters_is_named(tmp_path, text):
    file = tmp_path / 'robot.yaml'
    file.write_text(text)
    with pytest.raises(ValueError, match=str(file)):
        read_params_file(file, '/crosspoint')
