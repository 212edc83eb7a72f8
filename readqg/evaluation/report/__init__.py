"""The report of a whole run: whether to use the new model and how sure that is, then the pictures behind it; one HTML page that needs no
network and no script.

`measured` computes what goes to summary.json; `verdict`, `changes`, `calibration`, `written` and `learning` gather, each from the folders
of a run; `figures` draws; `page` puts it together. Whatever is shown is bounded, so that the page of a large run is no larger.
"""

from readqg.evaluation.report.measured import evaluation
from readqg.evaluation.report.page import html

__all__ = ["evaluation", "html"]
