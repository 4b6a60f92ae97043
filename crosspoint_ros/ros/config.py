"""The node's parameters, each declared once with its unit, range and meaning."""
from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterUninitializedException,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from crosspoint_ros.core.grasp.approach import MAX_STANDOFF_M, STANDOFF_M, Approach, ApproachMode
from crosspoint_ros.core.track.state import FollowLimits
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.matchers import MATCHERS, get_matcher_options, select_refiner

LIMITS_PREFIX = 'limits.'
MIN_NAME_SIMILARITY = 0.8  # of a misspelt name, by difflib; below it a suggestion misleads
FOLLOW_PREFIX = 'follow.'
PREGRASP = '_pregrasp'  # behind the name of a target's frame


class ConfigError(ValueError):
    """A parameter is missing, unknown or out of range; says which, the value and the limit."""


@dataclass(frozen=True)
class TimeLimits:
    """Ages and delays that are allowed; the only place of these defaults."""

    max_image_age_s: float = 1.0
    max_view_gap_s: float = 0.5
    max_depth_lag_s: float = 0.02
    wait_images_s: float = 1.0
    wait_tf_s: float = 0.5
    max_query_s: float = 10.0


@dataclass(frozen=True)
class FollowConfig:
    """Whether and how a target is followed; its limits are those of the core."""

    mode: str = 'watch'
    rate_hz: float = 10.0
    coast_s: float = FollowLimits.coast_s
    lost_s: float = FollowLimits.lost_s

    @property
    def limits(self) -> FollowLimits:
        """When a target is lost."""
        return FollowLimits(self.coast_s, self.lost_s)


# The only parameters that may change while the node is configured.
LIVE_PARAMETERS = frozenset((
    *(f'{LIMITS_PREFIX}{f.name}' for f in fields(Limits)),
    *(f'{FOLLOW_PREFIX}{f.name}' for f in fields(FollowConfig))))


@dataclass(frozen=True)
class CameraConfig:
    """One camera: its topics, and the mask of the robot's own body in it."""

    name: str
    image_topic: str
    info_topic: str
    depth_topic: str
    transport: str
    mask_path: str
    rectified: bool
    depth_info_topic: str = ''
    depth_transport: str = ''


@dataclass(frozen=True)
class Config:
    """The parameters' values."""

    cameras: tuple[CameraConfig, ...]
    base_frame: str
    target_frame: str
    target_ttl_s: float
    on_refusal: str
    publish_target: str
    matcher: str
    matcher_options: dict[str, Any]
    refine: str
    refiner: str  # the matcher that `refine` selects, '' for none
    refiner_options: dict[str, Any]
    warm_share: float
    limits: Limits
    times: TimeLimits
    follow: FollowConfig
    history_s: float
    busy: str
    use_tf: bool
    allow_unconfirmed: bool
    approach: str
    approach_m: float
    yaw: str
    record_dir: str
    autostart: bool

    @property
    def default_approach(self) -> Approach:
        """That of a click, and of a request that leaves it open."""
        return Approach(ApproachMode[self.approach.upper()], standoff_m=self.approach_m)


@dataclass(frozen=True)
class Spec:
    """One parameter: its default (or its type, when required), meaning and range."""

    name: str
    default: Any
    meaning: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    fixed: bool = False  # read once, at start-up: other parameters' names depend on it

    def descriptor(self) -> ParameterDescriptor:
        """Return what `ros2 param describe` prints."""
        ranges = [] if self.low is None or self.high is None else [
            FloatingPointRange(from_value=self.low, to_value=self.high)]
        constraint = f'one of: {self._join_choices()}' if self.choices else ''
        # Not read_only: rclpy would refuse even the present value.
        return ParameterDescriptor(name=self.name, description=self.meaning,
                                   floating_point_range=ranges,
                                   additional_constraints=constraint)

    def check(self, value: Any) -> None:
        """Raise ConfigError with the value and the limit."""
        if self.choices and value not in self.choices:
            raise ConfigError(f'{self.name}: {value!r} is not one of {self._join_choices()}')

    def _join_choices(self) -> str:
        return ', '.join(choice or "''" for choice in self.choices)

    def explain_type_error(self, given: Parameter) -> str:
        """Return why rclpy rejected a value: of another type, or out of range."""
        wanted = (self.default if isinstance(self.default, Parameter.Type)
                  else Parameter.Type.from_parameter_value(self.default))
        if given.type_ == wanted:
            return (f'{self.name}: {given.value} is out of range (allowed: {self.low} to '
                    f'{self.high})')
        hint = ', a number with a point: 1.0, not 1' if 'DOUBLE' in wanted.name else ''
        return (f'{self.name}: {given.value!r} is of type {given.type_.name}; it must be '
                f'{wanted.name}{hint}')


