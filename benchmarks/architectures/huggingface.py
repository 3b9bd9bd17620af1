"""transformers' architectures, made of its own classes with small configurations: two layers, random weights.

The exporters get one form of attention each: legacy the one written out, dynamo torch's fused operator where there is
one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from architectures.case import BATCH, IMAGE, TEXT, Architecture, Case

if TYPE_CHECKING:
    import torch

VOCABULARY = 128
BATCHES = 2
LENGTH = 10

Inputs = tuple[dict[str, "torch.Tensor"], dict[str, dict[int, str]]]


def _tokens(length: int = LENGTH) -> torch.Tensor:
    import torch

    return torch.randint(3, VOCABULARY, (BATCHES, length))


def text(*, mask: bool = True) -> Inputs:
    """Token ids, and a mask: without one, some models build theirs with operators that have no ONNX form."""
    import torch

    inputs = {"input_ids": _tokens()}
    if mask:
        inputs["attention_mask"] = torch.ones(BATCHES, LENGTH, dtype=torch.int64)
    return inputs, dict.fromkeys(inputs, TEXT)


def text_of_fixed_length() -> Inputs:
    """For scans that a trace unrolls."""
    inputs, _ = text()
    return inputs, dict.fromkeys(inputs, BATCH)


def both_texts() -> Inputs:
    """Token ids for an encoder and for its decoder."""
    inputs, dynamic = text()
    inputs["decoder_input_ids"] = _tokens(7)
    return inputs, dynamic | {"decoder_input_ids": {0: "batch", 1: "decoder_sequence"}}


def image(size: int = 64, *, free: bool = False) -> Inputs:
    """Two pictures."""
    import torch

    return {"pixel_values": torch.randn(BATCHES, 3, size, size)}, {"pixel_values": IMAGE if free else BATCH}


def waveform(length: int = 1600) -> Inputs:
    """A tenth of a second of sound."""
    import torch

    return {"input_values": torch.randn(BATCHES, length)}, {"input_values": {0: "batch", 1: "samples"}}


def spectrogram(length: int = 64) -> Inputs:
    """Mel features, and what has been said so far."""
    import torch

    said = {"decoder_input_ids": _tokens(7), "decoder_attention_mask": torch.ones(BATCHES, 7, dtype=torch.int64)}
    dynamic = {"input_features": BATCH} | dict.fromkeys(said, TEXT)
    return {"input_features": torch.randn(BATCHES, 16, length)} | said, dynamic


def text_and_image(size: int = 64) -> Inputs:
    """Captions and pictures."""
    inputs, dynamic = text()
    pictures, _ = image(size)
    # texts and pictures need not be as many
    return inputs | pictures, dynamic | {"pixel_values": {0: "pictures"}}


def prompt(size: int = 64) -> Inputs:
    """A picture and a point in it."""
    import torch

    pictures, dynamic = image(size)
    points = {"input_points": torch.rand(BATCHES, 1, 2, 2) * size}
    return pictures | points, dynamic | {"input_points": BATCH}


@dataclass(frozen=True)
class Small:
    """A configuration that fits into a few hundred kilobytes."""

    model: str
    """Class in transformers."""
    config: str
    """Class of its configuration."""
    options: dict[str, Any] = field(default_factory=dict)
    inputs: Callable[[], Inputs] = text
    pick: tuple[str, ...] = ()
    call: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the call."""
    inner: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    """Configurations inside this one: option -> (class, options)."""
    eager: bool = False
    """Both exporters get the form that is written out: torch's operator with a bias does not export."""


_BERT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
}
_LLAMA: dict[str, Any] = _BERT | {"num_key_value_heads": 2}
_VIT: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "image_size": 64,
    "patch_size": 16,
}
_WINDOWS: dict[str, Any] = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 24,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
_WHISPER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "num_mel_bins": 16,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "max_source_positions": 32,
    "max_target_positions": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
_SEQUENCES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "max_position_embeddings": 64,
}
_T5: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 96,
    "num_layers": 2,
    "num_heads": 4,
}
_NO_CACHE: dict[str, Any] = {"use_cache": False}
_RESNET: dict[str, Any] = {
    "embedding_size": 16,
    "hidden_sizes": [16, 32, 48, 64],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage4"],
}
_DETR: dict[str, Any] = {
    "backbone": None,
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "num_queries": 12,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "num_labels": 5,
}

_small_image = partial(image, 64)
_LOGITS = ("logits",)
_DECODER: dict[str, Any] = {"call": _NO_CACHE, "pick": _LOGITS}

