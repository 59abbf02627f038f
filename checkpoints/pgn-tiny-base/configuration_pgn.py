"""Configuration of PGN: a vision tower, a Q-Former, a projector, a causal language model, and how to navigate."""

from typing import Any, ClassVar

from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    PreTrainedConfig,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from .configuration_openpangu import OpenPanguConfig
from .prompting_pgn import PROMPT_LAYOUTS, SPECIAL_TOKENS

PROJECTOR_TYPES = ("mlp2x_gelu",)
NAVIGATION_DEFAULTS = {
    "turn_degrees": 15,
    "step_m": 0.25,
    "hfov_degrees": 90,
    "history_frames": 16,
    "prompt_layout": "stream",
}
# Where logits are not plainly lm_head(last_hidden_state), PGN's head would silently compute something else.
_HEAD_FIELDS = ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier", "lm_head_bias")
_NEUTRAL = (None, False, 1, 1.0)
_BIASED_HEADS = ("phi", "gptj", "codegen", "ctrl")


class PGNConfig(PreTrainedConfig):
    """Configuration of `PGNForConditionalGeneration`.

    Args:
        vision_config: a `Blip2VisionConfig` (default EVA-ViT-g), or its dict.
        qformer_config: a `Blip2QFormerConfig` without text branch, or its dict.
        text_config: configuration of any causal language model of transformers whose logits are
            ``lm_head(last_hidden_state)``, or its dict; openPangu by default.
        num_query_tokens: learned queries, and so image features, of a frame (Q).
        projector: ``{"type": "mlp2x_gelu", "input_size", "hidden_size", "output_size"}``; the sizes follow from the
            parts where they are left out.
        image_token_id, image_start_token_id, image_end_token_id, frame_sep_token_id: the four special tokens. By
            default they are the last four rows of the vocabulary, in the order of `SPECIAL_TOKENS`.
        navigation: ``{turn_degrees, step_m, hfov_degrees, history_frames, prompt_layout}``; written by training, read
            by the navigator and by evaluation. ``history_frames`` is None where everything is remembered.

    Raises:
        ValueError: parts that do not fit each other; the message names field, value and remedy.
    """

    model_type = "pgn"
    sub_configs: ClassVar[dict[str, type]] = {
        "vision_config": Blip2VisionConfig,
        "qformer_config": Blip2QFormerConfig,
        "text_config": AutoConfig,
    }
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    vision_config: Any = None
    qformer_config: Any = None
    text_config: Any = None
    num_query_tokens: int = 32
    projector: Any = None
    image_start_token_id: int | None = None
    image_end_token_id: int | None = None
    frame_sep_token_id: int | None = None
    image_token_id: int | None = None
    navigation: Any = None
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        self.vision_config = _sub_config(self.vision_config, Blip2VisionConfig, "vision_config")
        if self.qformer_config is None:
            self.qformer_config = {}
        if isinstance(self.qformer_config, dict):
            self.qformer_config = {"encoder_hidden_size": self.vision_config.hidden_size, **self.qformer_config}
        self.qformer_config = _sub_config(self.qformer_config, Blip2QFormerConfig, "qformer_config")
        self.text_config = _text_config(self.text_config)
        # The head is PGN's own, so whether it is tied is said once, by the language model.
        self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
        text_width = self.text_config.hidden_size
        for field in ("projector", "navigation"):
            value = getattr(self, field)
            _expect(
                value is None or isinstance(value, dict), field, value, "a mapping", "give a dict, or leave it out"
            )
        self.projector = {
            "type": "mlp2x_gelu",
            "input_size": self.qformer_config.hidden_size,
            "hidden_size": text_width,
            "output_size": text_width,
            **(self.projector or {}),
        }
        self.navigation = {**NAVIGATION_DEFAULTS, **(self.navigation or {})}
        first = self.text_config.vocab_size - len(SPECIAL_TOKENS)
        for offset, field in enumerate(self.special_token_fields()):
            if getattr(self, field) is None:
                setattr(self, field, first + offset)
        super().__post_init__(**kwargs)
        self.check()

    @staticmethod
    def special_token_fields() -> tuple[str, str, str, str]:
        """Names of the id fields, in the order of `SPECIAL_TOKENS`."""
        return ("image_start_token_id", "image_end_token_id", "frame_sep_token_id", "image_token_id")

    def check(self):
        """Refuse parts that do not fit, before anything heavy is built.

        Raises:
            ValueError: names the field, its value, what was expected, and what to do.
        """
        _expect(
            self.qformer_config.encoder_hidden_size == self.vision_config.hidden_size,
            "qformer_config.encoder_hidden_size",
            self.qformer_config.encoder_hidden_size,
            f"the vision tower's hidden_size {self.vision_config.hidden_size}",
            "set both to the same width, or leave it out of qformer_config",
        )
        _expect(
            not self.qformer_config.use_qformer_text_input,
            "qformer_config.use_qformer_text_input",
            self.qformer_config.use_qformer_text_input,
            "False",
            "PGN reads the instruction in the language model; leave the field out",
        )
        _expect(
            self.projector["type"] in PROJECTOR_TYPES,
            "projector.type",
            self.projector["type"],
            f"one of {PROJECTOR_TYPES}",
            "choose one of these",
        )
        known = {"type", "input_size", "hidden_size", "output_size"}
        unknown = sorted(set(self.projector) - known)
        _expect(not unknown, "projector", unknown, f"only {sorted(known)}", "remove or rename the rest")
        for field, part, width in (
            ("input_size", "Q-Former", self.qformer_config.hidden_size),
            ("output_size", "language model", self.text_config.hidden_size),
        ):
            _expect(
                self.projector[field] == width,
                f"projector.{field}",
                self.projector[field],
                f"the {part}'s hidden_size {width}",
                f"leave projector.{field} out, or change the {part}",
            )
        _expect(
            isinstance(self.num_query_tokens, int) and self.num_query_tokens > 0,
            "num_query_tokens",
            self.num_query_tokens,
            "a positive number",
            "the published Q-Former has 32",
        )
        self._check_tokens()
        self._check_head()
        self._check_navigation()

    def _check_tokens(self):
        vocab_size = self.text_config.vocab_size
        ids = [getattr(self, field) for field in self.special_token_fields()]
        for field, value in zip(self.special_token_fields(), ids, strict=True):
            _expect(
                isinstance(value, int) and 0 <= value < vocab_size,
                field,
                value,
                f"an id inside the vocabulary of {vocab_size}",
                "raise text_config.vocab_size (and resize the embeddings) or give the token's right id",
            )
        _expect(
            len(set(ids)) == len(ids),
            ", ".join(self.special_token_fields()),
            ids,
            "four different ids",
            "give each special token its own row",
        )

    def _check_head(self):
        text = self.text_config
        for field in _HEAD_FIELDS:
            _expect(
                getattr(text, field, None) in _NEUTRAL,
                f"text_config.{field}",
                getattr(text, field, None),
                "a language model whose logits are lm_head(last_hidden_state)",
                "choose another language model: PGN does not rescale or shift logits",
            )
        biased = text.model_type in _BIASED_HEADS or (
            text.model_type.startswith("ernie4_5") and getattr(text, "use_bias", False)
        )
        _expect(
            not biased,
            "text_config.model_type",
            text.model_type,
            "a language model whose head has no bias",
            "choose another language model",
        )

    def _check_navigation(self):
        nav = self.navigation
        unknown = sorted(set(nav) - set(NAVIGATION_DEFAULTS))
        _expect(not unknown, "navigation", unknown, f"only {sorted(NAVIGATION_DEFAULTS)}", "remove or rename the rest")
        _expect(
            nav["prompt_layout"] in PROMPT_LAYOUTS,
            "navigation.prompt_layout",
            nav["prompt_layout"],
            f"one of {PROMPT_LAYOUTS}",
            "choose one of these",
        )
        turn = nav["turn_degrees"]
        _expect(
            isinstance(turn, int) and turn > 0 and 360 % turn == 0,
            "navigation.turn_degrees",
            turn,
            "a whole number of degrees that divides 360",
            "R2R-CE turns by 15, RxR-CE by 30",
        )
        for field in ("step_m", "hfov_degrees"):
            positive = isinstance(nav[field], int | float) and nav[field] > 0
            _expect(positive, f"navigation.{field}", nav[field], "a positive number", "give metres, or degrees")
        history = nav["history_frames"]
        _expect(
            history is None or (isinstance(history, int) and history > 0),
            "navigation.history_frames",
            history,
            "a positive number of frames, or null for all of them",
            "set it to what the training windows hold",
        )

    @classmethod
    def openpangu_7b(cls, **kwargs) -> "PGNConfig":
        """Full size: EVA-ViT-g, the BLIP-2 Q-Former and openPangu-Embedded-7B with rows for the special tokens."""
        text_config = OpenPanguConfig()
        text_config.vocab_size += len(SPECIAL_TOKENS)
        return cls(**{"text_config": text_config, "dtype": "bfloat16", **kwargs})

    @classmethod
    def tiny(cls, vocab_size: int = 1024, **kwargs) -> "PGNConfig":
        """2-3 M parameters at 64x64 pixels: the same parts, small enough to train on a laptop.

        Args:
            vocab_size: pieces of the tokenizer, without the four special tokens.
            kwargs: other fields, as for the class.
        """
        # About 1 / sqrt(width). The defaults (1e-10 in the vision tower, 0.02 elsewhere) are meant for pretrained or
        # wide models: at this width the image would hardly reach the logits, and training from scratch stalls.
        scale = {"initializer_range": 0.08}
        vision = {
            **scale,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": 16,
        }
        qformer = {
            **scale,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "cross_attention_frequency": 1,
            "encoder_hidden_size": 128,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }
        text = OpenPanguConfig(
            **scale,
            vocab_size=vocab_size + len(SPECIAL_TOKENS),
            hidden_size=160,
            intermediate_size=432,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            # Below ten thousand positions the long-context base of the 7B model only blurs neighbours.
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            eos_token_id=13,
        )
        parts = {"vision_config": vision, "qformer_config": qformer, "text_config": text, "num_query_tokens": 8}
        return cls(**{**scale, **parts, **kwargs})


