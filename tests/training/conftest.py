"""A model even smaller than tiny, and a few short episodes, so that training runs take seconds."""

import json
import shutil

import pytest

from modeling_pgn import OpenPanguConfig
from pgn_vln.formats import images_folder
from pgn_vln.tiny import build_tiny

SIDE = 32


@pytest.fixture(scope="session")
def small_dir(tmp_path_factory):
    """Folder of an untrained PGN of 0.3 M parameters at 32x32 pixels."""
    return build_tiny(
        tmp_path_factory.mktemp("small") / "pgn-small",
        vision_config={
            "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": SIDE, "patch_size": 8, "initializer_range": 0.1,
        },
        qformer_config={
            "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2,
            "cross_attention_frequency": 1, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
            "initializer_range": 0.1,
        },
        text_config=OpenPanguConfig(
            vocab_size=1028, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, max_position_embeddings=2048, eos_token_id=13,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            initializer_range=0.1,
        ),
        initializer_range=0.1,
        num_query_tokens=4,
    )  # fmt: skip


@pytest.fixture(scope="session")
def episodes_dir(tmp_path_factory, needs_renderer):
    """Eight one-room episodes at 32x32 pixels, the shortest of twenty-four."""
    from pgn_vln.navigation.generate import generate_episodes

    out = tmp_path_factory.mktemp("episodes") / "train"
    report = generate_episodes("one_room", "train", 24, out, image_size=SIDE, progress=False)
    assert report.episodes == 24
    by_length = sorted(out.glob("traj_*.json"), key=lambda path: (len(json.loads(path.read_text())["steps"]), path))
    for path in by_length[8:]:
        shutil.rmtree(out / images_folder(path.stem.removeprefix("traj_")))
        path.unlink()
    return out
