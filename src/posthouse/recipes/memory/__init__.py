"""How much memory of GPUs a language model needs: of its configuration, by the usual formula."""

from posthouse.recipes.memory.fit import GPUS, UTILIZATION, Fit, fit, gpu, needed_bytes
from posthouse.recipes.memory.read import read_model
from posthouse.recipes.memory.shape import Shape

__all__ = ["GPUS", "UTILIZATION", "Fit", "Shape", "fit", "gpu", "needed_bytes", "read_model"]
