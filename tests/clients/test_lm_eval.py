"""lm-eval's own `local-completions` scores the demo model through `dure serve`, with tasks of this file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dure
from tests.support.other_clients import Person, installed
from tests.support.serve_process import DEMO_MODEL

QUESTIONS: list[dict[str, Any]] = [
    {
        "begin": "Once upon a time there was a barley farmer called",
        "ends": [" Nari.", " spoon."],
        "right": 0,
    },
    {
        "begin": "She had a small house next to the",
        "ends": [" sang.", " south field in Solbat."],
        "right": 1,
    },
    {
        "begin": "In Solbat, where people keep their doors open, lived",
        "ends": [" Gita the tailor.", " the and."],
        "right": 0,
    },
]
TASKS = {
    "endings": """
task: endings
output_type: multiple_choice
doc_to_text: "{{begin}}"
doc_to_choice: ends
doc_to_target: right
target_delimiter: ""
metric_list: [{metric: acc}]
""",
    "texts": """
task: texts
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{begin}}{{ends[right]}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}]
""",
    "answers": """
task: answers
output_type: generate_until
doc_to_text: "{{begin}}"
doc_to_target: "{{ends[right][:-1]}}"
target_delimiter: ""
generation_kwargs: {until: ["."], max_gen_toks: 12}
metric_list: [{metric: exact_match}]
""",
}
SOURCE = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
"""


def evaluated(
    person: Person, url: str, settings: str, *options: str
) -> tuple[dict[str, Any], list[Any]]:
    """Run the tasks; return the results, and of each question of `endings` what was answered."""
    program = installed("lm-eval", "bin/lm_eval")
    data = person.work / "questions.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in QUESTIONS))
    for name, task in TASKS.items():
        (person.work / f"{name}.yaml").write_text(task + SOURCE.format(data=data))
    done = person.run(
        program,
        *("--model", "local-completions", *options, "--model_args"),
        f"base_url={url}/v1/completions,model=dure-demo{settings}",
        *("--tasks", ",".join(TASKS), "--include_path", person.work),
        *("--output_path", person.work / "found", "--log_samples"),
        HF_HUB_OFFLINE="1",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (found,) = Path(person.work / "found").rglob("results_*.json")
    (samples,) = Path(person.work / "found").rglob("samples_endings_*.jsonl")
    asked = [json.loads(line) for line in samples.read_text().splitlines()]
    return json.loads(found.read_text())["results"], [one["filtered_resps"] for one in asked]


@pytest.mark.parametrize("how", [[",num_concurrent=4"], ["", "--batch_size", "4"]])
def test_likelihoods_are_those_of_the_model(person: Person, demo: str, how: list[str]) -> None:
    """Choices, perplexity and texts; each choice's log-likelihood is what `import dure` computes."""
    results, answered = evaluated(person, demo, *how)
    assert results["endings"]["acc,none"] == 1.0
    assert 1.0 < results["texts"]["byte_perplexity,none"] < 2.0
    assert results["answers"]["exact_match,none"] > 0.6
    with dure.open(DEMO_MODEL, threads=1) as model:
        for question, told in zip(QUESTIONS, answered, strict=True):
            n = len(model.tokenize(question["begin"]))
            for end, (logprob, is_greedy) in zip(question["ends"], told, strict=True):
                text = question["begin"] + end
                expected = float(model.logprobs(text)[n:].sum())
                np.testing.assert_allclose(float(logprob), expected, atol=0.05)
                follows = model.logits(text)[n - 1 : -1].argmax(axis=1).tolist()
                assert is_greedy == str(follows == model.tokenize(text)[n:])
