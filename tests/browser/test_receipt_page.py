"""The page of a receipt in headless Chromium: what its script finds, and what a hostile file can do to it."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coattest.findings import Finding
from coattest_verify.auction import messages, page
from coattest_verify.auction.page import BROWSER_CHECKS, PAGE_LOTS
from coattest_verify.auction.receipt import Check
from support.guides.chromium import Browser, browser
from support.only_in import only_in
from support.verify import receipts
from support.verify.receipts import Made, page_of

DATA = re.compile(r'(<script type="application/json" id="data">)(.*?)(</script>)', re.DOTALL)
ROWS = (
    "Object.fromEntries(Array.from(document.querySelectorAll('#browser tbody tr'), "
    "row => [row.id, row.querySelector('.outcome').textContent]))"
)
HOSTILE = "</script><img src=x onerror=\"document.body.dataset.owned='yes'\"><!--"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for all pages."""
    only_in("browser")
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A first-price receipt of three lots."""
    return receipts.make(receipts.authority(tmp_path_factory.mktemp("quorum")))


def look(chromium: Browser, tmp_path: Path, page: str) -> dict[str, str]:
    """The outcome of each of the script's checks."""
    path = tmp_path / "receipt.html"
    path.write_text(page)
    chromium.open(path)
    rows = chromium.evaluate(ROWS)
    return {name.removeprefix("browser-"): outcome for name, outcome in rows.items()}


def failed(outcomes: dict[str, str]) -> set[str]:
    """The names of the checks that failed."""
    assert set(outcomes) == set(BROWSER_CHECKS)
    assert set(outcomes.values()) <= {"ok", "failed"}
    return {name for name, outcome in outcomes.items() if outcome == "failed"}


def with_data(page: str, change: Callable[[dict[str, object]], None]) -> str:
    """The page with other signed bytes in it, as somebody who edits the file would leave it."""
    found = DATA.search(page)
    assert found
    data = json.loads(found[2])
    change(data)
    return page[: found.start(2)] + json.dumps(data) + page[found.end(2) :]


def replaced(name: str, old: bytes, new: bytes) -> Callable[[dict[str, object]], None]:
    """A change of bytes in one field of the data."""

    def change(data: dict[str, object]) -> None:
        content = base64.b64decode(str(data[name]))
        assert old in content
        data[name] = base64.b64encode(content.replace(old, new, 1)).decode()

    return change


def flipped(name: str, place: int) -> Callable[[dict[str, object]], None]:
    """A change of one bit in one field of the data."""

    def change(data: dict[str, object]) -> None:
        content = bytearray(base64.b64decode(str(data[name])))
        content[place] ^= 1
        data[name] = base64.b64encode(content).decode()

    return change


@pytest.mark.parametrize("rule", ["first-price", "second-price"])
def test_a_genuine_page_verifies_again_and_asks_for_nothing(
    chromium: Browser, tmp_path: Path, made: Made, rule: str
) -> None:
    """Every check holds, no request but the page itself is made, and the browser has no complaint."""
    price = None if rule == "first-price" else 120000
    outcomes = (messages.Won("buyer-2", price), *receipts.OUTCOMES[1:])
    page = page_of(receipts.make(made.authority, rule=rule, outcomes=outcomes))
    assert failed(look(chromium, tmp_path, page)) == set()
    assert chromium.requests() == [(tmp_path / "receipt.html").as_uri()]
    assert chromium.complaints() == []
    assert "All 7 checks passed" in chromium.evaluate(
        "document.getElementById('browser-summary').textContent"
    )
    text = chromium.evaluate("document.body.innerText")
    assert "A hostile page can always say" in text
    assert "verify receipt RESULT --manifest MANIFEST" in text
    assert "buyer-2" in text
    assert ("120000" in text) == (rule == "second-price")
    artifacts = Path(os.environ.get("COATTEST_ARTIFACTS") or tmp_path)
    artifacts.mkdir(parents=True, exist_ok=True)
    for dark in (False, True):
        shot = artifacts / f"receipt-{rule}{'-dark' if dark else ''}.png"
        chromium.screenshot(shot, dark=dark)
        assert shot.read_bytes().startswith(b"\x89PNG")
    chromium.screenshot(artifacts / f"receipt-{rule}-narrow.png", width=420)
    assert chromium.evaluate("document.documentElement.scrollWidth <= 420")
    chromium.pdf(artifacts / f"receipt-{rule}.pdf")
    assert (artifacts / f"receipt-{rule}.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (replaced("result", b"lot-1", b"lot-9"), {"result", "shown"}),
        (flipped("receipt", -1), {"document"}),
        (replaced("receipt", b"eu-central-1", b"eu-central-2"), {"chain"}),
        (flipped("manifest", -1), {"seals"}),
        (lambda data: data.update(root="00" * 32), {"root"}),
        (lambda data: data["pcrs"].update({"0": "00" * 48}), {"code"}),
        (lambda data: data["seals"].pop(), {"seals"}),
        (lambda data: data["seals"].__setitem__(0, data["seals"][1]), {"seals"}),
    ],
    ids=["result", "signature", "certificate", "manifest", "root", "pcr", "seal-missing", "seal-twice"],
)
def test_changed_bytes_are_noticed(
    chromium: Browser,
    tmp_path: Path,
    made: Made,
    change: Callable[[dict[str, object]], None],
    expected: set[str],
) -> None:
    """One changed part fails the checks that it is part of, and the page says so at its head."""
    outcomes = look(chromium, tmp_path, with_data(page_of(made), change))
    assert expected <= failed(outcomes)
    assert "FAILED" in chromium.evaluate("document.getElementById('browser-summary').textContent")
    assert chromium.evaluate("document.getElementById('verdict').classList.contains('doubted')")


