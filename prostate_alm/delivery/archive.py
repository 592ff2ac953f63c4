"""Many studies: each answered once, by several processes or a cluster, found again when the command is repeated."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from prostate_alm import __version__
from prostate_alm.delivery.answers import (
    AnswersError,
    answer_from_json,
    answer_name,
    answer_to_json,
    read_answers,
    write_answer,
    write_sheet,
    write_table,
)
from prostate_alm.delivery.beside import (
    BesideKind,
    File,
    OutputError,
    check_files,
    files_beside,
    lacks_files,
    write_files,
)
from prostate_alm.delivery.predict import quiet_about_values
from prostate_alm.delivery.prediction import Answer, Refused
from prostate_alm.delivery.sources import StudyFolder, content_sha256, open_source
from prostate_alm.imaging.dicom import StudyRefused
from prostate_alm.imaging.rulebook import Rules, default_rules
from prostate_alm.imaging.selection import Refusal
from prostate_alm.parallel import Executor, map_in_order
from prostate_alm.progress import Progress, silent
from prostate_alm.whole_files import sha256_of_file

if TYPE_CHECKING:
    from prostate_alm.delivery.package.opened import PackedModel
    from prostate_alm.delivery.report.words import Words


@dataclass(frozen=True)
class Job:
    """What is asked of each study: the model's file and its digest, the operating point, whether to identify, rules.

    `beside` names what else is written of each answer, `words` in which language and with which label.
    """

    model: Path
    model_sha256: str
    target_tpr: float
    identify: bool
    rules: Rules | None = None
    beside: tuple[BesideKind, ...] = ()
    words: Words | None = None


@dataclass(frozen=True)
class Reply:
    """What comes from one study: its answer as JSON, or the name of one that is there already, and the files beside it.

    `fault` says why there are none where there should be.
    """

    text: str
    files: Mapping[File, bytes] = field(default_factory=dict, repr=False)
    fault: str | None = None


@dataclass(frozen=True)
class ArchivedAnswer:
    """An answer and its file; `kept` where it was there already, `conflict` where it could not be written, and why."""

    answer: Answer
    path: Path
    kept: bool = False
    conflict: str | None = None


class _JobFolder:
    """The answers of one job in a folder: those from before and those of this command."""

    def __init__(self, path: Path, answers: dict[str, Answer], *, overwrite: bool) -> None:
        self.path, self.answers, self._overwrite = path, answers, overwrite
        self._fresh: set[str] = set()

    def take(self, reply: Reply) -> ArchivedAnswer:
        """Write an answer, given as JSON, unless it is there already (then its name will do) or another one is."""
        if reply.text in self.answers:
            return ArchivedAnswer(self.answers[reply.text], self.path / reply.text, kept=True)
        answer = answer_from_json(reply.text)
        if not self._overwrite:
            try:
                check_files(reply.files, answer, self.path)
            except OutputError as error:
                return ArchivedAnswer(answer, self.path / answer_name(answer), conflict=str(error))
        outcome = self._take(answer)
        if outcome.conflict is None:
            write_files(reply.files, answer, self.path)
        return outcome if reply.fault is None else replace(outcome, conflict=reply.fault)

    def _take(self, answer: Answer) -> ArchivedAnswer:
        name = answer_name(answer)
        path = self.path / name
        if self.answers.get(name) == answer:
            return ArchivedAnswer(answer, path, kept=True)
        if name in self._fresh:
            return ArchivedAnswer(
                answer, path, conflict="this study was given twice, with different files. Give one of them."
            )
        if path.exists() and not self._overwrite:
            reason = "the study was answered before with other files. Choose another output, or give --overwrite."
            return ArchivedAnswer(answer, path, conflict=reason)
        write_answer(answer, self.path)
        self._fresh.add(name)
        self.answers[name] = answer
        return ArchivedAnswer(answer, path)


def answer_archive(
    sources: Sequence[Path],
    output: Path,
    *,
    job: Job,
    jobs: int = 1,
    executor: Executor = "local",
    overwrite: bool = False,
    progress: Progress = silent,
) -> Generator[ArchivedAnswer, None, None]:
    """Answer the studies of many sources into a folder; yield each as it is there.

    Each answer is written as it comes, `answers.parquet` and `answers.csv` at the end, also after an interruption. An
    answer of the same job to the same files that is there already is kept; any other is replaced with `overwrite` only.

    Args:
        sources: as `sources.find_sources` returns them.
        output: folder of the answers; made where absent.
        job: what is asked.
        jobs: largest number of processes, >= 1; each computes with one thread, so that answers do not depend on it.
        executor: `local`, or `ray` for the cluster of RAY_ADDRESS, whose hosts must see the same paths.
        overwrite: replace answers of another model or to other files.
        progress: called with (sources done, sources in all).

    Raises:
        AnswersError: the folder holds answers of another job and `overwrite` is false.
        ValueError: jobs or executor is out of range, or Ray is not installed.
    """
    if executor not in get_args(Executor):
        raise ValueError(f"executor must be one of {list(get_args(Executor))}, got {executor!r}.")
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}.")
    there = read_answers(output) if output.is_dir() else {}
    same_job = {name: answer for name, answer in there.items() if is_of(answer, job)}
    if len(same_job) < len(there) and not overwrite:
        raise AnswersError(
            f"output must hold answers of the same model and options only, got {len(there) - len(same_job)} others in "
            f"{output}. Choose another folder, or give --overwrite to replace them."
        )
    output.mkdir(parents=True, exist_ok=True)
    known = {
        answer.source_sha256: name
        for name, answer in same_job.items()
        if answer.source_sha256 and not lacks_files(answer, output, kinds=job.beside, words=job.words)
    }
    folder = _JobFolder(output, dict(same_job), overwrite=overwrite)
    ask = partial(answer_source, job=job, known=known)
    try:
        with closing(_map(ask, sources, jobs=jobs, executor=executor)) as results:
            for done, replies in enumerate(results, start=1):
                for reply in replies:
                    yield folder.take(reply)
                progress(done, len(sources))
    finally:
        write_table(output, folder.answers.values())
        write_sheet(output, folder.answers.values())


@quiet_about_values()
def answer_source(source: Path, *, job: Job, known: Mapping[str, str]) -> list[Reply]:
    """Return the answers to the studies of a source; for files that are known, the name of their answer."""
    model = _model(job.model, job.model_sha256)
    try:
        with open_source(source) as studies:
            return [_answer(study, model, job=job, known=known) for study in studies]
    except StudyRefused as error:
        digest, refusal = sha256_of_file(source), Refusal(error.code, error.reason)
        if digest in known:
            return [Reply(known[digest])]
        from prostate_alm.delivery.predict import refused_source

        place = str(source) if job.identify else None
        refused = refused_source(refusal, model.identity, source_sha256=digest, rules=job.rules, place=place)
        return [Reply(answer_to_json(refused))]


def is_of(answer: Answer, job: Job) -> bool:
    """Return whether an answer would come out of a job, given the same files."""
    same_point = isinstance(answer, Refused) or abs(answer.operating_point.target_tpr - job.target_tpr) < 1e-9
    return (
        answer.model.sha256 == job.model_sha256
        and answer.software.get("prostate-alm") == __version__
        and answer.software.get("rules") == (job.rules or default_rules()).sha256()
        and (answer.identity is not None) == job.identify
        and same_point
    )


def _answer(study: StudyFolder, model: PackedModel, *, job: Job, known: Mapping[str, str]) -> Reply:
    from prostate_alm.delivery.predict import predict_folder

    digest: str | None
    try:
        digest = content_sha256(study.folder)
    except StudyRefused:
        digest = None  # predict_folder says why
    if digest is not None and digest in known:
        return Reply(known[digest])
    result = predict_folder(
        study.folder,
        model,
        target_tpr=job.target_tpr,
        identify=job.identify,
        rules=job.rules,
        place=study.place,
        source_sha256=digest,
    )
    text = answer_to_json(result.answer)
    try:
        return Reply(text, files_beside(result, model, study_dir=study.folder, kinds=job.beside, words=job.words))
    except Exception as error:  # whatever an odd header provokes, the other studies are still answered
        return Reply(text, fault=f"its answer was, but the files beside it raise {type(error).__name__}. Report it.")


@cache
def _model(path: Path, sha256: str) -> PackedModel:
    """Return the model, opened once in each process, which computes with one thread from then on."""
    import SimpleITK
    import torch

    from prostate_alm.delivery.package.opened import open_package

    torch.set_num_threads(1)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    model = open_package(path)
    if model.identity.sha256 != sha256:
        raise ValueError(f"model must stay the same while studies are answered, got another file in {path}.")
    return model


def _map(
    ask: partial[list[Reply]], sources: Sequence[Path], *, jobs: int, executor: Executor
) -> Generator[list[Reply], None, None]:
    if executor == "ray":
        from prostate_alm.parallel import map_with_ray

        return map_with_ray(ask, sources, jobs=jobs)
    return map_in_order(ask, sources, workers=jobs)
