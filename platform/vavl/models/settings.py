"""Settings of the network: its sizes, what it predicts, and how a label is chosen from its probabilities."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from vavl.config.base import COUNTS_IF_USED, FrozenConfig
from vavl.errors import ConfigError

ATTRIBUTES = ("arousal", "valence", "dominance")
Share = Annotated[float, Field(gt=0)]

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
    blocks: Annotated[Literal["conformer", "feed_forward"], COUNTS_IF_USED] = Field(
        "conformer",
        description="what blocks consist of; feed_forward: no attention and no convolution, where clips are one frame",
    )
    layer_weights: Annotated[bool, COUNTS_IF_USED] = Field(
        False, description="learn how much each layer counts, of frames that a store keeps with several (keep_layers)"
    )
    modality_blocks: int = Field(3, ge=1, description="blocks of each modality")
    shared_blocks: int = Field(2, ge=1, description="blocks that both modalities share")
    subsampling: Annotated[Literal[1, 2, 4], COUNTS_IF_USED] = Field(
        1, description="frames of the input for one of the blocks, by convolutions of stride 2; 1: none"
    )
    pooling: Annotated[Literal["mean", "attention", "statistics"], COUNTS_IF_USED] = Field(
        "mean", description="of the frames of a clip; attention: learned weights, statistics: mean and deviation"
    )
    input_statistics: Annotated[bool, COUNTS_IF_USED] = Field(
        False, description="mean and deviation of a clip's input frames, projected, join what its blocks give"
    )
    attention_heads: int = Field(8, ge=1, description="of each Conformer block")
    feed_forward_expansion: int = Field(4, ge=1, description="hidden size of feed-forward layers, in widths")
    convolution_kernel: int = Field(31, ge=1, description="frames under the depthwise kernel; odd")
    head_widths: tuple[int, int] = Field((512, 256), description="hidden sizes of heads and decoders")
    dropout: float = Field(0.1, ge=0, lt=1, description="within the Conformer blocks")
    head_dropout: float = Field(0.2, ge=0, lt=1, description="within heads and decoders")
    input_dropout: float = Field(0.0, ge=0, lt=1, description="on the projected input frames")
    correlation_size: int = Field(16, ge=1, description="K of soft-HGR; keep it well below the pairs of a global batch")

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
            raise ValueError(f"width {self.width} must be a multiple of 2 * attention_heads {self.attention_heads}")
        if self.convolution_kernel % 2 == 0:
            raise ValueError(f"convolution_kernel {self.convolution_kernel} must be odd to keep the frame count")
        return self


class LadderShape(FrozenConfig):
    """What a cross-modal ladder adds to the network."""

    noise: float = Field(0.3, ge=0, description="deviation of the noise on the normalized input and after every block")
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


class DecisionSettings(FrozenConfig):
    """How a label is chosen from the probabilities of a model of classes."""

    classes: tuple[str, ...] | None = Field(
        None, min_length=2, description="choose among these alone, their probabilities sum to 1; null: all of the model"
    )
    abstain_below: float | None = Field(
        None, gt=0, le=1, description="no label where the largest probability is below this; null: always a label"
    )
    class_shares: dict[str, Share] | None = Field(
        None,
        description="shares of the classes among the clips to predict, in any unit: corrects for those of the training "
        "run (logit adjustment); null: no correction",
    )
    training_shares: dict[str, Share] | None = Field(
        None, description="shares of the classes in training, for class_shares; null: those stored with the model"
    )


@dataclass(frozen=True)
class Decision:
    """What is made of the probabilities of a model of classes.

    Attributes:
        names: of all classes of the model.
        factors: (class,), what each probability is multiplied by before they are made to sum to 1 again.
        abstain_below: smallest confidence of a label.
    """

    names: tuple[str, ...]
    factors: NDArray[np.float64]
    abstain_below: float | None

    def apply(self, probabilities: NDArray[np.float64]) -> tuple[NDArray[np.float64], list[str | None], list[str]]:
        """Choose labels.

        Args:
            probabilities: (row, class); NaN in rows without prediction.

        Returns:
            Probabilities (row, class), 0 for classes that are not chosen among; labels, None below the confidence and
            in rows without prediction; and why there is none, "" where there is one.
        """
        weighted = probabilities * self.factors
        # With logits l, softmax(l - log p_training + log p_target): Menon et al., ICLR 2021, equation 9.
        values = weighted / np.maximum(weighted.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        labels: list[str | None] = []
        reasons = []
        for row in values:
            confidence = float(row.max())
            is_low = self.abstain_below is not None and confidence < self.abstain_below
            is_missing = not confidence > 0
            labels.append(None if is_low or is_missing else self.names[int(row.argmax())])
            reasons.append(f"below confidence ({confidence:.3f} < {self.abstain_below:g})" if is_low else "")
        return values, labels, reasons


def decision_of(
    settings: DecisionSettings, task: Task, stored_shares: Sequence[float] | None, source: str = "prediction"
) -> Decision | None:
    """Return what the settings ask for; None where they ask for nothing.

    Args:
        settings: as given.
        task: of the model.
        stored_shares: of the classes in training, in their order; None for a model of an earlier version.
        source: of the settings, for messages.

    Raises:
        ConfigError: the model predicts attributes or lacks a class, or shares are missing.
    """
    asked = [name for name in DecisionSettings.model_fields if getattr(settings, name) is not None]
    if not asked:
        return None
    if not isinstance(task, ClassTask):
        raise ConfigError(source, asked[0], "the model predicts attributes, not classes", f"leave out {asked[0]}")
    for field in ("classes", "class_shares", "training_shares"):
        _check_known(source, field, getattr(settings, field) or (), task.classes)
    chosen = settings.classes or task.classes
    if len(set(chosen)) != len(chosen):
        raise ConfigError(source, "classes", "a class stands there twice", "name each once")
    stored = None if stored_shares is None else dict(zip(task.classes, stored_shares, strict=True))
    gains = _gains(source, settings, stored, chosen)
    factors = np.array([gains.get(name, 0.0) for name in task.classes])
    return Decision(task.classes, factors / factors.max(), settings.abstain_below)


def _gains(
    source: str, settings: DecisionSettings, stored: Mapping[str, float] | None, chosen: Sequence[str]
) -> dict[str, float]:
    """Return what the probability of each class that is chosen among is multiplied by."""
    if settings.class_shares is None:
        if settings.training_shares is not None:
            problem = "counts next to class_shares alone"
            raise ConfigError(source, "training_shares", problem, "state class_shares as well")
        return dict.fromkeys(chosen, 1.0)
    trained = settings.training_shares or stored
    if trained is None:
        raise ConfigError(
            source, "class_shares", "the model does not state the class shares of its training run",
            "state them as training_shares, one share for each class",
        )  # fmt: skip
    target = _all_shares(source, "class_shares", settings.class_shares, chosen)
    before = _all_shares(source, "training_shares", trained, chosen)
    return {name: target[name] / before[name] for name in chosen}


def decision_settings(given: Mapping[str, Any], source: str) -> DecisionSettings:
    """Check settings that come as values.

    Raises:
        ConfigError: an unknown name, or a value out of its bounds.
    """
    try:
        return DecisionSettings.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(source, field, first["msg"], f"correct {field}") from None


def _check_known(source: str, field: str, names: Any, classes: Sequence[str]) -> None:
    for name in names:
        if name not in classes:
            near = difflib.get_close_matches(name, classes, 1, 0)
            raise ConfigError(
                source, field, f"the model has no class {name!r}; it has {', '.join(classes)}",
                f"did you mean {near[0]!r}?" if near else "name classes of the model",
            )  # fmt: skip


def _all_shares(source: str, field: str, shares: Mapping[str, float], chosen: Sequence[str]) -> Mapping[str, float]:
    missing = [name for name in chosen if not shares.get(name)]
    if missing:
        raise ConfigError(
            source, field, f"no share of {', '.join(missing)}", "state one above 0 for every class that is chosen among"
        )
    total = sum(shares[name] for name in chosen)
    return {name: shares[name] / total for name in chosen}
