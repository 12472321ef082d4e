"""Where the metrics of a run go beside metrics.jsonl: TensorBoard's event files, Weights & Biases, MLflow."""

from embedkd.training.logs.opening import LOGS, RunLogs, open_logs, require_logs

__all__ = ["LOGS", "RunLogs", "open_logs", "require_logs"]
