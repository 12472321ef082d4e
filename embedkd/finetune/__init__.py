"""Fine-tuning: a teacher learns the classes of the data, and becomes a folder that ``--teacher`` takes."""

from embedkd.finetune.stage import FinetuneResult, finetune

__all__ = ["FinetuneResult", "finetune"]
