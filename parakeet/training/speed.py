"""Model FLOPs utilisation: the share of the cards' peak that the model's own arithmetic makes up."""

from parakeet.model.config import ModelConfig
from parakeet.model.execution import Precision
from parakeet.training.cards import find_card
from parakeet.training.device import device_name
from parakeet.training.distributed import Ranks


class Speed:
    """Knows what a token costs and what the devices can do, in dense bf16 with fp32 sums. Recomputing never counts.

    The table of cards has no peak in fp32, so that a share of it is unknown.
    """

    def __init__(self, config: ModelConfig, ranks: Ranks, precision: Precision) -> None:
        self._config = config
        card = find_card(device_name(ranks.device)) if precision == "bf16" else None
        self._peak = card.tflops_bf16 * 1e12 * ranks.world if card is not None else None

    def utilisation(self, row_tokens: int, tokens_per_second: float) -> tuple[float | None, float | None]:
        """Shares of the peak with attention counted causally, and as the PaLM paper does; None for an unknown peak."""
        if self._peak is None:
            return None, None
        flops = self._config.flops_per_token(row_tokens)
        palm = self._config.palm_flops_per_token(row_tokens)
        return flops * tokens_per_second / self._peak, palm * tokens_per_second / self._peak
