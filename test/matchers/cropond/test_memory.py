"""What is free is what the process may take: of the machine, and of the container it runs in."""
from __future__ import annotations

import pytest

pytest.importorskip('torch', reason='PyTorch is not installed here: make test-cropond')

from crosspoint_ros.matchers.cropond.engine import memory


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 8 GB available, and the folder of its container's limits, empty."""
    (tmp_path / 'meminfo').write_text('MemTotal: 16000000 kB\nMemAvailable: 7812500 kB\n')
    monkeypatch.setattr(memory, 'MEMINFO', tmp_path / 'meminfo')
    monkeypatch.setattr(memory, 'CGROUP', tmp_path)
    return tmp_path


def contain(folder, limit, taken, cached=0):
    (folder / 'memory.max').write_text(f'{limit}\n')
    (folder / 'memory.current').write_text(f'{taken}\n')
    (folder / 'memory.stat').write_text(f'anon 5\ninactive_file {cached}\n')


def test_outside_of_a_container_it_is_what_the_machine_has_available(machine):
    assert memory.get_free_bytes('cpu') == 8_000_000_000


@pytest.mark.parametrize(('limit', 'taken', 'cached', 'free'), [
    ('max', 1_000, 0, 8_000_000_000), (4_000, 1_000, 0, 3_000), (4_000, 3_900, 500, 600),
    (4_000, 5_000, 0, 0)])
def test_a_container_may_have_less(machine, limit, taken, cached, free):
    contain(machine, limit, taken, cached)
    assert memory.get_free_bytes('cpu') == free


def test_running_out_of_memory_is_said_with_figures_and_a_cure(machine):
    with pytest.raises(MemoryError, match=r'3B needs about 9.0 GB on cpu, 8.0 GB are free; end'):
        memory.check_memory('3B', 9_000_000_000, 'cpu')
    with pytest.raises(MemoryError, match=r'8.0 GB are free; .*CUDA out of memory'), \
            memory.explain_memory_errors('3B', 1_000, 'cpu'):
        raise RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')


def test_other_errors_stay_what_they_are(machine):
    with pytest.raises(RuntimeError, match='shape mismatch'), \
            memory.explain_memory_errors('3B', 1_000, 'cpu'):
        raise RuntimeError('shape mismatch')
