"""Pictures on a surface: what is shown at a place, and the pixel of a click there, any lens."""
from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from raycast_scenes import LENSES, PINHOLE

from crosspoint_ros.core.datatypes import Code, Intrinsics, Rejected
from crosspoint_ros.ros.rviz.image_mesh import (
    BACK_SCALE,
    MAX_ANGLE_DEG,
    MAX_OFF_M,
    PLANE_M,
    TEXTURE_PX,
    ImageMesh,
    build_image_mesh,
    is_visually_same,
    make_texture,
)

ALL = {**LENSES,
       'wide barrel': Intrinsics(900.0, 900.0, 640.0, 360.0, 1280, 720,
                                 (-0.35, 0.15, 0.001, -0.0005, -0.03)),
       'wide fisheye': Intrinsics(400.0, 400.0, 640.0, 400.0, 1280, 800,
                                  (0.02, -0.01, 0.004, -0.001), 'equidistant'),
       'off centre': Intrinsics(300.0, 320.0, 40.0, 30.0, 160, 120)}


@pytest.fixture(params=ALL)
def lens(request: pytest.FixtureRequest) -> Intrinsics:
    return ALL[request.param]


def rendered(mesh: ImageMesh, picture: np.ndarray, points_cam_m: np.ndarray) -> np.ndarray:
    """Colours (n, c) where RViz would show points (n, 3) of the surface: OpenGL's own rules.

    Texture coordinates are linear in a triangle; a texel's centre is at (i + 0.5) / size.
    """
    corners = mesh.vertices_cam_m.reshape(-1, 3, 3)
    uv = mesh.uv.reshape(-1, 3, 2)
    colours = []
    for point in points_cam_m:
        flat = corners[:len(corners) // 2]
        basis = np.stack([flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]], axis=-1)[:, :2]
        st = np.linalg.solve(basis, (point[:2] - flat[:, 0, :2])[..., None])[..., 0]
        inside = np.minimum(st.min(axis=1), 1 - st.sum(axis=1))
        hit = int(inside.argmax())
        assert inside[hit] > -1e-6
        s, t = st[hit]
        u, v = (1 - s - t) * uv[hit, 0] + s * uv[hit, 1] + t * uv[hit, 2]
        height, width = picture.shape[:2]
        at = np.array([[[u * width - 0.5, v * height - 0.5]]], np.float32)
        colours.append(cv2.remap(picture, at, None, cv2.INTER_LINEAR,
                                 borderMode=cv2.BORDER_REPLICATE)[0, 0])
    return np.array(colours)


def inner_pixels(lens: Intrinsics) -> np.ndarray:
    """Pixels all over the part of the image that is shown, none of them at its cut rim."""
    x, y = np.meshgrid(np.linspace(0, lens.width_px - 1, 9), np.linspace(0, lens.height_px - 1, 7))
    pixels = np.stack([x, y], axis=-1).reshape(-1, 2)
    rays = lens.unproject(pixels)
    rim_deg = 90.0 if lens.model != 'equidistant' else MAX_ANGLE_DEG - 10.0
    return pixels[rays[:, 2] > np.cos(np.radians(rim_deg))]


def places(mesh: ImageMesh, pixels: np.ndarray) -> np.ndarray:
    """Where the mesh shows pixels: (n, 3), found by the mesh's own triangles."""
    found = []
    for pixel in pixels:
        basis = np.stack([mesh.pixels[:, 1] - mesh.pixels[:, 0],
                          mesh.pixels[:, 2] - mesh.pixels[:, 0]], axis=-1)
        st = np.linalg.solve(basis, (pixel - mesh.pixels[:, 0])[..., None])[..., 0]
        hit = int(np.minimum(st.min(axis=1), 1 - st.sum(axis=1)).argmax())
        a, b, c = mesh.points_cam_m[hit]
        found.append(a + st[hit, 0] * (b - a) + st[hit, 1] * (c - a))
    return np.array(found)


