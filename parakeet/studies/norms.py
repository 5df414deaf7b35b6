"""How large the weights have grown."""

from typing import Any

from parakeet.studies.measure import Measure, Trained


class Norms(Measure):
    """Root mean squares of the weights: {"all", "embedding", "blocks", "largest"}; `largest` is a single weight."""

    name = "norms"

    def measure(self, trained: Trained) -> dict[str, Any]:
        import torch

        weights = {name: tensor.detach().double() for name, tensor in trained.subject.model.named_parameters()}
        matrices = {name: tensor for name, tensor in weights.items() if tensor.dim() == 2}

        def rms(tensors: list[torch.Tensor]) -> float:
            n = sum(tensor.numel() for tensor in tensors)
            return float(sum(float(tensor.square().sum()) for tensor in tensors) / n) ** 0.5

        return {
            "all": rms(list(matrices.values())),
            "embedding": rms([matrices["embedding.weight"]]),
            "blocks": rms([tensor for name, tensor in matrices.items() if name != "embedding.weight"]),
            "largest": max(float(tensor.abs().max()) for tensor in matrices.values()),
        }
