"""openPangu-Embedded: Llama with a bias on q, k, v and o. Field values are those of openPangu-Embedded-7B."""

from typing import ClassVar

from transformers import LlamaConfig


class OpenPanguConfig(LlamaConfig):
    """Configuration of openPangu-Embedded; the defaults are the 7B model.

    The vendor's own code imports torch_npu without condition and symbols that transformers removed, so its weights
    are read with this class instead. eos is 45892, ``[unused10]``: the vendor's tokenizer *class* says otherwise.
    """

    model_type = "PanguEmbedded"
    default_theta: ClassVar[float] = 16_000_000.0

    vocab_size: int = 153376
    hidden_size: int = 4096
    intermediate_size: int = 12800
    num_hidden_layers: int = 34
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-5
    attention_bias: bool = True
    bos_token_id: int | None = 1
    pad_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 45892

    def __post_init__(self, **kwargs):
        # The vendor's config.json says `bias` where Llama says `attention_bias`.
        if "bias" in kwargs:
            self.attention_bias = kwargs.pop("bias")
        super().__post_init__(**kwargs)
