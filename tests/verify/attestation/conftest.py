"""The settings of all tests: on the corners of the matrix no other conftest is read."""

from __future__ import annotations

from support.drawing import draw_as_everywhere

draw_as_everywhere()