def test_a_click_on_the_ray_of_a_pixel_is_that_pixel(lens):
    """By the lens alone, which knows nothing of the mesh: within its bending."""
    mesh, pixels = build_image_mesh(lens), inner_pixels(lens)
    assert len(pixels) > 20
    rays = lens.unproject(pixels)
    for pixel, ray in zip(pixels, rays, strict=True):
        missed_px = np.linalg.norm(mesh.pixel_at(ray / ray[2] * PLANE_M) - pixel)
        # Wide fisheyes are shown bent by so much at their rim; what is clicked is what is shown.
        limit_px = 1e-6 if not lens.distortion else 0.5 if lens.model != 'equidistant' else 5.5
        assert missed_px < (1.3 if lens.width_px == 1280 and limit_px == 0.5 else limit_px)


def test_a_click_is_the_pixel_that_is_shown_there(lens):
    """The picture is a ramp that says where each pixel is; half a pixel is what counts."""
    mesh, pixels = build_image_mesh(lens), inner_pixels(lens)
    y, x = np.mgrid[:lens.height_px, :lens.width_px].astype(np.float32)
    ramp = np.stack([x, y], axis=-1)
    points = places(mesh, pixels)
    shown = rendered(mesh, ramp, points)
    clicked = np.array([mesh.pixel_at(point) for point in points])
    assert np.abs(shown - pixels).max() < 0.05
    assert np.abs(clicked - pixels).max() < 0.05


def test_a_smaller_texture_shows_the_same_pixels(lens):
    mesh, pixels = build_image_mesh(lens), inner_pixels(lens)
    y, x = np.mgrid[:lens.height_px, :lens.width_px].astype(np.float32)
    ramp = np.stack([x, y], axis=-1)
    half = cv2.resize(ramp, (lens.width_px // 2, lens.height_px // 2),
                      interpolation=cv2.INTER_AREA)
    inside = ((pixels > 1) & (pixels < np.array([lens.width_px, lens.height_px]) - 2)).all(axis=1)
    shown = rendered(mesh, half, places(mesh, pixels[inside]))
    assert np.abs(shown - pixels[inside]).max() < 0.1


def test_a_click_from_behind_the_picture_is_the_same_pixel(lens):
    mesh = build_image_mesh(lens)
    for pixel, point in zip(inner_pixels(lens), places(mesh, inner_pixels(lens)), strict=True):
        assert np.linalg.norm(mesh.pixel_at(point * BACK_SCALE) - pixel) < 0.05


def test_the_depth_that_the_viewer_misses_does_not_matter_along_the_ray(lens):
    mesh = build_image_mesh(lens)
    point = places(mesh, inner_pixels(lens)[:20])[-1]
    for off in (0.99, 1.01):
        assert np.allclose(mesh.pixel_at(point * off), mesh.pixel_at(point))


def test_each_side_has_a_normal_towards_who_sees_it(lens):
    """RViz has its light at the viewer's eye: the other way round the picture is black."""
    mesh = build_image_mesh(lens)
    a, b, c = mesh.vertices_cam_m.reshape(-1, 3, 3).transpose(1, 0, 2)
    normals = np.cross(b - a, c - a)[:, 2]
    front, back = np.split(normals, 2)
    assert (front < 0).all()
    assert (back > 0).all()
    z_m = mesh.vertices_cam_m.reshape(2, -1, 3)[..., 2]
    assert (z_m[0] < z_m[1]).all()


def test_the_whole_image_is_shown_unless_it_is_wider_than_a_plane_can_show():
    for name in ('pinhole', 'barrel', 'rational', 'off centre', 'wide barrel'):
        mesh = build_image_mesh(ALL[name])
        size = np.array([ALL[name].width_px, ALL[name].height_px])
        assert np.allclose(mesh.pixels.min(axis=(0, 1)), -0.5)
        assert np.allclose(mesh.pixels.max(axis=(0, 1)), size - 0.5)
        assert np.allclose(mesh.uv.min(axis=0), 0.0)
        assert np.allclose(mesh.uv.max(axis=0), 1.0)
    wide = build_image_mesh(ALL['wide fisheye'])
    x, y, z = wide.points_cam_m.reshape(-1, 3).T
    assert np.degrees(np.arctan2(np.hypot(x, y), z)).max() <= MAX_ANGLE_DEG
    with pytest.raises(Rejected, match='not on the image'):
        wide.pixel_at(np.array([3.0, 0.0, PLANE_M]))


def test_the_picture_is_never_more_than_a_message_can_carry(lens):
    assert len(build_image_mesh(lens).vertices_cam_m) <= 6000


@pytest.mark.parametrize(('point', 'said'), [
    ((0.0, 0.0, PLANE_M + 2 * MAX_OFF_M), 'off the image'),
    ((0.0, 0.0, 0.0), 'off the image'),
    ((0.0, 0.0, -PLANE_M), 'off the image'),
    ((np.nan, 0.0, PLANE_M), 'not finite'),
    ((0.0, np.inf, PLANE_M), 'not finite'),
    ((0.6 * PLANE_M, 0.0, PLANE_M), 'pixel .339.5, 119.5. outside its 320x240'),
])
def test_a_click_beside_the_picture_is_refused_in_words(point, said):
    with pytest.raises(Rejected, match=said) as refused:
        build_image_mesh(PINHOLE).pixel_at(np.array(point))
    assert refused.value.code == Code.BAD_REQUEST


def test_a_click_on_the_outer_half_of_a_border_pixel_is_that_pixel():
    mesh = build_image_mesh(PINHOLE)
    for clicked, pixel in (((-0.49, 10.0), (0.0, 10.0)), ((319.49, 239.49), (319.0, 239.0))):
        ray = PINHOLE.unproject(np.array(clicked))
        assert np.allclose(mesh.pixel_at(ray / ray[2] * PLANE_M), pixel)
    for beside in ((-0.6, 10.0), (10.0, 239.6)):
        ray = PINHOLE.unproject(np.array(beside))
        with pytest.raises(Rejected):
            mesh.pixel_at(ray / ray[2] * PLANE_M)


def test_a_lens_of_which_nothing_can_be_shown_is_refused():
    lens = Intrinsics(10.0, 10.0, 2000.0, 2000.0, 64, 48, (0.0, 0.0, 0.0, 0.0), 'equidistant')
    with pytest.raises(Rejected, match='65 degrees') as refused:
        build_image_mesh(lens)
    assert refused.value.code == Code.NOT_SUPPORTED


def test_a_texture_is_small_and_keeps_its_shape():
    image = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), np.uint8)
    assert make_texture(image).shape == (270, TEXTURE_PX, 3)
    small = image[:240, :320]
    assert make_texture(small) is small


