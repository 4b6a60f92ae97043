"""Reads a rosbag2 (MCAP or sqlite3) without ROS: topics, images and depth."""
from __future__ import annotations

import importlib
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from crosspoint_ros.core import encodings
from crosspoint_ros.core.encodings import DepthM, Rgb
from crosspoint_ros.core.tf_tree import stamp_to_ns

log = logging.getLogger(__name__)
RAW, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
INFO = 'sensor_msgs/msg/CameraInfo'
MAX_LAG_NS = 20_000_000  # between an image and its depth
MAX_PENDING = 30  # images that wait for their depth
BAGS = {'.mcap': 'mcap', '.db3': 'sqlite3'}  # suffix -> storage
ZSTD, ZSTD_MAGIC = ('.zst', '.zstd'), b'\x28\xb5\x2f\xfd'
INDEX = 'metadata.yaml'
MCAP_MAGIC, SQLITE_MAGIC = b'\x89MCAP0\r\n', b'SQLite format 3\0'


class UnreadableBag(ValueError):  # noqa: N818
    """A recording that cannot be used; the message has the reason."""


class Bag:
    """An open rosbag2, read from its files: its index may describe their topics otherwise.

    connections: one per topic and file, with `topic` and `msgtype`. start_time, duration: ns.
    """

    def __init__(self, path: Path, rosbags: Any) -> None:
        """Open it. Raises what rosbags raises."""
        self._path, self._reader = path, rosbags.rosbag2.Reader(path)
        self._formats = rosbags.interfaces.MessageDefinitionFormat
        self._stores: dict[str, Any] = {}  # by type: a bag may have the same type in two versions
        self._lossy_topics: set[str] = set()
        self._reader.open()
        files = getattr(self._reader.storage, 'storages', [self._reader.storage])
        self.connections: list[Any] = [c for file in files for c in file.connections]
        spans = [(file.metadata.start_time, file.metadata.end_time) for file in files
                 if file.metadata.message_count]
        self.message_count = sum(c.msgcount for c in self.connections)
        self.start_time: int = min((start for start, _ in spans), default=0)
        self.duration: int = max((end for _, end in spans), default=0) - self.start_time

    def close(self) -> None:
        """Close its files."""
        self._reader.close()

    def messages(self, topics: Collection[str] | None = None, start: int | None = None,
                 stop: int | None = None) -> Iterator[tuple[Any, int, bytes]]:
        """Yield (connection, recorded_ns, data) in the order of the recording.

        topics: None for all. start, stop: recorded_ns, inclusive and exclusive. Logs a warning for
        every topic with fewer messages than the bag promises. Raises `UnreadableBag`.
        """
        counts: Counter[str] = Counter()
        # The connections of the files match themselves; those of the index match only files with
        # the same QoS, and rosbags would skip the others. Without any, it would read all topics.
        wanted = [c for c in self.connections if topics is None or c.topic in topics]
        try:
            for connection, recorded_ns, data in self._reader.messages(
                    wanted, start, stop) if wanted else ():
                counts[connection.topic] += 1
                yield connection, recorded_ns, data
        except Exception as error:  # each storage plugin raises other errors
            raise UnreadableBag(f'{self._path} is damaged after {sum(counts.values())} of its '
                                f'messages: {error}; {suggest_repair(self._path)}') from error
        if start is stop is None:
            self._warn_lost(counts, topics)

    def _warn_lost(self, counts: Counter[str], topics: Collection[str] | None) -> None:
        promised: Counter[str] = Counter()
        for connections in (self._reader.connections, self.connections):  # of the index, the files
            promised |= sum((Counter({c.topic: c.msgcount}) for c in connections), Counter[str]())
        for topic, number in sorted(promised.items()):
            if (topics is None or topic in topics) and counts[topic] < number \
                    and topic not in self._lossy_topics:
                self._lossy_topics.add(topic)
                log.warning('%s: only %d of the %d messages on %s can be read; %s', self._path,
                            counts[topic], number, topic, suggest_repair(self._path))

    def deserialize(self, data: bytes, msgtype: str) -> Any:
        """Return the message. Raises `UnreadableBag` if its type is unknown, or it is damaged."""
        if msgtype not in self._stores:
            try:
                self._stores[msgtype] = self._load_type(msgtype)
            except UnreadableBag as problem:
                self._stores[msgtype] = problem
        store = self._stores[msgtype]
        if isinstance(store, UnreadableBag):
            raise store
        try:
            return store.deserialize_cdr(data, msgtype)
        except Exception as error:
            why = f'is damaged: {error}'
            if bytes(data[:4]) == ZSTD_MAGIC:
                why = f'is compressed, as the {INDEX} of its bag would say: give the folder'
            raise UnreadableBag(f'{self._path}: a message of the type {msgtype} {why}') from error

    def _load_type(self, msgtype: str) -> Any:
        """Return a type store with the bag's definition of a type, or else with that of ROS."""
        connection = next((c for c in self.connections if c.msgtype == msgtype
                           and c.msgdef.format != self._formats.NONE), None)
        if connection is None:  # Humble's sqlite3 has no definitions
            store = load_humble_types()
            if msgtype not in store.types:
                raise UnreadableBag(f'{self._path} has no definition of the type {msgtype}')
            return store
        try:
            definition = connection.msgdef
            store = compile_type(msgtype, definition.data,
                                 is_idl=definition.format != self._formats.MSG)
            hashes = {c.digest for c in (*self._reader.connections, connection)
                      if c.msgtype == msgtype and c.digest}
            if hashes - {store.hash_rihs01(msgtype)}:
                raise ValueError('it differs from the type that was recorded')
        except Exception as error:
            raise UnreadableBag(f'{self._path}: the definition of the type {msgtype} cannot be '
                                f'used: {error}') from error
        return store

    def list_qos(self, topic: str) -> list[Any]:
        """Return the QoS profiles of a topic's publishers: those of the index, if it has any."""
        indexed, stored = ([profile for c in connections if c.topic == topic
                            for profile in c.ext.offered_qos_profiles]
                           for connections in (self._reader.connections, self.connections))
        return indexed or stored


