"""What the engine uses of transformers and PEFT that neither documents, each with the version it was read in.

An upgrade of either library is checked here first. Behaviour that has to equal theirs, such as the numbers that PEFT
draws for a new adapter, is next to the code that repeats it.
"""

from __future__ import annotations

from typing import Any


def names_renamed_by_peft(model_type: str) -> frozenset[str]:
    """Return the last parts of layers' names that PEFT takes for those of an older form of the architecture.

    It would put adapters on all experts and none on the layers of these names, such as those of shared experts
    (peft 0.21, utils/transformers_weight_conversion.py, for adapters made with transformers 4).
    """
    from peft.utils import transformers_weight_conversion as conversion

    pattern = getattr(conversion, "_MODEL_TO_CONVERSION_PATTERN", {}).get(model_type)
    return frozenset(getattr(conversion, "_MOE_TARGET_MODULE_MAPPING", {}).get(pattern, ()))


def is_eager(config: Any) -> bool:
    """Whether attention is computed with additive masks (transformers 5.23, configuration_utils.py)."""
    return bool(config._attn_implementation == "eager")


def knows_architecture(model_type: str) -> bool:
    """Whether transformers has code for an architecture, by the `model_type` of its config.json.

    transformers 5.23, models/auto/configuration_auto.py. `AutoConfig` would raise an error of its own for an unknown
    one, with advice that does not hold here.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING


def is_causal_language_model(model_type: str) -> bool:
    """Whether an architecture that transformers knows has a causal language model.

    transformers 5.23, models/auto/modeling_auto.py. Encoders are among them, which `AutoModelForCausalLM` loads without
    an error; whether a loaded network is causal has to be tested.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def forget_quantisation(network: Any) -> None:
    """Make a network that was loaded from a GGUF file savable (transformers 5.23, modeling_utils.py).

    Its weights are plain float32 after loading, but transformers still calls them quantised and refuses to save them.
    """
    network.hf_quantizer = None
    if hasattr(network.config, "quantization_config"):
        del network.config.quantization_config
