"""Images are encoded once and with the right colours; which result is displayed."""
from __future__ import annotations

import asyncio
import io
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest
from crosspoint_ros.msg import Correspondence, History, HistoryEntry, ImagePoint, QueryResult
from sensor_msgs.msg import CompressedImage
from two_camera_rig import make_image_message

from crosspoint_ros.core.image_codecs import read_jpeg_size
from crosspoint_ros.ros.client.node_info import NodeCamera
from crosspoint_ros.ros.client.results import result_to_json
from crosspoint_ros.ros.conversions import time_from_ns
from crosspoint_ros.web import image_streams
from crosspoint_ros.web.evidence.session_export import export_session
from crosspoint_ros.web.hub import select_displayed_result
from crosspoint_ros.web.image_streams import (
    CameraImage,
    ImageStreams,
    encode_jpeg,
    encode_message,
)
from crosspoint_ros.web.protocol import encode_event

RED = np.full((48, 64, 3), (220, 30, 20), np.uint8)  # RGB


def compressed(form, pixels, ending='.jpg'):
    return CompressedImage(format=form, data=cv2.imencode(ending, pixels)[1].tobytes())


@pytest.mark.parametrize('message', [
    make_image_message(1, 'cam', 'rgb8', RED),
    make_image_message(1, 'cam', 'bgr8', RED[..., ::-1].copy()),
    compressed('rgb8; jpeg compressed bgr8', RED[..., ::-1]), compressed('jpeg', RED[..., ::-1]),
    compressed('bgr8; jpeg compressed rgb8', RED), compressed('png', RED[..., ::-1], '.png')],
    ids=['rgb8', 'bgr8', 'jpeg of rgb8', 'jpeg', 'jpeg in RGB order', 'png'])
def test_a_browser_gets_the_colours_of_the_camera(message):
    data, width, height = encode_jpeg(message)
    assert (width, height) == (64, 48)
    shown_bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(shown_bgr[..., ::-1].astype(int) - RED).max() < 12


def test_a_jpeg_in_the_usual_colour_order_is_passed_through():
    message = compressed('rgb8; jpeg compressed bgr8', RED[..., ::-1])
    assert encode_jpeg(message)[0] == bytes(message.data)


def test_a_jpeg_that_lost_bytes_is_a_problem_and_not_a_picture():
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    data = bytes(compressed('jpeg', noise).data)
    torn = CompressedImage(format='jpeg', data=data[:2000] + data[2064:])
    (header, picture), = encode(CameraImage('front', torn))
    assert 'bytes are lost' in header['problem']
    assert picture == b''


def test_a_browser_does_not_turn_an_image():
    exif = bytes.fromhex('ffe1 0022 457869660000 4d4d002a00000008 0001 0112 0003 00000001 0006 0000'
                         '00000000')
    data = bytes(compressed('jpeg', RED).data)
    jpeg, width, height = encode_jpeg(CompressedImage(format='jpeg', data=data[:2] + exif
                                                      + data[2:]))
    assert (width, height) == (64, 48)
    assert b'Exif' not in jpeg


def test_a_wide_image_is_scaled_but_its_original_size_is_reported():
    wide = np.zeros((40, 2560, 3), np.uint8)
    data, width, height = encode_jpeg(make_image_message(1, 'cam', 'rgb8', wide))
    assert (width, height) == (2560, 40)
    assert read_jpeg_size(data) == (1280, 20)


@pytest.mark.parametrize('data', [
    b'', b'\xff\xd8', b'\xff\xd8\xff', b'\xff\xd8\xff\xe0\x00\x00', b'GIF89a', b'\xff\xd8' * 50,
    b'\xff\xd8\xff\xc0\x00\x11\x08\x00\x00\x00\x00', b'\xff\xd8\xff\xe0\xff\xff' + b'x' * 40])
def test_malformed_jpegs_have_no_size(data):
    assert read_jpeg_size(data) is None


def encode(image, times=1):
    async def go():
        with ThreadPoolExecutor(2) as pool:
            return await asyncio.gather(*(image.encode(pool) for _ in range(times)))
    return asyncio.run(go())


def test_ten_browsers_cost_one_encoding(monkeypatch):
    counted = []
    monkeypatch.setattr(image_streams, 'encode_jpeg',
                        lambda *given: counted.append(1) or encode_jpeg(*given))
    results = encode(CameraImage('front', make_image_message(5, 'cam', 'rgb8', RED)), 10)
    assert len(counted) == 1
    assert all(each is results[0] for each in results)


@pytest.mark.parametrize('message', [
    make_image_message(5, 'cam', 'nonsense', RED), CompressedImage(format='jpeg', data=b'broken'),
    make_image_message(5, 'cam', 'rgb8', np.zeros((70_000, 1, 3), np.uint8))])
def test_an_undecodable_image_is_sent_as_a_problem(message):
    (header, data), = encode(CameraImage('front', message))
    assert data == b''
    assert len(header['problem']) > 20


def test_a_binary_message_is_header_length_header_and_image():
    data = encode_message({'camera': 'front'}, b'jpeg')
    length = int.from_bytes(data[:4], 'big')
    assert json.loads(data[4:4 + length]) == {'camera': 'front'}
    assert data[4 + length:] == b'jpeg'


# Stored images

class Bridge:
    """Takes the place of the ROS side, which brings no messages here."""

    def subscribe(self, *_):
        pass

    unsubscribe = subscribe