@lru_cache(maxsize=64)
def compile_type(msgtype: str, definition: str, is_idl: bool) -> Any:
    """Return the type store of a definition, once for all bags: compiling takes some 20 ms.

    Raises what rosbags raises.
    """
    typesys = importlib.import_module('rosbags.typesys')
    store = typesys.get_typestore(typesys.Stores.EMPTY)
    if not is_idl:
        store.register(typesys.get_types_from_msg(definition, msgtype))
        return store
    for part in definition.split('=' * 80 + '\n'):
        idl = part.partition('\n')[2] if part.startswith('IDL: ') else part
        if idl.strip():
            store.register(typesys.get_types_from_idl(idl))
    return store


@lru_cache(maxsize=1)
def load_humble_types() -> Any:
    """Return the type store of the messages that ROS 2 Humble has."""
    typesys = importlib.import_module('rosbags.typesys')
    return typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)


def open_bag(path: Path) -> Bag:
    """Return an open rosbag2; the caller closes it. Raises `UnreadableBag` with the cure."""
    try:
        rosbags = importlib.import_module('rosbags')
        for module in ('rosbags.rosbag2', 'rosbags.typesys'):
            importlib.import_module(module)
        apsw = importlib.import_module('apsw')
    except ModuleNotFoundError as error:
        raise UnreadableBag('reading a bag needs the Python package rosbags: pip install rosbags '
                            '(to play one, ros2 bag play --clock 40 will do)') from error
    fault = _find_fault(path)
    if fault:
        raise UnreadableBag(f'{path} {fault}' if path.exists() else fault)
    # rosbags ends at a definition that the recorder did not find ("unknown").
    apsw.connection_hooks.append(_hide_unknown_definitions)
    try:
        bag = Bag(path, rosbags)
    except Exception as error:  # each storage plugin raises other errors
        raise UnreadableBag(f'{path} cannot be read as a rosbag2: {error}; {suggest_repair(path)}'
                            ) from error
    finally:
        apsw.connection_hooks.remove(_hide_unknown_definitions)
    if not bag.message_count:
        bag.close()
        cure = f'; if its files have some, its {INDEX} is wrong: ros2 bag reindex {path}'
        raise UnreadableBag(f'{path} has no messages{cure if path.is_dir() else ""}')
    return bag


def _hide_unknown_definitions(connection: Any) -> None:
    with suppress(Exception):  # it has no such table, or is not a database
        connection.execute('CREATE TEMP VIEW message_definitions AS SELECT * FROM '
                           "main.message_definitions WHERE encoding IN ('ros2msg', 'ros2idl')")


def list_bag_files(folder: Path) -> list[Path]:
    """Return the recordings of a folder, compressed ones too."""
    return sorted(p for p in folder.glob('*') if {p.suffix, Path(p.stem).suffix} & BAGS.keys()
                  and p.suffix in (*BAGS, *ZSTD))


def suggest_repair(path: Path) -> str:
    """Return the command that repairs a bag."""
    files = list_bag_files(path) if path.is_dir() else [path]
    name = files[0] if files else path / 'FILE.mcap'
    if name.suffix in ZSTD:
        repair = (f'zstd -dc {name} > {name.with_suffix("")} writes what is left of a file, '
                  'which may need repair')
    elif name.suffix == '.db3':
        repair = f"sqlite3 {name} .recover | sqlite3 repaired.db3 repairs a file"
    else:
        repair = f'mcap recover {name} -o repaired.mcap repairs a file'
    return repair + (f', ros2 bag reindex {path} writes a new {INDEX}' if path.is_dir() else '')


