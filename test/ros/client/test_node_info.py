"""The node's cameras, health and params file are read as the node itself reads them."""
from __future__ import annotations

import time

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.context import Context
from rclpy.node import Node

from crosspoint_ros.ros.client.node_info import (
    NodeHealth,
    NodeInfo,
    open_isolated_node,
    read_params_files,
)


def test_topics_are_resolved_as_the_node_resolves_them():
    values = {
        'cameras': ['front'], 'base_frame': 'base', 'target_frame': 'target',
        'publish_target': 'sure',
        'front.image_topic': 'rgb', 'front.info_topic': '/front/info',
        'front.transport': 'compressed', 'front.rectified': False, 'front.depth_topic': 'depth',
        'front.depth_info_topic': '', 'front.depth_transport': ''}
    info = NodeInfo.from_parameters(values, '/arm/crosspoint')
    assert info.cameras[0].image_topic == '/arm/rgb/compressed'
    assert info.cameras[0].info_topic == '/front/info'
    assert info.camera('side') is None
    assert info.publish_target == 'sure'
    assert info.cameras[0].depth_topic == '/arm/depth/compressedDepth'
    raw = NodeInfo.from_parameters({**values, 'front.depth_transport': 'raw'}, '/arm/crosspoint')
    assert raw.cameras[0].depth_topic == '/arm/depth'
    other_lens = NodeInfo.from_parameters(
        {**values, 'front.depth_info_topic': 'depth_info'}, '/arm/crosspoint')
    assert other_lens.cameras[0].depth_topic == ''


def test_diagnostics_give_faults_and_whether_the_matcher_takes_instructions():
    array = DiagnosticArray(status=[
        DiagnosticStatus(name='crosspoint: camera front', hardware_id='front',
                         level=DiagnosticStatus.WARN, message='no depth',
                         values=[KeyValue(key='image_topic', value='/remapped')]),
        DiagnosticStatus(name='crosspoint: matcher', hardware_id='xfeat',
                         values=[KeyValue(key='can ground', value='true')])])
    health = NodeHealth.from_diagnostics(array, '/crosspoint')
    assert health.cameras == (('front', 'no depth'),)
    assert health.image_topics == (('front', '/remapped'),)
    assert health.can_ground
    assert NodeHealth.from_diagnostics(array, '/other/crosspoint') is None


# --- params files: what rcl gives a node that is started with them

GROUP = '{ros__parameters: {base_frame: own, limits: {b: 3.0}}}'
FORMS = {  # of a group that the node /arm/crosspoint gets, and of one that it does not get
    '/**: GROUP': True, '/*/crosspoint: GROUP': True, '/**/crosspoint: GROUP': True,
    '/arm/*: GROUP': True, '/arm/crosspoint: GROUP': True, 'arm/crosspoint: GROUP': True,
    'arm: {crosspoint: GROUP}': True, '/arm: {crosspoint: GROUP}': True,
    '/**: {crosspoint: GROUP}': True, '/*/*: GROUP': True,
    'crosspoint: GROUP': False, '/crosspoint: GROUP': False, '/*: GROUP': False,
    '/other/crosspoint: GROUP': False}


def read_as_the_node(name, *files):
    """What a node with these global arguments gets, as crosspoint_node is started."""
    namespace, _, short_name = name.rpartition('/')
    context = Context()
    context.init(args=['--ros-args', *(word for file in files
                                       for word in ('--params-file', str(file)))])
    node = Node(short_name, namespace=namespace, context=context)
    values = {key: value.value for key, value in node._parameter_overrides.items()}
    node.destroy_node()
    context.try_shutdown()
    return values


def write(folder, *texts):
    files = [folder / f'{number}.yaml' for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text.replace('GROUP', GROUP))
    return files


def values_of(files, node, *assignments):
    return {name: value.value
            for name, value in read_params_files(files, node, assignments).items()}


@pytest.mark.parametrize('form', FORMS)
def test_every_form_of_a_group_is_read_as_the_node_reads_it(tmp_path, form):
    files = write(tmp_path, form)
    if FORMS[form]:
        assert values_of(files, '/arm/crosspoint') == {'base_frame': 'own', 'limits.b': 3.0}
        assert read_as_the_node('/arm/crosspoint', *files) == values_of(files, '/arm/crosspoint')
    else:
        assert read_as_the_node('/arm/crosspoint', *files) == {}
        with pytest.raises(ValueError, match='has no parameters for /arm/crosspoint'):
            read_params_files(files, '/arm/crosspoint')


STAR, OWN = ('{}: {{ros__parameters: {{base_frame: {}}}}}\n'.format(*words)
             for words in (('/**', 'star'), ('crosspoint', 'own')))


@pytest.mark.parametrize(('texts', 'base_frame'), [
    ([STAR + OWN], 'own'), ([OWN + STAR], 'star'), ([STAR, OWN], 'own'), ([OWN, STAR], 'star'),
    # Groups have the order in which each name came first, in all files together.
    ([STAR + OWN, STAR], 'own'), ([OWN + STAR, OWN], 'star')])
def test_the_last_group_wins_by_the_order_that_rcl_has(tmp_path, texts, base_frame):
    files = write(tmp_path, *texts)
    assert values_of(files, '/crosspoint') == {'base_frame': base_frame}
    assert read_as_the_node('/crosspoint', *files) == {'base_frame': base_frame}


def test_an_assignment_overrides_every_group_and_has_the_types_of_rcl(tmp_path):
    files = write(tmp_path, OWN)
    assert values_of(files, '/crosspoint', 'base_frame=set', 'cameras=[a, b]', 'limits.b=1',
                     "record_dir=''", 'front.rectified=true') == {
        'base_frame': 'set', 'cameras': ['a', 'b'], 'limits.b': 1, 'record_dir': '',
        'front.rectified': True}
    assert values_of([], '/crosspoint', 'cameras=[a, b]') == {'cameras': ['a', 'b']}


@pytest.mark.parametrize('text', ['', 'just words', '[1, 2]', 'a: {b', '/**: {}',
                                  '/**: {ros__parameters: 3}', '/other: {ros__parameters: {a: 1}}',
                                  '/**: {ros__parameters: {use_sim_time: 3}}',
                                  '/**: {ros__parameters: {a: [1, x]}}'])
def test_a_file_without_usable_parameters_is_named(tmp_path, text):
    (file,) = write(tmp_path, text)
    with pytest.raises(ValueError, match=str(file)):
        read_params_files([file], '/crosspoint')


def test_reading_parameters_shows_the_robot_no_twin(tmp_path):
    """A node of the same name on the graph would make the running one refuse its queries."""
    context = Context()
    context.init(args=[])
    watcher = Node('watcher', context=context)
    (file,) = write(tmp_path, OWN)
    with open_isolated_node('/crosspoint', ['--params-file', str(file)]) as node:
        end_s = time.monotonic() + 1.0
        while time.monotonic() < end_s:
            assert 'crosspoint' not in watcher.get_node_names()
            time.sleep(0.02)
        assert node.get_node_names() == ['crosspoint']
    watcher.destroy_node()
    context.try_shutdown()
