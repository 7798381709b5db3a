"""Canonical JSON for in-toto: the library's bytes, for everything that can stand in a link or a layout."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.formats import encode_canonical

from coattest_verify.signatures.olpc import encode_olpc

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_the_bytes_are_the_librarys(value: object) -> None:
    """For any JSON value without fractions."""
    assert encode_olpc(value) == str(encode_canonical(value)).encode()  # type: ignore[arg-type,unused-ignore]


@pytest.mark.parametrize("value", [1.5, b"x", {"a": {1.5}}])
def test_what_has_no_canonical_form_is_an_error(value: object) -> None:
    """Fractions, bytes and sets."""
    with pytest.raises(TypeError):
        encode_olpc(value)
