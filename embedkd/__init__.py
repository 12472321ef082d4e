"""Knowledge distillation from stored teacher embeddings: run the teacher once, train students many times."""

__version__ = "0.1.0"