def test_each_certificate_and_the_payload_count(chromium: Browser, tmp_path: Path, made: Made) -> None:
    """A flipped bit at 25 places all over the document is always noticed."""
    page = page_of(made)
    size = len(messages.ResultFile.decode(made.result_file).receipt)
    for place in range(0, size, size // 24):
        assert failed(look(chromium, tmp_path, with_data(page, flipped("receipt", place)))), place


def test_a_table_that_says_something_else_is_noticed(chromium: Browser, tmp_path: Path, made: Made) -> None:
    """The signed bytes are genuine, and the winner that people read is another; or a row is gone."""
    page = page_of(made)
    assert failed(look(chromium, tmp_path, page.replace("<td>buyer-2</td>", "<td>buyer-1</td>", 1))) == {
        "shown"
    }
    row = "<tr><td>lot-2</td><td>unsold</td></tr>\n"
    assert row in page
    assert failed(look(chromium, tmp_path, page.replace(row, ""))) == {"shown"}


def test_another_script_does_not_run(chromium: Browser, tmp_path: Path, made: Made) -> None:
    """The page's policy admits its own script by digest, and no other, nor any request."""
    page = page_of(made).replace("</main>", f"</main>{HOSTILE.removeprefix('</script>')}-->", 1)
    page = page.replace("</main>", "</main><script>document.body.dataset.owned = 'yes'</script>", 1)
    look(chromium, tmp_path, page)
    assert chromium.evaluate("document.body.dataset.owned ?? null") is None
    assert any("Content Security Policy" in complaint for complaint in chromium.complaints())


def test_hostile_names_stay_text(chromium: Browser, tmp_path: Path, made: Made) -> None:
    """Markup in a lot, an auction or a reason is shown as it is written, and runs nowhere."""
    verdict = made.verdict()
    assert verdict.result is not None
    result = dataclasses.replace(verdict.result)
    object.__setattr__(result, "lots", ((HOSTILE, messages.Won("buyer-2")),))
    object.__setattr__(result, "auction", HOSTILE)
    outcomes = look(chromium, tmp_path, page_of(made, dataclasses.replace(verdict, result=result)))
    assert "shown" in failed(outcomes)
    assert HOSTILE in chromium.evaluate("document.getElementById('lots').innerText")
    assert chromium.evaluate("document.body.dataset.owned ?? null") is None
    check = Check("result", "A check.", (Finding("wrong-lots", HOSTILE, HOSTILE),))
    look(chromium, tmp_path, page_of(made, dataclasses.replace(verdict, checks=(check,))))
    assert HOSTILE in chromium.evaluate("document.getElementById('checks').innerText")
    assert chromium.evaluate("document.body.dataset.owned ?? null") is None
    assert len(chromium.requests()) == 1


def test_a_receipt_that_does_not_verify_shows_reasons_and_no_lots(
    chromium: Browser, tmp_path: Path, made: Made
) -> None:
    """Made after the publication deadline: the page says why, and names no winner."""
    late = receipts.make(made.authority, seconds_after=1900)
    assert [finding.code for finding in late.verdict().findings] == ["too-late"]
    path = tmp_path / "receipt.html"
    path.write_text(page_of(late))
    chromium.open(path)
    text = chromium.evaluate("document.body.innerText")
    assert "Does not verify: 1 finding" in text
    assert "too-late" in text
    assert chromium.evaluate("document.getElementById('lots')") is None


def test_a_long_result_is_cut_in_the_table_only(chromium: Browser, tmp_path: Path, made: Made) -> None:
    """The table has the first lots and says so; the signed bytes have all, and verify."""
    many = receipts.make(made.authority, outcomes=[messages.Won("buyer-1")] * (PAGE_LOTS + 1))
    assert failed(look(chromium, tmp_path, page_of(many))) == set()
    assert f"the first {PAGE_LOTS} of {PAGE_LOTS + 1} lots" in chromium.evaluate("document.body.innerText")


def test_a_page_without_the_signed_bytes_says_so(
    chromium: Browser, tmp_path: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a result that is too large: its lots, the command's checks, no script, no claim of a second look."""
    monkeypatch.setattr(page, "PAGE_RESULT_MAX", len(made.result_file) - 1)
    path = tmp_path / "receipt.html"
    path.write_text(page_of(made))
    chromium.open(path)
    text = chromium.evaluate("document.body.innerText")
    assert "Not checked again in this browser" in text
    assert messages.sha384(made.result_file).hex() in text
    assert chromium.evaluate("document.querySelectorAll('#lots tbody tr').length") == 3
    assert chromium.evaluate("document.querySelectorAll('script, #browser').length") == 0
    assert chromium.evaluate("document.body.dataset.browser ?? null") is None
    assert len(chromium.requests()) == 1
