"""Configuration: what is refused, in which words, and the full size on the meta device."""

import pytest
import torch
from transformers import LlamaConfig, Qwen2Config

from modeling_pgn import OpenPanguConfig, PGNConfig, PGNForConditionalGeneration


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"projector": {"output_size": 99}}, r"projector.output_size=99.*language model's hidden_size 160"),
        ({"projector": {"input_size": 64}}, r"projector.input_size=64.*Q-Former's hidden_size 128"),
        ({"projector": {"type": "linear"}}, r"projector.type='linear'.*mlp2x_gelu"),
        ({"image_token_id": 5000}, r"image_token_id=5000.*inside the vocabulary of 1028.*resize"),
        ({"image_token_id": 1024}, r"four different ids"),
        ({"num_query_tokens": 0}, r"num_query_tokens=0"),
        ({"navigation": {"turn_degrees": 7}}, r"navigation.turn_degrees=7.*divides 360"),
        ({"navigation": {"prompt_layout": "dense"}}, r"navigation.prompt_layout='dense'"),
        ({"navigation": {"history_frames": 0}}, r"navigation.history_frames=0"),
        ({"navigation": {"speed": 1}}, r"navigation=\['speed'\]"),
        (
            {"qformer_config": {"hidden_size": 128, "num_attention_heads": 4, "encoder_hidden_size": 77}},
            r"encoder_hidden_size=77.*vision tower's hidden_size 128",
        ),
        ({"text_config": {"model_type": "no_such_model"}}, r"text_config.model_type='no_such_model'"),
        ({"text_config": {"model_type": "gemma2"}}, r"text_config.final_logit_softcapping=30.0"),
        ({"text_config": {"model_type": "cohere"}}, r"text_config.logit_scale=0.0625"),
        ({"text_config": {"model_type": "phi"}}, r"text_config.model_type='phi'.*head has no bias"),
        ({"text_config": {"model_type": "t5"}}, r"text_config.model_type='t5'.*decoder-only"),
        ({"text_config": {"model_type": "bert"}}, r"text_config.model_type='bert'.*decoder-only"),
        ({"text_config": {"model_type": "clip"}}, r"text_config.model_type='clip'.*decoder-only"),
        ({"projector": {"width": 3}}, r"projector=\['width'\]"),
        ({"projector": "mlp"}, r"projector='mlp'.*a mapping"),
        ({"navigation": {"step_m": "x"}}, r"navigation.step_m='x'"),
        ({"image_token_id": "a"}, r"image_token_id='a'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        PGNConfig.tiny(**fields)


def test_full_size_on_the_meta_device():
    """Parameter counts of the published parts: 0.99 B + 0.11 B + 0.02 B + 8.03 B."""
    with torch.device("meta"):
        model = PGNForConditionalGeneration(PGNConfig.openpangu_7b())
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.model.named_children()}
    language = counts["language_model"] + model.lm_head.weight.numel()
    # By hand: per layer q, o of 4096x4096, k, v of 4096x1024, their biases, three 4096x12800, two norms.
    layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 2 * 4096 + 2 * 1024 + 3 * 4096 * 12800 + 2 * 4096
    assert language == 34 * layer + 4096 + 2 * (153376 + 4) * 4096
    assert round(counts["vision_tower"] / 1e9, 2) == 0.99
    assert round((counts["qformer"] + counts["query_tokens"]) / 1e9, 2) == 0.11
    assert counts["projector"] == 768 * 4096 + 4096 + 4096 * 4096 + 4096
    assert round(language / 1e9, 2) == 8.03
    assert round(sum(counts.values()) / 1e9 + model.lm_head.weight.numel() / 1e9, 2) == 9.14
    config = model.config.text_config
    assert (config.bos_token_id, config.pad_token_id, config.eos_token_id) == (1, 0, 45892)
    assert config.rope_parameters["rope_theta"] == 1.6e7


def test_tiny_has_two_to_three_million_parameters():
    model = PGNForConditionalGeneration(PGNConfig.tiny())
    assert 2e6 < model.num_parameters() < 3e6
    assert model.config.vision_config.image_size == 64


@pytest.mark.parametrize("text", [LlamaConfig, Qwen2Config, OpenPanguConfig])
def test_config_survives_saving(text, tmp_path):
    config = PGNConfig.tiny(
        text_config=text(
            vocab_size=500, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
            num_key_value_heads=2, eos_token_id=7, pad_token_id=0,
        ),
        navigation={"turn_degrees": 30, "history_frames": None},
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    again = PGNConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert type(again.text_config) is text
    assert again.navigation["turn_degrees"] == 30 and again.navigation["history_frames"] is None
    assert again.image_token_id == 499


def test_public_import_paths():
    import configuration_pgn
    import processing_pgn
    from modeling_pgn import PGNProcessor

    assert configuration_pgn.PGNConfig is PGNConfig
    assert processing_pgn.PGNProcessor is PGNProcessor


def test_the_vendors_config_is_read():
    """openPangu's own config.json writes `bias` and `rope_theta`, and names remote code that is not used."""
    config = OpenPanguConfig(
        architectures=["PanguEmbeddedForCausalLM"], bias=False, rope_theta=5e5, torch_dtype="bfloat16",
        auto_map={"AutoConfig": "configuration_openpangu_dense.PanguEmbeddedConfig"},
    )  # fmt: skip
    assert config.attention_bias is False and not hasattr(config, "bias")
    assert config.rope_parameters["rope_theta"] == 5e5
    assert config.dtype is torch.bfloat16
