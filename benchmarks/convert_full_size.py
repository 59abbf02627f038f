"""Conversion at full size: peak memory and time of `pgn convert`, on synthetic weights of the published shapes.

    python benchmarks/convert_full_size.py --work /big/disk/folder            # 60 GB of disk, half an hour
    python benchmarks/convert_full_size.py --work runs/convert --size tiny    # a try in seconds

It makes an openPangu-Embedded-7B (bf16, 8.03 B parameters, a tokenizer of 153,376 pieces) and a `blip2_pretrained.pth`
(EVA-ViT-g in fp16, Q-Former with its text branch in fp32), converts them to PGN, to the original's `.pth`, from it to
PGN again, and to LAVIS, and compares the two PGNs byte by byte. Each command is a process of its own, whose peak
resident memory (mapped pages included) is what the kernel says of it when it ends. What a later step does not need is
deleted as soon as possible.
"""

import argparse
import datetime
import filecmp
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from sentencepiece import sentencepiece_model_pb2
from transformers import Blip2QFormerConfig, Blip2VisionConfig

from modeling_pgn import OpenPanguConfig, OpenPanguTokenizer
from pgn_vln.convert.language import causal_lm_on_meta
from pgn_vln.convert.vision import norm_pairs, qformer_pairs, text_branch_names, vision_pairs
from pgn_vln.io import write_json_atomic
from pgn_vln.tiny import EOS_TOKEN, build_tokenizer
from pgn_vln.versions import machine, package_versions

RESULT = Path(__file__).parent / "results" / "convert_full_size.json"
SIZES = {
    "full": (OpenPanguConfig(), Blip2VisionConfig(), Blip2QFormerConfig(encoder_hidden_size=1408), 30522),
    "tiny": (
        OpenPanguConfig(vocab_size=50_000, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                        num_attention_heads=4, num_key_value_heads=2),
        Blip2VisionConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2),
        Blip2QFormerConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
                           encoder_hidden_size=32),
        99,
    ),
}  # fmt: skip
SHARD_BYTES = 2_000_000_000


def main():
    """Make, convert, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", required=True, type=Path, help="folder for the weights; removed at the end")
    parser.add_argument("--size", default="full", choices=SIZES)
    parser.add_argument("--out", type=Path, help=f"JSON to write; by default {RESULT} for the full size")
    args = parser.parse_args()
    args.work.mkdir(parents=True)
    names = ("llm", "blip2_pretrained.pth", "pgn", "original.pth", "pgn-again")
    llm, lavis, pgn, original, again = (args.work / name for name in names)
    text, vision, qformer, words = SIZES[args.size]
    # In processes of their own: a process starts with the peak of the one that it was forked from.
    for make, *arguments in ((make_language_model, llm, text), (make_lavis, lavis, vision, qformer, words)):
        process = multiprocessing.get_context("spawn").Process(target=make, args=arguments)
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"{make.__name__} failed with {process.exitcode}")
    heads = ("--vision_heads", vision.num_attention_heads, "--qformer_heads", qformer.num_attention_heads)

    runs = {}
    runs["from-parts"] = measure("from-parts", "--llm", llm, "--vision", lavis, *heads, "--dtype", "bfloat16",
                                 "--out", pgn)  # fmt: skip
    size = sum(path.stat().st_size for path in pgn.glob("*.safetensors"))
    lavis.unlink()
    for path in llm.glob("*.safetensors*"):
        path.unlink()
    runs["to-lavis"] = measure("to-lavis", pgn, "--out", args.work / "back.pth")
    (args.work / "back.pth").unlink()
    runs["to-original"] = measure("to-original", pgn, "--out", original)
    runs["from-original"] = measure("from-original", original, "--llm", llm, *heads, "--out", again)
    names = sorted(path.name for path in pgn.glob("*.safetensors"))
    equal = filecmp.cmpfiles(pgn, again, names, shallow=False)[0] == names
    shutil.rmtree(args.work)

    result = {
        "device": machine(),
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "versions": package_versions(),
        "size": args.size,
        "result_bytes": size,
        "round_trip_equal": equal,
        "runs": runs,
        "ratios": {f"peak_over_size_{name}": run["peak_bytes"] / size for name, run in runs.items()},
    }
    out = args.out or (RESULT if args.size == "full" else None)
    if out:
        write_json_atomic(out, result)
    print(f"{size / 1e9:.1f} GB; two checkpoints {'equal' if equal else 'NOT EQUAL'}; {result['device']}")
    print("| command | peak memory | time |\n| --- | --- | --- |")
    for name, run in runs.items():
        print(f"| `pgn convert {name}` | {run['peak_bytes'] / 1e9:.2f} GB | {run['seconds']:.0f} s |")
    if not equal:
        sys.exit(1)


def make_language_model(folder: Path, config: OpenPanguConfig):
    """Random weights in bf16, in shards, with a configuration and a tokenizer of as many pieces as rows."""
    folder.mkdir()
    torch.manual_seed(0)
    make_tokenizer(folder, config)
    config.save_pretrained(folder)
    shapes = {name: tuple(tensor.shape) for name, tensor in causal_lm_on_meta(config).state_dict().items()}
    shards, room = [[]], SHARD_BYTES
    for name, shape in shapes.items():
        if (size := 2 * math.prod(shape)) > room and shards[-1]:
            shards.append([])
            room = SHARD_BYTES
        shards[-1].append(name)
        room -= size
    weight_map = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: torch.empty(shapes[name], dtype=torch.bfloat16).normal_(0, 0.02) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    write_json_atomic(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def make_tokenizer(folder: Path, config: OpenPanguConfig):
    """The tiny tokenizer's pieces and many that never occur; eos where openPangu has it."""
    build_tokenizer(folder)
    path = folder / "tokenizer.model"
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(path.read_bytes())
    for piece in proto.pieces:
        if piece.piece == EOS_TOKEN:
            piece.piece = "[unused_before]"
    kinds = sentencepiece_model_pb2.ModelProto.SentencePiece.Type
    for number in range(len(proto.pieces), config.vocab_size):
        last = number == config.eos_token_id
        kind = kinds.USER_DEFINED if last else kinds.NORMAL
        proto.pieces.add(piece=EOS_TOKEN if last else f"\u2581piece{number}", score=-1e6, type=kind)
    path.write_bytes(proto.SerializeToString())
    OpenPanguTokenizer(str(path), eos_token=EOS_TOKEN, pad_token="<unk>").save_pretrained(folder)


