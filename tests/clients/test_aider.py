"""aider edits a file of a repository with what the model writes."""

from __future__ import annotations

from tests.support.other_clients import Person, installed, speaking

QUIET = (
    "--no-check-update",
    "--analytics-disable",
    "--no-show-model-warnings",
    "--no-show-release-notes",
    "--no-gitignore",
    "--no-pretty",
    "--yes-always",
)
EDIT = """It waits now.

note.txt
```
The ferry waits for us.
```
"""


def test_it_writes_what_the_model_says_and_commits_it(person: Person) -> None:
    program = installed("aider", "bin/aider")
    identity = ("-c", "user.name=anna", "-c", "user.email=anna@example.org")
    for command in (("init", "-q"), ("add", "note.txt"), (*identity, "commit", "-qm", "note")):
        assert person.run("git", *command).returncode == 0
    with speaking(EDIT, "note: the ferry waits") as server:
        done = person.run(
            program,
            *("--model", "openai/dure-demo", *QUIET),
            *("--message", "Let the ferry wait.", "note.txt"),
            OPENAI_API_BASE=f"{server.url}/v1",
            OPENAI_API_KEY="none",
            LITELLM_LOCAL_MODEL_COST_MAP="True",
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert (person.work / "note.txt").read_text() == "The ferry waits for us.\n"
        assert person.run("git", "log", "-1", "--format=%s").stdout == "note: the ferry waits\n"
        assert server.answers == [("POST", "/v1/chat/completions", 200)] * 2