def test_an_image_that_is_no_longer_the_newest_frees_the_cameras_memory(monkeypatch):
    monkeypatch.setattr(image_streams, 'UNUSED_TIMEOUT_S', -1.0)
    camera = NodeCamera('front', '/front', '/info', False, True)

    async def run():
        streams = ImageStreams(Bridge(), lambda image: None)
        for end in (lambda: streams.drop_unused(set()),
                    lambda: streams.request(replace(camera, image_topic='/other'))):
            streams.request(camera)
            streams._on_message(camera, make_image_message(1, 'cam', 'rgb8', RED))
            image = streams.newest['front']
            with ThreadPoolExecutor(1) as pool:
                await image.encode(pool)
            end()
            assert 'front' not in streams.newest
            assert image._message is None
    asyncio.run(run())


def test_an_image_that_no_browser_got_is_there_for_an_answer_and_takes_little_memory(monkeypatch):
    camera = NodeCamera('front', '/front', '/info', False, True)
    monkeypatch.setattr(image_streams, 'MAX_RECENT_BYTES', 3 * RED.nbytes)

    begun_ns = 10**10

    async def run():
        streams = ImageStreams(Bridge(), lambda image: None)
        streams.request(camera)
        for stamp_ns in range(begun_ns, begun_ns + 6):
            streams._on_message(camera, make_image_message(stamp_ns, 'cam', 'rgb8', RED))
        assert [streams.find('front', str(begun_ns + n)) is not None for n in range(6)] == [
            False, False, False, True, True, True]
        point = ImagePoint(camera='front')
        point.header.stamp = time_from_ns(begun_ns + 4)
        streams.pin([point])
        await asyncio.gather(*streams._encoding)
        image = streams.find('front', str(begun_ns + 4))
        assert image.raw_bytes == 0
        header, jpeg = await image.encode(None)
        assert (header['width'], read_jpeg_size(jpeg)) == (RED.shape[1], RED.shape[1::-1])
        streams._on_message(camera, make_image_message(0, 'cam', 'rgb8', RED))
        assert streams.find('front', str(begun_ns + 5)) is None, 'time jumped back'
    asyncio.run(run())


def test_an_export_has_pictures_of_the_cameras_size_and_names_what_it_cannot_decode():
    wide = np.full((1080, 1920, 3), 90, np.uint8)
    entry = HistoryEntry(number=3, result=QueryResult(query_id='q', correspondences=[
        Correspondence()]))
    images = [CameraImage('front', make_image_message(5, 'cam', 'rgb8', wide)),
              CameraImage('side', make_image_message(5, 'cam', 'nonsense', RED))]
    streams = ImageStreams(Bridge(), lambda image: None)
    for image, point in zip(images, (entry.result.clicked,
                                     entry.result.correspondences[0].found), strict=True):
        streams.record_sent(image)
        point.camera, point.header.stamp = image.camera, image._message.header.stamp

    async def run(level):
        with ThreadPoolExecutor(1) as pool:
            for image in images:
                await image.encode(pool, level)
                image.release()
            return await export_session(History(entries=[entry]), [{}], streams, pool)

    def read(data):
        archive = zipfile.ZipFile(io.BytesIO(data))
        pictures = json.loads(archive.read('session.json'))['entries'][0]['pictures']
        assert archive.namelist() == ['pictures/003_front.jpg', 'session.json']
        size = read_jpeg_size(archive.read('pictures/003_front.jpg'))
        return pictures, size
    pictures, size = read(asyncio.run(run(image_streams.ORIGINAL)))
    assert size == (1920, 1080)
    assert pictures['front'] == {'file': 'pictures/003_front.jpg', 'width': 1920, 'height': 1080,
                                 'scale': 1.0}
    assert 'nonsense' in pictures['side']['problem']


# Displayed result

def result(query_id, answered=True, x=1.0, target=True):
    made = QueryResult(query_id=query_id, has_target=target and answered)
    made.clicked.camera, made.clicked.x = 'front', x
    made.correspondences = [Correspondence(
        verdict=Correspondence.SURE if answered else Correspondence.REFUSED)]
    return made


def history(*results, undone=0, active=None):
    entries = [HistoryEntry(number=n, result=r) for n, r in enumerate(results, 1)]
    kept = entries[:len(entries) - undone]
    if active is None:
        active = [entry.number for entry in kept[-1:]]
    return History(entries=entries, undone=undone, active=active)


A, B, REFUSED = result('a'), result('b'), result('r', answered=False, x=9.0)


@pytest.mark.parametrize(('last', 'past', 'is_last_newer', 'expected'), [
    (None, None, True, None), (A, None, True, 'a'), (A, history(A), False, 'a'),
    (B, history(A), True, 'b'), (B, history(A, B), True, 'b'),
    (B, history(A, B, undone=1), False, 'a'),      # undone
    (B, history(A, B, undone=1), True, 'a'),       # latched messages in the other order
    (B, history(A, B, undone=2), False, None), (B, history(A, B, active=[]), False, None),
    (B, history(A, B, active=[1]), False, 'a'),    # of two names, the newer was cleared
    (REFUSED, history(A), True, 'r'), (REFUSED, history(A), False, 'a'),
    (result('c', answered=False, x=1.0), history(A), True, 'a'),   # refused correction of a
    (result('t', target=False), history(A, result('t', target=False), active=[1]), False, 't')])
def test_the_displayed_result_is_the_last_one_or_the_current_step(
        last, past, is_last_newer, expected):
    displayed = select_displayed_result(last, past, is_last_newer)
    assert (displayed.query_id if displayed else None) == expected


def test_unknown_numbers_are_null_in_json():
    made = result('a')
    made.correspondences[0].covariance_px2 = [float('nan')] * 4
    made.correspondences[0].epipolar_error_px = float('inf')
    made.correspondences[0].found.x = float('nan')
    content = json.loads(encode_event('shown', {'result': result_to_json(made)}))
    (found,) = content['result']['found']
    assert found['x'] is found['covariance_px2'] is found['epipolar_error_px'] is None
