"""The GPUs of this machine: NVIDIA's device nodes, as its driver or a container's runtime puts them there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from federation.errors import UsageError

Device = Literal["auto", "cpu", "gpu"]
DEVICES = Path("/dev")
HIDDEN = "-1"
"""The value of CUDA_VISIBLE_DEVICES with which CUDA shows none."""


def gpu_nodes() -> list[Path]:
    """Every node that CUDA opens: the GPUs, the driver's control and memory nodes, the directory of capabilities."""
    return sorted(DEVICES.glob("nvidia*"))


def check_device(device: Device) -> None:
    """Raise UsageError where a GPU is asked for and the machine has no node of one."""
    if device == "gpu" and not any(re.fullmatch(r"nvidia\d+", node.name) for node in gpu_nodes()):
        raise UsageError(
            f"got device: gpu and no GPU, expected {DEVICES}/nvidia0 or another",
            advice="give this machine or container an NVIDIA GPU with its driver, or set device to auto",
        )
