"""Settings of a training step of the diffusion transformer."""

from dataclasses import dataclass, field
from typing import Literal

from soraxla.core.errors import UserError
from soraxla.diffusion.process import Process
from soraxla.models.dit.config import DiTConfig
from soraxla.models.dit.lora import LoRAConfig
from soraxla.training.features import AlignmentConfig, SelfFlowConfig
from soraxla.training.optim import OptimConfig
from soraxla.training.routing import RoutingConfig


@dataclass(frozen=True, kw_only=True)
class DiTStepConfig:
    """Settings of a step of the diffusion transformer.

    Attributes:
        seed: seed of initial weights, sample order, noise and times.
        lora: adapters to train beside frozen weights; None trains the weights.
        part: "all" trains the model, "forecast" only its forecast layers. A forecast
            step costs a third and learns from every frame of a clip, from preceding
            frames that are noised up to time 0.1.
        routing: tokens that skip the middle blocks in training; None has none.
        self_flow: a second time per visit, and features of the EMA to predict; None
            has neither.
        alignment: features of the dataset to predict; None predicts none.
    """

    model: DiTConfig
    process: Process = field(default_factory=Process)
    optim: OptimConfig = field(default_factory=OptimConfig)
    seed: int = 0
    lora: LoRAConfig | None = None
    part: Literal["all", "forecast"] = "all"
    routing: RoutingConfig | None = None
    self_flow: SelfFlowConfig | None = None
    alignment: AlignmentConfig | None = None

    @property
    def plain(self) -> bool:
        """True if the training has no addition."""
        return all(x is None for x in (self.routing, self.self_flow, self.alignment))

    @property
    def feature_width(self) -> int:
        """The numbers of a token's features in a batch."""
        return 0 if self.alignment is None else self.alignment.width

    def __post_init__(self) -> None:
        if self.routing is not None:
            self.routing.check(self.model.layers)
        if self.self_flow is not None:
            self.self_flow.check(self.model.layers)
        if self.part == "forecast" and not self.plain:
            raise UserError(
                "step.part is 'forecast', whose layers see no block: leave "
                "step.routing, step.self_flow and step.alignment out"
            )
        if self.part == "forecast" and (
            not self.model.forecast_layers or self.lora is not None
        ):
            raise UserError(
                "step.part is 'forecast', but the model has no forecast that could be "
                "trained: set step.model.forecast_layers, and leave step.lora out"
            )
        if self.part == "forecast" and self.optim.weight_decay:
            raise UserError(
                f"optim.weight_decay is {self.optim.weight_decay}, expected 0 where "
                "step.part is 'forecast': the rest is not trained, only shrunk"
            )
        if self.lora is not None and self.optim.muon_learning_rate is not None:
            raise UserError(
                "optim.muon_learning_rate is set, but step.lora trains no matrix of a "
                "block; leave one of them out"
            )
