"""The suite: python -m benchmarks [--full] [--only NAME] [--json FILE] [--plot DIR] [--compare BASE.json]."""

import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import gettempdir

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import compare, machine, plots, report, rows, scenarios  # noqa: F401 - scenarios register themselves
from benchmarks.bench import SCENARIOS
from benchmarks.rows import Run

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(help="This project's result store, its peers and the limit, side by side in one run.")
@click.option("--full", "mode", flag_value="full", help="Measure all sizes, up to 10 million results: takes an hour.")
@click.option("--tiny", "mode", flag_value="tiny", hidden=True, help="Just see that everything runs.")
@click.option("--only", metavar="NAME", multiple=True, type=click.Choice(list(SCENARIOS)), help="One scenario; repeat.")
@click.option("--json", "json_path", metavar="FILE", type=FILE, help="Also write the figures there.")
@click.option("--plot", "plot_folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path), help="Draw.")
@click.option("--compare", "base_path", metavar="BASE.json", type=FILE, help="Fail if ours has lost against the limit.")
@click.option("--tolerance", default=1.3, show_default=True, help="Factor that --compare allows for.")
@click.option("--seed", default=1, show_default=True, help="Of ids and order.")
@click.option("--list", "lists", is_flag=True, help="Name the scenarios.")
def main(
    mode: str | None,
    only: Sequence[str],
    json_path: Path | None,
    plot_folder: Path | None,
    base_path: Path | None,
    tolerance: float,
    seed: int,
    lists: bool,
) -> None:
    """Measure, show, and keep."""
    console = report.make_console()
    if lists:
        for each in SCENARIOS.values():
            console.print(f"{each.name:20}{each.title}", highlight=False)
        return
    mode = mode or "short"
    base = _base(base_path, mode) if base_path else None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends servers as Ctrl-C does
    run = Run(machine.describe(Path(gettempdir())), {"mode": mode, "seed": seed, "only": list(only)})
    report.show_header(console, run.header)
    failed = _measure(run, only or list(SCENARIOS), console, json_path)
    report.show_end(console, run)
    if plot_folder:
        console.print("drawn:", *(str(path) for path in plots.draw(run, plot_folder)), highlight=False)
    slower = _compare(console, base, run, tolerance) if base else False
    sys.exit(1 if failed or slower else 0)


def _base(path: Path, mode: str) -> Run:
    """The run to compare with, if it can be."""
    try:
        base = rows.read(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise click.BadParameter(f"{path} is no JSON of a run: {error}", param_hint="--compare") from error
    if base.settings["mode"] != mode:
        told = f"{path} is of a {base.settings['mode']} run, this is a {mode} one: give --full to both or to none."
        raise click.BadParameter(told, param_hint="--compare")
    return base


def _measure(run: Run, names: Sequence[str], console: Console, json_path: Path | None) -> bool:
    """Run the scenarios, each shown and written at once; return whether one has failed."""
    failed = False
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    errors = Console(stderr=True)
    # Drawn between measurements only: a thread that draws would be in the figures.
    with Progress(*columns, console=errors, transient=True, auto_refresh=False) as progress:
        task = progress.add_task("", total=len(names))

        def step(text: str) -> None:
            progress.update(task, description=text)
            progress.refresh()

        for name in names:
            try:
                section = SCENARIOS[name].measured(run.settings["mode"], run.settings["seed"], _named(name, step))
            except Exception:  # whatever it is, the other scenarios are measured, and the exit code tells
                failed = True
                errors.print(f"{name} has failed:", traceback.format_exc(), markup=False, highlight=False)
                continue
            finally:
                progress.advance(task)
            run.sections.append(section)
            report.show_section(console, section)
            if json_path:
                rows.write(json_path, run)
    return failed


def _named(name: str, step: Callable[[str], None]) -> Callable[[str], None]:
    return lambda text: step(f"{name}: {text}")


def _compare(console: Console, base: Run, run: Run, tolerance: float) -> bool:
    found = compare.changes(base, run)
    slower = compare.regressions(found, tolerance)
    console.print(report.rich_table(compare.table(found, tolerance)))
    console.print(f"{len(slower)} of {len(found)} need more than {tolerance:g} times what they did against the limit.")
    return bool(slower)


if __name__ == "__main__":
    main()
