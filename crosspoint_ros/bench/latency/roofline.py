"""What a model runs on, measured: when it is done, how much memory it took, how fast that is."""
from __future__ import annotations

import resource
import statistics
import time
from typing import Any

import torch
import transformers

COPY_BYTES = {'cuda': 1 << 30, 'cpu': 1 << 28}
COPIES = 9
TRANSFERS_PER_COPY = 2
KIB = 1024


class DeviceMeter:
    """Measures the device of one model."""

    def __init__(self, model: Any) -> None:
        self._text = model.model.language_model
        self._device = model.get_input_embeddings().weight.device
        self.on_gpu = self._device.type == 'cuda'

    @property
    def versions(self) -> str:
        """The versions that decide the speed, and the threads of a CPU."""
        versions = f'PyTorch {torch.__version__}, transformers {transformers.__version__}'
        if self.on_gpu:
            return f'{versions}, {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}'
        return f'{versions}, {torch.get_num_threads()} threads of PyTorch'

    def wait(self) -> None:
        """Return when the device has done all that it was given."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def set_threads(self, threads: int) -> None:
        """Let PyTorch compute with so many threads of the CPU."""
        torch.set_num_threads(threads)

    @property
    def peak_bytes(self) -> int:
        """The most memory that was taken: of the GPU, or of the process."""
        if self.on_gpu:
            return int(torch.cuda.max_memory_allocated())
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB

    @property
    def bytes_per_pass(self) -> int:
        """The weights that every forward pass of the text model reads: its layers, no embedding."""
        return sum(w.numel() * w.element_size() for part in (self._text.layers, self._text.norm)
                   for w in part.parameters())

    @torch.inference_mode()
    def measure_bandwidth(self) -> float:
        """Measure the bandwidth of the memory, by copying a large block within it."""
        source = torch.ones(COPY_BYTES[self._device.type], dtype=torch.uint8,
                            device=self._device)
        target = torch.empty_like(source)
        durations_s = []
        for _ in range(COPIES + 1):  # the first fetches the pages
            self.wait()
            start_s = time.perf_counter()
            target.copy_(source)
            self.wait()
            durations_s.append(time.perf_counter() - start_s)
        return TRANSFERS_PER_COPY * source.numel() / statistics.median(durations_s[1:])