def _find_fault(path: Path) -> str:
    """Return why a bag cannot be read and the cure; '' if nothing is known to be wrong."""
    if not path.exists():
        return f'there is no bag at {path.absolute()}'
    if path.suffix == '.bag':
        return 'is a ROS 1 bag; convert it: rosbags-convert --src FILE.bag --dst FOLDER'
    files = list_bag_files(path) if path.is_dir() else [path]
    if path.is_dir() and not (path / INDEX).is_file():
        return _explain_missing_index(path, files)
    if path.name == INDEX:
        return f'is the index of a bag; give its folder, {path.absolute().parent}'
    if path.suffix in ZSTD:
        return (f'is compressed; give its folder, {path.absolute().parent}, or decompress it: '
                f'zstd -d {path}')
    if path.is_file() and path.suffix not in BAGS:
        return f'is not a rosbag2: that is a folder with {INDEX}, or a file .mcap or .db3'
    return next(filter(None, map(_find_file_fault, files)), '')


def _explain_missing_index(path: Path, files: list[Path]) -> str:
    bags = [p.parent.name for p in sorted(path.glob(f'*/{INDEX}'))]
    if bags:
        return f'is not a bag, but holds some; give one of them: {", ".join(bags)}'
    if not files:
        what = 'has no' if any(path.iterdir()) else 'is empty: it has no'
        return f'cannot be read as a rosbag2: it {what} {INDEX}, .mcap or .db3'
    fault = next(filter(None, map(_find_file_fault, files)), '')
    if fault:
        return f'{fault}; then ros2 bag reindex {path} (it has no {INDEX})'
    storage = BAGS.get(files[0].suffix) or BAGS[Path(files[0].stem).suffix]
    return (f'has no {INDEX}, as after a recorder that was killed; write it: ros2 bag reindex -s '
            f'{storage} {path}; or give the file {files[0]}')


def _find_file_fault(file: Path) -> str:
    """Return what is wrong with the ends of a recording, or with what lies next to it."""
    if file.suffix not in BAGS:
        return ''
    size = file.stat().st_size
    with file.open('rb') as stream:
        first = stream.read(len(SQLITE_MAGIC))
        stream.seek(max(size - len(MCAP_MAGIC), 0))
        last = stream.read()
    if not size:
        return f'has an empty file, {file.name}: its recorder wrote no message'
    if file.suffix == '.mcap' and first.startswith(MCAP_MAGIC) and last != MCAP_MAGIC:
        return (f'has an unfinished file, {file.name}: its recorder was killed, or still runs; '
                f'repair it: mcap recover {file} -o repaired.mcap')
    if not first.startswith(MCAP_MAGIC if file.suffix == '.mcap' else SQLITE_MAGIC):
        return f'has a file that is not {BAGS[file.suffix]}: {file.name}'
    for suffix in ('-wal', '-journal'):
        leftover = file.with_name(file.name + suffix)
        if leftover.is_file() and leftover.stat().st_size:
            return (f'has messages outside of its database, in {leftover.name}: its recorder was '
                    f"killed, or still runs; put them in: sqlite3 {file} 'PRAGMA "
                    "wal_checkpoint(TRUNCATE); PRAGMA integrity_check'")
    return ''


class RgbdTopics(NamedTuple):
    """A camera's image topics; depth is '' if it has none."""

    image: str
    depth: str


def choose_topics(types: Mapping[str, str], camera: str, image: str = '', depth: str = '',
                  frame_ids: Mapping[str, str] | None = None) -> RgbdTopics:
    """Choose a camera's topics from all (name -> type) unless they are given.

    frame_ids: of the image topics; a depth topic in another frame than its image's is left out.
    Raises ValueError with the candidates if there are none or several.
    """
    image_topics = {name for name, type_name in types.items() if type_name in (RAW, COMPRESSED)}
    for given in filter(None, (image, depth)):
        if given not in image_topics:
            raise ValueError(f'there are no images on {given}; '
                             f'image topics: {_format_names(image_topics)}')
    space = f'/{camera}/'
    own = {name for name in image_topics if name.startswith(space)}
    depths = {name for name in own if 'depth' in name.removeprefix(space)} - {image}
    if not image and not own - depths:
        raise ValueError(f'there are no images on /{camera}/...; image topics: '
                         f'{_format_names(image_topics)}; give one with --topic')
    image = image or choose_single(own - depths, '--topic')
    if frame_ids is not None and not depth:
        others = {name for name in depths if frame_ids.get(name) != frame_ids.get(image)}
        depths -= others
        if others and not depths:
            log.warning('%s is not used: it is not in the frame of %s, %s; if it is registered all '
                        'the same, give it with --depth-topic', _format_names(others), image,
                        frame_ids.get(image))
    return RgbdTopics(image, depth or (choose_single(depths, '--depth-topic') if depths else ''))


