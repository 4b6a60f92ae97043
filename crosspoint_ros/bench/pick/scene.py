"""A table with eight objects, two cameras and a gripper, alone or on an arm, as a MuJoCo model."""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from crosspoint_ros.core.datatypes import Array

WIDTH_PX, HEIGHT_PX = 640, 480
TEXTURE_PX, TEXTURE_CONTRAST = 256, 60.0
FRONT_AT_M, FRONT_LOOKS_AT_M = np.array([-0.15, -0.55, 0.65]), np.array([0.5, 0.0, 0.02])
LOW_M, HIGH_M = np.array([0.36, -0.2]), np.array([0.68, 0.2])  # where objects are, base frame
LEAST_APART_M = 0.13  # between centres: the open fingers fit in
HOME_M = (0.45, -0.2, 0.62)
BASE_FRAME, TOOL_FRAME = 'base_link', 'tool0'


@dataclass(frozen=True)
class SceneObject:
    """An object: its geoms in MJCF, and how high its origin is above the table, m.

    across: the axes of the body along which jaws close; '' where all or several are right.
    """

    name: str
    height_m: float
    geoms: tuple[str, ...]
    across: str = ''


THINGS = (
    SceneObject('can', 0.05, ('type="cylinder" size=".025 .05"',)),
    SceneObject('box', 0.03, ('type="box" size=".03 .02 .03"',), 'y'),
    SceneObject('cube', 0.025, ('type="box" size=".025 .025 .025"',), 'xy'),
    SceneObject('bar', 0.02, ('type="box" size=".07 .016 .02"',), 'y'),
    SceneObject('tin', 0.022, ('type="ellipsoid" size=".045 .028 .022"',), 'y'),
    SceneObject('bottle', 0.055, ('type="cylinder" size=".026 .055"',
                            'type="cylinder" size=".012 .025" pos="0 0 .08"')),
    SceneObject('mug', 0.045, ('type="cylinder" size=".032 .045"',
                         'type="box" size=".012 .005 .025" pos=".042 0 0"')),
    SceneObject('roll', 0.022, ('type="capsule" size=".022 .04" euler="0 1.5708 0"',), 'y'),
)


class UnreachableError(ValueError):
    """The gripper does not get to a pose."""


@dataclass(frozen=True)
class Scene:
    """MJCF and the files that it names."""

    xml: str
    assets: dict[str, bytes]


def draw_scene(rng: np.random.Generator, has_arm: bool = False) -> Scene:
    """Draw colours, places, turns and lights; the gripper moves by itself, or on an arm."""
    places_m = _draw_places(rng, len(THINGS))
    assets = {f'{name}.png': _draw_texture(rng) for name in
              ('table', 'wall', *(thing.name for thing in THINGS))}
    bodies = ''.join(
        f'<body name="{thing.name}" pos="{x:.4f} {y:.4f} {thing.height_m + 0.001:.4f}" '
        f'euler="0 0 {rng.uniform(-np.pi, np.pi):.4f}"><freejoint/>'
        + ''.join(f'<geom {geom} density="400" material="{thing.name}"/>' for geom in thing.geoms)
        + '</body>' for thing, (x, y) in zip(THINGS, places_m, strict=True))
    lights = ''.join(
        f'<light pos="{x:.2f} {y:.2f} 1.8" dir="{0.5 - x:.2f} {-y:.2f} -1.8" '
        f'diffuse="{bright:.2f} {bright:.2f} {bright:.2f}" specular="0 0 0" castshadow="{shadow}"/>'
        for (x, y), bright, shadow in zip(rng.uniform((-0.5, -1.0), (1.0, 0.5), (2, 2)),
                                          rng.uniform(0.25, 0.5, 2), ('true', 'false'),
                                          strict=True))
    materials = ''.join(
        f'<texture name="{name[:-4]}" type="2d" file="{name}"/><material name="{name[:-4]}" '
        f'texture="{name[:-4]}" texrepeat="{repeat} {repeat}" specular="0.1"/>'
        for name, repeat in ((name, 3 if name in ('table.png', 'wall.png') else 1)
                             for name in assets))
    return Scene(MODEL.format(materials=materials, lights=lights, bodies=bodies, width=WIDTH_PX,
                              height=HEIGHT_PX, front='{} {} {}'.format(*FRONT_AT_M),
                              front_axes=_look_at(FRONT_AT_M, FRONT_LOOKS_AT_M),
                              robot=_format_robot(has_arm)), assets)


def draw_arm() -> str:
    """Return the MJCF of the arm alone, the fingers fixed."""
    links = ARM.replace('{hand}', '<body name="hand" pos="0 0 .2"/>')
    return f'<mujoco><compiler angle="radian"/><worldbody>{links}</worldbody></mujoco>'


def _format_robot(has_arm: bool) -> str:
    if has_arm:
        robot, motors = ARM.replace('{hand}', HAND.format(place='pos="0 0 .2"', joint='')), MOTORS
    else:
        place = 'pos="{} {} {}" quat="0 1 0 0"'.format(*HOME_M)
        robot = f'<body name="mocap" mocap="true" {place}/>' + HAND.format(
            place=place, joint='<freejoint/>')
        motors = ''
    weld = '' if has_arm else '<weld body1="mocap" body2="hand" solref="0.01 1"/>'
    return f'{robot}</worldbody><equality>{weld}{FINGERS}{motors}</actuator>'