SMALL: dict[str, Small] = {
    "bert": Small("BertForSequenceClassification", "BertConfig", _BERT),
    "bert_mlm": Small("BertForMaskedLM", "BertConfig", _BERT),
    "roberta": Small("RobertaForSequenceClassification", "RobertaConfig", _BERT | {"max_position_embeddings": 66}),
    "distilbert": Small(
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {"vocab_size": VOCABULARY, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96},
    ),
    "albert": Small("AlbertForSequenceClassification", "AlbertConfig", _BERT | {"embedding_size": 32}),
    "deberta": Small("DebertaForSequenceClassification", "DebertaConfig", _BERT),
    "deberta_v2": Small(
        "DebertaV2ForSequenceClassification",
        "DebertaV2Config",
        _BERT
        | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "share_att_key": True},
    ),
    "electra": Small("ElectraForSequenceClassification", "ElectraConfig", _BERT | {"embedding_size": 32}),
    "mobilebert": Small(
        "MobileBertForSequenceClassification",
        "MobileBertConfig",
        _BERT | {"embedding_size": 32, "intra_bottleneck_size": 32, "num_feedforward_networks": 2},
    ),
    "mpnet": Small("MPNetForSequenceClassification", "MPNetConfig", _BERT),
    "xlm_roberta": Small("XLMRobertaForTokenClassification", "XLMRobertaConfig", _BERT | {"num_labels": 5}),
    "gpt2": Small(
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64},
        **_DECODER,
    ),
    "gpt_neox": Small("GPTNeoXForCausalLM", "GPTNeoXConfig", _BERT, **_DECODER),
    "gptj": Small(
        "GPTJForCausalLM",
        "GPTJConfig",
        {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 8},
        **_DECODER,
    ),
    "opt": Small(
        "OPTForCausalLM",
        "OPTConfig",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 96,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 64,
        },
        **_DECODER,
    ),
    "bloom": Small(
        "BloomForCausalLM",
        "BloomConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 64, "n_layer": 2, "n_head": 4},
        **_DECODER,
    ),
    "llama_gqa": Small("LlamaForCausalLM", "LlamaConfig", _LLAMA, **_DECODER),
    "mistral": Small("MistralForCausalLM", "MistralConfig", _LLAMA | {"sliding_window": 6}, **_DECODER),
    "qwen2": Small("Qwen2ForCausalLM", "Qwen2Config", _LLAMA, **_DECODER),
    "qwen3": Small("Qwen3ForCausalLM", "Qwen3Config", _LLAMA | {"head_dim": 16}, **_DECODER),
    "phi": Small("PhiForCausalLM", "PhiConfig", _BERT, **_DECODER),
    "phi3": Small("Phi3ForCausalLM", "Phi3Config", _LLAMA | {"pad_token_id": 0}, **_DECODER),
    "gemma": Small("GemmaForCausalLM", "GemmaConfig", _LLAMA | {"head_dim": 16}, **_DECODER),
    "gemma2": Small("Gemma2ForCausalLM", "Gemma2Config", _LLAMA | {"head_dim": 16}, **_DECODER),
    "falcon": Small(
        "FalconForCausalLM",
        "FalconConfig",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "multi_query": True,
        },
        **_DECODER,
    ),
    "mixtral": Small(
        "MixtralForCausalLM", "MixtralConfig", _LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2}, **_DECODER
    ),
    "mamba": Small(
        "MambaForCausalLM",
        "MambaConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 4},
        text_of_fixed_length,
        **_DECODER,
    ),
    "t5_encoder": Small("T5EncoderModel", "T5Config", _T5),
    "t5": Small("T5ForConditionalGeneration", "T5Config", _T5, both_texts, **_DECODER),
    "bart": Small("BartForConditionalGeneration", "BartConfig", _SEQUENCES, both_texts, **_DECODER),
    "marian": Small(
        "MarianMTModel",
        "MarianConfig",
        _SEQUENCES | {"pad_token_id": 0, "decoder_start_token_id": 0},
        both_texts,
        **_DECODER,
    ),
    "whisper": Small("WhisperForConditionalGeneration", "WhisperConfig", _WHISPER, spectrogram, **_DECODER),
    "wav2vec2": Small(
        "Wav2Vec2ForCTC",
        "Wav2Vec2Config",
        {
            "vocab_size": 32,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "conv_dim": [24, 32, 32],
            "conv_stride": [5, 2, 2],
            "conv_kernel": [10, 3, 3],
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4,
            "num_feat_extract_layers": 3,
        },
        waveform,
        _LOGITS,
    ),
    "hf_vit": Small("ViTForImageClassification", "ViTConfig", _VIT, _small_image, _LOGITS),
    "hf_deit": Small(
        "DeiTForImageClassificationWithTeacher",
        "DeiTConfig",
        _VIT,
        _small_image,
        ("logits", "cls_logits", "distillation_logits"),
    ),
    "hf_beit": Small(
        "BeitForImageClassification",
        "BeitConfig",
        _VIT | {"use_relative_position_bias": True},
        _small_image,
        _LOGITS,
        eager=True,
    ),
    "dinov2": Small("Dinov2Model", "Dinov2Config", _VIT, _small_image, ("last_hidden_state",)),
    "hf_swin": Small("SwinForImageClassification", "SwinConfig", _WINDOWS, _small_image, _LOGITS, eager=True),
    "hf_swinv2": Small("Swinv2ForImageClassification", "Swinv2Config", _WINDOWS, _small_image, _LOGITS, eager=True),
    "swin2sr": Small(
        "Swin2SRForImageSuperResolution",
        "Swin2SRConfig",
        {
            "image_size": 32,
            "patch_size": 1,
            "embed_dim": 24,
            "depths": [2, 2],
            "num_heads": [2, 2],
            "window_size": 4,
            "upscale": 2,
        },
        partial(image, 16),
        ("reconstruction",),
        eager=True,
    ),
    "hf_convnext": Small(
        "ConvNextForImageClassification",
        "ConvNextConfig",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]},
        partial(image, 64, free=True),
        _LOGITS,
    ),
    "segformer": Small(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        {
            "hidden_sizes": [16, 32, 40, 64],
            "depths": [1, 1, 1, 1],
            "decoder_hidden_size": 48,
            "num_attention_heads": [1, 2, 4, 4],
            "num_labels": 5,
        },
        _small_image,
        _LOGITS,
    ),
    "detr": Small(
        "DetrForObjectDetection",
        "DetrConfig",
        _DETR,
        _small_image,
        ("logits", "pred_boxes"),
        inner={"backbone_config": ("ResNetConfig", _RESNET)},
    ),
    "yolos": Small(
        "YolosForObjectDetection",
        "YolosConfig",
        _VIT | {"image_size": [64, 64], "num_detection_tokens": 8, "num_labels": 5},
        _small_image,
        ("logits", "pred_boxes"),
    ),
    "clip": Small(
        "CLIPModel",
        "CLIPConfig",
        {
            "projection_dim": 32,
            "text_config": _BERT | {"eos_token_id": 2},
            "vision_config": _VIT,
        },
        text_and_image,
        ("logits_per_image", "text_embeds", "image_embeds"),
    ),
    "sam": Small(
        "SamModel",
        "SamConfig",
        {
            "vision_config": {
                "hidden_size": 32,
                "output_channels": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 64,
                "patch_size": 16,
                "window_size": 2,
                "global_attn_indexes": [1],
                "num_pos_feats": 16,
                "mlp_dim": 64,
            },
            "prompt_encoder_config": {
                "hidden_size": 32,
                "image_size": 64,
                "patch_size": 16,
                "mask_input_channels": 8,
                "image_embedding_size": 4,
            },
            "mask_decoder_config": {
                "hidden_size": 32,
                "mlp_dim": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "iou_head_hidden_dim": 32,
            },
        },
        prompt,
        ("iou_scores", "pred_masks"),
    ),
    "dpt": Small(
        "DPTForDepthEstimation",
        "DPTConfig",
        _VIT
        | {
            "num_hidden_layers": 4,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [16, 24, 32, 32],
            "fusion_hidden_size": 24,
            "is_hybrid": False,
        },
        _small_image,
        ("predicted_depth",),
    ),
    "mask2former": Small(
        "Mask2FormerForUniversalSegmentation",
        "Mask2FormerConfig",
        {
            "feature_size": 32,
            "mask_feature_size": 32,
            "hidden_dim": 32,
            "encoder_feedforward_dim": 48,
            "dim_feedforward": 48,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "num_attention_heads": 4,
            "num_queries": 6,
            "num_labels": 5,
            "backbone": None,
            "use_pretrained_backbone": False,
        },
        partial(image, 64),
        ("class_queries_logits", "masks_queries_logits"),
        inner={
            "backbone_config": (
                "SwinConfig",
                _WINDOWS
                | {
                    "depths": [1, 1, 1, 1],
                    "num_heads": [1, 2, 2, 4],
                    "embed_dim": 16,
                    "window_size": 2,
                    "out_features": ["stage1", "stage2", "stage3", "stage4"],
                },
            )
        },
        eager=True,
    ),
    "mobilevit": Small(
        "MobileViTForImageClassification",
        "MobileViTConfig",
        {
            "hidden_sizes": [32, 40, 48],
            "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 64],
            "num_attention_heads": 4,
            "image_size": 64,
        },
        _small_image,
        _LOGITS,
    ),
}


def _build(small: Small, exporter: str) -> Case:
    from architectures.vision_ops import torchvision

    torchvision()
    import transformers

    inner = {key: getattr(transformers, name)(**options) for key, (name, options) in small.inner.items()}
    config = getattr(transformers, small.config)(**small.options, **inner)
    if small.eager or exporter == "legacy":
        config._attn_implementation = "eager"
    config._experts_implementation = "batched_mm"  # the default groups tokens by operators that have no ONNX form
    network = getattr(transformers, small.model)(config)
    inputs, dynamic = small.inputs()
    names = tuple(inputs)

    def call(module: Any, *values: torch.Tensor) -> Any:
        return module(**dict(zip(names, values, strict=True)), return_dict=True, **small.call)

    return Case(network, inputs, dynamic, call, small.pick)


ARCHITECTURES = tuple(Architecture(name, partial(_build, small), "transformers") for name, small in SMALL.items())
