"""adapter_config.json: how strongly each module's change counts, and what llama.cpp cannot compute.

Knows peft's keys. Refuses to know tensors. Source: peft 0.21 `tuners/lora/config.py`,
`tuners/lora/layer.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from dure.convert.huggingface.json_file import read_json
from dure.errors import ModelError
from dure.model.gguf.values import one_line

_FILE = "adapter_config.json"
_MERGE_IT = "merge it with peft's `merge_and_unload`, and import the merged model"

_OTHER_METHODS = {
    "use_dora": "DoRA, which scales whole rows by learned magnitudes",
    "use_qalora": "QA-LoRA, which pools its inputs",
    "use_bdlora": "BD-LoRA, whose matrices are block-diagonal",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
    "arrow_config": "Arrow, which routes between adapters",
    "alora_invocation_tokens": "aLoRA, which begins at an invocation",
    "lora_bias": "LoRA with biases",
    "modules_to_save": "modules_to_save: whole layers besides LoRA",
    "trainable_token_indices": "trainable_token_indices: changed embeddings of single tokens",
    "layer_replication": "layer_replication: a model with some layers twice",
    "fan_in_fan_out": "fan_in_fan_out: weights that are stored transposed",
}
"""Keys that, if they are set, mean more or other than LoRA."""

_CHANGED_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways to begin that change the model's own weights, too."""


class AdapterConfig:
    """One adapter's configuration. Raises ModelError if it is damaged, or of a method that is not LoRA."""

    def __init__(self, folder: Path) -> None:
        self._name = f"{one_line(folder.name)}/{_FILE}"
        self._values = read_json(folder / _FILE)
        self._check()
        self._alpha = self._number("lora_alpha", self._values.get("lora_alpha", 8))
        self._alphas = self._patterns("alpha_pattern")
        parameters = self._values.get("target_parameters")
        self._parameters = parameters if isinstance(parameters, list) else []

    @property
    def base_name(self) -> str:
        """Return what the adapter says that it was trained on, "" if it does not."""
        name = self._values.get("base_model_name_or_path")
        return name if isinstance(name, str) else ""

    def scale(self, module: str, rank: int) -> float:
        """Return what a module's product is multiplied by. Raises ModelError if that is 0.

        module: its name, or that of a parameter of it; patterns match the one that was trained.
        """
        name = f"{module}.weight"
        if any(f".{name}".endswith(f".{parameter}") for parameter in self._parameters):
            module = name
        alpha = next((a for key, a in self._alphas.items() if key.match(module)), self._alpha)
        if not alpha:
            self._fail(f"lora_alpha of {one_line(module)} is 0, so it changes nothing")
        return alpha / (math.sqrt(rank) if self._values.get("use_rslora") else rank)

    def is_before(self, *version: int) -> bool:
        """Return whether a peft before this version saved the adapter; the first did not say theirs."""
        said = re.match(r"(\d+)\.(\d+)", str(self._values.get("peft_version")))
        return said is None or tuple(int(part) for part in said.groups()) < version

    def _fail(self, problem: str, cure: str = "train or save the adapter again") -> NoReturn:
        raise ModelError(f"{self._name}: {problem}", cure)

    def _check(self) -> None:
        method = self._values.get("peft_type")
        if method != "LORA":
            self._fail(f"peft_type is {one_line(repr(method))}, not LORA", _MERGE_IT)
        for key, meaning in _OTHER_METHODS.items():
            if self._values.get(key):
                self._fail(f"it uses {meaning} ({key}), which no GGUF adapter holds", _MERGE_IT)
        if (bias := self._values.get("bias", "none")) != "none":
            self._fail(f"bias is {one_line(repr(bias))}: it has biases, too", _MERGE_IT)
        begin = self._values.get("init_lora_weights")
        if isinstance(begin, str) and begin.lower().startswith(_CHANGED_BASES):
            self._fail(
                f"init_lora_weights is {one_line(begin)}, which changed the model's own weights, too",
                "save it anew with `path_initial_model_for_weight_conversion`, or " + _MERGE_IT,
            )

    def _patterns(self, key: str) -> Mapping[re.Pattern[str], float]:
        """Return numbers by what modules must match. Source: peft `get_pattern_key`."""
        values = self._values.get(key) or {}
        if not isinstance(values, dict):
            self._fail(f"{key} is no object")
        found = {}
        for pattern, value in values.items():
            try:
                found[re.compile(rf"(.*\.)?({pattern})$")] = self._number(key, value)
            except re.error as error:
                self._fail(f"{key} has the pattern {one_line(pattern)}, which is none: {error}")
        return found

    def _number(self, key: str, value: Any) -> float:
        if type(value) not in (int, float) or not abs(value) < float("inf"):
            self._fail(f"{key} is {one_line(repr(value))}, not a number")
        return float(value)
