"""A bag is read whole, or its user learns what is missing and which command repairs it."""
from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from rgbd_folders import KITCHEN, copy_kitchen, edit_index, make_humble
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from crosspoint_ros import cli
from crosspoint_ros.data.rosbag import UnreadableBag, choose_topics, open_bag
from crosspoint_ros.data.scenes import open_scene
from crosspoint_ros.data.scenes.known_scene import FrameKey, KnownScene
from crosspoint_ros.data.scenes.rgbd_scene import ReadOptions, UnusableData

FOREVER = QosTime(9223372036, 854775807)
MCAP, SQLITE = StoragePlugin.MCAP, StoragePlugin.SQLITE3
MESSAGES = 181


def qos(durability: QosDurability) -> list[Qos]:
    return [Qos(QosHistory.KEEP_LAST, 10, QosReliability.RELIABLE, durability, FOREVER, FOREVER,
                QosLiveliness.AUTOMATIC, FOREVER, False)]


def read(path: Path, *topics: str) -> Counter[str]:
    """Read and deserialize all messages, or those on topics; count them by topic."""
    with closing(open_bag(path)) as bag:
        counts: Counter[str] = Counter()
        for connection, _, raw in bag.messages(topics or None):
            bag.deserialize(raw, connection.msgtype)
            counts[connection.topic] += 1
        return counts


def check_poses(path: Path) -> None:
    """Compare the scene of a bag with the kitchen's truth."""
    scene, known = open_scene(path, ReadOptions()), KnownScene(KITCHEN)
    assert len(scene.frames) == len(known.frames)
    for frame in scene.frames[::9]:
        true = known.read_view(FrameKey(frame.camera, frame.stamp_ns))
        view = scene.view(frame)
        np.testing.assert_allclose(view.base_from_cam.matrix, true.base_from_cam.matrix, atol=1e-6)
        np.testing.assert_array_equal(view.image, true.image)
        assert view.intrinsics == true.intrinsics


# --- all that the index promises ------------------------------------------------------------------

@pytest.mark.parametrize('storage', [MCAP, SQLITE])
@pytest.mark.parametrize('profiles', [qos(QosDurability.TRANSIENT_LOCAL), []],
                         ids=['another', 'none'])
def test_an_index_with_another_qos_than_its_files_hides_no_message(
        tmp_path, storage, profiles, caplog):
    bag = copy_kitchen(tmp_path / 'bag', storage=storage, qos=qos(QosDurability.VOLATILE))
    donor = copy_kitchen(tmp_path / 'donor', storage=storage, qos=profiles)
    text = (donor / 'metadata.yaml').read_text().replace('donor', 'bag')
    (bag / 'metadata.yaml').write_text(text)
    assert read(bag) == read(KITCHEN)
    assert sum(read(bag).values()) == MESSAGES
    check_poses(bag)
    assert not caplog.messages


def test_a_topic_with_fewer_messages_than_promised_is_named_with_both_numbers(tmp_path, caplog):
    bag = copy_kitchen(tmp_path / 'bag')

    def promise_more(index: dict) -> None:
        for topic in index['topics_with_message_count']:
            topic['message_count'] += 4 * (topic['topic_metadata']['name'] == '/tf')
    edit_index(bag, promise_more)
    assert sum(read(bag).values()) == MESSAGES
    (line,) = caplog.messages
    assert 'only 36 of the 40 messages on /tf can be read' in line
    assert 'ros2 bag reindex' in line


def test_the_files_of_a_split_bag_are_read_in_turn(tmp_path):
    bag, rest = (copy_kitchen(tmp_path / name, qos=qos(durability)) for name, durability in (
        ('bag', QosDurability.VOLATILE), ('rest', QosDurability.TRANSIENT_LOCAL)))
    shutil.copy(rest / 'rest.mcap', bag / 'rest.mcap')

    def add_file(index: dict) -> None:
        index['relative_file_paths'].append('rest.mcap')
        for topic in index['topics_with_message_count']:
            topic['message_count'] *= 2
    edit_index(bag, add_file)
    assert read(bag) == Counter({topic: 2 * count for topic, count in read(KITCHEN).items()})


# --- types ----------------------------------------------------------------------------------------

