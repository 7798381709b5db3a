"""A receipt as one self-contained HTML page: no network, no framework.

The page shows the verdict of ``verify receipt``, and carries the signed bytes and a script that checks the
signatures again with WebCrypto. Names in it come from hostile files: every text is escaped, the data block
has no ``<``, and the page's content security policy allows only this script and this style, by their digests.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata, resources

from coattest.text import printable
from coattest_verify.attestation.profiles import root_for
from coattest_verify.auction import messages
from coattest_verify.auction.outcomes import moment_text, outcome_price, outcome_text
from coattest_verify.auction.receipt import Check, ReceiptVerdict
from coattest_verify.quorum.authority import Authority
from coattest_verify.quorum.members.file import utc

PAGE_LOTS = 2000
"""Lots in the page's table; the signed bytes in the page have them all."""

PAGE_RESULT_MAX = 8 * 1024 * 1024
"""Bytes of a result file that a page carries: about 200,000 lots and 11 MB of page. For a larger result the
page has neither the bytes nor the script, and says so (ADR 160).
"""

BROWSER_CHECKS = {
    "root": "The document's first certificate is the pinned root, by SHA-256.",
    "chain": "Each certificate is signed (P-384) by the one above it, may sign the next, and was valid then.",
    "document": "The attestation document is signed (P-384) by the last certificate's key.",
    "result": "The document names the SHA-384 of the result in this page, and is a receipt.",
    "code": "PCR0, PCR1 and PCR2 of the document are those of the decision.",
    "seals": "Every buyer of the manifest signed (P-384) the seal that the document names.",
    "shown": "The table above agrees with those signed bytes.",
}
"""What the script checks: the rows that it fills in, by the script's name for each check."""


@dataclass(frozen=True, slots=True)
class _Html:
    """Markup that needs no more escaping."""

    text: str


def receipt_page(
    verdict: ReceiptVerdict,
    *,
    result_file: bytes,
    manifest: messages.Manifest,
    authority: Authority,
    now: datetime,
    names: tuple[str, str] = ("RESULT", "MANIFEST"),
) -> str:
    """The page of a verdict; ``now`` is when it was reached (aware).

    ``names`` are those of the result's and the manifest's file, for the command to paste.

    A result that did not verify is shown with its findings and without its lots.
    """
    carried = verdict.ok and len(result_file) <= PAGE_RESULT_MAX
    script, style = _asset("receipt.js"), _asset("receipt.css")
    admitted = f"'{_csp_digest(script)}'" if carried else "'none'"
    policy = (
        f"default-src 'none'; script-src {admitted}; style-src '{_csp_digest(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    sections = [
        _header(verdict, manifest, now),
        _caution(authority.decision.profile, names),
        _simulator(authority.decision.profile),
        _lots(verdict, "the signed bytes have" if carried else "the result file has"),
        _facts(verdict, manifest),
        _checks(verdict.checks),
        _browser() if carried else _not_carried(result_file) if verdict.ok else _Html(""),
        _rebuilders(authority),
        _code(authority, verified=verdict.ok),
        _limits() if carried else _Html(""),
    ]
    scripts = ""
    if carried:
        scripts = (
            f'<script type="application/json" id="data">{_data(result_file, manifest, authority)}</script>\n'
            f"<script>{script}</script>"
        )
    body = "\n".join(section.text for section in sections if section.text)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{_escape(manifest.auction)}: receipt</title>\n<style>{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n{scripts}\n</body>\n</html>\n"
    )


