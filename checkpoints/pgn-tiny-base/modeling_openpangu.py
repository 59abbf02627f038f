"""openPangu-Embedded as a thin Llama: parameter names and arithmetic are Llama's."""

from transformers import LlamaForCausalLM, LlamaModel

from .configuration_openpangu import OpenPanguConfig


class OpenPanguModel(LlamaModel):
    """The decoder without a language-model head."""

    config: OpenPanguConfig


class OpenPanguForCausalLM(LlamaForCausalLM):
    """The decoder with its head; loads the vendor's safetensors as they are."""

    config: OpenPanguConfig
