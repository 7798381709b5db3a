"""The receipt's page without a browser: what it holds, and what it admits."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from array import array

import pytest

from coattest_verify.attestation.profiles import LOCAL_SIMULATOR
from coattest_verify.auction import messages, page
from coattest_verify.auction.receipt import LOTS_NAMED, verify_receipt
from support.verify import receipts
from support.verify.receipts import Made, certified, page_of

POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">')
SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A first-price receipt of three lots."""
    return receipts.make(receipts.authority(tmp_path_factory.mktemp("quorum")))


def policy_of(text: str) -> dict[str, list[str]]:
    """The page's policy: sources by directive."""
    (found,) = POLICY.findall(text)
    return {words[0]: words[1:] for each in found.split(";") if (words := each.split())}


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_policy_admits_the_pages_own_script_and_style(made: Made) -> None:
    """By their digests; nothing is loaded, no base is set, no form is sent; it stands before both."""
    text = page_of(made)
    (script,), (style,) = SCRIPT.findall(text), STYLE.findall(text)
    assert policy_of(text) == {
        "default-src": ["'none'"],
        "script-src": [digest(script)],
        "style-src": [digest(style)],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    assert text.index("Content-Security-Policy") < text.index("<style>") < text.index("<script")


@pytest.mark.parametrize("refused", [False, True])
def test_a_page_without_checks_admits_no_script(
    made: Made, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    """Of a result that did not verify, or that is too large for a page: neither its bytes nor a script."""
    verdict = made.verdict()
    if refused:
        verdict = dataclasses.replace(verdict, checks=(dataclasses.replace(verdict.checks[0], ran=False),))
    else:
        monkeypatch.setattr(page, "PAGE_RESULT_MAX", len(made.result_file) - 1)
    text = page_of(made, verdict)
    assert policy_of(text)["script-src"] == ["'none'"]
    assert "<script" not in text
    assert base64.b64encode(made.manifest.encode()).decode() not in text
    assert ("not checked again" in text.lower()) is not refused
    assert ('id="lots"' in text) is not refused
    assert (messages.sha384(made.result_file).hex() in text) is not refused


def test_times_that_no_calendar_has_are_shown(made: Made) -> None:
    """A service may name any deadline; the page of a result under it is still written."""
    far = dataclasses.replace(made.manifest, publish_by=2**53 - 1)
    text = page_of(dataclasses.replace(made, manifest=far))
    assert "9007199254740991 s after 1970" in text


def test_text_turns_no_other_text_around(made: Made) -> None:
    """An enclave's name with an override of direction is shown with its escape."""
    text = page_of(made, dataclasses.replace(made.verdict(), module_id="i-0\u202e<b>\x1b"))
    assert r"i-0\u202e&lt;b&gt;\x1b" in text
    assert "\u202e" not in text


def test_a_result_that_is_wrong_about_every_lot_has_few_reasons(made: Made) -> None:
    """However many lots have a price under the reserve, the first ones are named and the others counted."""
    count = 5000
    lots = messages.make_lots((f"lot-{number}", 9) for number in range(count))
    second = receipts.make(made.authority, rule="second-price", outcomes=[messages.Won("buyer-1", 5)])
    auction = dataclasses.replace(second.manifest, lots=lots)
    file = messages.ResultFile.decode(second.result_file)
    outcomes = messages.Outcomes(
        lots.ids, ("buyer-1", "buyer-2"), array("Q", [1] * count), array("Q", [5] * count)
    )
    result = dataclasses.replace(
        messages.Result.decode(file.result), lots=outcomes, manifest=auction.digest
    ).encode()
    verdict = verify_receipt(
        dataclasses.replace(file, result=result).encode(),
        auction.encode(),
        made.authority.decision,
        root=LOCAL_SIMULATOR,
        check_certificate=certified,
        now=made.now,
    )
    bad = [finding for finding in verdict.findings if finding.code == "bad-outcome"]
    assert len(bad) == LOTS_NAMED + 1
    assert (bad[0].where, bad[0].detail) == ("lot 'lot-0'", "the price is under the reserve")
    assert bad[-1].detail == f"the price is under the reserve on {count - LOTS_NAMED} more lots"
