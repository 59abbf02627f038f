"""A PGN spread over devices as transformers spreads any model: layer by layer, or each matrix over processes."""

import subprocess
import sys

import torch

from modeling_pgn import PGNForConditionalGeneration


def inputs(config):
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(20, 900, (1, 12), generator=generator)
    image = torch.full((1, config.num_query_tokens), config.image_token_id)
    side = config.vision_config.image_size
    pixels = torch.randn(1, 3, side, side, generator=generator)
    return {"input_ids": torch.cat([words, image, words], 1), "pixel_values": pixels}


def test_device_map_auto_places_layers_where_there_is_room(tiny_dir, tmp_path):
    """Room for a third of the model: the rest goes to the disk, as it would to a second GPU, layer by layer."""
    whole = PGNForConditionalGeneration.from_pretrained(tiny_dir).eval()
    spread = PGNForConditionalGeneration.from_pretrained(
        tiny_dir, device_map="auto", max_memory={"cpu": "4MB"}, offload_folder=tmp_path
    ).eval()
    assert set(map(str, spread.hf_device_map.values())) == {"cpu", "disk"}
    with torch.no_grad():
        assert torch.equal(spread(**inputs(whole.config)).logits, whole(**inputs(whole.config)).logits)


TENSOR_PARALLEL = """
import sys
import torch
from transformers.distributed import DistributedConfig
sys.path.insert(0, sys.argv[2])
from test_devices import inputs
from modeling_pgn import PGNForConditionalGeneration
plan = DistributedConfig(tp_plan="auto")
spread = PGNForConditionalGeneration.from_pretrained(sys.argv[1], distributed_config=plan).eval()
whole = PGNForConditionalGeneration.from_pretrained(sys.argv[1]).eval()
weight = spread.model.language_model.layers[0].self_attn.q_proj.weight
assert weight.to_local().shape[0] * 2 == whole.model.language_model.layers[0].self_attn.q_proj.weight.shape[0]
with torch.no_grad():
    logits = [model(**inputs(whole.config)).logits for model in (spread, whole)]
assert torch.allclose(*logits, atol=1e-4), (logits[0] - logits[1]).abs().max()
print("EQUAL")
torch.distributed.destroy_process_group()
"""


def test_tensor_parallel_over_two_processes_gives_the_same_logits(tiny_dir, tmp_path, request):
    script = tmp_path / "tensor_parallel.py"
    script.write_text(TENSOR_PARALLEL)
    here = request.config.rootpath
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, script, tiny_dir, here / "tests" / "modeling"], cwd=here, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and done.stdout.count("EQUAL") == 2, done.stderr[-3000:]
