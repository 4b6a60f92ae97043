"""The parameters: what is missing, unknown or out of range is refused with value and limit."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import pytest
import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter

from crosspoint_ros.core.verify import Limits
from crosspoint_ros.matchers import load_matcher
from crosspoint_ros.ros.config import ConfigError, Parameters, TimeLimits

GOOD = {'cameras': ['front', 'side'], 'base_frame': 'base_link',
        'matcher': 'fake_matchers:ExactMatcher'}


@pytest.fixture(scope='module')
def context() -> Iterator[Context]:
    context = Context()
    rclpy.init(context=context)
    yield context
    rclpy.shutdown(context=context)


@pytest.fixture
def parameters_of(context):
    nodes: list[Node] = []

    def build(**changes: object) -> Parameters:
        given = {**GOOD, **{name.replace('__', '.'): value for name, value in changes.items()}}
        node = Node(f'n{len(nodes)}', context=context, parameter_overrides=[
            Parameter(name, value=value) for name, value in given.items() if value is not None])
        nodes.append(node)
        return Parameters(node)

    yield build
    for node in nodes:
        node.destroy_node()


def test_defaults_are_those_of_the_dataclasses(parameters_of):
    config = parameters_of().read()
    assert config.limits == Limits()
    assert config.times == TimeLimits()


@pytest.mark.parametrize('name', [f.name for f in fields(Limits) + fields(TimeLimits)])
def test_every_limit_reaches_the_config(parameters_of, name):
    config = parameters_of(**{f'limits__{name}': 0.37}).read()
    assert getattr(config.limits if hasattr(Limits(), name) else config.times, name) == 0.37


def test_a_camera_has_the_topics_of_its_name_unless_told(parameters_of):
    front, side = parameters_of(side__image_topic='/cam/image').read().cameras
    assert front.image_topic == '/front/color/image_raw'
    assert front.info_topic == '/front/color/camera_info'
    assert front.depth_topic == ''
    assert side.image_topic == '/cam/image'


@pytest.mark.parametrize(('changes', 'words'), [
    ({'cameras': None}, ['cameras is required']),
    ({'cameras': ['front']}, ['cameras', 'two or more', 'front']),
    ({'cameras': ['front', 'front']}, ['cameras', 'different']),
    ({'cameras': ['front', 'left side']}, ['cameras', 'left side', 'topic']),
    ({'base_frame': None}, ['base_frame is required']),
    ({'base_frame': ''}, ['base_frame is required']),
    ({'limits__min_confidense': 0.3}, ['limits.min_confidense', 'did you mean',
                                       'limits.min_confidence']),
    ({'limits__min_confidence': 1.3}, ['limits.min_confidence', '1.3', '0.0 to 1.0']),
    ({'history_s': 'long'}, ['history_s', 'long', 'STRING', 'must be DOUBLE']),
    ({'history_s': 2}, ['history_s', 'must be DOUBLE, a number with a point']),
    ({'history_s': -1.0}, ['history_s: -1.0 is out of range', '0.0 to 60.0']),
    ({'autostart': 1}, ['autostart: 1 is of type INTEGER; it must be BOOL']),
    ({'cameras': 'front'}, ['cameras', "'front'", 'must be STRING_ARRAY']),
    ({'refine': 'xfaet'}, ['refine: ', 'xfaet', 'xfeat']),
    ({'refine': 'fake_matchers:ExactMatcher', 'matcher': 'xfeat'}, ['refine: ', 'cannot refine']),
    ({'busy': 'sometimes'}, ['busy', 'sometimes', 'preempt, queue, reject']),
    ({'front__transport': 'theora'}, ['front.transport', 'theora', 'raw, compressed']),
    ({'wrist__image_topic': '/a'}, ['wrist.image_topic: wrist is not one of cameras, front, side']),
    ({'qos_overrides./front/color/image_raw.subscription.reliability': 'reliable'},
     ['qos_overrides./front', 'no QoS to override']),
    ({'colour': 'red'}, ['unknown parameter colour; known: cameras, base_frame']),
    ({'min_confidence': 0.5}, ['unknown parameter min_confidence; did you mean '
                               'limits.min_confidence']),
    ({'matcher': 'xfaet'}, ['xfaet', 'xfeat']),
    ({'matcher': 'fake_matchers:Missing'}, ['Missing']),
    ({'ExactMatcher__confidense': 0.5}, ['ExactMatcher.confidense', 'ExactMatcher.confidence']),
])
def test_what_will_not_do_is_refused_in_words(parameters_of, changes, words):
    with pytest.raises(ConfigError) as refused:
        parameters_of(**changes)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize('name', [f.name for f in fields(Limits) + fields(TimeLimits)])
def test_a_limit_that_would_take_no_effect_is_refused_while_configured(parameters_of, name):
    change = [Parameter(f'limits.{name}', value=0.37)]
    refused = parameters_of().explain_refusal(change, configured=True)
    assert ('cleanup' in refused) == (name not in {f.name for f in fields(Limits)})
    assert parameters_of().explain_refusal(change, configured=False) == ''


def test_a_dump_of_the_present_values_can_be_loaded(parameters_of):
    """As `ros2 param load` does with what `ros2 param dump` wrote, while configured."""
    parameters = parameters_of(matcher='xfeat')
    node = parameters._node
    node.add_on_set_parameters_callback(lambda given: SetParametersResult(
        successful=not (reason := parameters.explain_refusal(given, configured=True)),
        reason=reason))
    dumped = [Parameter.from_parameter_msg(node.get_parameter(name).to_parameter_msg())
              for name in parameters.names]
    assert {p.name: r.reason for p, r in zip(dumped, node.set_parameters(dumped), strict=True)
            if not r.successful} == {}
    assert len(dumped) > 40
    (refused,) = node.set_parameters([Parameter('cameras', value=['front', 'wrist'])])
    assert refused.reason == 'cameras is read once, at start-up: start the node again with it'
    (refused,) = node.set_parameters([Parameter('busy', value='reject')])
    assert 'clean up first' in refused.reason
    (refused,) = node.set_parameters([Parameter('base_frame', value=3)])
    assert not refused.successful


def test_options_of_the_chosen_matcher_are_its_keyword_arguments(parameters_of):
    config = parameters_of(ExactMatcher__confidence=0.6).read()
    assert config.matcher_options == {'confidence': 0.6, 'offset_px': 0.0}


def test_options_of_a_matcher_that_is_not_chosen_may_stay_in_the_file(parameters_of):
    assert parameters_of(xfeat__whatever=1.0).read().matcher == 'fake_matchers:ExactMatcher'


def test_every_parameter_says_what_it_means(parameters_of):
    parameters = parameters_of()
    for name in parameters.names:
        assert len(parameters._node.describe_parameter(name).description) > 10, name


def test_the_options_of_xfeat_are_parameters_and_reach_it(parameters_of):
    config = parameters_of(matcher='xfeat', xfeat__pose_noise_cm=2.5, xfeat__scales=[1.0],
                           xfeat__use_poses=False).read()
    recipe = load_matcher('xfeat', **config.matcher_options).options
    assert (recipe.pose_noise_cm, recipe.scales, recipe.use_poses) == (2.5, (1.0,), False)


def test_a_misspelt_option_of_xfeat_is_refused(parameters_of):
    with pytest.raises(ConfigError, match=r'did you mean xfeat\.pose_noise_cm'):
        parameters_of(matcher='xfeat', xfeat__pose_noise_mm=2.5)