CAMERAS_PARAMETER = Spec('cameras', Parameter.Type.STRING_ARRAY,
               'names of the views, two or more, e.g. [front, side, wrist]', fixed=True)

NODE_PARAMETERS = (
    Spec('base_frame', Parameter.Type.STRING, 'TF frame of every 3D answer, e.g. base_link'),
    Spec('target_frame', 'crosspoint_target', 'TF child frame of the newest grasp target; answer '
         'n has <target_frame>_<n> as well. Unique for each node: without this line a '
         'node in /arm takes arm_crosspoint_target'),
    Spec('target_ttl_s', 0.0, 'how long a target stays on TF, s; 0: until replaced or cleared',
         0.0, 86400.0),
    Spec('on_refusal', 'keep', 'what a click without a 3D target does to the target that is there',
         choices=('keep', 'clear')),
    Spec('publish_target', 'always', 'which answers send their target to /tf and ~/grasp_target by '
         'themselves: all, the sure ones, or none; the others wait for ~/accept',
         choices=('always', 'sure', 'on_accept')),
    Spec('matcher', 'xfeat', 'xfeat, cropond, cropond_remote, or any module:Class', fixed=True),
    Spec('refine', 'auto', 'the matcher that refines or refuses what `matcher` finds: xfeat, any '
         'module:Class, or none; auto: xfeat for cropond and cropond_remote', fixed=True),
    Spec('warm_share', 0.0, 'share of its time that the matcher may spend on preparing for the '
         'newest images when there is no query; 0: none', 0.0, 1.0),
    Spec('history_s', 2.0, 'how far back a click may point in time, s; 0: the node subscribes to '
         'the cameras only while a query needs images', 0.0, 60.0),
    Spec('busy', 'preempt', 'what a new query does to the one that runs for the same target',
         choices=('preempt', 'queue', 'reject')),
    Spec('use_tf', True, 'false: images alone, for cameras whose poses are not known: the same '
         'point in the other cameras, without any 3D; neither TF nor depth is used'),
    Spec('allow_unconfirmed', False, 'where no other camera shows the point and none contradicts '
         'it: a target by the clicked depth alone, to be checked'),
    Spec('approach', 'auto', 'direction of the +z of a target, unless a goal says another. auto: '
         'the measured normal of the surface, else the clicked ray; from_above: -z of base_frame; '
         'horizontal: the horizontal direction nearest to the normal, else to the ray; normal: as '
         'auto, and no target where no normal is measured',
         choices=('auto', 'from_above', 'horizontal', 'normal')),
    Spec('approach_m', STANDOFF_M, 'how far before the target the frame '
         '<target_frame>_pregrasp is, against +z, unless a goal says another, m',
         0.0, MAX_STANDOFF_M),
    Spec('yaw', 'image', 'what turns a target about its +z. image: the x of the clicked image; '
         'shape: the jaws, which close along x, go across the smaller extent of the clicked thing, '
         'whose width is given; each answer then takes some 100 ms longer',
         choices=('image', 'shape')),
    Spec('record_dir', '', 'folder to which every answer is appended with its images, and what '
         "people decided about it; '': none"),
    Spec('autostart', True, 'configure and activate at start-up; false: wait for a lifecycle '
         'manager'),
)

FOLLOW_SPECS = (
    Spec('follow.mode', FollowConfig.mode, 'whether a target is followed after the click. watch: '
         'its place is verified once a second, and it is withdrawn where it is no longer true; '
         'track: it is kept up to date; off: it stays where it was clicked',
         choices=('off', 'watch', 'track')),
    Spec('follow.rate_hz', FollowConfig.rate_hz, 'how often `track` looks at new images, Hz',
         0.5, 60.0),
    Spec('follow.coast_s', FollowConfig.coast_s, 'how long a target may be hidden, outside of all '
         'images, or without images, before it is lost, s', 0.1, 3600.0),
    Spec('follow.lost_s', FollowConfig.lost_s, 'how long its place may be seen without it before '
         'it is lost, s', 0.1, 3600.0),
)

