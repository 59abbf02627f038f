"""Opening files of weights: nothing is unpickled, nothing is read too early, nothing outside a folder is touched."""

import json
import os
import pickle
import subprocess
import sys
import zipfile
from argparse import Namespace

import pytest
import torch
from safetensors.torch import save_file

from pgn_vln.convert.export import write_pth
from pgn_vln.convert.plan import Piece
from pgn_vln.convert.weights import open_tensors, open_weights


class Trap:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_pickles_are_refused_and_not_run(tmp_path):
    weights = {"a.weight": torch.zeros(2)}
    torch.save({"model": weights, "args": Namespace(lr=1)}, tmp_path / "args.pth")
    with pytest.raises(ValueError, match=r"args.pth holds more than tensors \(argparse.Namespace\).*so it is refused"):
        open_weights(tmp_path / "args.pth")
    torch.save({"model": weights, "x": Trap(tmp_path / "sprung")}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match="so it is refused"):
        open_weights(tmp_path / "trap.pth")
    torch.save({"model": {"a": torch.zeros(2)}, "x": range(3)}, tmp_path / "protocol.pth", pickle_protocol=4)
    with pytest.raises(ValueError, match="protocol.pth"):
        open_weights(tmp_path / "protocol.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(ValueError, match="plain.pth"):
        open_weights(tmp_path / "plain.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_files_that_are_cut_short_or_none_are_named(suffix, tmp_path):
    path = tmp_path / f"weights.{suffix}"
    tensors = {"a": torch.arange(3000.0)}
    torch.save(tensors, path) if suffix == "pth" else save_file(tensors, path)
    content = path.read_bytes()
    path.write_bytes(content[:5000])
    with pytest.raises(ValueError, match=rf"weights.{suffix} cannot be read.*cut short"):
        open_weights(path)
    for nonsense in (b"", b"not weights at all", b"\x00" * 64):
        path.write_bytes(nonsense)
        with pytest.raises(ValueError, match=f"weights.{suffix}"):
            open_weights(path)


def test_what_is_no_dict_of_tensors_is_named(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(ValueError, match="holds a Tensor; expected a dict of tensors by name"):
        open_weights(tmp_path / "tensor.pth")
    torch.save({"epoch": 3, "loss": 0.1}, tmp_path / "log.pth")
    with pytest.raises(ValueError, match="holds no tensors by name; its entries are epoch, loss"):
        open_weights(tmp_path / "log.pth")
    with pytest.raises(ValueError, match="holds no weights: expected one of model.safetensors, model.safe"):
        open_weights(tmp_path)


def test_an_index_reads_only_what_lies_beside_it(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a": torch.zeros(2)}, tmp_path / "outside.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    with pytest.raises(ValueError, match=r"'../outside.safetensors', which is not beside it"):
        open_weights(folder)
    save_file({"a": torch.zeros(2)}, folder / "one.safetensors")
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "one.safetensors"}}))
    with pytest.raises(
        ValueError, match="lacks 1 tensors that model.safetensors.index.json says it holds, such as 'b'"
    ):
        open_weights(folder)
    save_file({"a": torch.zeros(2), "c": torch.zeros(2)}, folder / "one.safetensors")
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    with pytest.raises(
        ValueError, match="holds 1 tensors that model.safetensors.index.json does not name, such as 'c'"
    ):
        open_weights(folder)
    index.write_text("{}")
    with pytest.raises(ValueError, match="is no index of weights"):
        open_weights(folder)


def test_old_files_and_several_shards_are_read(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    weights = open_weights(tmp_path / "old.pth")
    with open_tensors(weights.values()) as opened:
        assert opened[weights["a"]].tolist() == [1, 1]
    folder = tmp_path / "bin"
    folder.mkdir()
    torch.save({"a": torch.ones(2)}, folder / "pytorch_model-1.bin")
    torch.save({"b": torch.ones(3)}, folder / "pytorch_model-2.bin")
    index = {"weight_map": {"a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert {name: entry.shape for name, entry in open_weights(folder).items()} == {"a": (2,), "b": (3,)}
    # As transformers would, the whole file first, whatever index lies beside it.
    save_file({"whole": torch.ones(4)}, folder / "model.safetensors")
    assert list(open_weights(folder)) == ["whole"]


def test_a_written_pth_is_what_torch_save_writes(tmp_path):
    tensors = {"a": torch.randn(5, 7), "b": torch.randn(3).bfloat16(), "c": torch.tensor(2.5).half()}
    save_file(tensors, tmp_path / "in.safetensors")
    entries = open_weights(tmp_path / "in.safetensors")
    pieces = [Piece(name, tuple(t.shape), t.dtype, (entries[name],)) for name, t in tensors.items()]
    write_pth(tmp_path / "out.pth", {"model": pieces, "more": [Piece("b", (3,), torch.bfloat16, (entries["b"],))]})
    torch.save({"model": tensors, "more": {"b": tensors["b"].clone()}}, tmp_path / "reference.pth")
    for mapped in (False, True):
        loaded = torch.load(tmp_path / "out.pth", weights_only=True, mmap=mapped)
        assert loaded["model"].keys() == tensors.keys() and torch.equal(loaded["more"]["b"], tensors["b"])
        for name, tensor in tensors.items():
            assert type(loaded["model"][name]) is torch.Tensor and torch.equal(loaded["model"][name], tensor)
    with zipfile.ZipFile(tmp_path / "out.pth") as ours, zipfile.ZipFile(tmp_path / "reference.pth") as theirs:
        sizes = [[i.file_size for i in file.infolist() if "/data/" in i.filename] for file in (ours, theirs)]
        assert sizes[0] == sizes[1] == [140, 6, 2, 6]
    assert (tmp_path / "out.pth").stat().st_mode & 0o777 == (tmp_path / "reference.pth").stat().st_mode & 0o777


MEASURE = """
import sys
from pgn_vln.cli import main
from pgn_vln.convert import export, original, parts
def resident(): return int(next(x for x in open("/proc/self/status") if x.startswith("VmHWM")).split()[1]) / 1024
export._GROUP_BYTES = 20_000_000
before = resident()
assert main(sys.argv[1:]) == 0
print("MB", resident() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc")
def test_memory_is_that_of_a_shard_not_of_the_model(make_llm, lavis_file, tmp_path, request):
    """A language model of 300 MB, in shards of 20 MB, converts in far less than its size, mapped pages included."""
    from modeling_pgn import OpenPanguConfig, OpenPanguForCausalLM

    llm = make_llm()
    config = OpenPanguConfig.from_pretrained(llm)
    config.update({"intermediate_size": 8192, "num_hidden_layers": 45, "hidden_size": 64})
    OpenPanguForCausalLM(config).save_pretrained(llm)
    assert (llm / "model.safetensors").stat().st_size > 280e6
    heads = ("--vision_heads", 4, "--qformer_heads", 4)
    shards = ("--max_shard_size", "20MB")

    def peak(*words):
        words = [sys.executable, "-c", MEASURE, "convert", *map(str, words)]
        done = subprocess.run(words, cwd=request.config.rootpath, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return float(done.stdout.rsplit("MB", 1)[1])

    parts = ("--llm", llm, "--vision", lavis_file, *heads)
    assert peak("from-parts", *parts, *shards, "--out", tmp_path / "pgn") < 150
    assert peak("to-original", tmp_path / "pgn", "--out", tmp_path / "original.pth") < 150
    original = (tmp_path / "original.pth", "--llm", llm, *heads)
    assert peak("from-original", *original, *shards, "--out", tmp_path / "again") < 150
