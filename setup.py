"""Build the wheel for machines that have no ROS install.

In a colcon workspace package.xml declares ament_cmake, so colcon runs
CMakeLists.txt and never looks at this file. `pip install .` runs the same
CMakeLists.txt against the ROS 2 wheels and packs its install tree, with
tf2_msgs beside it where the environment has none.
"""
import importlib.util
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
import zlib
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
XML = ET.parse(ROOT / 'package.xml').getroot()
NAME = XML.findtext('name')


def read_requirements(name):
    """Return the pinned lines of requirements/<name>.txt, without what it includes."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line for line in lines if line and not line.startswith(('#', '-r'))]


def select_pins(*projects):
    """Return the pins that requirements/python.txt gives these projects."""
    return [pin for pin in read_requirements('python') if pin.split('==')[0] in projects]


def find_ament_prefixes():
    """Return the ament prefixes to build against: a sourced ROS, or where its wheels lie.

    The wheels unpack share/, lib/ and include/ into the venv itself, or, if pip
    fetched them for this build alone, into pip's build environment.
    """
    sourced = [p for p in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p]
    if sourced:
        return sourced
    candidates = [Path(sys.prefix)]
    generator = importlib.util.find_spec('rosidl_adapter')
    if generator is not None:
        candidates.append(Path(generator.origin).parents[4])
    return [str(p) for p in candidates if (p / 'share' / 'rosidl_cmake').is_dir()][:1]


def list_build_wheels():
    """Return the ROS 2 wheels that pip must fetch before this package can be built."""
    if find_ament_prefixes():
        return []
    distros = sorted(Path('/opt/ros').glob('*/setup.sh'))
    if distros:
        raise SystemExit(f'ROS 2 is installed here but not sourced: run ". {distros[-1]}" first')
    return read_requirements('kilted') + select_pins('numpy', 'empy', 'catkin-pkg', 'lark-parser', 'PyYAML')


def lacks_tf2_msgs(prefixes):
    """Return whether no prefix holds tf2_msgs, but for the one an earlier install of ours left."""
    manifests = [Path(p) / 'share' / 'tf2_msgs' / 'package.xml' for p in prefixes]
    return not any(m.is_file() and NAME not in m.read_text() for m in manifests)


def find_cmake():
    """Return the cmake program itself: the wheel's start script needs a PYTHONPATH we drop."""
    if importlib.util.find_spec('cmake'):
        from cmake import CMAKE_BIN_DIR
        return str(Path(CMAKE_BIN_DIR) / 'cmake')
    return 'cmake'


class CMakeBuildPy(build_py):
    """Run CMake, take its Python trees as the packages and the rest as data files."""

    def run(self):
        prefixes = find_ament_prefixes()
        stamps = [os.stat(Path(p) / 'share' / 'rosidl_cmake').st_mtime_ns for p in prefixes]
        key = zlib.crc32(repr((sys.version, prefixes, stamps)).encode())
        build = ROOT / 'build' / 'pip' / f'{key:08x}'    # one CMake cache per environment
        prefix = build / 'prefix'
        shutil.rmtree(prefix, ignore_errors=True)
        shutil.rmtree(self.build_lib, ignore_errors=True)
        sources = {NAME: ROOT}
        if lacks_tf2_msgs(prefixes):
            sources['tf2_msgs'] = ROOT / 'tf2_msgs'
        for name, source in sources.items():
            self.build_and_install(source, build / name, prefix, prefixes)
            python = next(prefix.rglob(f'{name}/__init__.py')).parent
            shutil.copytree(python, Path(self.build_lib) / name,
                            ignore=shutil.ignore_patterns('__pycache__', '*.c'))
        self.distribution.data_files = self.collect_data_files(prefix)

    @staticmethod
    def build_and_install(source, build, prefix, prefixes):
        """Configure, compile and install one CMake project."""
        env = dict(os.environ, AMENT_PREFIX_PATH=os.pathsep.join(prefixes))
        if sys.prefix in prefixes:
            env.pop('PYTHONPATH', None)   # pip's build isolation hides the installed wheels
        cmake = find_cmake()
        # Named each time: the cache of an earlier run may hold the ninja of a build environment
        # that pip has deleted since.
        ninja = shutil.which('ninja')
        generator = ['-G', 'Ninja', f'-DCMAKE_MAKE_PROGRAM={ninja}'] if ninja else []
        configure = [cmake, '-S', source, '-B', build, *generator,
                     '-DCMAKE_BUILD_TYPE=Release', '-DBUILD_TESTING=OFF',
                     f'-DCMAKE_INSTALL_PREFIX={prefix}',
                     f'-DCMAKE_PREFIX_PATH={";".join(prefixes)}',
                     f'-DPython3_EXECUTABLE={sys.executable}',
                     f'-DCMAKE_PROJECT_INCLUDE={ROOT / "cmake" / "pip_wheels.cmake"}']
        compile_and_install = [cmake, '--build', build, '-j', str(os.cpu_count()),
                               '--target', 'install']
        for command in (configure, compile_and_install):
            if subprocess.run(command, env=env).returncode:
                raise SystemExit(f'{source}: CMake failed, see its message above')

    @staticmethod
    def collect_data_files(prefix):
        """Return what belongs in <venv>/lib and <venv>/share, as the ROS wheels lay it."""
        files = {}
        for path in prefix.rglob('*'):
            rel = path.relative_to(prefix)
            if path.is_file() and rel.parts[0] in ('lib', 'share') \
                    and not {'site-packages', 'dist-packages'} & set(rel.parts):
                files.setdefault(str(rel.parent), []).append(str(path.relative_to(ROOT)))
        return sorted(files.items())


class BinaryDistribution(Distribution):
    """A wheel for this platform alone: it holds compiled message support."""

    def has_ext_modules(self):
        return True


setup(
    name=NAME,
    version=XML.findtext('version'),
    description=XML.findtext('description'),
    license=XML.findtext('license'),
    packages=[NAME],
    distclass=BinaryDistribution,
    cmdclass={'build_py': CMakeBuildPy},
    python_requires='>=3.10',
    setup_requires=list_build_wheels(),
    install_requires=['numpy>=1.21', 'PyYAML'],
    extras_require={
        'ros': read_requirements('kilted'),
        'ros-jazzy': read_requirements('jazzy'),
        'opencv': select_pins('opencv-python-headless'),
        'web': ['aiohttp>=3.8.1'],
        'bag': select_pins('rosbags'),
        'ray': ['ray[data]>=2.40'],
        'cropond': ['torch>=2.5', 'transformers>=4.57,<6', 'pillow>=9'],
        'remote': ["httpx2>=2; python_version >= '3.11'", "httpx>=0.22; python_version < '3.11'",
                   'pillow>=9'],
        'test': read_requirements('test'),
    },
    entry_points={'console_scripts': ['crosspoint = crosspoint_ros.cli:main']},
)
