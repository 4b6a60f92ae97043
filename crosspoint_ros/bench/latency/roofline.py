"""What a model runs on, measured: when it is done, how much memory it took, how fast that is."""
from __future__ import annotations

import resource
import statistics
import time
from typing import Any

import torch
import transformers

COPIED_BYTES = {'cuda': 1 << 30, 'cpu': 1 << 28}
COPIES = 9
READ_AND_WRITTEN = 2
KIB = 1024


class Gauge:
    """Measures the device of one model."""

    def __init__(self, model: Any) -> None:
        self._text = model.model.language_model
        self._device = model.get_input_embeddings().weight.device
        self.on_gpu = self._device.type == 'cuda'

    @property
    def versions(self) -> str:
        """The versions that decide the speed, and the threads of a CPU."""
        found = f'PyTorch {torch.__version__}, transformers {transformers.__version__}'
        if self.on_gpu:
            return f'{found}, {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}'
        return f'{found}, {torch.get_num_threads()} threads of PyTorch'

    def wait(self) -> None:
        """Return when the device has done all that it was given."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def use_threads(self, threads: int) -> None:
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
    def bytes_per_s(self) -> float:
        """Measure the bandwidth of the memory, by copying a large block within it."""
        source = torch.ones(COPIED_BYTES[self._device.type], dtype=torch.uint8,
                            device=self._device)
        target = torch.empty_like(source)
        spells_s = []
        for _ in range(COPIES + 1):  # the first fetches the pages
            self.wait()
            begun_s = time.perf_counter()
            target.copy_(source)
            self.wait()
            spells_s.append(time.perf_counter() - begun_s)
        return READ_AND_WRITTEN * source.numel() / statistics.median(spells_s[1:])


