"""How large a run will be: work, hours, memory, disk and cost a stage, on this machine or another."""

from readqg.planning.plan import plan

__all__ = ["plan"]
