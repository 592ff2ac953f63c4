"""Members of ensembles trained at once in one process: what `python -m monai.bundle` does for each, side by side."""

import copy
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from monai.bundle import ConfigParser

from prostate_alm.progress import progress_bar
from prostate_alm.training import run_folder
from prostate_alm.training.fanout import MemberTask, Outcome
from prostate_alm.training.fanout_worker import run_logged
from prostate_alm.training.member import Member, member_run, write_results
from prostate_alm.training.together import Course, check_alike, follow, run_courses
from prostate_alm.training.trainer import TwoStageTraining


@dataclass(frozen=True)
class _Seat:
    """A member of a group: its task, and the two parts of its bundle that a training consists of."""

    task: MemberTask
    member: Member
    training: TwoStageTraining


def run_members_together(tasks: Sequence[MemberTask], *, at_once: int | None = None) -> Generator[Outcome, None, None]:
    """Run the tasks in this process, the networks of a group of members as one, and yield how each ended.

    Folders, results and MLflow runs are those of the bundle command. A member with results is not trained again, one
    that was interrupted goes on from its last checkpoint, which is ten epochs old at most; either way of training goes
    on with the other's. A member that fails does not stop the others, nor does one that cannot join the group: all
    need the architecture, device and precision of the first (see `together.check_alike`). Epochs reach MLflow when a
    member is through.

    Args:
        tasks: what to run.
        at_once: largest number of members in a group, >= 1, which memory bounds; None for all.
    """
    size = at_once or max(1, len(tasks))
    for start in range(0, len(tasks), size):
        yield from _run_group(tasks[start : start + size])


def _run_group(tasks: Sequence[MemberTask]) -> Generator[Outcome, None, None]:
    seats: list[_Seat] = []
    for task in tasks:
        failure = run_logged(partial(_take_seat, task, seats), task.log_file)
        if failure is not None:
            yield Outcome(task, failure)
    if not seats:
        return
    trainings = [seat.training for seat in seats]
    total = sum(stage.epochs for training in trainings for stage in training.stages())
    show = progress_bar(f"{len(seats)} members together", unit="epoch")
    courses = [_train(seat, lambda: show(_epochs(trainings), total)) for seat in seats]
    waiting = dict(enumerate(seats))
    try:
        for end in run_courses(trainings, courses):
            yield _outcome(waiting.pop(end.number).task, end.error)
    except Exception as error:  # of the whole group: no memory left, for one
        yield from (_outcome(seat.task, error) for seat in waiting.values())
    finally:
        show(_epochs(trainings), _epochs(trainings))  # patience may have ended it before `total`


def _take_seat(task: MemberTask, seats: list[_Seat]) -> None:
    """Prepare a member as its bundle command does, and let it join those that have been prepared."""
    own = {"output_dir": task.output_dir, "resume": True}
    values = {
        name: str(value) if isinstance(value, Path) else value for name, value in {**task.overrides, **own}.items()
    }
    parser = ConfigParser(copy.deepcopy(ConfigParser.load_config_file(task.config_file)))
    parser.update(values)
    with _as_bundle_command(task.arguments()):
        member: Member = parser.get_parsed_content("prepared")
        training: TwoStageTraining = parser.get_parsed_content("trainer")
    check_alike([*(seat.training for seat in seats[:1]), training])
    seats.append(_Seat(task, member, training))


@contextmanager
def _as_bundle_command(arguments: list[str]) -> Iterator[None]:
    """Let the command line be that of the bundle: it is checked, and belongs to what determines a run."""
    kept = sys.argv
    sys.argv = [str(Path("monai", "bundle", "__main__.py")), *arguments]
    try:
        yield
    finally:
        sys.argv = kept


def _train(seat: _Seat, on_epoch: Callable[[], object]) -> Course:
    """Return the course of a member from its first epoch to its results: `member.run_member` within a group."""
    member, training = seat.member, seat.training
    if member.folder.is_finished:
        return
    with member.folder.lock(), member_run(member) as run:
        yield from follow(training, member.folder.file(run_folder.CHECKPOINT), on_epoch=on_epoch)
        run.log_epochs(training.history)
        write_results(member, training)


def _outcome(task: MemberTask, error: Exception | None) -> Outcome:
    return Outcome(task, None if error is None else run_logged(partial(_fail, error), task.log_file))


def _fail(error: Exception) -> NoReturn:
    raise error


def _epochs(trainings: Sequence[TwoStageTraining]) -> int:
    return sum(len(training.history) for training in trainings)
