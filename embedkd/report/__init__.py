"""Pictures and pages about runs, made of nothing but their folders.

``html`` puts a page together of ``table``, ``curves``, ``measures``, ``classes``, ``targets``, ``settings`` and
``notes``; ``figures`` draws.
"""

from embedkd.report.html import write_report

__all__ = ["write_report"]