# name -> (low, high, meaning); the defaults are the dataclasses' own
LIMIT_RANGES = {
    'min_confidence': (0.0, 1.0, 'an answer below it is refused, 0..1'),
    'sure_confidence': (0.0, 1.0, 'an answer at or above it is called sure, 0..1'),
    'max_epipolar_px': (0.1, 1000.0, 'largest distance to the epipolar line of the given poses, '
                        'px; leave room for the error of the extrinsics'),
    'max_depth_gap_m': (0.001, 10.0, 'largest disagreement in 3D between the depths of two views, '
                        'or of depth and triangulation, m'),
    'min_ray_angle_deg': (0.1, 90.0, 'smallest angle between two rays that are triangulated, deg'),
    'max_target_sigma_m': (0.001, 10.0, 'a target whose position is known less exactly, along its '
                           'worst axis, is refused, m'),
    'pose_sigma_m': (0.0, 1.0, 'how exact the positions of cameras are, 1 sigma along each axis, '
                     'm'),
    'pose_sigma_rad': (0.0, 0.5, 'how exact their orientations are, 1 sigma about each axis, rad'),
}
TIME_LIMIT_RANGES = {
    'max_image_age_s': (0.0, 3600.0, 'a newest image older than this is refused as stale, s'),
    'max_view_gap_s': (0.0, 3600.0, "largest time between the clicked image and another view's, s"),
    'max_depth_lag_s': (0.0, 10.0, 'largest time between an image and its depth, s'),
    'wait_images_s': (0.0, 60.0, 'how long a query waits for images that are not there yet, s'),
    'wait_tf_s': (0.0, 60.0, 'how long a query waits for TF at the stamp of an image, s'),
    'max_query_s': (0.1, 3600.0, 'a query that takes longer is refused as timed out, s'),
}


def list_camera_specs(camera: str) -> tuple[Spec, ...]:
    """Return the parameters of one camera."""
    return (
        Spec(f'{camera}.image_topic', f'/{camera}/color/image_raw',
             'sensor_msgs/Image; its /compressed sibling with transport compressed'),
        Spec(f'{camera}.info_topic', f'/{camera}/color/camera_info', 'sensor_msgs/CameraInfo'),
        Spec(f'{camera}.depth_topic', '', 'depth registered to the colour image, or with '
             "depth_info_topic any depth of this camera: 16UC1 mm or 32FC1 m; '': none"),
        Spec(f'{camera}.depth_info_topic', '', 'sensor_msgs/CameraInfo of the depth: the node '
             "registers it to the image by this and TF; '': the depth is registered already"),
        Spec(f'{camera}.transport', 'raw', 'how images arrive, and depth unless depth_transport '
             'is set', choices=('raw', 'compressed')),
        Spec(f'{camera}.depth_transport', '', 'how depth arrives, '
             "compressed: its /compressedDepth sibling; '': as the images",
             choices=('', 'raw', 'compressed')),
        Spec(f'{camera}.mask_path', '', "8-bit PNG, white where the robot's own body hides the "
             "scene; '': none"),
        Spec(f'{camera}.rectified', False, 'the image is undistorted (image_rect): its pixels '
             'follow P of the camera info, not K and D'),
    )


def list_limit_specs() -> tuple[Spec, ...]:
    """Return the parameters `limits.*` and `follow.*`, with the defaults of the dataclasses."""
    return FOLLOW_SPECS + tuple(
        Spec(f'{LIMITS_PREFIX}{f.name}', f.default, meaning, low, high)
        for owner, ranges in ((Limits, LIMIT_RANGES), (TimeLimits, TIME_LIMIT_RANGES))
        for f in fields(owner) for low, high, meaning in (ranges[f.name],))


