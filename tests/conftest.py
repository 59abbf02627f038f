"""What all tests share: the tiny model, made once a session by the code that users run."""

import os
import subprocess
import sys

# Nothing here may reach out: a test that would download something fails at once instead of hanging.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_pgn import PGNForConditionalGeneration, PGNProcessor
from pgn_vln.tiny import build_tiny

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory):
    """Folder of an untrained tiny PGN."""
    return build_tiny(tmp_path_factory.mktemp("tiny") / "pgn-tiny")


@pytest.fixture(scope="session")
def processor(tiny_dir):
    """Its processor."""
    return PGNProcessor.from_pretrained(tiny_dir)


@pytest.fixture(scope="session")
def model(tiny_dir):
    """Its model, in eval mode; tests must not change it.

    Biases and norms are moved off 0 and 1, so that no mistake can hide behind them.
    """
    model = PGNForConditionalGeneration.from_pretrained(tiny_dir).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def make_frames():
    """Random pictures, ``make_frames(count, seed)``."""

    def make(count: int, seed: int = 0, side: int = 64) -> list[Image.Image]:
        rng = np.random.default_rng(seed)
        return [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]

    return make


@pytest.fixture(scope="session")
def needs_renderer():
    """Skips what draws houses, and says what to install, where the software renderer does not start."""
    from pgn_vln.navigation.renderer import Renderer, RendererUnavailableError
    from pgn_vln.navigation.visibility import Camera

    try:
        Renderer(16, Camera()).close()
    except RendererUnavailableError as error:
        pytest.skip(f"houses cannot be drawn here, is the system package libx11-6 installed? {error}")


@pytest.fixture(scope="session")
def run_script(request):
    """Run a script of the repository in a process of its own, from the repository's root."""

    def run(*arguments, launcher=(sys.executable,), ok=True, **environment):
        done = subprocess.run(
            [*map(str, launcher), *map(str, arguments)],
            cwd=request.config.rootpath,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert (done.returncode == 0) is ok, (done.stdout + done.stderr)[-4000:]
        return done

    return run
