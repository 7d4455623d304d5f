"""The networks of tools/sweep_models.py that take other than one batch of images: what they are called with.

Of ``transformers`` an architecture each, in a small configuration with random weights; of torchvision the models for
detection, segmentation and video.
"""

import dataclasses
from typing import Any

BATCH, TOKENS, VOCABULARY = 2, 12, 128
TASKS = ("detection", "segmentation", "video")

# Sizes that most configurations share, under the names that they give them.
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_DECODER = {**_SIZES, "num_key_value_heads": 2, "use_cache": False}
_GPT = {
    "vocab_size": VOCABULARY,
    "n_positions": 64,
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "use_cache": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_VISION = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
_IMAGE = {"image_size": 32, "patch_size": 8}

# Name -> (the class of the model without "Config"'s counterpart, its configuration).
TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertModel", "BertConfig", _SIZES),
    "roberta": ("RobertaModel", "RobertaConfig", {**_SIZES, "pad_token_id": 1}),
    "electra": ("ElectraModel", "ElectraConfig", {**_SIZES, "embedding_size": 64}),
    "albert": ("AlbertModel", "AlbertConfig", {**_SIZES, "embedding_size": 32}),
    "distilbert": (
        "DistilBertModel",
        "DistilBertConfig",
        {"vocab_size": VOCABULARY, "dim": 64, "hidden_dim": 128, "n_layers": 3, "n_heads": 4},
    ),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", _GPT),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", {**_SIZES, "use_cache": False}),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        {**_SIZES, "ffn_dim": 128, "word_embed_proj_dim": 64, "use_cache": False},
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _DECODER),
    "mistral": ("MistralForCausalLM", "MistralConfig", _DECODER),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _DECODER),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", {**_DECODER, "head_dim": 16}),
    "phi": ("PhiForCausalLM", "PhiConfig", _DECODER),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**_DECODER, "num_local_experts": 4}),
    "mamba": (
        "MambaForCausalLM",
        "MambaConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 3, "state_size": 8, "use_cache": False},
    ),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {
            "vocab_size": VOCABULARY,
            "d_model": 64,
            "d_kv": 16,
            "d_ff": 128,
            "num_layers": 2,
            "num_heads": 4,
            "use_cache": False,
        },
    ),
    "vit": ("ViTForImageClassification", "ViTConfig", {**_VISION, **_IMAGE}),
    "deit": ("DeiTForImageClassification", "DeiTConfig", {**_VISION, **_IMAGE}),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", {**_VISION, **_IMAGE}),
    "clip_vision": ("CLIPVisionModel", "CLIPVisionConfig", {**_VISION, **_IMAGE}),
    "swin": (
        "SwinForImageClassification",
        "SwinConfig",
        {"image_size": 32, "patch_size": 2, "embed_dim": 32, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4},
    ),
    "convnext": (
        "ConvNextForImageClassification",
        "ConvNextConfig",
        {"hidden_sizes": [32, 64], "depths": [1, 1], "num_stages": 2},
    ),
    "resnet": (
        "ResNetForImageClassification",
        "ResNetConfig",
        {"embedding_size": 32, "hidden_sizes": [32, 64], "depths": [1, 1]},
    ),
    "whisper": (
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {
            "vocab_size": VOCABULARY,
            "d_model": 64,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "max_source_positions": 32,
            "max_target_positions": 32,
            "use_cache": False,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
    ),
}


@dataclasses.dataclass
class Case:
    """A network and what it is called with.

    Attributes:
        model: with random weights.
        example: what it takes in evaluation.
        training: what it takes in training, where that is more.
        size: of an example, for the table.
        unexported: why it is not exported to ONNX, or "".
    """

    model: Any
    example: Any
    size: str
    training: Any = None
    unexported: str = ""


def names() -> list[str]:
    """ "torchvision-detection/fcos_resnet50_fpn", ..., "transformers/bert", ..."""
    import torchvision

    tasks = [
        f"torchvision-{task}/{name}"
        for task in TASKS
        for name in torchvision.models.list_models(module=getattr(torchvision.models, task))
    ]
    return [*tasks, *(f"transformers/{name}" for name in TRANSFORMERS)]


def build(name: str) -> Case:
    """The network ``name`` of :func:`names`."""
    import torch

    torch.manual_seed(0)
    library, _, own = name.partition("/")
    if library == "transformers":
        return _transformer(own)
    return {"detection": _detector, "segmentation": _segmentation, "video": _video}[library.partition("-")[2]](own)


def _transformer(name: str) -> Case:
    import torch
    import transformers

    model_class, config_class, options = TRANSFORMERS[name]
    model = getattr(transformers, model_class)(getattr(transformers, config_class)(**options))
    tokens = torch.randint(3, VOCABULARY, (BATCH, TOKENS))
    if model.main_input_name == "pixel_values":
        return Case(model, {"pixel_values": torch.randn(BATCH, 3, 32, 32)}, "32")
    if model.main_input_name == "input_features":
        sound = torch.randn(BATCH, model.config.num_mel_bins, 2 * model.config.max_source_positions)
        return Case(model, {"input_features": sound, "decoder_input_ids": tokens}, f"{sound.shape[-1]} frames")
    example = {"input_ids": tokens}
    if model.config.is_encoder_decoder:
        example["decoder_input_ids"] = tokens
    return Case(model, example, f"{TOKENS} tokens")


def _model(name: str, **options) -> Any:
    import torchvision

    return torchvision.models.get_model(name, weights=None, **options)


def _detector(name: str) -> Case:
    import torch

    model = _model(name, weights_backbone=None)
    images = [torch.rand(3, 96, 96) for _ in range(BATCH)]
    target = {"boxes": torch.tensor([[8.0, 8.0, 64.0, 64.0]]), "labels": torch.tensor([1])}
    if name.startswith("maskrcnn"):
        target["masks"] = torch.ones(1, 96, 96, dtype=torch.uint8)
    if name.startswith("keypointrcnn"):
        target["keypoints"] = torch.tensor([[[20.0, 20.0, 1.0]] * 17])
    return Case(model, (images,), "96", (images, [target] * BATCH), "takes a list of images: export its parts")


def _segmentation(name: str) -> Case:
    import torch

    return Case(_model(name, weights_backbone=None), torch.randn(BATCH, 3, 64, 64), "64")


def _video(name: str) -> Case:
    import torch

    frames, size = (16, 224) if name.startswith(("mvit", "s3d")) else (8, 64)
    return Case(_model(name), torch.randn(BATCH, 3, frames, size, size), f"{frames} x {size}")
