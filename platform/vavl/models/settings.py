"""Settings of the network: its sizes, and what it predicts."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from vavl.config.base import FrozenConfig

ATTRIBUTES = ("arousal", "valence", "dominance")

_SMALL = {
    "width": 96,
    "modality_blocks": 2,
    "shared_blocks": 1,
    "attention_heads": 4,
    "convolution_kernel": 15,
    "head_widths": (96, 64),
}


class NetworkSettings(FrozenConfig):
    """Sizes of the VAVL network; the defaults are those of the paper (arXiv 2305.07216).

    ``preset: small`` replaces the defaults by sizes that train in minutes on a CPU; every key that
    is written next to it still counts, and the resolved configuration shows the sizes in use.
    """

    preset: Literal["paper", "small"] = Field("paper", description="sizes for every key not given")
    width: int = Field(512, ge=8, description="channels of every hidden layer")
    modality_blocks: int = Field(3, ge=1, description="Conformer blocks of each modality")
    shared_blocks: int = Field(2, ge=1, description="Conformer blocks that both modalities share")
    attention_heads: int = Field(8, ge=1, description="of each Conformer block")
    feed_forward_expansion: int = Field(4, ge=1, description="hidden size of feed-forward layers, in widths")
    convolution_kernel: int = Field(31, ge=1, description="frames under the depthwise kernel; odd")
    head_widths: tuple[int, int] = Field((512, 256), description="hidden sizes of heads and decoders")
    dropout: float = Field(0.1, ge=0, lt=1, description="within the Conformer blocks")
    head_dropout: float = Field(0.2, ge=0, lt=1, description="within heads and decoders")
    input_dropout: float = Field(0.0, ge=0, lt=1, description="on the projected input frames")
    correlation_size: int = Field(
        16, ge=1, description="K of soft-HGR; keep it well below the pairs of a global batch"
    )

    @property
    def ladder_layers(self) -> int:
        """Layers that a ladder rebuilds: the input frames and the output of every Conformer block."""
        return 1 + self.modality_blocks + self.shared_blocks

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, content: Any) -> Any:
        if isinstance(content, dict) and content.get("preset") == "small":
            return {**_SMALL, **content}
        return content

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.width % (2 * self.attention_heads):
            # Rotary positions turn pairs of channels within each head.
            raise ValueError(
                f"width {self.width} must be a multiple of 2 * attention_heads {self.attention_heads}"
            )
        if self.convolution_kernel % 2 == 0:
            raise ValueError(
                f"convolution_kernel {self.convolution_kernel} must be odd to keep the frame count"
            )
        return self


class LadderShape(FrozenConfig):
    """What a cross-modal ladder adds to the network."""

    noise: float = Field(
        0.3, ge=0, description="deviation of the noise on the normalized input and after every block"
    )
    lateral: Literal["own", "other", "both", "none"] = Field(
        "own", description="modality whose noisy layers feed the decoder's skip connections"
    )
    top: Literal["own", "other"] = Field(
        "other", description="modality whose noisy top feeds the decoder; an unpaired clip uses its own"
    )
    detach_target: bool = Field(True, description="let no gradient through the clean layers")


class ClassTask(FrozenConfig):
    """One label out of several classes, given hard or as a distribution of votes."""

    kind: Literal["classes"] = "classes"
    classes: tuple[str, ...] = Field(min_length=2)

    @property
    def outputs(self) -> int:
        """Numbers that a head predicts per clip."""
        return len(self.classes)


class AttributeTask(FrozenConfig):
    """Continuous attributes, scored by the concordance correlation coefficient."""

    kind: Literal["attributes"] = "attributes"
    attributes: tuple[str, ...] = Field(ATTRIBUTES, min_length=1)

    @property
    def outputs(self) -> int:
        """Numbers that a head predicts per clip."""
        return len(self.attributes)


Task = ClassTask | AttributeTask
