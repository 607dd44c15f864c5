"""A group of commands, one of which is meant if none is named."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

__all__ = ["RunByDefault"]


class RunByDefault(TyperGroup):
    """`dure node` alone is `dure node run`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as the base does; without a command, `run` is meant."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)