def list_matcher_specs(matcher: str) -> tuple[Spec, ...]:
    """Return the options of a matcher that a parameter can hold; `docs/` explains them."""
    prefix = matcher.rpartition(':')[2]
    return tuple(
        Spec(f'{prefix}.{name}', list(default) if isinstance(default, tuple) else default,
             f'option {name} of the matcher {matcher}')
        for name, default in get_matcher_options(matcher).items()
        if isinstance(default, (bool, int, float, str, tuple)))


def explain_unknown_parameter(name: str, known: Iterable[str]) -> str:
    """Return that there is no such parameter, and the one that is almost the same, or all."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=MIN_NAME_SIMILARITY)
    return f'unknown parameter {name}; ' + (
        f'did you mean {near[0]}?' if near else f'known: {", ".join(known)}')


class Parameters:
    """The declared parameters of a node; `read` gives the Config as it is now."""

    def __init__(self, node: Node) -> None:
        """Declare everything; raise ConfigError for the first invalid value."""
        self._node = node
        self._specs: dict[str, Spec] = {}
        cameras = self._declare(CAMERAS_PARAMETER)
        if len(cameras) < 2 or len(set(cameras)) < len(cameras):
            raise ConfigError(f'cameras: two or more different names are needed, got {cameras}')
        for name in cameras:
            if not re.fullmatch('[A-Za-z][A-Za-z0-9_]*', name):
                raise ConfigError(f'cameras: {name!r} cannot be part of a topic: letters, digits '
                                  'and _, a letter first')
        for spec in chain(NODE_PARAMETERS, list_limit_specs(), *map(list_camera_specs, cameras)):
            self._declare(_prefix_frame(spec, node.get_namespace()))
        self._check_frames()
        wrong = 'matcher'  # the parameter to name
        try:
            options = [list_matcher_specs(self._value('matcher'))]
            wrong = 'refine'
            self._refiner = select_refiner(self._value('matcher'), self._value('refine'))
            options += [list_matcher_specs(self._refiner)] if self._refiner else []
        except ValueError as error:
            raise ConfigError(f'{wrong}: {error}') from error
        for spec in chain.from_iterable(options):
            self._declare(spec)
        self._require_known()

    @property
    def _matcher_names(self) -> tuple[str, ...]:
        """The matcher and its refiner."""
        return tuple(filter(None, (self._value('matcher'), self._refiner)))

    @property
    def names(self) -> tuple[str, ...]:
        """All parameters of the node."""
        return tuple(self._specs)

    def _value(self, name: str) -> Any:
        return self._node.get_parameter(name).value

    def _declare(self, spec: Spec) -> Any:
        overrides = self._node._parameter_overrides  # it has no public accessor
        if 'off' in spec.choices and spec.name in overrides and overrides[spec.name].value is False:
            overrides[spec.name] = Parameter(spec.name, value='off')  # YAML reads off as false
        try:
            self._node.declare_parameter(spec.name, spec.default, spec.descriptor())
            value = self._value(spec.name)
        except ParameterUninitializedException:
            value = None
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            given = overrides[spec.name]
            raise ConfigError(spec.explain_type_error(given)) from error
        if isinstance(spec.default, Parameter.Type) and not value:
            raise ConfigError(f'{spec.name} is required: {spec.meaning}')
        spec.check(value)
        self._specs[spec.name] = spec
        return value

    def _require_known(self) -> None:
        # rclpy silently ignores values of undeclared names, such as a misspelt key of a params
        # file, and has no public accessor for them. Options of other matchers are allowed there.
        skipped = tuple(f'{name}.' for name in MATCHERS if name not in self._matcher_names)
        for name in self._node._parameter_overrides:
            if self._node.has_parameter(name) or name.startswith(skipped):
                continue
            if name.startswith('qos_overrides.'):
                raise ConfigError(f'{name}: this node has no QoS to override; it receives images '
                                  'from every publisher, reliable or best effort')
            cameras, (group, _, rest) = self._value('cameras'), name.partition('.')
            if any(spec.name == f'{group}.{rest}' for spec in list_camera_specs(group)):
                raise ConfigError(f'unknown parameter {name}: {group} is not one of cameras, '
                                  f'{", ".join(cameras)}')
            raise ConfigError(explain_unknown_parameter(name, self._specs))

    def _check_frames(self) -> None:
        base_frame, target_frame = self._value('base_frame'), self._value('target_frame')
        for name, frame in (('base_frame', base_frame), ('target_frame', target_frame)):
            if not frame.strip('/'):
                raise ConfigError(f'{name}: {frame!r} is not the name of a frame')
        if is_target_frame(base_frame, target_frame):
            raise ConfigError(f'target_frame: {target_frame!r} would overwrite base_frame '
                              f'{base_frame!r} on TF; give it a unique name')

    def explain_refusal(self, parameters: list[Parameter], configured: bool) -> str:
        """Return why these changes are refused; '' if they are not."""
        for parameter in parameters:
            spec = self._specs.get(parameter.name)
            if spec is None:
                continue
            present = self._node.get_parameter(spec.name)
            if parameter.get_parameter_value() == present.get_parameter_value():
                continue  # as `ros2 param load` of a dump sets it
            if spec.fixed:
                return f'{spec.name} is read once, at start-up: start the node again with it'
            if configured and spec.name not in LIVE_PARAMETERS:
                return (f'{spec.name} is read when the node is configured: clean up first '
                        f'(ros2 lifecycle set {self._node.get_fully_qualified_name()} cleanup)')
            try:
                spec.check(parameter.value)
            except ConfigError as error:
                return str(error)
        return ''

    def merge_limits(self, parameters: list[Parameter]) -> Limits:
        """Return the `Limits` with these changes."""
        changes = {p.name.removeprefix(LIMITS_PREFIX): p.value for p in parameters}
        limits = self._read_limits(Limits)
        return replace(limits, **{f.name: changes[f.name] for f in fields(Limits)
                                  if f.name in changes})

    def merge_follow(self, parameters: list[Parameter]) -> FollowConfig:
        """Return the `FollowConfig` with these changes."""
        changes = {p.name: p.value for p in parameters}
        return FollowConfig(**{f.name: changes.get(f'{FOLLOW_PREFIX}{f.name}',
                                                   self._value(f'{FOLLOW_PREFIX}{f.name}'))
                               for f in fields(FollowConfig)})

    def read(self) -> Config:
        """Return the current Config. Raises ConfigError for frames that contradict each other."""
        value = self._value
        self._check_frames()
        cameras = tuple(CameraConfig(name, **{s.name.rpartition('.')[2]: value(s.name)
                                              for s in list_camera_specs(name)})
                        for name in value('cameras'))
        if not value('use_tf'):  # depth has no use without poses
            cameras = tuple(replace(camera, depth_topic='', depth_info_topic='')
                            for camera in cameras)
        return Config(
            cameras=cameras,
            **{s.name: value(s.name) for s in NODE_PARAMETERS},
            matcher_options=self._read_options(value('matcher')),
            refiner=self._refiner,
            refiner_options=self._read_options(self._refiner) if self._refiner else {},
            limits=self._read_limits(Limits), times=self._read_limits(TimeLimits),
            follow=self.merge_follow([]))

    def _read_options(self, matcher: str) -> dict[str, Any]:
        return {s.name.rpartition('.')[2]: _list_to_tuple(self._value(s.name), s.default)
                for s in list_matcher_specs(matcher)}

    def _read_limits(self, owner: type) -> Any:
        return owner(**{f.name: self._value(f'{LIMITS_PREFIX}{f.name}') for f in fields(owner)})


def is_target_frame(frame: str, target_frame: str, names: Iterable[str] = ()) -> bool:
    """Return whether a frame is that of one of the targets, of these names, or a pre-grasp."""
    ends = '|'.join(('[0-9]+', *names))
    return bool(re.fullmatch(f'/*{re.escape(target_frame.lstrip("/"))}(_({ends}))?({PREGRASP})?',
                             frame))


def _prefix_frame(spec: Spec, namespace: str) -> Spec:
    """Return the spec; the default of target_frame with the namespace before it."""
    words = namespace.strip('/').split('/')
    if spec.name != 'target_frame' or words == ['']:
        return spec
    return replace(spec, default='_'.join((*words, spec.default)))


def _list_to_tuple(value: Any, default: Any) -> Any:
    """Return an array as a tuple, as frozen options keep it."""
    return tuple(value) if isinstance(default, list) else value