def make_lavis(path: Path, vision: Blip2VisionConfig, qformer: Blip2QFormerConfig, words: int):
    """A first-stage checkpoint in LAVIS's layout: ViT in fp16, the rest in fp32, text branch and heads included."""
    width, inner, patch = vision.hidden_size, vision.intermediate_size, vision.patch_size
    tokens = (vision.image_size // patch) ** 2
    q_width, q_inner = qformer.hidden_size, qformer.intermediate_size
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, tokens + 1, width),
              "query_tokens": (1, 32, q_width),
              "patch_embed.proj.weight": (width, 3, patch, patch), "qkv.weight": (3 * width, width),
              "attn.proj.weight": (width, width), "fc1.weight": (inner, width), "fc1.bias": (inner,),
              "fc2.weight": (width, inner)}  # fmt: skip

    def shape_of(name: str) -> tuple[int, ...]:
        if (known := next((shape for end, shape in shapes.items() if name.endswith(end)), None)) is not None:
            return known
        if not name.startswith(("Qformer", "vision_proj", "text_proj", "itm_head", "temp")):
            return (width,)
        if name == "temp":
            return ()
        if name.endswith(("word_embeddings.weight", "decoder.weight")):
            return (words, q_width)
        if name.endswith("position_embeddings.weight"):
            return (512, q_width)
        if name.endswith(("intermediate.dense.weight", "intermediate_query.dense.weight")):
            return (q_inner, q_width)
        if name.endswith(("intermediate.dense.bias", "intermediate_query.dense.bias")):
            return (q_inner,)
        if name.endswith((".output.dense.weight", "output_query.dense.weight")) and "attention" not in name:
            return (q_width, q_inner)
        if "crossattention.self.key.w" in name or "crossattention.self.value.w" in name:
            return (q_width, width)
        return (q_width, q_width) if name.endswith("weight") and "LayerNorm" not in name else (q_width,)

    pairs = [*vision_pairs(vision.num_hidden_layers), *norm_pairs(), *qformer_pairs(qformer)]
    names = [name for pair in pairs for name in pair.theirs] + text_branch_names(qformer.num_hidden_layers)
    torch.manual_seed(1)
    state = {}
    for name in names:
        dtype = torch.float16 if name.startswith("visual_encoder.") else torch.float32
        state[name] = torch.empty(shape_of(name), dtype=dtype).normal_(0, 0.02)
    torch.save({"model": state}, path)


def measure(command: str, *arguments) -> dict[str, float]:
    """Run `pgn convert COMMAND` in a process of its own; its time, and the peak of its resident memory."""
    print(f"pgn convert {command}", flush=True)
    began = time.monotonic()
    words = [sys.executable, "-m", "pgn_vln", "convert", command, *map(str, arguments)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        sys.exit(f"pgn convert {command} failed with {code}")
    # In kilobytes on Linux, in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_bytes": usage.ru_maxrss * unit, "seconds": round(time.monotonic() - began, 1)}


def commit() -> str:
    """The commit that was measured, or unknown outside a checkout."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
