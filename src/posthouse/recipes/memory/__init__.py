"""How much memory of GPUs a language model needs: of its configuration, by the usual formula."""

from posthouse.recipes.memory.fit import GPUS, Fit, fit, gpu, needed_by, needed_bytes
from posthouse.recipes.memory.read import read_model
from posthouse.recipes.memory.shape import Shape

__all__ = ["GPUS", "Fit", "Shape", "fit", "gpu", "needed_by", "needed_bytes", "read_model"]
