"""Files as people have them, each with the template they would write and the right result (`cases/cases.jsonl`).

`seen_in` names the public thread in which the shape was seen; all contents are ours.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tunerun.dataset import LoadedDataset, load_examples
from tunerun.errors import InputError
from tunerun.schema import DatasetSection, Template
from tunerun.template import PromptTemplate

HERE = Path(__file__).parent / "cases"
# Not splitlines(): one of the cases holds U+2028.
CASES = [json.loads(line) for line in (HERE / "cases.jsonl").read_text(encoding="utf-8").strip().split("\n")]


def _load(case: dict[str, Any]) -> LoadedDataset:
    return load_examples(
        DatasetSection(path=str(HERE / case["file"])),
        PromptTemplate(Template(text_input=case["text_input"], output=case["output"])),
        max_input_characters=40_000,
        max_output_characters=5_000,
    )


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_case(case: dict[str, Any]) -> None:
    """The file gives exactly the right examples, is refused for the right reason, or is read with a warning."""
    if "refused" in case:
        with pytest.raises(InputError, match=case["refused"]):
            _load(case)
        return
    loaded = _load(case)
    if "examples" in case:
        assert [[example.text_input, example.output] for example in loaded.training.examples] == case["examples"]
    else:
        assert any(re.search(case["warns"], warning) for warning in loaded.warnings)


def test_every_file_belongs_to_a_case() -> None:
    """No file lies beside the cases unused."""
    assert {file.name for file in (HERE / "files").iterdir()} == {Path(case["file"]).name for case in CASES}
