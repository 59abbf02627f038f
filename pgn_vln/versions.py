"""Versions that a result depends on; runs and evaluations write them down."""

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
