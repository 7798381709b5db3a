"""Diversity: how many different build routes and hosts the agreeing members show.

Each member brings one at most, whatever it signs: otherwise one member would be diverse by itself. What
counts is the best assignment of members to routes (a matching): one more statement never takes one away.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from coattest_verify.quorum.members.file import MembersFile
from coattest_verify.quorum.tally import Answer


def undiversified(agree: Sequence[Answer], policy: MembersFile) -> list[str]:
    """What the agreeing answers lack of the policy's diversity, in words; empty when nothing."""
    routes = {
        answer.member: {statement.built.route for statement in answer.counting if statement.built}
        for answer in agree
    }
    hosts = {
        answer.member: {statement.host for statement in answer.counting if statement.host} for answer in agree
    }
    lacks = []
    for found, wanted, what in ((routes, policy.routes, "build routes"), (hosts, policy.hosts, "hosts")):
        count = distinct(found, wanted)
        if count < wanted:
            lacks.append(f"{count} of {wanted} different {what}")
    return lacks


def distinct(offers: Mapping[str, Collection[str]], enough: int) -> int:
    """How many values can be shown with each member standing for one of its own; stops at ``enough``."""
    taken: dict[str, str] = {}

    def place(name: str, tried: set[str]) -> bool:
        for value in sorted(offers[name]):
            if value not in tried:
                tried.add(value)
                if value not in taken or place(taken[value], tried):
                    taken[value] = name
                    return True
        return False

    for name in sorted(offers):
        if len(taken) >= enough:
            break
        place(name, set())
    return min(len(taken), enough)
