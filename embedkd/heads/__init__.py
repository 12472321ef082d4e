"""Heads on stored rows: logits of a teacher at any temperature, without another pass of the teacher."""

from embedkd.heads.stage import HeadResult, make_head

__all__ = ["HeadResult", "make_head"]