def _asset(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text("utf-8")


def _csp_digest(text: str) -> str:
    """The source expression of an inline script or style (CSP level 3, 2.3.1)."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _data(result_file: bytes, manifest: messages.Manifest, authority: Authority) -> str:
    """The data block: JSON without the characters that could end a script element."""
    parsed = messages.ResultFile.decode(result_file)
    document = {
        "result": _base64(parsed.result),
        "receipt": _base64(parsed.receipt),
        "manifest": _base64(manifest.encode()),
        "seals": [_base64(seal) for seal in parsed.seals],
        "root": root_for(authority.decision.profile).sha256.hex(),
        "pcrs": {str(index): value for index, value in authority.decision.pcrs.items()},
        "shown": PAGE_LOTS,
    }
    return json.dumps(document).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _escape(text: str) -> str:
    """A text as markup, without tags and without characters that change the direction of text."""
    return html.escape(printable(text))


def _text(value: str | _Html) -> str:
    return value.text if isinstance(value, _Html) else _escape(value)


def _table(
    head: Sequence[str], rows: Iterable[Sequence[str | _Html]], *, name: str = "", caption: str = ""
) -> _Html:
    cells = ("".join(f"<td>{_text(cell)}</td>" for cell in row) for row in rows)
    return _rows(head, (f"<tr>{each}</tr>" for each in cells), name=name, caption=caption)


def _rows(head: Sequence[str], rows: Iterable[str], *, name: str = "", caption: str = "") -> _Html:
    """A table whose rows are markup."""
    top = "".join(f'<th scope="col">{_escape(title)}</th>' for title in head)
    body = "\n".join(rows)
    identity = f' id="{name}"' if name else ""
    title = f"<caption>{_escape(caption)}</caption>" if caption else ""
    return _Html(
        f'<div class="wide"><table{identity}>{title}<thead><tr>{top}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _section(title: str, *content: _Html, css: str = "", name: str = "") -> _Html:
    identity = (f' id="{name}"' if name else "") + (f' class="{css}"' if css else "")
    inner = "\n".join(part.text for part in content)
    return _Html(f"<section{identity}>\n<h2>{_escape(title)}</h2>\n{inner}\n</section>")


def _paragraph(text: str, css: str = "") -> _Html:
    return _Html(f'<p class="{css}">{_escape(text)}</p>' if css else f"<p>{_escape(text)}</p>")


def _list(facts: Iterable[tuple[str, str | _Html]]) -> _Html:
    rows = "\n".join(f"<dt>{_escape(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts)
    return _Html(f"<dl>\n{rows}\n</dl>")


def _mono(text: str) -> _Html:
    return _Html(f'<span class="mono">{_escape(text)}</span>')


def _marked(name: str, text: str) -> _Html:
    """A text that the script compares with the signed bytes."""
    return _Html(f'<span id="{name}">{_escape(text)}</span>')


def _header(verdict: ReceiptVerdict, manifest: messages.Manifest, now: datetime) -> _Html:
    count = len(verdict.findings)
    title = (
        "Receipt verified" if verdict.ok else f"Does not verify: {count} finding{'s' if count != 1 else ''}"
    )
    version = _escape(metadata.version("coattest"))
    when = _escape(utc(now))
    return _Html(
        f'<header id="verdict" class="{"ok" if verdict.ok else "failed"}">\n'
        f"<h1><span>{_escape(title)}</span></h1>\n"
        f"<p>Auction <strong>{_escape(manifest.auction)}</strong>, checked by <code>verify receipt</code> of "
        f"coattest {version} on {when}.</p>\n</header>"
    )


def _caution(profile: str, names: tuple[str, str]) -> _Html:
    result, manifest = (_escape(shlex.quote(name)) for name in names)
    return _section(
        "Do not take this page's word",
        _paragraph(
            "A hostile page can always say “verified”, and so can a script in it: whoever gave you this page "
            "chose what it says. To be sure, run this command yourself, with a coattest that you installed "
            "and with the root, which the members must give you in some other way than by this page:"
        ),
        _Html(
            f"<pre>verify receipt {result} --manifest {manifest} --attestations DIR --root sha256:HEX "
            f"--profile {_escape(profile)}</pre>"
        ),
        css="caution",
    )


def _simulator(profile: str) -> _Html:
    if profile != "local":
        return _Html("")
    return _Html(
        '<section class="simulator">SIMULATOR: this receipt is from the local profile. The key of its '
        "root is public, so it proves nothing.</section>"
    )


def _lots(verdict: ReceiptVerdict, rest: str) -> _Html:
    result = verdict.result
    if result is None or not verdict.ok:
        return _section(
            "Result", _paragraph("The result does not verify, so its lots are not shown.", "failed")
        )
    priced = result.rule == messages.SECOND_PRICE
    head = ["Lot", "Won by", *(["Price, in minor units"] if priced else [])]
    rows = [
        [lot, outcome_text(outcome), *([outcome_price(outcome)] if priced else [])]
        for lot, outcome in result.lots[:PAGE_LOTS]
    ]
    count = len(result.lots)
    shown = (
        f"the first {PAGE_LOTS} of {count} lots; {rest} them all"
        if count > PAGE_LOTS
        else f"{count} lot{'s' if count != 1 else ''}"
    )
    return _section("Result", _table(head, rows, name="lots", caption=shown), name="lots-section")


def _facts(verdict: ReceiptVerdict, manifest: messages.Manifest) -> _Html:
    result = verdict.result if verdict.ok else None
    decided: list[tuple[str, str | _Html]] = [
        ("decided", utc(verdict.time.replace(microsecond=0)) if verdict.time else "unknown"),
        ("enclave", _mono(verdict.module_id or "unknown")),
        ("sealed by", ", ".join(verdict.sealed_by) or "nobody"),
    ]
    facts: list[tuple[str, str | _Html]] = [
        ("auction", _marked("auction", result.auction if result else manifest.auction)),
        ("rule", _marked("rule", result.rule if result else manifest.rule)),
        ("reveals", messages.DISCLOSURE[manifest.rule]),
        ("currency", _marked("currency", result.currency if result else manifest.currency)),
        ("bids closed", moment_text(manifest.closes)),
        ("publication until", moment_text(manifest.publish_by)),
        *(decided if verdict.ok else []),
        ("manifest", _mono(manifest.digest.hex())),
    ]
    return _section("Auction" if verdict.ok else "Auction, as the manifest has it", _list(facts))


def _checks(checks: Sequence[Check]) -> _Html:
    rows = (
        f'<tr class="{"ok" if check.outcome == "ok" else "failed"}"><td class="outcome">{check.outcome}</td>'
        f"<td>{_escape(check.says)}"
        + "".join(
            f'<span class="why">{_escape(f"{finding.code}: {finding.where}: {finding.detail}")}</span>'
            for finding in check.findings
        )
        + "</td></tr>"
        for check in checks
    )
    return _section("Checks by the command", _rows(("Outcome", "Check"), rows, name="checks"))


def _browser() -> _Html:
    rows = (
        f'<tr id="browser-{name}"><td class="outcome">not run</td>'
        f'<td>{_escape(says)}<span class="why"></span></td></tr>'
        for name, says in BROWSER_CHECKS.items()
    )
    summary = "Scripts are off here, so nothing was checked again."
    return _section(
        "Checked again in this browser",
        _Html(f'<p id="browser-summary" role="status">{summary}</p>'),
        _rows(("Outcome", "Check"), rows, name="browser"),
    )


def _not_carried(result_file: bytes) -> _Html:
    return _section(
        "Not checked again in this browser",
        _paragraph(
            f"The result file has {len(result_file):,} bytes, too many for a page. So this page does "
            "not have them, and no browser can check them here: the page only shows what the command found. "
            "The SHA-384 of the file is:"
        ),
        _Html(f"<p>{_mono(messages.sha384(result_file).hex()).text}</p>"),
        name="not-carried",
    )


def _rebuilders(authority: Authority) -> _Html:
    rows: list[list[str | _Html]] = []
    for answer in authority.answers:
        member, statement = authority.members.member(answer.member), answer.statement
        keys = ", ".join(key.fingerprint for key in member.keys) if member else ""
        built = statement.built if statement else None
        rows.append(
            [
                answer.member,
                utc(statement.time) if statement else "",
                _yes(built.kernel_compiled if built else None),
                _yes(statement.inputs_confirmed if statement else None),
                _mono(keys),
            ]
        )
    return _section(
        "Who rebuilt and signed the code",
        _table(
            ["Member", "Signed", "Compiled the kernel", "Confirmed every pin", "Key (SHA-256)"],
            rows,
            name="rebuilders",
        ),
    )


def _yes(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"


def _code(authority: Authority, *, verified: bool) -> _Html:
    decision = authority.decision
    facts: list[tuple[str, str | _Html]] = [
        ("release", f"{decision.release}, {decision.architecture}, {decision.profile} profile"),
        ("decision", _mono(decision.digest.hex())),
        ("members file", _mono(decision.quorum_sha256)),
        ("source tree", _mono(decision.tree_sha256)),
        *((f"PCR{index}", _mono(value)) for index, value in sorted(decision.pcrs.items())),
        ("root", _mono(root_for(decision.profile).sha256.hex())),
    ]
    return _section(
        "The code that decided" if verified else "The code that should have decided", _list(facts)
    )


def _limits() -> _Html:
    return _section(
        "What the browser does not check",
        _paragraph(
            "The browser takes the root, the measurements and the buyers' keys from this page. Only "
            "the command checks that the members agreed on those measurements and certified those keys, the "
            "sealed window of time, key usage and all other rules for the document. The browser shows no "
            "more than that the bytes in this page were signed."
        ),
    )
