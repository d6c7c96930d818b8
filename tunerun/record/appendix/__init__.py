"""The reproducibility appendix of a sweep: answers to reviewers' checklists from its record, and the open questions.

checklists.py    the questions, as published, and the subjects that answer them
material.py      what is read of a record
data.py, training.py, measuring.py, computing.py    what the record says on each subject
appendix.py      all of it as one document of plain values
renderers/       the document as Markdown or LaTeX
"""

from tunerun.record.appendix.appendix import appendix
from tunerun.record.appendix.document import Appendix

__all__ = ["Appendix", "appendix"]
