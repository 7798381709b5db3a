"""A member's own work: compare a rebuild with the claim, sign the answer, and measure images again.

``answer`` makes and signs statements, ``inputs`` checks every pin of the lock against its archive.
"""

from coattest_verify.rebuild.answer import answer, read_ask, read_report, sign_answer
from coattest_verify.rebuild.remeasure import binding_pcrs, check_image

__all__ = ["answer", "binding_pcrs", "check_image", "read_ask", "read_report", "sign_answer"]
