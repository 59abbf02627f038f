"""Tiny models in other systems' formats: language models, LAVIS, the original PGN."""

import json

import pytest
import torch
from conversion_helpers import TEXT

from modeling_pgn import OpenPanguConfig, OpenPanguForCausalLM, OpenPanguTokenizer
from pgn_vln.cli import main
from pgn_vln.tiny import build_tokenizer


@pytest.fixture(scope="session")
def sizes(request):
    """Sizes of the golden LAVIS checkpoint."""
    return json.loads((request.config.rootpath / "tests" / "fixtures" / "lavis_tiny.json").read_text())


@pytest.fixture(scope="session")
def lavis_file(request):
    """The golden LAVIS checkpoint: all of a first-stage BLIP-2, at tiny sizes."""
    return request.config.rootpath / "tests" / "fixtures" / "lavis_tiny.pth"


@pytest.fixture(scope="session")
def lavis_state(lavis_file):
    """Its tensors by name; tests must not change them."""
    return torch.load(lavis_file, weights_only=True)["model"]


@pytest.fixture(scope="session")
def make_llm(tmp_path_factory):
    """A folder of a random openPangu as the vendor publishes it, ``make_llm(dtype)``; all biases are non-zero."""

    def make(dtype=torch.float32):
        folder = tmp_path_factory.mktemp("llm") / "openpangu"
        folder.mkdir()
        tokenizer = OpenPanguTokenizer(
            str(build_tokenizer(folder).vocab_file), eos_token="[unused10]", pad_token="<unk>"
        )
        tokenizer.save_pretrained(folder)
        torch.manual_seed(0)
        config = OpenPanguConfig(
            vocab_size=len(tokenizer), intermediate_size=128, max_position_embeddings=512, eos_token_id=13, **TEXT
        )
        model = OpenPanguForCausalLM(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.to(dtype).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def llm(make_llm):
    """That folder in fp32."""
    return make_llm()


@pytest.fixture
def pgn(capsys):
    """Run `pgn …` as the command does, here; gives what it printed, or with ``ok=False`` what it refused."""

    def run(*arguments, ok=True):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        printed = capsys.readouterr()
        assert (code == 0) is ok, printed.out + printed.err
        if not ok:
            assert code == 2 and "error: " in printed.err, printed.err
        return printed.out if ok else printed.err[printed.err.index("error: ") :]

    return run


@pytest.fixture(scope="session")
def original_state(lavis_state, llm, sizes):
    """Tensors of the original system: LAVIS's under a prefix, a projector, a language model with three rows more."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape):
        return 0.2 * torch.randn(*shape, generator=generator)

    state = {f"vision_frontend.{name}": value for name, value in lavis_state.items()}
    drop = ("vision_frontend.vision_proj", "vision_frontend.text_proj", "vision_frontend.itm_head",
            "vision_frontend.temp", "vision_frontend.Qformer.cls")  # fmt: skip
    state = {name: value for name, value in state.items() if not name.startswith(drop)}
    width = TEXT["hidden_size"]
    state |= {
        "pangu_proj.0.weight": draw(width, sizes["hidden"]), "pangu_proj.0.bias": draw(width),
        "pangu_proj.2.weight": draw(width, width), "pangu_proj.2.bias": draw(width),
    }  # fmt: skip
    language = OpenPanguForCausalLM.from_pretrained(llm).state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        language[name] = torch.cat([language[name], draw(3, width)])
    return state | {f"llm.{name}": value for name, value in language.items()}
