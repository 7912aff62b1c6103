"""Every test that experiments/README.md names as a promise's proof is there."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
README = TESTS.parent / "experiments" / "README.md"
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")


def test_every_promise_names_tests_that_exist():
    lines = README.read_text().split("## What is promised\n")[1].split("\n## ")[0].splitlines()
    promises = [line for line in lines if line.startswith("| ")][1:]
    assert len(promises) >= 20
    for promise in promises:
        named = NAMED.findall(promise.split(" | ")[1])
        assert named, promise
        absent = [name for file, name in named if f"\ndef {name}(" not in (TESTS / file).read_text()]
        assert absent == [], promise
