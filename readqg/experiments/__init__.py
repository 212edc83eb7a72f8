"""`readqg experiment`: collections x recipes x seeds, with the statistics that let a reader believe the table.

`matrix` reads what is to be done, `cells` does one cell after another, `results` makes tables of what is there.
"""

from readqg.experiments.runner import experiment

__all__ = ["experiment"]
