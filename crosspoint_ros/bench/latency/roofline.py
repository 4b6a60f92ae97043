"""Device synchronisation, peak memory and memory bandwidth, for the roofline bound."""
from __future__ import annotations

import resource
import statistics
import time
from typing import Any

import torch
import transformers

COPY_BYTES = {'cuda': 1 << 30, 'cpu': 1 << 28}
COPIES = 9


class DeviceMeter:
    """Measures the device of one model."""

    def __init__(self, model: Any) -> None:
        self._text = model.model.language_model
        self._device = model.get_input_embeddings().weight.device
        self.on_gpu = self._device.type == 'cuda'

    @property
    def versions(self) -> str:
        """Versions that affect speed, and the GPU or number of CPU threads."""
        versions = f'PyTorch {torch.__version__}, transformers {transformers.__version__}'
        if self.on_gpu:
            return f'{versions}, {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}'
        return f'{versions}, {torch.get_num_threads()} threads of PyTorch'

    def wait(self) -> None:
        """Synchronise with the device."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def set_threads(self, threads: int) -> None:
        """Set PyTorch's number of CPU threads."""
        torch.set_num_threads(threads)

    @property
    def peak_bytes(self) -> int:
        """Peak memory of the GPU, or of the process."""
        if self.on_gpu:
            return int(torch.cuda.max_memory_allocated())
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    @property
    def bytes_per_pass(self) -> int:
        """Size of the weights that a forward pass of the text model reads: layers, no embedding."""
        return sum(w.numel() * w.element_size() for part in (self._text.layers, self._text.norm)
                   for w in part.parameters())

    @torch.inference_mode()
    def measure_bandwidth(self) -> float:
        """Measure the memory bandwidth, bytes/s, by copying a large block."""
        source = torch.ones(COPY_BYTES[self._device.type], dtype=torch.uint8, device=self._device)
        target = torch.empty_like(source)
        durations_s = []
        for _ in range(COPIES + 1):  # the first one maps the pages
            self.wait()
            start_s = time.perf_counter()
            target.copy_(source)
            self.wait()
            durations_s.append(time.perf_counter() - start_s)
        return 2 * source.numel() / statistics.median(durations_s[1:])  # bytes read and written