def split_transport(topic: str) -> tuple[str, str]:
    """Split an image topic into that of the raw image and its image_transport ('' for raw)."""
    base, _, last = topic.rpartition('/')
    return (base, last) if last.startswith('compressed') else (topic, '')


def choose_single(topics: Iterable[str], option: str) -> str:
    """Return the only topic, a raw image in preference to its compressed siblings.

    Raises ValueError, naming the command's option, if there are several.
    """
    siblings: dict[str, list[str]] = {}
    for topic in topics:
        siblings.setdefault(split_transport(topic)[0], []).append(topic)
    # Depth is stored in compressedDepth without loss.
    left = [min(group, key=lambda t: (t != base, not t.endswith('compressedDepth'), t))
            for base, group in siblings.items()]
    if len(left) > 1:
        raise ValueError(f'there are several: {_format_names(left)}; choose by {option}')
    return left[0]


def choose_info(infos: Collection[str], image: str, frame_ids: Mapping[str, str],
                given: Collection[str] = ()) -> str:
    """Choose the camera_info of an image topic among all of a bag.

    A given one in its frame; or its sibling, as in image_transport; or the only one in its frame.
    Raises ValueError with the candidates.
    """
    frame_id = frame_ids.get(image, '')
    in_frame = {topic for topic in infos if frame_ids.get(topic) == frame_id}
    sibling = split_transport(image)[0].rpartition('/')[0] + '/camera_info'
    chosen = in_frame.intersection(given) or {sibling}.intersection(infos) or in_frame or {
        topic for topic in given if topic in infos and topic.split('/')[1] == image.split('/')[1]}
    if len(chosen) != 1:
        raise ValueError(f'{image} has {"several" if chosen else "no"} camera_info, next to it or '
                         f'in its frame {frame_id}: {_format_names(chosen or infos)}; choose by '
                         '--topic')
    return next(iter(chosen))


def _format_names(topics: Iterable[str]) -> str:
    return ', '.join(sorted(topics)) or 'none'


def get_header_stamp_ns(message: Any) -> int:
    """Return the stamp of a message's header."""
    return stamp_to_ns(message.header.stamp)


def iter_rgbd(messages: Iterable[tuple[str, Any]], topics: RgbdTopics
              ) -> Iterator[tuple[Rgb, DepthM | None]]:
    """Yield each image with the depth nearest in time; None if that is more than 20 ms away.

    messages: (topic, message) in the order of arrival. Raises `Rejected` if decoding fails.
    """
    images: list[Any] = []
    depths: list[Any] = []
    for topic, message in messages:
        (images if topic == topics.image else depths).append(message)
        del depths[:-MAX_PENDING]
        while images and (not topics.depth or len(images) > MAX_PENDING or (
                depths and get_header_stamp_ns(depths[-1]) >= get_header_stamp_ns(images[0]))):
            yield _pair_with_depth(images.pop(0), depths)
    for image in images:
        yield _pair_with_depth(image, depths)


def _pair_with_depth(image: Any, depths: list[Any]) -> tuple[Rgb, DepthM | None]:
    stamp_ns = get_header_stamp_ns(image)
    near = [depth for depth in depths if abs(get_header_stamp_ns(depth) - stamp_ns) <= MAX_LAG_NS]
    nearest = min(near, default=None, key=lambda depth: abs(get_header_stamp_ns(depth) - stamp_ns))
    return decode_rgb(image), None if nearest is None else encodings.depth_m_from_msg(nearest)


def decode_rgb(message: Any) -> Rgb:
    """Return an Image or a CompressedImage as (h, w, 3) RGB uint8."""
    if hasattr(message, 'encoding'):
        return encodings.rgb_from_raw(message)
    return encodings.rgb_from_compressed(message.data, message.format)


def read_frame_ids(bag: Bag, prefix: str, *others: str) -> dict[str, str]:
    """Return the frame of the first message of each image topic with this prefix, and of others."""
    topics = {c.topic for c in bag.connections if c.msgtype in (RAW, COMPRESSED) and (
        c.topic.startswith(prefix) or c.topic in others)}
    return {topic: message.header.frame_id.lstrip('/') for topic in topics
            for _, message in islice(iter_messages(bag, {topic}), 1)}


def iter_messages(bag: Bag, topics: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Yield (topic, message) of these topics in the order of the recording."""
    for connection, _, raw in bag.messages(set(topics)):
        yield connection.topic, bag.deserialize(raw, connection.msgtype)