def test_a_bag_of_humble_without_definitions_gives_the_poses_and_images_of_its_truth(tmp_path):
    check_poses(make_humble(copy_kitchen(tmp_path / 'bag', storage=SQLITE)))


def add_topic(bag: Path, msgtype: str, **definition: str) -> Path:
    """Copy a bag, with one message on /foreign."""
    out, store = bag.with_name('foreign'), get_typestore(Stores.ROS2_HUMBLE)
    with closing(open_bag(bag)) as source, Writer(out, version=9, storage_plugin=MCAP) as writer:
        connections = {c.topic: writer.add_connection(c.topic, c.msgtype, typestore=store)
                       for c in source.connections}
        foreign = writer.add_connection('/foreign', msgtype, **definition)
        for number, (connection, at_ns, raw) in enumerate(source.messages()):
            writer.write(connections[connection.topic], at_ns, raw)
            if number == 3:
                writer.write(foreign, at_ns, b'\x00\x01\x00\x00' + bytes(24))
    return out


@pytest.mark.parametrize(('msgtype', 'definition'), [
    ('example_interfaces/srv/AddTwoInts_Event', 'int64 a\nint64 b\n---\nint64 sum\n'),
    ('martian_msgs/msg/Rock', 'martian_msgs/Missing x\n'),
    ('martian_msgs/msg/Rock', '????')])
def test_one_topic_of_a_type_that_cannot_be_parsed_is_left_out_alone(
        tmp_path, msgtype, definition, caplog):
    bag = add_topic(copy_kitchen(tmp_path / 'bag'), msgtype, msgdef=definition,
                    rihs01='RIHS01_' + '0' * 64)
    check_poses(bag)
    assert not caplog.messages
    with pytest.raises(UnreadableBag, match=re.escape(msgtype)):
        read(bag, '/foreign')


def test_a_definition_that_the_recorder_did_not_find_hides_its_topic_alone(tmp_path):
    bag = copy_kitchen(tmp_path / 'bag', storage=SQLITE)
    with closing(sqlite3.connect(next(bag.glob('*.db3')))) as database:
        database.execute("INSERT INTO topics VALUES (99, '/rock', 'martian_msgs/msg/Rock', 'cdr', "
                         "'', '')")
        database.execute("INSERT INTO message_definitions VALUES (99, 'martian_msgs/msg/Rock', "
                         "'unknown', '', '')")
        database.execute('INSERT INTO messages VALUES (9999, 99, 1760000000000000000, ?)',
                         (bytes(8),))
        database.commit()
    check_poses(bag)
    with pytest.raises(UnreadableBag, match='no definition of the type martian_msgs/msg/Rock'):
        read(bag, '/rock')


def test_a_type_with_another_hash_than_its_definition_is_not_guessed(tmp_path):
    bag = add_topic(copy_kitchen(tmp_path / 'bag'), 'martian_msgs/msg/Rock', msgdef='int32 x\n',
                    rihs01='RIHS01_' + '0' * 64)
    with pytest.raises(UnreadableBag, match='differs from the type that was recorded'):
        read(bag, '/foreign')


# --- damage, and its cure -------------------------------------------------------------------------

def without_index(bag: Path) -> None:
    (bag / 'metadata.yaml').unlink()


def cut(bag: Path, share: float = 0.6) -> None:
    file = next(p for p in bag.iterdir() if p.suffix in ('.mcap', '.db3'))
    file.write_bytes(file.read_bytes()[:int(share * file.stat().st_size)])


