"""The Dockerfiles agree with the package; no image is built here."""
from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / 'docker').glob('*.Dockerfile'))


def cropond_extra() -> dict[str, str]:
    """Name and range of what the extra `cropond` of setup.py asks for."""
    tree = ast.parse((ROOT / 'setup.py').read_text())
    extras = next(k.value for k in ast.walk(tree)
                  if isinstance(k, ast.keyword) and k.arg == 'extras_require')
    wanted = next(ast.literal_eval(value) for key, value in
                  zip(extras.keys, extras.values, strict=True) if key.value == 'cropond')
    return dict(re.fullmatch(r'([a-z]+)(.*)', each).groups() for each in wanted)


def test_there_is_one_for_each_jetpack():
    assert [f.stem for f in FILES] == ['jetpack6', 'jetpack7']


@pytest.mark.parametrize('file', FILES, ids=lambda f: f.stem)
def test_an_image_installs_what_the_extra_asks_for(file):
    text, extra = file.read_text(), cropond_extra()
    assert f'transformers{extra["transformers"]}' in text
    major, minor = re.search(r'^ARG TORCH=(\d+)\.(\d+)', text, re.M).groups()
    floor = extra['torch'].removeprefix('>=').split('.')
    assert (int(major), int(minor)) >= (int(floor[0]), int(floor[1]))


@pytest.mark.parametrize('file', FILES, ids=lambda f: f.stem)
@pytest.mark.parametrize(('versions', 'is_right'), [
    (('2.8.0', '5.20.2', '1.26.4'), True), (('2.9.1+cu130', '4.57.6', '1.21.6'), True),
    (('2.4.1', '5.20.2', '1.26.4'), False), (('2.8.0', '4.51.3', '1.26.4'), False),
    (('2.8.0', '6.0.0', '1.26.4'), False), (('2.8.0', '5.20.2', '2.1.0'), False)])
def test_the_versions_in_an_image_are_checked_while_it_is_built(
        file, versions, is_right, monkeypatch, capsys):
    command = re.search(r'^RUN python3 -c "(.*?)"$', file.read_text(), re.M | re.S)[1]
    code = re.sub(r'\\\n\s*', '', command)  # as the Dockerfile's parser joins lines
    monkeypatch.setattr('importlib.metadata.version',
                        dict(zip(('torch', 'transformers', 'numpy'), versions,
                                 strict=True)).__getitem__)
    if is_right:
        exec(code, {})
    else:
        with pytest.raises(AssertionError):
            exec(code, {})
    assert 'transformers' in capsys.readouterr().out


@pytest.mark.parametrize('file', FILES, ids=lambda f: f.stem)
def test_docker_stop_ends_an_image_as_ctrl_c_does(file):
    assert re.search(r'^STOPSIGNAL SIGINT$', file.read_text(), re.M)


@pytest.mark.parametrize('file', FILES, ids=lambda f: f.stem)
def test_what_an_image_copies_exists_and_its_launch_arguments_are_ours(file):
    text = file.read_text()
    for source in re.findall(r'^COPY (\S+)', text, re.M):
        assert (ROOT / source).exists()
    assert (ROOT / 'docker' / 'entrypoint.sh').stat().st_mode & 0o111
    launch = (ROOT / 'launch' / 'bringup.launch.py').read_text()
    arguments = re.findall(r'(\w+):=', text)
    assert arguments
    for argument in arguments:
        assert f"'{argument}'" in launch
