"""The history as a zip: session.json, and the images that were clicked and matched."""
from __future__ import annotations

import asyncio
import io
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor

from crosspoint_ros.core.image_codecs import read_jpeg_size
from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.msg import History
from crosspoint_ros.ros.client.results import Json, result_to_json
from crosspoint_ros.ros.target.history import DECISION_NAMES
from crosspoint_ros.web.image_streams import ORIGINAL, ImageStreams


async def export_session(history: History, targets: list[Json], streams: ImageStreams,
                         pool: ThreadPoolExecutor) -> bytes:
    """Return the zip; session.json has `targets` and, with their `pictures` by camera, `entries`.

    A picture: its file, the camera's width and height, and the picture's scale, below 1 where only
    a smaller one is stored; or the problem of an image that cannot be decoded. An image that no
    browser has received, or that is no longer stored, is left out.
    """
    files, entries = dict[str, bytes](), list[Json]()
    kept = len(history.entries) - history.undone
    for index, entry in enumerate(history.entries):
        pictures = dict[str, Json]()
        for point in (entry.result.clicked, *(c.found for c in entry.result.correspondences)):
            image = streams.find(point.camera, str(stamp_to_ns(point.header.stamp)))
            if image is not None:
                header, data = await image.encode(pool, ORIGINAL)
                pictures[point.camera] = _describe_picture(
                    f'pictures/{entry.number:03}_{point.camera}.jpg', header, data)
                if data:
                    files[pictures[point.camera]['file']] = data
        entries.append({'number': entry.number, 'undone': index >= kept, 'pictures': pictures,
                        'decided': DECISION_NAMES.get(entry.decided, 'unreviewed'),
                        'result': result_to_json(entry.result)})
    files['session.json'] = json.dumps({
        'target': targets[0], 'targets': targets, 'entries': entries}, indent=1).encode()
    return await asyncio.get_running_loop().run_in_executor(pool, _zip, files)


def _describe_picture(name: str, header: Json, data: bytes) -> Json:
    if not data:
        return {'problem': header['problem']}
    size = read_jpeg_size(data)
    return {'file': name, 'width': header['width'], 'height': header['height'],
            'scale': round(size[0] / header['width'], 4) if size else 1.0}


def _zip(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w') as archive:  # JPEGs do not get smaller
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()
