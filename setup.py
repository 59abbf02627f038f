"""Package metadata: ranges here, tested versions in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

SIM = ["panda3d>=1.10.14", "scipy>=1.11", "jinja2>=3.1"]
TRAIN = ["deepspeed>=0.16", "tensorboard>=2.15"]
TEST = ["pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.5", "ruff>=0.8"]

setup(
    name="pgn-vln",
    version="0.1.0",
    description="PanGu Navigation: a Hugging Face-native vision-language-navigation model, trained and proven",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["modeling_pgn", "pgn_vln", "pgn_vln.*"]),
    py_modules=["configuration_pgn", "processing_pgn"],
    package_data={"pgn_vln": ["assets/*"]},
    install_requires=[
        "torch>=2.6",
        "transformers>=5.17",
        "accelerate>=1.10",
        "peft>=0.17",
        "trl>=1.0",
        "datasets>=4.0",
        "evaluate>=0.4.5",
        "safetensors>=0.5",
        "sentencepiece>=0.2",
        "numpy>=1.26",
        "pillow>=10",
        "pyyaml>=6",
        "tqdm>=4.66",
    ],
    extras_require={
        "sim": SIM,
        "train": TRAIN,
        "test": TEST,
        # Needs Huawei's CANN on the machine: without it even `import torch` fails once this is installed.
        "npu": ["torch_npu"],
    },
    entry_points={"console_scripts": ["pgn=pgn_vln.cli:main"]},
)