def scene(lens: Intrinsics) -> np.ndarray:
    """Something to see: grey steps, as on a table."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(40, 215, (lens.height_px // 16, lens.width_px // 16, 3), np.uint8)
    return cv2.resize(coarse, (lens.width_px, lens.height_px), interpolation=cv2.INTER_NEAREST)


def test_a_still_scene_looks_the_same_through_the_noise_of_its_camera():
    still, rng = scene(PINHOLE), np.random.default_rng(1)
    one, two = (np.clip(still + rng.normal(0, 5, still.shape), 0, 255).astype(np.uint8)
                for _ in range(2))
    assert is_visually_same(one, two)


@pytest.mark.parametrize('what', ['moved by a pixel', 'a thing of 8 pixels', 'another size'])
def test_what_somebody_could_see_looks_different(what):
    before = scene(PINHOLE)
    after = before.copy()
    if what == 'moved by a pixel':
        after = np.roll(before, 1, axis=1)
    elif what == 'another size':
        after = before[:, :300]
    else:
        after[100:108, 200:208] = 255 - after[100:108, 200:208] // 2
    assert not is_visually_same(before, after)


@pytest.mark.parametrize(('size_px', 'moved_px', 'levels'), [(4, 6, 135), (3, 6, 60), (4, 4, 40),
                                                             (6, 5, 30)])
def test_a_small_thing_that_moves_a_little_looks_different(size_px, moved_px, levels):
    """A click on it is answered on the newest image that looks the same: there it would miss."""
    before = np.full((360, 480, 3), 120, np.uint8)
    after = before.copy()
    for picture, x in ((before, 120), (after, 120 + moved_px)):
        picture[121:121 + size_px, x:x + size_px] += np.uint8(levels)
    assert not is_visually_same(before, after)


def test_a_rectified_camera_is_a_pinhole_whatever_its_lens_was():
    rectified = replace(ALL['barrel'], distortion=())
    assert len(build_image_mesh(rectified).pixels) == 2
