"""Versions and the machine that a result depends on; runs and evaluations write them down."""

import os
import platform
from importlib import metadata

_PACKAGES = (
    "pgn-vln", "torch", "torch_npu", "transformers", "accelerate", "peft", "datasets", "deepspeed", "numpy", "pillow",
    "panda3d", "habitat-lab",
)  # fmt: skip


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on; those not installed are left out."""
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def machine() -> str:
    """The machine in words, e.g. ``"2 cores of AMD EPYC"``, with its accelerators where there are any."""
    import torch

    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # Not Linux, or a processor that has no such line.
    text = f"{os.cpu_count()} cores of {model}"
    if torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator()
        name = getattr(torch, device.type).get_device_name()
        text += f", {torch.accelerator.device_count()} x {name}"
    return text
