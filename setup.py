"""Build the wheel: with the interfaces where ROS 2 is found, pure Python elsewhere.

In a colcon workspace package.xml declares ament_cmake, so colcon runs CMakeLists.txt and never
reads this file. `pip install .` runs the same CMakeLists.txt against a sourced distro or the ROS 2
wheels of its environment and packs the install tree, with tf2_msgs where the environment has none.
Without either it packs the Python files alone, which needs neither CMake nor a compiler.
"""
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
NOT_PACKED = shutil.ignore_patterns('__pycache__', '*.c')


def read_requirements(name):
    """Return the pinned lines of requirements/<name>.txt, without the files it includes."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line for line in lines if line and not line.startswith(('#', '-r'))]


def select_pins(*projects):
    """Return the pins that requirements/python.txt gives these projects."""
    return [pin for pin in read_requirements('python') if pin.split('==')[0] in projects]


def find_ament_prefixes():
    """Return the prefixes of a sourced ROS, or the environment that holds the ROS 2 wheels.

    The wheels unpack share/, lib/ and include/ into the environment itself. Empty without ROS.
    """
    sourced = [p for p in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p]
    wheels = [sys.prefix] if (Path(sys.prefix) / 'share' / 'rosidl_cmake').is_dir() else []
    return sourced or wheels


PREFIXES = find_ament_prefixes()


def lacks_tf2_msgs(prefixes):
    """Return whether no prefix holds tf2_msgs, except the one an earlier install of ours left."""
    manifests = [Path(p) / 'share' / 'tf2_msgs' / 'package.xml' for p in prefixes]
    return not any(m.is_file() and NAME not in m.read_text() for m in manifests)


def find_cmake():
    """Return the cmake program itself: the wheel's start script needs a PYTHONPATH we drop."""
    try:
        from cmake import CMAKE_BIN_DIR
    except ImportError:
        return 'cmake'
    return str(Path(CMAKE_BIN_DIR) / 'cmake')


class PackTree(build_py):
    """Pack the Python tree with its data: scenes, the web page, the feature network."""

    def run(self):
        shutil.rmtree(self.build_lib, ignore_errors=True)
        shutil.copytree(ROOT / NAME, Path(self.build_lib) / NAME, ignore=NOT_PACKED)


class BuildWithCMake(build_py):
    """Run CMake, take its Python trees as the packages and the rest as data files."""

    def run(self):
        stamps = [p.stat().st_mtime_ns for p in
                  (Path(p) / 'share' / 'rosidl_cmake' for p in PREFIXES) if p.is_dir()]
        key = zlib.crc32(repr((sys.version, PREFIXES, stamps)).encode())
        build = ROOT / 'build' / 'pip' / f'{key:08x}'    # one CMake cache per environment
        prefix = build / 'prefix'
        shutil.rmtree(prefix, ignore_errors=True)
        shutil.rmtree(self.build_lib, ignore_errors=True)
        sources = {NAME: ROOT}
        if lacks_tf2_msgs(PREFIXES):
            sources['tf2_msgs'] = ROOT / 'tf2_msgs'
        for name, source in sources.items():
            self.build_and_install(source, build / name, prefix)
            python = next(prefix.rglob(f'{name}/__init__.py')).parent
            shutil.copytree(python, Path(self.build_lib) / name, ignore=NOT_PACKED)
        self.distribution.data_files = self.collect_data_files(prefix)

    @staticmethod
    def build_and_install(source, build, prefix):
        """Configure, compile and install one CMake project."""
        env = dict(os.environ, AMENT_PREFIX_PATH=os.pathsep.join(PREFIXES))
        if sys.prefix in PREFIXES:
            env.pop('PYTHONPATH', None)   # pip's build isolation hides the installed wheels
        cmake = find_cmake()
        # Named each time: the cache of an earlier run may name a build environment's ninja, which
        # pip has deleted since.
        ninja = shutil.which('ninja')
        generator = ['-G', 'Ninja', f'-DCMAKE_MAKE_PROGRAM={ninja}'] if ninja else []
        configure = [cmake, '-S', source, '-B', build, *generator,
                     '-DCMAKE_BUILD_TYPE=Release', '-DBUILD_TESTING=OFF',
                     f'-DCMAKE_INSTALL_PREFIX={prefix}',
                     f'-DCMAKE_PREFIX_PATH={";".join(PREFIXES)}',
                     f'-DPython3_EXECUTABLE={sys.executable}',
                     f'-DCMAKE_PROJECT_INCLUDE={ROOT / "cmake" / "pip_wheels.cmake"}']
        compile_and_install = [cmake, '--build', build, '-j', str(os.cpu_count()),
                               '--target', 'install']
        for command in (configure, compile_and_install):
            if subprocess.run(command, env=env).returncode:
                raise SystemExit(f'{source}: CMake failed, see its message above')

    @staticmethod
    def collect_data_files(prefix):
        """Return the files for <venv>/lib and <venv>/share, laid out as by the ROS wheels."""
        files = {}
        for path in prefix.rglob('*'):
            rel = path.relative_to(prefix)
            if path.is_file() and rel.parts[0] in ('lib', 'share') \
                    and not {'site-packages', 'dist-packages'} & set(rel.parts):
                files.setdefault(str(rel.parent), []).append(str(path.relative_to(ROOT)))
        return sorted(files.items())


class BinaryDistribution(Distribution):
    """A platform wheel: it holds compiled message support."""

    def has_ext_modules(self):
        return True


setup(
    name=NAME,
    version=XML.findtext('version'),
    description=XML.findtext('description'),
    license=XML.findtext('license'),
    packages=[NAME],
    distclass=BinaryDistribution if PREFIXES else Distribution,
    cmdclass={'build_py': BuildWithCMake if PREFIXES else PackTree},
    python_requires='>=3.10',
    setup_requires=['cmake==4.4.4', 'ninja==1.13.2'] if PREFIXES else [],
    install_requires=['numpy>=1.21', 'tqdm', *(['PyYAML'] if PREFIXES else [])],
    extras_require={
        # 4.11 is the last OpenCV that leaves an environment below 250 MB; newer ones work as well.
        'images': ['opencv-python-headless>=4.5.4,<4.12'],
        'ros': read_requirements('kilted'),
        'ros-jazzy': read_requirements('jazzy'),
        'web': ['aiohttp>=3.8.1'],
        'bag': select_pins('rosbags'),
        'ray': ['ray[data]>=2.40'],
        'cropond': ['torch>=2.5', 'transformers>=4.57,<6', 'pillow>=9'],
        'remote': ["httpx2>=2; python_version >= '3.11'", "httpx>=0.22; python_version < '3.11'",
                   'pillow>=9'],
        'mcp': ['mcp>=2'],  # `crosspoint mcp`
        'sim': ['mujoco>=3.10', 'mink>=1.3'],  # `crosspoint bench pick`
        'test': read_requirements('test'),
    },
    entry_points={'console_scripts': ['crosspoint = crosspoint_ros.cli:main']},
)
