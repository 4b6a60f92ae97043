"""Folders of colour, depth and poses in other people's layouts, made of the recorded kitchen."""
from __future__ import annotations

import struct
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores, get_typestore

from crosspoint_ros.core.datatypes import Transform, View
from crosspoint_ros.data.bag import open_bag
from crosspoint_ros.data.pairing import different, spread
from crosspoint_ros.data.rgbd import Reading
from crosspoint_ros.data.rgbd_open import open_scene
from crosspoint_ros.scenes import KITCHEN

CDR_HEADER = 4


def kitchen_views(number: int = 8) -> list[View]:
    """Views of the kitchen from places that differ, by its moving camera: one lens for all."""
    scene = open_scene(KITCHEN, Reading(), print)
    frames = different([frame for frame in scene.frames if frame.camera == 'wrist'])
    return [scene.view(frame) for frame in spread(frames, number)]


def _files(view: View, colour: Path, depth: Path, per_m: float) -> None:
    colour.parent.mkdir(parents=True, exist_ok=True)
    depth.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(colour), view.image[..., ::-1])
    raw = np.nan_to_num(view.depth_m * per_m).round()
    cv2.imwrite(str(depth), np.clip(raw, 0, 65535).astype(np.uint16))


def write_scannet(folder: Path, views: list[View], inverted: bool = False,
                  per_m: float = 1000.0) -> Path:
    """Write ScanNet's layout."""
    for number, view in enumerate(views):
        _files(view, folder / f'color/{number}.png', folder / f'depth/{number}.png', per_m)
        pose = view.base_from_cam.inverse if inverted else view.base_from_cam
        (folder / 'pose').mkdir(exist_ok=True)
        np.savetxt(folder / f'pose/{number}.txt', pose.matrix)
    (folder / 'intrinsic').mkdir()
    for kind in ('color', 'depth'):
        matrix = np.eye(4)
        matrix[:3, :3] = views[0].intrinsics.matrix
        np.savetxt(folder / f'intrinsic/intrinsic_{kind}.txt', matrix)
    return folder


def quaternion(pose: Transform) -> np.ndarray:
    """x y z w."""
    turn = cv2.Rodrigues(pose.R)[0].ravel()
    angle = float(np.linalg.norm(turn))
    axis = turn / max(angle, 1e-12)
    return np.array([*(axis * np.sin(angle / 2)), np.cos(angle / 2)])


def write_bag_with_later_depth(path: Path, lag_ns: int) -> Path:
    """Write the kitchen's bag again, with every depth image stamped later than its colours."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    with closing(open_bag(KITCHEN)) as bag, Writer(path, version=9) as writer:
        out = {c.id: writer.add_connection(c.topic, c.msgtype, typestore=store)
               for c in bag.connections}
        for connection, recorded_ns, raw in bag.messages():
            data = bytearray(raw)
            if 'depth' in connection.topic:
                seconds, ns = struct.unpack_from('<iI', data, CDR_HEADER)  # of its header's stamp
                stamp_ns = seconds * 10**9 + ns + lag_ns
                struct.pack_into('<iI', data, CDR_HEADER, *divmod(stamp_ns, 10**9))
            writer.write(out[connection.id], recorded_ns, bytes(data))
    return path


def write_tum(folder: Path, views: list[View], length: float = 1.0) -> Path:
    """Write TUM's layout; length: that of the quaternion of the third pose."""
    lists = {'rgb': [], 'depth': [], 'groundtruth': []}
    for number, view in enumerate(views):
        stamp = f'{1000 + number / 10:.6f}'
        _files(view, folder / f'rgb/{stamp}.png', folder / f'depth/{stamp}.png', 5000.0)
        q = quaternion(view.base_from_cam) * (length if number == 2 else 1.0)
        lists['rgb'].append(f'{stamp} rgb/{stamp}.png')
        lists['depth'].append(f'{stamp} depth/{stamp}.png')
        lists['groundtruth'].append(' '.join([stamp, *map(str, view.base_from_cam.t_m),
                                              *map(str, q)]))
    for name, lines in lists.items():
        (folder / f'{name}.txt').write_text('# of the kitchen\n' + '\n'.join(lines) + '\n')
    lens = views[0].intrinsics
    (folder / 'calibration.txt').write_text(
        f'{lens.fx_px} {lens.fy_px} {lens.cx_px} {lens.cy_px}\n')
    return folder
