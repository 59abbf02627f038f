"""What ships with every PGN checkpoint; importing it registers the classes with transformers' Auto classes."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)

# Up to transformers 5.17 the top-level name is a placeholder where torchvision, which PGN does not need, is missing.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from .configuration_openpangu import OpenPanguConfig
from .configuration_pgn import PGNConfig
from .image_processing_pgn import PGNImageProcessor
from .modeling_openpangu import OpenPanguForCausalLM, OpenPanguModel
from .modeling_pgn import PGNForConditionalGeneration, PGNModel
from .navigator_pgn import PGNNavigator
from .processing_pgn import PGNProcessor
from .prompting_pgn import Action, NavigationPrompt, action_names
from .tokenization_openpangu import OpenPanguTokenizer

AutoConfig.register(OpenPanguConfig.model_type, OpenPanguConfig)
AutoModel.register(OpenPanguConfig, OpenPanguModel)
AutoModelForCausalLM.register(OpenPanguConfig, OpenPanguForCausalLM)
AutoTokenizer.register(OpenPanguConfig, OpenPanguTokenizer)
AutoConfig.register(PGNConfig.model_type, PGNConfig)
AutoModel.register(PGNConfig, PGNForConditionalGeneration)
AutoModelForImageTextToText.register(PGNConfig, PGNForConditionalGeneration)
AutoTokenizer.register(PGNConfig, OpenPanguTokenizer)
AutoImageProcessor.register(PGNConfig, PGNImageProcessor)
AutoProcessor.register(PGNConfig, PGNProcessor)

# Where a checkpoint is loaded with trust_remote_code, these names say which of its files holds what.
PGNConfig.register_for_auto_class()
PGNForConditionalGeneration.register_for_auto_class("AutoModel")
PGNProcessor.register_for_auto_class()
PGNImageProcessor.register_for_auto_class()
OpenPanguTokenizer.register_for_auto_class()

__all__ = [
    "Action",
    "NavigationPrompt",
    "OpenPanguConfig",
    "OpenPanguForCausalLM",
    "OpenPanguModel",
    "OpenPanguTokenizer",
    "PGNConfig",
    "PGNForConditionalGeneration",
    "PGNImageProcessor",
    "PGNModel",
    "PGNNavigator",
    "PGNProcessor",
    "action_names",
]