def _expect(holds: bool, field: str, value, expected: str, remedy: str):
    if not holds:
        raise ValueError(f"PGNConfig: {field}={value!r}, but expected {expected}; {remedy}")


def _sub_config(value, config_class: type, field: str):
    if value is None:
        return config_class()
    if isinstance(value, dict):
        return config_class(**{k: v for k, v in value.items() if k != "model_type"})
    if not isinstance(value, PreTrainedConfig):
        raise ValueError(f"PGNConfig: {field} must be a config or a dict, got {type(value).__name__}")
    return value


def _text_config(value):
    if value is None:
        return OpenPanguConfig()
    if isinstance(value, dict):
        value = dict(value)
        model_type = value.pop("model_type", OpenPanguConfig.model_type)
        if model_type == OpenPanguConfig.model_type:
            return OpenPanguConfig(**value)
        _check_causal(model_type)
        return CONFIG_MAPPING[model_type](**value)
    if not isinstance(value, PreTrainedConfig):
        raise ValueError(f"PGNConfig: text_config must be a config or a dict, got {type(value).__name__}")
    if value.model_type != OpenPanguConfig.model_type:
        _check_causal(value.model_type)
    return value


def _check_causal(model_type: str):
    _expect(
        model_type in CONFIG_MAPPING,
        "text_config.model_type",
        model_type,
        "a model type of the installed transformers, or 'PanguEmbedded'",
        "check the spelling, or install a newer transformers",
    )
    # Encoders have a causal class too, for historical reasons; they would look into the future.
    causal = model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    _expect(
        causal,
        "text_config.model_type",
        model_type,
        "a decoder-only (causal) language model",
        "choose another language model, such as llama or qwen2",
    )