def _draw_places(rng: np.random.Generator, count: int) -> Array:
    places = list[Array]()
    while len(places) < count:
        place = rng.uniform(LOW_M, HIGH_M)
        if all(np.linalg.norm(place - other) > LEAST_APART_M for other in places):
            places.append(place)
        elif rng.random() < 0.002:  # the last does not fit anywhere
            places.clear()
    return np.array(places)


def _draw_texture(rng: np.random.Generator) -> bytes:
    noise = np.sum([sigma * cv2.GaussianBlur(rng.normal(size=(TEXTURE_PX, TEXTURE_PX)), (0, 0),
                                             sigma) for sigma in (1, 3, 9)], axis=0)
    noise = (noise - noise.mean()) / noise.std()
    base = rng.uniform(60, 150) + rng.uniform(-40, 40, 3)
    colour = base + TEXTURE_CONTRAST * noise[..., None] * (1.0, 0.8, 0.6)
    return cv2.imencode('.png', np.clip(colour, 0, 255).astype(np.uint8))[1].tobytes()


def _look_at(at_m: Array, target_m: Array) -> str:
    """Return x and y of a camera of MuJoCo: it looks along -z, and y is up."""
    forward = (target_m - at_m) / np.linalg.norm(target_m - at_m)
    right = np.cross(forward, (0, 0, 1))
    right /= np.linalg.norm(right)
    return ' '.join(f'{value:.6f}' for value in (*right, *np.cross(right, forward)))


MODEL = '''<mujoco model="pick">
<compiler angle="radian"/>
<option timestep="0.002" integrator="implicitfast" cone="elliptic" impratio="10"/>
<visual><global offwidth="{width}" offheight="{height}"/><map znear="0.02" zfar="10"/>
 <headlight ambient=".35 .35 .35" diffuse=".2 .2 .2" specular="0 0 0"/></visual>
<asset>{materials}<texture type="skybox" builtin="gradient" rgb1=".7 .72 .75"
 rgb2=".4 .4 .42" width="64" height="384"/></asset>
<default><geom condim="6" friction="1.2 0.02 0.002" solref="0.004 1"/></default>
<worldbody>
 {lights}
 <geom name="table" type="box" size=".6 .5 .02" pos=".5 0 -.02" material="table"/>
 <geom name="wall" type="box" size=".6 .01 .4" pos=".5 .51 .38" material="wall"/>
 <camera name="front" pos="{front}" xyaxes="{front_axes}" fovy="38"/>
 {bodies}
 {robot}
</mujoco>'''

# The origin of `hand` is between the fingertips; its z is the approach, and its x the direction in
# which the fingers close.
HAND = '''<body name="hand" {place}>{joint}
 <geom type="box" size=".06 .02 .02" pos="0 0 -.12" mass=".5" rgba=".2 .2 .2 1"/>
 <camera name="wrist" pos="0 .07 -.11" xyaxes="1 0 0 0 -.92 -.4" fovy="55"/>
 <body name="left" pos=".048 0 -.05"><joint name="left" type="slide" axis="-1 0 0"
  range="0 .045" damping="20"/><geom type="box" size=".006 .012 .05" mass=".05"
  rgba=".5 .5 .5 1" friction="2 .05 .001"/></body>
 <body name="right" pos="-.048 0 -.05"><joint name="right" type="slide" axis="1 0 0"
  range="0 .045" damping="20"/><geom type="box" size=".006 .012 .05" mass=".05"
  rgba=".5 .5 .5 1" friction="2 .05 .001"/></body>
</body>'''
FINGERS = '''<joint joint1="left" joint2="right"/></equality>
<actuator>
 <position name="left" joint="left" kp="400" ctrlrange="0 .045" forcerange="-15 15"/>
 <position name="right" joint="right" kp="400" ctrlrange="0 .045" forcerange="-15 15"/>'''

# Behind the objects, so that it hides little of them from `front`; its links collide with nothing.
LINKS = (('.5 .45 0', '0 0 1', .35, .05), ('0 0 .35', '0 1 0', .5, .04),
         ('0 0 .5', '0 1 0', .25, .035), ('0 0 .25', '0 0 1', .25, .035),
         ('0 0 .25', '0 1 0', .06, .035), ('0 0 .06', '0 0 1', .05, .03))  # axes; length, radius m
ARM = ''.join(
    f'<body name="link_{number}" pos="{place}" gravcomp="1"><joint name="joint_{number}" '
    f'axis="{axis}" range="-6.2 6.2" damping="20" armature=".1"/><geom type="capsule" mass="1" '
    f'size="{radius}" fromto="0 0 0 0 0 {length_m}" contype="0" conaffinity="0" '
    'rgba=".8 .8 .82 1"/>'
    for number, (place, axis, length_m, radius) in enumerate(LINKS, 1)
) + '{hand}' + len(LINKS) * '</body>'
MOTORS = ''.join(f'<position name="joint_{number}" joint="joint_{number}" kp="4000" dampratio="1"/>'
                 for number in range(1, len(LINKS) + 1))
