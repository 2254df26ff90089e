"""How a verb ends: an exit code, and after a failure a few lines that say what to do."""

from __future__ import annotations

import errno
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from distilect.errors import DistilectError, Terminated, did_you_mean, is_disk_full

MAX_LINES = 8
RESUMABLE = ("advise", "compare", "demo", "distill", "finetune", "pretrain", "run", "score")


class Verb(TyperCommand):
    """One verb. An option that takes one value is refused when it is given twice: the parser would keep the last one silently."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = args[: args.index("--")] if "--" in args else args
        for option in self.params:
            names = [name for name in option.opts if name.startswith("-")]
            single = names and not option.multiple and not option.is_flag  # type: ignore[attr-defined]
            if single and sum(word.partition("=")[0] in names for word in words) > 1:
                ctx.fail(f"{names[0]} is given twice: it takes one value")
        return super().parse_args(ctx, args)


class Verbs(TyperGroup):
    """All verbs. Exit codes: 0 success, 1 failed, 2 wrong usage, 130 stopped by the keyboard, 143 stopped by SIGTERM."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # --debug may stand anywhere on the line; its place is before the verb.
        return super().parse_args(ctx, sorted(args, key=lambda word: word != "--debug"))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            verbs = self.list_commands(ctx)
            ctx.fail(f"no verb is called {args[0]!r}; known: {', '.join(verbs)}.{did_you_mean(args[0], verbs)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            kept = "; finished parts are kept: the same command goes on from there (without --overwrite)"
            typer.echo("stopped" + (kept if ctx.invoked_subcommand in RESUMABLE else ""), err=True)
            raise typer.Exit(143 if isinstance(stop, Terminated) else 130) from None
        except Exception as error:
            if _is_typers(error) or ctx.params.get("debug"):
                raise
            typer.echo(explain(error), err=True)
            raise typer.Exit(1) from None


def explain(error: Exception) -> str:
    """The message that is printed in place of a traceback."""
    if isinstance(error, DistilectError):
        lines = str(error).splitlines()
        more = [f"… and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
        return "\n".join(["error: " + "\n".join(lines[:MAX_LINES]), *more])
    file = getattr(error, "filename", None)
    at = f" at {file}" if file else ""
    if _is_full(error):
        return f"error: the disk is full{at}: free some space and repeat the command; finished parts are kept"
    if isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.EROFS:
        return f"error: no permission to read or write{at or ' a file'}: change it, or choose another place"
    text = " ".join(str(error).split()) or "no message"
    text = text if len(text) <= 300 else text[:299] + "…"
    return f"unexpected {type(error).__name__}: {text} (run with --debug for the traceback; please report)"


def _is_full(error: Exception) -> bool:
    # safetensors (Rust) and torch (C++) have their own exceptions for it, without an errno.
    signs = ("no space left on device", "file write failed", "unexpected pos")
    return is_disk_full(error) or any(sign in str(error).lower() for sign in signs)


def _is_typers(error: Exception) -> bool:
    """Usage errors, exits and closed pipes, which typer ends itself; older releases take these classes from click."""
    return hasattr(error, "exit_code") or isinstance(error, typer.Abort | BrokenPipeError)
