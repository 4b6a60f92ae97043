"""Build the wheel for machines that have no ROS install.

In a colcon workspace package.xml declares ament_cmake, so colcon runs
CMakeLists.txt and never looks at this file. `pip install .` runs the same
CMakeLists.txt against the ROS 2 wheels and packs its install tree.
"""
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
XML = ET.parse(ROOT / 'package.xml').getroot()
NAME = XML.findtext('name')


def prefixes():
    """Return the ament prefixes to build against: a sourced ROS, or the venv's wheels."""
    found = [p for p in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p]
    if not found and (Path(sys.prefix) / 'share' / 'rosidl_cmake').is_dir():
        found = [sys.prefix]      # the wheels' data files land in <venv>/share, lib, include
    if not found:
        raise SystemExit('no ROS 2: source a distro, or pip install -r requirements-ros.txt')
    return found


class CMakeBuildPy(build_py):
    """Run CMake, take its Python tree as the package and the rest as data files."""

    def run(self):
        build = ROOT / 'build' / 'pip'
        prefix = build / 'prefix'
        shutil.rmtree(prefix, ignore_errors=True)
        env = dict(os.environ)
        if sys.prefix in prefixes():
            env.pop('PYTHONPATH', None)   # pip's build isolation hides the installed wheels
        env['AMENT_PREFIX_PATH'] = os.pathsep.join(prefixes())
        generator = ['-G', 'Ninja'] if shutil.which('ninja') else []
        subprocess.run(['cmake', '-S', ROOT, '-B', build / 'cmake', *generator,
                        '-DCMAKE_BUILD_TYPE=Release', '-DBUILD_TESTING=OFF',
                        f'-DCMAKE_INSTALL_PREFIX={prefix}',
                        f'-DCMAKE_PREFIX_PATH={";".join(prefixes())}',
                        f'-DPython3_EXECUTABLE={sys.executable}',
                        f'-DCMAKE_PROJECT_INCLUDE={ROOT / "cmake" / "pip_wheels.cmake"}',
                        ], check=True, env=env)
        subprocess.run(['cmake', '--build', build / 'cmake', '-j', str(os.cpu_count()),
                        '--target', 'install'], check=True, env=env)
        python = next(prefix.glob('lib/python*/site-packages')) / NAME
        shutil.copytree(python, Path(self.build_lib) / NAME, dirs_exist_ok=True,
                        ignore=shutil.ignore_patterns('__pycache__', '*.c'))
        files = {}
        for path in prefix.rglob('*'):
            rel = path.relative_to(prefix)
            if path.is_file() and rel.parts[0] in ('lib', 'share') \
                    and 'site-packages' not in rel.parts:
                files.setdefault(str(rel.parent), []).append(str(path.relative_to(ROOT)))
        self.distribution.data_files = sorted(files.items())


class BinaryDistribution(Distribution):
    def has_ext_modules(self):
        return True


setup(
    name=NAME,
    version=XML.findtext('version'),
    description=XML.findtext('description'),
    packages=[NAME],
    distclass=BinaryDistribution,
    cmdclass={'build_py': CMakeBuildPy},
    python_requires='>=3.10',
    install_requires=['numpy'],
    extras_require={'wheels': ['ros-rclpy', 'ros-rmw-fastrtps-cpp', 'ros-std-msgs',
                               'ros-geometry-msgs', 'ros-sensor-msgs']},
)
