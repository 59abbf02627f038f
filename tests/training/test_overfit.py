"""The whole chain can learn: eight episodes by heart, and then driven, closed loop, as the expert drove them."""

import json

import pytest
import torch
from PIL import Image

from modeling_pgn import PGNForConditionalGeneration, PGNProcessor
from modeling_pgn.prompting_pgn import Action
from pgn_vln.navigation.house_env import HouseEnv
from pgn_vln.navigation.rollout import NavigatorPolicy, rollout


@pytest.mark.parametrize(("layout", "history", "steps"), [("stream", 64, 120), ("window", 16, 300)])
def test_eight_episodes_by_heart(layout, history, steps, small_dir, episodes_dir, run_script, tmp_path):
    out = tmp_path / layout
    run_script(
        "train_vln.py", "--model_name_or_path", small_dir, "--train_dir", episodes_dir, "--eval_dir", episodes_dir,
        "--output_dir", out, "--prompt_layout", layout, "--history_frames", history,
        "--max_steps", steps, "--per_device_train_batch_size", 16, "--learning_rate", 2e-3,
        "--lr_scheduler_type", "cosine", "--warmup_steps", 20, "--logging_steps", 20, "--save_strategy", "no",
        "--cache_dir", tmp_path / "cache", "--use_cpu", True, "--disable_tqdm", True,
    )  # fmt: skip
    evaluated = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in evaluated if "eval_accuracy" in line][-1]
    assert last["eval_accuracy"] == 1.0, last
    assert {f"eval_accuracy_{a.name.lower()}" for a in Action} < set(last)

    model = PGNForConditionalGeneration.from_pretrained(out).eval()
    assert model.config.navigation["prompt_layout"] == layout
    processor = PGNProcessor.from_pretrained(out)
    check_generation(model, processor, episodes_dir)
    policy = NavigatorPolicy(model.navigator(processor))
    names = [path.stem.removeprefix("traj_") for path in sorted(episodes_dir.glob("traj_*.json"))]
    env = HouseEnv("one_room", "train", episode_ids=names, image_size=32)
    try:
        assert len(names) == 8
        for name in names:
            driven = rollout(env, policy, name)
            taught = json.loads((episodes_dir / f"traj_{name}.json").read_text())["steps"]
            assert driven.actions == [step["action"] for step in taught], name
            assert driven.stopped
    finally:
        env.close()


def check_generation(model, processor, episodes_dir):
    """Without constraints, generation writes the first action and ends it by itself."""
    prompt = processor.navigation_prompt(model.config.navigation)
    for path in sorted(episodes_dir.glob("traj_*.json")):
        episode = json.loads(path.read_text())
        first = episode["steps"][0]
        frame = Image.open(episodes_dir / f"ep_{episode['episode_id']}_images" / first["image_path"])
        asked = torch.tensor([prompt.encode(episode["instruction"], []).input_ids])
        pixels = processor.image_processor(frame, return_tensors="pt")["pixel_values"]
        written = model.generate(input_ids=asked, pixel_values=pixels, max_new_tokens=12, do_sample=False)
        answer = processor.tokenizer.decode(written[0, asked.shape[1] :])
        assert answer == prompt.names[first["action"]] + prompt.close_token(Action(first["action"]))
