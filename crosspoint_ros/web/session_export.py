"""The history as a zip: session.json, and the images that were clicked and matched."""
from __future__ import annotations

import io
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor

from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.msg import History
from crosspoint_ros.ros.client.results import Json, result_to_json
from crosspoint_ros.ros.node.history import DECISION_NAMES
from crosspoint_ros.web.image_streams import ImageStreams


async def export_session(history: History, target: Json, streams: ImageStreams,
                         pool: ThreadPoolExecutor) -> bytes:
    """Return the zip; session.json has `target` and, with the names of their pictures, `entries`.

    An image that no browser has received, or that is no longer stored, is left out.
    """
    pictures, entries = dict[str, bytes](), list[Json]()
    kept = len(history.entries) - history.undone
    for index, entry in enumerate(history.entries):
        names = dict[str, str]()
        for point in (entry.result.clicked, *(c.found for c in entry.result.correspondences)):
            image = streams.find_sent(point.camera, str(stamp_to_ns(point.header.stamp)))
            if image is not None:
                names[point.camera] = name = f'pictures/{entry.number:03}_{point.camera}.jpg'
                pictures[name] = (await image.encode(pool))[1]
        entries.append({'number': entry.number, 'undone': index >= kept, 'pictures': names,
                        'decided': DECISION_NAMES.get(entry.decided, 'unreviewed'),
                        'result': result_to_json(entry.result)})
    content, session = io.BytesIO(), {'target': target, 'entries': entries}
    with zipfile.ZipFile(content, 'w') as archive:  # JPEGs do not get smaller
        archive.writestr('session.json', json.dumps(session, indent=1))
        for name, data in pictures.items():
            archive.writestr(name, data)
    return content.getvalue()
