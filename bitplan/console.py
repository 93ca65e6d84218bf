"""What the command line shows while it works: bars on a terminal, nothing elsewhere."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LABELS = {
    "load": "Loading the model",
    "sample": "Sampling text from the model",
    "statistics": "Gathering statistics",
    "scales": "Searching scales of channels",
    "measure": "Rendering and measuring",
    "swaps": "Swapping one layer at a time",
    "influence": "Running the blocks",
    "operating point": "Running the plan to start from",
    "hessian": "Running through the Hessian",
    "reference": "Running the reference",
    "refine": "Refining on the model",
    "evaluate": "Running the compressed model",
    "render": "Rendering weights",
    "apply": "Packing layers",
    "fetch": "Fetching files",
}


class Bars:
    """A bar for each stage, on standard error; quiet when that is not a terminal."""

    def __init__(self, *, hidden: bool = False) -> None:
        console = Console(stderr=True)
        self._is_hidden = hidden
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=hidden or not console.is_terminal,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def remark(self, stage: str, text: str) -> None:
        """Say beside a bar how good things are."""
        if stage in self._tasks:
            label = LABELS.get(stage, stage.capitalize())
            self._progress.update(self._tasks[stage], description=f"{label}: {text}")

    def say(self, text: str) -> None:
        """Leave a line above the bars; also where there is no terminal, but not when hidden."""
        if not self._is_hidden:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show how far a stage is; a finished one makes room."""
        if stage not in self._tasks:
            label = LABELS.get(stage, stage.capitalize())
            self._tasks[stage] = self._progress.add_task(label, total=total)
        self._progress.update(self._tasks[stage], completed=done, total=total)
        if done >= total:
            self._progress.remove_task(self._tasks.pop(stage))