def spoil(bag: Path) -> None:
    """Overwrite the middle of the file, as a bad sector does."""
    file = next(p for p in bag.iterdir() if p.suffix in ('.mcap', '.db3'))
    data = bytearray(file.read_bytes())
    data[len(data) // 2:len(data) // 2 + 200_000] = b'\xff' * 200_000
    file.write_bytes(data)


@pytest.mark.parametrize(('storage', 'damage', 'words'), [
    (MCAP, (without_index,), r'has no metadata.yaml.*ros2 bag reindex -s mcap .*bag; or give the '
                             r'file .*bag\.mcap'),
    (SQLITE, (without_index,), r'has no metadata.yaml.*ros2 bag reindex -s sqlite3 '),
    (MCAP, (cut,), r'unfinished file, bag.mcap: .*; repair it: mcap recover .*bag.mcap -o'),
    (MCAP, (cut, without_index), r'mcap recover .*; then ros2 bag reindex '),
    (MCAP, (lambda bag: cut(bag, 0),), 'has an empty file, bag.mcap'),
    (SQLITE, (lambda bag: cut(bag, 0),), 'has an empty file, bag.db3'),
    (MCAP, (spoil,), r'damaged after \d+ of its messages: .*mcap recover .*bag.mcap'),
    (SQLITE, (cut,), r'sqlite3 .*bag.db3 .recover'),
    (SQLITE, (lambda bag: (bag / 'bag.db3').write_bytes(b'<html>' * 99),),
     'a file that is not sqlite3: bag.db3'),
    (SQLITE, (lambda bag: (bag / 'bag.db3-wal').write_bytes(b'x' * 99),),
     r'outside of its database, in bag.db3-wal: .*sqlite3 .*bag.db3 .PRAGMA wal_checkpoint'),
    (MCAP, (lambda bag: (bag / 'metadata.yaml').write_text(''),), 'ros2 bag reindex '),
    (MCAP, (lambda bag: edit_index(bag, lambda index: index.update(
        relative_file_paths=[], files=[])),), 'has no messages; .* ros2 bag reindex '),
    (MCAP, (lambda bag: (bag / 'bag.mcap').unlink(),), r'files are missing: .*bag.mcap'),
    (MCAP, (lambda bag: edit_index(bag, lambda index: index.update(storage_identifier='')),),
     'ros2 bag reindex '),
])
def test_a_damaged_bag_is_refused_with_the_command_that_repairs_it(
        tmp_path, storage, damage, words, capsys):
    bag = copy_kitchen(tmp_path / 'bag', storage=storage)
    for harm in damage:
        harm(bag)
    with pytest.raises(UnreadableBag, match=words):
        read(bag)
    assert cli.main(['bench', 'pairs', str(bag)]) == 1
    assert re.search(words, capsys.readouterr().err)


def test_what_is_no_bag_is_refused_with_what_to_give_instead(tmp_path):
    bag = copy_kitchen(tmp_path / 'bag')
    compressed, plain, ros1 = (tmp_path / name for name in ('a.mcap.zstd', 'a.txt', 'a.bag'))
    for path in (compressed, plain, ros1):
        path.write_bytes(b'\x28\xb5\x2f\xfd')
    (tmp_path / 'empty').mkdir()
    for path, words in ((tmp_path / 'nowhere', 'there is no bag at /'),
                        (tmp_path, 'holds some; give one of them: bag'),
                        (tmp_path / 'empty', 'is empty: it has no metadata.yaml, .mcap or .db3'),
                        (bag / 'metadata.yaml', f'give its folder, {bag}'),
                        (compressed, f'zstd -d {compressed}'), (plain, 'is not a rosbag2'),
                        (ros1, 'is a ROS 1 bag.*rosbags-convert')):
        with pytest.raises(UnreadableBag, match=words):
            open_bag(path)


@pytest.mark.parametrize('storage', [MCAP, SQLITE])
def test_a_recording_is_read_from_its_file_too(tmp_path, storage):
    bag = copy_kitchen(tmp_path / 'bag', storage=storage)
    without_index(bag)
    assert read(next(bag.iterdir())) == read(KITCHEN)


@pytest.mark.parametrize(('mode', 'storage'), [
    (CompressionMode.FILE, MCAP), (CompressionMode.FILE, SQLITE),
    (CompressionMode.MESSAGE, SQLITE)])
def test_a_compressed_bag_is_read(tmp_path, mode, storage):
    store = get_typestore(Stores.ROS2_HUMBLE)
    writer = Writer(tmp_path / 'bag', version=9, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with closing(open_bag(KITCHEN)) as bag, writer:
        out = {c.topic: writer.add_connection(c.topic, c.msgtype, typestore=store)
               for c in bag.connections}
        for connection, at_ns, raw in bag.messages():
            writer.write(out[connection.topic], at_ns, raw)
    assert read(tmp_path / 'bag') == read(KITCHEN)
    if mode == CompressionMode.FILE:
        (file,) = (tmp_path / 'bag').glob('*.zst*')
        file.write_bytes(file.read_bytes()[:9999])
        with pytest.raises(UnreadableBag, match=f'zstd -dc {file} > {file.with_suffix("")} '):
            open_bag(tmp_path / 'bag')
    else:
        with pytest.raises(UnreadableBag, match=r'is compressed, .* give the folder'):
            read(next((tmp_path / 'bag').glob('*.db3')))


# --- which topics ---------------------------------------------------------------------------------

def rename(prefix: str, colour: list[str], depth: list[str]):
    """Names as drivers give them; prefix: with {} for the camera."""
    def names(topic: str) -> list[str]:
        _, camera, *rest = topic.split('/')
        if camera in ('tf', 'tf_static'):
            return [topic]
        transport = f'/{rest[-1]}' if rest[-1].startswith('compressed') else ''
        stems = depth if 'depth' in topic else colour
        if topic.endswith('camera_info'):
            stems = [f'{stem.rpartition("/")[0]}/camera_info' for stem in (*colour, *depth)]
        return [f'{prefix.format(camera)}/{stem}{transport}' for stem in dict.fromkeys(stems)]
    return names


def of_its_own_lens(stream: str):
    """The messages of a stream are in another frame, and of another lens."""
    def change(topic: str, message):
        if f'/{stream}/' in topic:
            message.header.frame_id = message.header.frame_id.replace('_color_', f'_{stream}_')
            if topic.endswith('camera_info'):
                message.k = message.k * np.array([1.02, 1, 1, 1, 1.02, 1, 1, 1, 1])
        return message
    return change


ALIGNED, UNALIGNED = 'aligned_depth_to_color/image_raw', 'depth/image_rect_raw'
LAYOUTS = {
    'RealSense, aligned depth next to raw depth': ('/{}', ['color/image_raw'],
                                                   [ALIGNED, UNALIGNED], 'depth', '{}'),
    'its own namespace': ('/camera/{}', ['color/image_raw'], [ALIGNED, UNALIGNED], 'depth',
                          'camera_{}'),
    'infrared images': ('/{}', ['color/image_raw', 'infra1/image_rect_raw'], [ALIGNED], 'infra1',
                        '{}'),
    'openni': ('/{}', ['rgb/image_raw', 'ir/image_raw'], ['depth_registered/image_raw'], 'ir',
               '{}'),
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_the_depth_and_the_camera_info_of_the_image_are_taken(tmp_path, layout):
    prefix, colour, depth, other, name = LAYOUTS[layout]
    bag = copy_kitchen(tmp_path / 'bag', rename(prefix, colour, depth), of_its_own_lens(other))
    scene, known = open_scene(bag, ReadOptions()), KnownScene(KITCHEN)
    assert Counter(frame.camera for frame in scene.frames) == {
        name.format('wrist'): 36, name.format('front'): 6, name.format('side'): 6}
    for frame in scene.frames[::9]:
        camera = frame.camera.removeprefix('camera_')
        true, view = known.read_view(FrameKey(camera, frame.stamp_ns)), scene.view(frame)
        assert view.intrinsics == true.intrinsics
        np.testing.assert_array_equal(view.image, true.image)
        np.testing.assert_array_equal(view.depth_m, true.depth_m)


def test_unregistered_depth_alone_is_refused_with_both_frames_and_an_option_that_exists(
        tmp_path, caplog, capsys):
    bag = copy_kitchen(tmp_path / 'bag', rename('/{}', ['color/image_raw'], [UNALIGNED]),
                       of_its_own_lens('depth'))
    with pytest.raises(UnusableData, match='none of its cameras'):
        open_scene(bag, ReadOptions())
    topics = [f'/{camera}/{UNALIGNED}/compressedDepth' for camera in ('front', 'side', 'wrist')]
    for line, topic in zip(caplog.messages, topics, strict=True):
        assert 'front_depth_optical_frame'.replace('front', topic.split('/')[1]) in line
        assert f'--topic {topic}' in line
    assert len(open_scene(bag, ReadOptions(topics=tuple(topics))).frames) == 48
    for command in (['data', 'build'], ['bench', 'pairs']):
        with pytest.raises(SystemExit):
            cli.main([*command, '--help'])
        assert '--topic' in capsys.readouterr().out


def test_two_images_in_one_frame_are_refused_until_one_is_given(tmp_path, caplog):
    colour = ['color/image_raw', 'color/image_rect']
    bag = copy_kitchen(tmp_path / 'bag', rename('/{}', colour, [ALIGNED]))
    with pytest.raises(UnusableData):
        open_scene(bag, ReadOptions())
    assert '/front/color/image_raw/compressed, /front/color/image_rect/compressed; choose by ' \
           '--topic' in caplog.messages[0]
    given = tuple(f'/{camera}/color/image_raw/compressed' for camera in ('front', 'side', 'wrist'))
    assert len(open_scene(bag, ReadOptions(topics=given)).frames) == 48
    with pytest.raises(UnusableData, match='no messages on /typo; topics: /front'):
        open_scene(bag, ReadOptions(topics=('/typo',)))


def test_known_scenes_take_the_camera_info_next_to_the_image_as_well(tmp_path):
    def names(topic: str) -> list[str]:
        infra = topic.replace('/color/', '/a_lens/')
        return [topic, infra] if topic.endswith('camera_info') else [topic]
    bag = copy_kitchen(tmp_path / 'bag', names, of_its_own_lens('a_lens'))
    shutil.copy(KITCHEN / 'truth.json', bag)
    known, copied = KnownScene(KITCHEN), KnownScene(bag)
    for frame in known.frames[::9]:
        assert copied.read_view(frame).intrinsics == known.read_view(frame).intrinsics


def test_the_mask_of_a_camera_uses_the_depth_in_the_frame_of_its_images(tmp_path, caplog):
    types = dict.fromkeys(('/c/color/image', f'/c/{ALIGNED}', f'/c/{UNALIGNED}'),
                          'sensor_msgs/msg/Image')
    frames = {'/c/color/image': 'colour', f'/c/{ALIGNED}': 'colour', f'/c/{UNALIGNED}': 'infra'}
    assert choose_topics(types, 'c', frame_ids=frames).depth == f'/c/{ALIGNED}'
    del types[f'/c/{ALIGNED}']
    assert choose_topics(types, 'c', frame_ids=frames).depth == ''
    assert '--depth-topic' in caplog.messages[0]
    assert choose_topics(types, 'c', '', f'/c/{UNALIGNED}', frames).depth == f'/c/{UNALIGNED}'


# --- a lens that changes --------------------------------------------------------------------------

def zoom_until(share: float, keep=lambda number: True):
    """Camera infos of a lens that zooms out after this share of the recording."""
    numbers: Counter[str] = Counter()

    def change(topic: str, message):
        if topic.endswith('camera_info'):
            numbers[topic] += 1
            if not keep(numbers[topic]):
                return None
            if numbers[topic] <= share * (36 if 'wrist' in topic else 6):
                message.k = message.k * np.array([1.3, 1, 1, 1, 1.3, 1, 1, 1, 1])
        return message
    return change


def test_each_image_has_the_lens_of_its_own_stamp(tmp_path):
    scene = open_scene(copy_kitchen(tmp_path / 'bag', change=zoom_until(0.5)), ReadOptions())
    known = KnownScene(KITCHEN)
    wrist = sorted((f for f in scene.frames if f.camera == 'wrist'), key=lambda f: f.stamp_ns)
    assert len(wrist) == 36
    factors = [scene.view(frame).intrinsics.fx_px / known.read_view(
        FrameKey('wrist', frame.stamp_ns)).intrinsics.fx_px for frame in wrist]
    assert factors == pytest.approx([1.3] * 18 + [1.0] * 18)


def test_an_image_between_two_lenses_is_skipped_and_why(tmp_path, caplog):
    bag = copy_kitchen(tmp_path / 'bag',
                       change=zoom_until(0.5, keep=lambda number: number % 4 == 1))
    scene = open_scene(bag, ReadOptions())
    wrist = [f for f in scene.frames if f.camera == 'wrist']
    # Infos 1, 5, 9, 13, 17 | 21, 25, 29, 33: images 18 to 20 are between, 34 to 36 beyond them.
    assert len(wrist) == 30
    lines = [line for line in caplog.messages if 'wrist' in line]
    assert len(lines) == 6
    assert all('its camera_info changes in this recording (2 lenses' in line for line in lines)


def test_a_lens_that_never_changes_needs_one_camera_info(tmp_path):
    bag = copy_kitchen(tmp_path / 'bag', change=zoom_until(0, keep=lambda number: number == 1))
    check_poses(bag)


def test_a_bag_read_in_another_process_is_the_same(tmp_path):
    """A recording of Humble goes through `data build`, whose processes open it again."""
    bag = make_humble(copy_kitchen(tmp_path / 'bag', storage=SQLITE))
    done = subprocess.run(
        [sys.executable, '-m', 'crosspoint_ros.cli', 'data', 'build', str(bag), '--out',
         str(tmp_path / 'out'), '--number', '40', '--processes', '2'],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
        env=dict(os.environ))
    assert '40 questions' in done.stdout, done.stderr


def test_a_damaged_message_is_skipped_alone(tmp_path, caplog):
    bag = copy_kitchen(tmp_path / 'bag', storage=SQLITE)
    with closing(sqlite3.connect(next(bag.glob('*.db3')))) as database:
        database.execute("UPDATE messages SET data = x'00010000ffff' WHERE id = (SELECT MIN(m.id) "
                         'FROM messages m JOIN topics t ON m.topic_id = t.id WHERE t.name = '
                         "'/front/color/image_raw/compressed' AND m.id > 20)")
        database.commit()
    scene = open_scene(bag, ReadOptions())
    assert Counter(f.camera for f in scene.frames) == {'wrist': 36, 'front': 5, 'side': 6}
    (line,) = caplog.messages
    assert 'is damaged' in line
    assert '/front/color/image_raw/compressed is skipped' in line


@pytest.mark.parametrize('topic', ['/front/color/camera_info', '/front/color/image_raw/compressed',
                                   '/front/aligned_depth_to_color/image_raw/compressedDepth'])
def test_a_damaged_first_message_hides_no_camera(tmp_path, topic):
    bag = copy_kitchen(tmp_path / 'bag', storage=SQLITE)
    with closing(sqlite3.connect(next(bag.glob('*.db3')))) as database:
        database.execute('UPDATE messages SET data = substr(data, 1, 30) WHERE id = (SELECT '
                         'min(messages.id) FROM messages JOIN topics ON topic_id = topics.id '
                         'WHERE name = ?)', (topic,))
        database.commit()
    frames = Counter(frame.camera for frame in open_scene(bag, ReadOptions()).frames)
    assert frames == {'wrist': 36, 'front': 6 - ('info' not in topic), 'side': 6}


@pytest.mark.parametrize(('encoding', 'words'), [
    (form, f'the compressed depth has format {form!r}; accepted: 16UC1, mono16, 32FC1')
    for form in ('png', '', '64FC1', '8UC1; png compressed')])
def test_depth_of_an_unknown_encoding_is_named_with_those_that_are_known(
        tmp_path, encoding, words, caplog):
    def change(topic: str, message):
        if topic.startswith('/front') and topic.endswith('/compressedDepth'):
            message.format = encoding
        return message

    bag = copy_kitchen(tmp_path / 'bag', change=change)
    assert {frame.camera for frame in open_scene(bag, ReadOptions()).frames} == {'wrist', 'side'}
    (line,) = caplog.messages
    assert line.startswith('camera front is skipped: it has no depth; /front/aligned_depth')
    assert words in line


@pytest.mark.parametrize(('sec', 'left'), [(0, 0), (-5, 0), (1_760_000_000, 1)])
def test_images_without_a_stamp_or_with_that_of_another_are_skipped_and_counted(
        tmp_path, sec, left, caplog):
    def change(topic: str, message):
        if topic.startswith('/front'):
            message.header.stamp.sec, message.header.stamp.nanosec = sec, 0
        return message

    scene = open_scene(copy_kitchen(tmp_path / 'bag', change=change), ReadOptions())
    assert Counter(frame.camera for frame in scene.frames)['front'] == left
    assert len({frame.name for frame in scene.frames}) == len(scene.frames) == 42 + left
    (line,) = caplog.messages
    assert f'{6 - left} of the 6 images of camera front are skipped: they have no stamp' in line
